"""The exact cost of a descriptor: clock cycles, slots, and buffer words read and written.

Everything follows from the descriptor alone; nothing depends on data. A tile of R rows and C
columns streams T rows of X or D, with q activations in a packed word and G = ceil(T / q) groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from . import geometry
from .budget import choose_cycles
from .config import Config
from .loss import loss_cycles
from .precision import MANTISSA_BITS
from .program import COUNTERS, DESCRIPTOR_WORDS, SCALES, Descriptor, Drain, Opcode, Schedule
from .vector import vector_counts, vector_cycles

__all__ = [
    "FETCH_CYCLES", "PROGRAM_CYCLES", "counts", "descriptor_cycles", "program_cycles", "tile_slots",
]

PROGRAM_CYCLES = 2
"""To offer the first descriptor, and to let the last write settle."""

FETCH_CYCLES = DESCRIPTOR_WORDS + 1 + 1 + 9
"""Read the words (the last arrives a cycle late), check the fields, check eight regions."""


RESOLVE_CYCLES = 8
"""To look up the exponents of a scaled descriptor, once nothing computes."""

RESCALE_CYCLES = 9 + SCALES + 2
"""To accept the descriptor, to wait for what is counted, and to walk over the table."""

KEPT_CYCLES = 3
"""To count the steps of the samples that are kept."""

_CYCLES_OF = {
    Opcode.FORWARD: "forward_cycles",
    Opcode.BACKWARD: "backward_cycles",
    Opcode.CONFIDENCE: "confidence_cycles",
    Opcode.ANGLE: "angle_cycles",
    Opcode.LOSS: "loss_cycles",
    Opcode.THRESHOLD: "loss_cycles",
    Opcode.VECTOR: "vector_cycles",
    Opcode.RESCALE: "update_cycles",
    Opcode.UPDATE: "update_cycles",
    Opcode.LOAD: "wait_cycles",
    Opcode.SAVE: "wait_cycles",
}


@dataclass(frozen=True, slots=True)
class _Layer:
    """A streaming descriptor's loop counts."""

    tiles: int
    outer: int
    steps: int
    groups: int
    has_ws: bool
    has_os: bool


