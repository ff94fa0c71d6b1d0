"""Bench of the array: random layers, whose every result is due in one known cycle.

Parameters: ``config`` (JSON of the configuration), ``layers`` (how many at least), ``coverage``
(the file that receives the counts).
"""

import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from coverage import Coverage, cross
from gradloom_golden import gemm, lanes
from gradloom_golden.config import Config
from gradloom_golden.fixed import integer_range
from rtl_bench import bench_params

KINDS = ("forward", "input gradient", "weight gradient", "interleaved")
EVERY_PAIR = (0, 0, 1, 0, 2, 0, 3, 1, 1, 2, 1, 3, 2, 2, 3, 3)
"""Kinds in an order in which, going round, each follows each."""

MOST_LAYERS = 150
PACKED_STEPS = 4


@dataclass
class Cycle:
    """What the inputs are in one cycle; `real` if its sums are a result.

    `ends` is the last cycle of a tile, with overlap the one that swaps.
    """

    west: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray | None = None
    os: bool = False
    swap: bool = False
    real: bool = False
    counts: bool = False
    ends: bool = False


@dataclass
class Layer:
    """What a few tiles have in common."""

    kind: str
    lanes: int
    x_unsigned: bool
    gaps: float
    tiles: list[int] = field(default_factory=list)

    @property
    def forward(self) -> bool:
        return self.kind == "forward"


