"""What every cell of the array does in every cycle, seen in the waves of a real run."""

import io
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.machine import run_program
from gradloom_golden.program import Descriptor, Drain, Error, Opcode, Register, Schedule

from .missing import require
from .vcd import read_cycles

__all__ = ["PASSES", "Chain", "Slot", "Trace", "draw", "trace"]

PASSES = {
    "forward": None,
    "interleaved": Schedule.INTERLEAVED,
    "sequential": Schedule.SEQUENTIAL,
    "input-gradient": Schedule.INPUT_GRADIENT,
    "weight-gradient": Schedule.WEIGHT_GRADIENT,
}
"""Passes by name; a backward one has a schedule."""

CYCLE_LIMIT = 1_000_000

WAVE_OS = 1
MODE_FORWARD = 1


class Slot(IntEnum):
    """What the multiplier of a cell works on."""

    IDLE = 0
    FORWARD = 1
    INPUT_GRADIENT = 2                                    # weight-stationary
    WEIGHT_GRADIENT = 3                                   # output-stationary


class Chain(IntEnum):
    """What moves through a cell on its way to or from another."""

    IDLE = 0
    LOAD = 1
    DRAIN = 2
    BOTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Cells by cycle, from the first load to the last result.

    Parameters
    ----------
    slots : int array (rows, columns, cycles)
        `Slot`.
    chains : int array (rows, columns, cycles)
        `Chain`.
    """

    slots: np.ndarray
    chains: np.ndarray

    @property
    def utilization(self) -> float:
        """Share of cells and cycles that multiply, padding included."""
        return float((self.slots != Slot.IDLE).mean())


def trace(config: Config, name: str = "interleaved", *, steps: int = 16, lanes: int = 1,
          tiles: int = 1) -> Trace:
    """Run one pass on the RTL and return what its waves show.

    The cells' own signals tell the kind of their slots and when they shift; that there is a slot,
    and what a shift carries, comes from the scheduler, a cycle before the first cell sees it.

    Parameters
    ----------
    config : Config
    name : str
        One of `PASSES`.
    steps : int
        Rows that a tile streams.
    lanes : int
        Activations in a word for the weight gradient: 1, 2 or 4.
    tiles : int
        Tiles side by side.

    Raises
    ------
    ValueError
        If there is no such pass, or the machine refuses the sizes.
    """
    from gradloom.generate import machine_verilog  # noqa: PLC0415 - Amaranth is slow to import

    from .simulator import Simulator  # noqa: PLC0415

    descriptor = _descriptor(config, name, steps, lanes, tiles)
    with tempfile.TemporaryDirectory(prefix="gradloom-") as folder:
        waves = Path(folder) / "trace.vcd"
        with Simulator(machine_verilog(config), waves=waves) as simulator:
            run_program(simulator, [descriptor], limit=CYCLE_LIMIT)
            status = int(simulator.read(Register.STATUS, 1)[0])
        error = Error(status >> 8 & 0xFF)
        if error:
            raise ValueError(
                f"the machine refuses {steps} steps, {lanes} lanes and {tiles} tiles with "
                f"{error.name}: choose others")
        return _from_waves(config, waves)


def _descriptor(config: Config, name: str, steps: int, lanes: int, tiles: int) -> Descriptor:
    if name not in PASSES:
        raise ValueError(f"unknown pass {name!r}; choose from {', '.join(PASSES)}")
    if lanes not in (1, 2, 4)[:ceil_log2(config.max_lanes) + 1]:
        raise ValueError(f"lanes must be 1, or 2 or 4 on a machine that has them, not {lanes!r}")
    schedule = PASSES[name]
    common = {"steps": steps, "x_stride": steps, "k_tiles": 1, "n_tiles": tiles, "keep_sums": 1}
    if schedule is None:
        return Descriptor(opcode=Opcode.FORWARD, **common)
    return Descriptor(
        opcode=Opcode.BACKWARD, schedule=schedule, drain=Drain.STORE,
        lanes_log2=ceil_log2(lanes), packed_base=steps, **common)


def _from_waves(config: Config, waves: Path) -> Trace:
    rows, columns = config.rows, config.columns

    def wanted(path: tuple[str, ...]) -> bool:
        scope, name = path[-2], path[-1]
        return (scope == "scheduler" and name in ("slot_now", "load", "drain", "mode")) or (
            scope.startswith("cell_") and name in ("wave_i", "shift"))

    signals = read_cycles(waves, wanted)
    control = {path[-1]: values for path, values in signals.items() if path[-2] == "scheduler"}
    forward = control["mode"] & MODE_FORWARD
    slots = np.zeros((rows, columns, len(forward)), np.int8)
    chains = np.zeros_like(slots)
    for path, values in signals.items():
        if path[-2] == "scheduler":
            continue
        row, column = _place(path)
        if path[-1] == "wave_i":
            kind = np.where(forward, Slot.FORWARD, np.where(
                values & WAVE_OS, Slot.WEIGHT_GRADIENT, Slot.INPUT_GRADIENT))
            slots[row, column] = kind * _later(control["slot_now"], 1 + row + column)
        else:
            carried = (Chain.LOAD * _later(control["load"], 1 + column)
                       | Chain.DRAIN * _later(control["drain"], 1 + column))
            chains[row, column] = carried * values
    busy = np.flatnonzero((slots.any(axis=(0, 1))) | chains.any(axis=(0, 1)))
    window = slice(busy[0], busy[-1] + 1)
    return Trace(slots=slots[:, :, window], chains=chains[:, :, window])


def _place(path: tuple[str, ...]) -> tuple[int, int]:
    """Return row and column of a cell: rows are stacked by halves, north before south."""
    row = 0
    for scope in path:
        if scope in ("north", "south"):
            row = 2 * row + (scope == "south")
    return row, int(path[-2].removeprefix("cell_"))


def _later(values: np.ndarray, cycles: int) -> np.ndarray:
    return np.concatenate([np.zeros(cycles, values.dtype), values])[:len(values)]


COLOURS = {
    Slot.IDLE: ("multiplier: idle", "#eeeeee"),
    Slot.FORWARD: ("multiplier: forward, X W", "#4477aa"),
    Slot.INPUT_GRADIENT: ("multiplier: input gradient, D W'", "#228833"),
    Slot.WEIGHT_GRADIENT: ("multiplier: weight gradient, X' D", "#ccbb44"),
}
CHAIN_COLOURS = {
    Chain.LOAD: ("thin bar: next weights enter", "#66ccee"),
    Chain.DRAIN: ("thin bar: gradients leave", "#ee6677"),
    Chain.BOTH: ("thin bar: gradients leave, weights enter", "#aa3377"),
}

MOST_NAMED = 64
"""Cells that a picture names one by one."""


def draw(found: Trace, title: str) -> bytes:
    """Return a picture as PNG: a band a cell, what it multiplies above what its chain moves.

    Raises
    ------
    MissingExtraError
        If Matplotlib is not installed.
    """
    require("matplotlib", "train").use("Agg")
    pyplot = require("matplotlib.pyplot", "train")
    colors = require("matplotlib.colors", "train")
    patches = require("matplotlib.patches", "train")
    rows, columns, cycles = found.slots.shape
    shown = [colour for _, colour in (*COLOURS.values(), *CHAIN_COLOURS.values())]

    # Three lines a cell: two of its slot, one of its chain where that moves.
    slots = found.slots.reshape(rows * columns, cycles)
    chains = found.chains.reshape(rows * columns, cycles)
    below = np.where(chains, chains + len(COLOURS) - 1, slots)
    image = np.stack([slots, slots, below], axis=1).reshape(-1, cycles)
    figure, axis = pyplot.subplots(
        figsize=(min(24, 4 + cycles / 8), min(48, 2 + rows * columns / 8)), layout="constrained")
    axis.imshow(image, aspect="auto", interpolation="nearest", vmin=0, vmax=len(shown) - 1,
                cmap=colors.ListedColormap(shown), extent=(0, cycles, rows * columns, 0))
    places = np.arange(rows * columns)
    few = rows * columns <= MOST_NAMED
    axis.set_yticks(places[::columns], ["" if few else f"row {row}" for row in range(rows)],
                    va="top")
    axis.set_yticks(places, minor=True)
    if few:
        for place in places:
            axis.annotate(f"row {place // columns}, column {place % columns}", (0, place + 0.5),
                          xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
                          fontsize=7)
    axis.grid(axis="y", which="both", color="white", linewidth=0.6)
    axis.grid(axis="y", which="major", color="black", linewidth=0.6)
    axis.set_xlabel("cycle")
    if not few:
        axis.set_ylabel("cells, by row and column")
    axis.set_title(f"{title}: {found.utilization:.0%} of the cells' cycles multiply")
    used = {*np.unique(slots)}
    moved = {*np.unique(chains)}
    legend = [patches.Patch(color=colour, label=label)
              for kind, (label, colour) in COLOURS.items() if kind in used]
    legend += [patches.Patch(color=colour, label=label)
               for kind, (label, colour) in CHAIN_COLOURS.items() if kind in moved]
    figure.legend(handles=legend, loc="outside lower center", ncols=2)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return content.getvalue()