def _layer(d: Descriptor) -> _Layer:
    forward = d.opcode == Opcode.FORWARD
    taps = geometry.taps(d)[0] * geometry.taps(d)[1]
    row_tiles = d.k_tiles * (1 if d.conv and d.d_moves else taps)
    return _Layer(
        tiles=d.k_tiles * taps * d.n_tiles,
        outer=d.n_tiles if forward else row_tiles,
        steps=d.steps,
        groups=-(-d.steps // (1 << d.lanes_log2)),
        has_ws=not forward and d.schedule != Schedule.WEIGHT_GRADIENT,
        has_os=not forward and d.schedule != Schedule.INPUT_GRADIENT,
    )


def tile_slots(d: Descriptor) -> int:
    """Return the slots that one tile streams.

    Forward, and weight-stationary backward: T. Output-stationary: T, or with packed lanes
    G q + 1, since a group's product follows its last gradient. Interleaved: G (q + 1).
    """
    layer = _layer(d)
    lanes = 1 << d.lanes_log2
    if d.opcode == Opcode.FORWARD or d.schedule == Schedule.INPUT_GRADIENT:
        return d.steps
    os_slots = d.steps if lanes == 1 else layer.groups * lanes + 1
    if d.schedule == Schedule.WEIGHT_GRADIENT:
        return os_slots
    if d.schedule == Schedule.SEQUENTIAL:
        return d.steps + os_slots
    return layer.groups * (lanes + 1)


def descriptor_cycles(config: Config, d: Descriptor, *, kept: int = 0) -> int:
    """Return the cycles from the start of a descriptor to the earliest start of the next.

    A load or a drain is R shifts of whole columns, and waits R - 1 cycles for the last wave to pass
    all rows. Without overlap a load comes before each tile, and shares its shifts with the drain.
    With overlap only the first load (R, and one cycle to swap) and the last drain (2R - 1) show,
    unless a tile has fewer than 2R slots to hide the others behind. The last wave then crosses the
    array.
    """
    rows, columns = config.rows, config.columns
    if d.opcode == Opcode.CONFIDENCE:
        return d.steps * -(-d.classes // config.lane_count) + 4
    if d.opcode == Opcode.UPDATE:
        return 2 * d.rows + 5
    if d.opcode == Opcode.LOSS:
        return loss_cycles(d, kept)
    if d.opcode == Opcode.THRESHOLD:
        return choose_cycles()
    if d.opcode == Opcode.VECTOR:
        return vector_cycles(config, d) + 2
    if d.opcode == Opcode.RESCALE:
        return RESCALE_CYCLES
    if d.opcode in (Opcode.LOAD, Opcode.SAVE):
        return 0
    if d.opcode == Opcode.ANGLE:
        decide = config.dot_bits - MANTISSA_BITS + 6 if d.last else 0
        return 3 + d.rows * (4 * columns + 3) + decide
    layer, slots = _layer(d), tile_slots(d)
    if config.overlap:
        hiding = max(slots, 2 * rows)
        last = hiding if layer.has_os and layer.tiles > 1 else slots
        streamed = rows + 1 + (layer.tiles - 1) * hiding + last
    else:
        streamed = rows + layer.tiles * slots + (layer.tiles - 1) * (2 * rows - 1) + d.patch
    if layer.has_os:
        return streamed + 2 * rows - 1 + columns
    return streamed + rows + columns


def program_cycles(config: Config, descriptors: Sequence[Descriptor]) -> int:
    """Return the cycles that the machine is busy with a program without errors.

    Loads, saves, and descriptors that depend on the samples kept are not foreseen.
    The next descriptor is fetched while the present one runs.
    """
    cycles = PROGRAM_CYCLES + FETCH_CYCLES
    for descriptor in descriptors:
        if descriptor.scaled:
            cycles += RESOLVE_CYCLES
    for descriptor in descriptors[:-1]:
        cycles += max(FETCH_CYCLES + 1, descriptor_cycles(config, descriptor))
    return cycles + descriptor_cycles(config, descriptors[-1])


def counts(config: Config, d: Descriptor, *, kept: int = 0) -> dict[str, int]:
    """Return what a descriptor adds to each counter, but for the samples kept and skipped.

    `cycles` here is the descriptor's own; the machine's counter includes the fetching between.
    """
    total: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    cycles = descriptor_cycles(config, d, kept=kept)
    total["descriptors"] = 1
    total["cycles"] = cycles
    total[_CYCLES_OF[Opcode(d.opcode)]] += cycles
    if d.opcode in (Opcode.FORWARD, Opcode.BACKWARD):
        _count_layer(config, d, total)
    else:
        total |= _other_counts(config, d, kept)
    return total


def _other_counts(config: Config, d: Descriptor, kept: int) -> dict[str, int]:
    """Return the words that an operation without the array reads and writes."""
    logit_words = -(-d.classes // config.lane_count)
    rows = d.rows
    return {
        Opcode.CONFIDENCE: lambda: {"x_reads": d.steps * logit_words},
        Opcode.ANGLE: lambda: {"state_reads": 2 * rows},
        # LOSS reads the words of a sample in each of its passes.
        Opcode.LOSS: lambda: {"x_reads": (2 * d.steps + kept) * logit_words,
                              "dx_writes": kept * logit_words},
        Opcode.VECTOR: lambda: vector_counts(config, d),
        Opcode.LOAD: lambda: {"load_words": rows * d.steps},
        Opcode.SAVE: lambda: {"save_words": rows * d.steps},
        Opcode.UPDATE: lambda: {"state_reads": 2 * rows, "weight_reads": rows,
                                "weight_writes": rows, "state_writes": rows},
    }.get(Opcode(d.opcode), dict)()


def _count_layer(config: Config, d: Descriptor, total: dict[str, int]) -> None:
    """Add what a pass through the array reads and writes."""
    layer = _layer(d)
    forward = d.opcode == Opcode.FORWARD
    tile_rows = layer.tiles * config.rows
    streamed = layer.tiles * d.steps
    inner = layer.tiles // layer.outer
    total["weight_reads"] = tile_rows
    total["slots"] = layer.tiles * tile_slots(d)
    if forward or layer.has_ws:
        finished = layer.outer * d.steps
        total["forward_slots" if forward else "ws_slots"] = streamed
        total["sum_reads"] = streamed - finished
        total["sum_writes"] = streamed if d.keep_sums else streamed - finished
        total["y_writes" if forward else "dx_writes"] = 0 if d.keep_sums else finished
        if not forward and d.mask and not d.keep_sums:
            total["mask_reads"] = finished
    x_inside, d_inside = _inside(d)
    reads = "image_reads" if d.patch else "x_reads"
    if forward:
        total[reads] = x_inside
        return

    total["d_reads"] = d_inside * (2 if d.schedule == Schedule.SEQUENTIAL else 1)
    if layer.has_os:
        total["os_products"] = streamed
        total[reads] = x_inside
        if d.lanes_log2:
            total[reads] = x_inside // inner
            total["packed_reads"] = layer.outer * (inner - 1) * layer.groups
            total["packed_writes"] = layer.outer * layer.groups if inner > 1 else 0
        total["state_writes"] = tile_rows
        if d.drain != Drain.STORE:
            total["state_reads"] = tile_rows
        if d.drain == Drain.UPDATE:
            total["weight_writes"] = tile_rows


def _inside(d: Descriptor) -> tuple[int, int]:
    """Return the rows of X and of D that lie inside their images, over all tiles."""
    tiles = list(geometry.tiles(d)) if d.conv else []
    if not tiles:
        rows = d.k_tiles * d.n_tiles * d.steps
        return rows, rows
    image = geometry.steps_of(d).image
    return (sum(int(geometry.x_rows(d, tile, image)[1].sum()) for tile in tiles),
            sum(int(geometry.d_rows(d, tile)[1].sum()) for tile in tiles))