class Stimulus:
    """Turns layers into cycles that keep the array's contract.

    Parameters
    ----------
    config : Config
    rng : numpy.random.Generator
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        self.config = config
        self.rng = rng

    def layer(self, kind: str) -> Layer:
        """Draw a layer of one to three tiles, each of its own number of steps."""
        rng = self.rng
        packs = self.config.lanes and kind in ("weight gradient", "interleaved")
        return Layer(
            kind=kind,
            lanes=int(rng.choice([1, 2, 4])) if packs else 1,
            x_unsigned=bool(rng.integers(2)),
            gaps=float(rng.choice([0.0, 0.3])),
            tiles=[int(steps) for steps in rng.integers(1, 20, rng.integers(1, 4))],
        )

    def cycles(self, layer: Layer) -> Iterator[Cycle]:
        """Yield the cycles of a layer, until the array is empty again."""
        config = self.config
        if config.overlap:
            yield from (self._shift() for _ in range(config.rows))
            yield self._idle(swap=True)
            for steps in layer.tiles:
                yield from self._beside_shifts(self._slots(layer, steps))
        else:
            for steps in layer.tiles:
                yield from (self._shift() for _ in range(config.rows))
                slots = self._slots(layer, steps)
                slots[-1].ends = True
                yield from slots
                yield from (self._idle() for _ in range(config.rows - 1))
        if config.overlap:
            yield from (self._idle() for _ in range(config.rows - 1))
        yield from (self._shift() for _ in range(config.rows))
        yield from (self._idle() for _ in range(config.rows + config.columns))

    def _beside_shifts(self, slots: list[Cycle]) -> list[Cycle]:
        """Load the next tile and drain the last one while a tile streams, then swap."""
        rows = self.config.rows
        slots += [self._idle() for _ in range(2 * rows - len(slots))]
        last = len(slots) - 1
        start = self.rng.integers(rows - 1, last - rows, endpoint=True)
        for cycle in slots[start:start + rows]:
            cycle.weights = self._weights()
        slots[last].swap = slots[last].ends = True
        return slots

    def _slots(self, layer: Layer, steps: int) -> list[Cycle]:
        """Return a tile's slots, with gaps wherever the array allows them."""
        groups = -(-steps // layer.lanes)
        slots: list[Cycle] = []
        waiting = None
        for group in range(groups):
            present = min(layer.lanes, steps - group * layer.lanes)
            x, d = self._rows(layer, present)
            bundle = self._bundle(layer, x, d)
            if layer.kind == "weight gradient" and layer.lanes > 1:
                # A product comes with the first gradient of the group after it.
                product = bundle.pop()
                if waiting is not None:
                    bundle[0] = self._product(waiting.west, bundle[0].gradients, counts=True)
                waiting = product
            slots += bundle
            while waiting is None and self.rng.random() < layer.gaps:
                slots.append(self._idle())
        return slots if waiting is None else [*slots, waiting]

    def _bundle(self, layer: Layer, x, d) -> list[Cycle]:
        """Return the slots of one group, which must follow each other."""
        none = np.zeros(self.config.rows, np.int64)
        if layer.forward:
            return [Cycle(x[0], self._gradients(), real=True)]
        if layer.kind == "input gradient":
            return [Cycle(none, d[0], real=True)]
        if layer.lanes == 1:
            if layer.kind == "weight gradient":
                return [self._product(x[0], d[0], counts=True)]
            given = Cycle(none, d[0], real=True, counts=True)
            return [given, self._product(x[0], d[0])]
        (word,) = lanes.pack(x, layer.lanes)
        slots = [Cycle(none, row, real=True, counts=True) for row in d]
        return [*slots, self._product(word, self._gradients())]

    def _product(self, west, gradients, *, counts: bool = False) -> Cycle:
        return Cycle(west, gradients, os=True, counts=counts)

    def _rows(self, layer: Layer, present: int):
        """Return X and D of one group; rows beyond the last step are zero."""
        config = self.config
        bits = config.operand_bits // layer.lanes
        low, high = integer_range(bits, signed=not layer.x_unsigned)
        x = np.zeros((layer.lanes, config.rows), np.int64)
        d = np.zeros((layer.lanes, config.columns), np.int64)
        x[:present] = self._draw(low, high, (present, config.rows))
        d[:present] = [self._gradients() for _ in range(present)]
        return x, d

    def _draw(self, low: int, high: int, shape) -> np.ndarray:
        """Return integers of a range, its ends far more often than by chance."""
        values = self.rng.integers(low, high + 1, shape)
        corners = self.rng.choice([low, high], shape)
        return np.where(self.rng.random(shape) < 0.2, corners, values)

    def _gradients(self) -> np.ndarray:
        return self._draw(*integer_range(self.config.gradient_bits), self.config.columns)

    def _weights(self) -> np.ndarray:
        return self._draw(*integer_range(self.config.operand_bits), self.config.columns)

    def _idle(self, *, swap: bool = False) -> Cycle:
        """Return a cycle that is no slot; only `west` has to be quiet."""
        return Cycle(np.zeros(self.config.rows, np.int64), self._gradients(), swap=swap)

    def _shift(self) -> Cycle:
        cycle = self._idle()
        cycle.weights = self._weights()
        return cycle


class Model:
    """What the array holds and answers, from the inputs of every cycle.

    A weight gradient that a forward pass has used as its sum, or that was never zeroed, is None
    and is not compared.
    """

    def __init__(self, config: Config):
        self.config = config
        rows = config.rows
        weights = np.zeros((rows, config.columns), np.int64)
        self.weights = weights
        self.chain_weights = weights.copy()
        self.wgrad: list[np.ndarray | None] = [None] * rows
        self.chain_wgrad: list[np.ndarray | None] = [None] * rows
        self.to_drain = 0
        self.passed = deque(maxlen=PACKED_STEPS)

    def step(self, layer: Layer, cycle: Cycle) -> dict[str, tuple[int, np.ndarray]]:
        """Take one cycle; return what it makes appear: latency and vector by output."""
        config = self.config
        due = {}
        array_latency = config.rows + config.columns - 1
        if layer.forward:
            if cycle.real:
                sums = gemm.forward(cycle.west[None], self.weights, rows=config.rows)
                due["sums_south"] = (array_latency, sums[0])
            self.wgrad = [None] * config.rows
        elif cycle.os:
            self._accumulate(layer, cycle)
        elif cycle.real:
            sums = gemm.input_gradient(cycle.gradients[None], self.weights, columns=config.columns)
            due["sums_east"] = (array_latency, sums[0])
        self.passed.append(cycle.gradients)
        if cycle.swap:
            self.weights, self.chain_weights = self.chain_weights, self.weights
            self.chain_wgrad = self.wgrad
            zero = np.zeros(config.columns, np.int64)
            self.wgrad = [None if layer.forward else zero] * config.rows
        if cycle.ends:
            self.to_drain = config.rows
        if cycle.weights is not None:
            due |= self._shift(cycle.weights)
        return due

    def _accumulate(self, layer: Layer, cycle: Cycle) -> None:
        d = np.array([cycle.gradients] if layer.lanes == 1 else list(self.passed)[-layer.lanes :])
        x = cycle.west[None]
        if layer.lanes > 1:
            x = lanes.unpack(x, layer.lanes, layer.lanes, unsigned=layer.x_unsigned)
        added = gemm.weight_gradient(x, d)
        self.wgrad = [
            None if old is None else old + new for old, new in zip(self.wgrad, added, strict=True)
        ]

    def _shift(self, weights) -> dict[str, tuple[int, np.ndarray]]:
        """Move the chain north by a row: the top one leaves, `weights` and zero enter."""
        overlap = self.config.overlap
        held = self.chain_weights if overlap else self.weights
        left = self.chain_wgrad if overlap else self.wgrad
        latency = self.config.columns - 1
        due = {"old_weights": (latency, held[0])}
        # What leaves beyond the rows of a tile is not completed for any tile.
        if self.to_drain and left[0] is not None:
            due["drained"] = (latency, left[0])
        self.to_drain -= self.to_drain > 0
        held = np.vstack([held[1:], weights])
        left = [*left[1:], np.zeros(self.config.columns, np.int64)]
        if overlap:
            self.chain_weights, self.chain_wgrad = held, left
        else:
            self.weights, self.wgrad = held, left
        return due


class Scoreboard:
    """Compares each output in the cycle in which something is due there."""

    def __init__(self, dut, config: Config):
        self._outputs = {
            "sums_south": (dut.sums_south, config.sum_bits, config.columns),
            "sums_east": (dut.sums_east, config.sum_bits, config.rows),
            "drained": (dut.drained, config.wgrad_bits, config.columns),
            "old_weights": (dut.old_weights, config.operand_bits, config.columns),
        }
        self._due: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
        self.compared = dict.fromkeys(self._outputs, 0)

    def expect(self, cycle: int, output: str, vector) -> None:
        self._due[cycle][output] = vector

    def check(self, cycle: int) -> None:
        for output, expected in self._due.pop(cycle, {}).items():
            handle, bits, count = self._outputs[output]
            got = unpack_bits(handle.value.to_unsigned(), bits, count)
            assert got == expected.tolist(), (
                f"{output} is {got} in cycle {cycle}, not {expected.tolist()}"
            )
            self.compared[output] += 1

    def finish(self) -> None:
        """Fail unless everything due was seen and every output was compared."""
        assert not self._due, f"the bench ended before cycles {sorted(self._due)}"
        assert all(self.compared.values()), f"an output was never compared: {self.compared}"


def pack_bits(vector, bits: int) -> int:
    """Return the elements as one integer, the first in the lowest bits."""
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(vector))


def unpack_bits(value: int, bits: int, count: int) -> list[int]:
    """Return the signed elements of one integer."""
    half = 1 << bits - 1
    return [((value >> bits * k) + half & (1 << bits) - 1) - half for k in range(count)]


def top_bits(bits: int, count: int) -> int:
    """Return the top bit of each of a word's fields."""
    return pack_bits([1 << bits // count - 1] * count, bits // count)


def drive(dut, config: Config, layer: Layer, cycle: Cycle) -> None:
    """Set every input for one cycle."""
    dut.mode.value = layer.forward | (layer.lanes == 2) << 1 | (layer.lanes == 4) << 2
    dut.x_unsigned.value = int(layer.x_unsigned)
    dut.wave.value = cycle.os | cycle.swap << 1
    dut.counts.value = int(cycle.counts)
    dut.ends.value = int(cycle.ends)
    dut.shift.value = int(cycle.weights is not None)
    x = cycle.west & (1 << config.operand_bits) - 1
    if layer.x_unsigned and (cycle.os or (layer.forward and cycle.real)):
        x = x ^ top_bits(config.operand_bits, layer.lanes)
    dut.west.value = pack_bits(x, config.sum_bits)
    dut.gradients.value = pack_bits(cycle.gradients, config.gradient_bits)
    if cycle.weights is not None:
        dut.weights.value = pack_bits(cycle.weights, config.operand_bits)


def layer_coverage(config: Config) -> Coverage:
    """Return the bins that the layers of a run must fill."""
    widths = (1, 2, 4) if config.lanes else (1,)
    return Coverage(
        {
            "kind": KINDS,
            "kind x lanes": cross(KINDS[2:], widths),
            "kind x unsigned": cross(KINDS, (False, True)),
            "kind x gaps": cross(KINDS, (False, True)),
            "tiles": ("one", "many"),
            "tile": ("shorter than a load", "longer"),
            "after": cross(KINDS, KINDS),
        }
    )


def cover(coverage: Coverage, before: Layer | None, layer: Layer, config: Config) -> None:
    """Count a layer that ran."""
    coverage.hit("kind", layer.kind)
    if layer.kind in KINDS[2:]:
        coverage.hit("kind x lanes", layer.kind, layer.lanes)
    coverage.hit("kind x unsigned", layer.kind, layer.x_unsigned)
    coverage.hit("kind x gaps", layer.kind, layer.gaps > 0)
    coverage.hit("tiles", "one" if len(layer.tiles) == 1 else "many")
    for steps in layer.tiles:
        coverage.hit("tile", "longer" if steps > config.rows else "shorter than a load")
    if before is not None:
        coverage.hit("after", before.kind, layer.kind)


@cocotb.test()
async def random_layers(dut):
    """Sums, gradients and weights leave the array when and as the golden model says."""
    params = bench_params()
    config = Config.from_json(params["config"])
    stimulus = Stimulus(config, np.random.default_rng(random.getrandbits(32)))
    model, scoreboard, coverage = Model(config), Scoreboard(dut, config), layer_coverage(config)

    for name in ("mode", "x_unsigned", "wave", "shift", "counts", "ends", "west", "gradients",
                 "weights"):
        getattr(dut, name).value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0

    now, number, before = 0, 0, None
    while number < params["layers"] or (coverage.missing() and number < MOST_LAYERS):
        layer = stimulus.layer(KINDS[EVERY_PAIR[number % len(EVERY_PAIR)]])
        for cycle in stimulus.cycles(layer):
            drive(dut, config, layer, cycle)
            for output, (latency, vector) in model.step(layer, cycle).items():
                scoreboard.expect(now + latency, output, vector)
            await ReadOnly()
            scoreboard.check(now)
            await FallingEdge(dut.clk)
            now += 1
        cover(coverage, before, layer, config)
        before, number = layer, number + 1
    scoreboard.finish()
    dut._log.info("%d cycles, compared %s", now, scoreboard.compared)
    coverage.save(Path(params["coverage"]))
