"""A row of cells, and rows on top of each other."""

from functools import partial

from amaranth import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from gradloom_golden.config import Config

from .emit import place
from .pe import TAPS, ProcessingElement, cell_ports

__all__ = ["COLUMN_PORTS", "Row", "Stack", "place_stack", "stack_ports"]

COLUMN_PORTS = ("gradient_i", "gradient_o", "sum_i", "sum_o", "weight_i", "weight_o", "drain_i",
                "drain_o")
"""Members that a row has once a column."""


class Row(wiring.Component):
    """Cells side by side: X and dX sums flow east through it, the rest passes north and south.

    A wave moves one cell east a cycle, and to the row below after one cycle.

    Parameters
    ----------
    config : Config
    cell : type
        Class of the cells.

    Members
    -------
    See `stack_ports`, for one row.
    """

    def __init__(self, config: Config, cell: type = ProcessingElement):
        self.config = config
        self.cell = cell
        super().__init__(stack_ports(config, 1))

    def elaborate(self, platform):
        m = Module()
        west, wave = self.west[0], self.wave_i
        for column in range(self.config.columns):
            cell = place(m, platform, f"cell_{column}", self.cell.MODULE,
                         partial(self.cell, self.config))
            m.d.comb += [
                cell.mode.eq(self.mode),
                cell.shift.eq(self.shift[column]),
                cell.wave_i.eq(wave),
                cell.west.eq(west),
            ]
            for name in COLUMN_PORTS:
                ours, theirs = getattr(self, name)[column], getattr(cell, name)
                inward = name.endswith("_i")
                m.d.comb += theirs.eq(ours) if inward else ours.eq(theirs)
            for tap in range(TAPS):
                m.d.comb += cell.taps[tap].eq(self.taps_i[tap][column])
            west, wave = cell.east, cell.wave_o
        m.d.comb += self.east[0].eq(west)
        m.d.sync += self.wave_o.eq(self.wave_i)
        seen = Cat(self.gradient_o.as_value(), self.taps_i.as_value())
        m.d.comb += self.taps_o.as_value().eq(seen)
        return m


class Stack(wiring.Component):
    """A power of two of rows: two stacks of half the height, down to a row.

    Halving keeps the cost of generation from growing with rows x columns.

    Parameters
    ----------
    config : Config
    height : int
        At least 2.
    cell : type
        Class of the cells.

    Members
    -------
    See `stack_ports`.
    """

    def __init__(self, config: Config, height: int, cell: type = ProcessingElement):
        self.config = config
        self.height = height
        self.cell = cell
        super().__init__(stack_ports(config, height))

    def elaborate(self, platform):
        m = Module()
        half = self.height // 2
        north = place_stack(m, platform, "north", self.config, half, self.cell)
        south = place_stack(m, platform, "south", self.config, half, self.cell)
        for index, part in enumerate((north, south)):
            width = len(part.west.as_value())
            here = slice(index * width, (index + 1) * width)
            m.d.comb += [
                part.mode.eq(self.mode),
                part.shift.eq(self.shift),
                part.west.as_value().eq(self.west.as_value()[here]),
                self.east.as_value()[here].eq(part.east.as_value()),
            ]
        m.d.comb += [
            north.wave_i.eq(self.wave_i), south.wave_i.eq(north.wave_o),
            self.wave_o.eq(south.wave_o),
        ]
        for name in ("gradient", "sum"):
            m.d.comb += [
                getattr(north, f"{name}_i").eq(getattr(self, f"{name}_i")),
                getattr(south, f"{name}_i").eq(getattr(north, f"{name}_o")),
                getattr(self, f"{name}_o").eq(getattr(south, f"{name}_o")),
            ]
        for name in ("weight", "drain", "taps"):
            m.d.comb += [
                getattr(south, f"{name}_i").eq(getattr(self, f"{name}_i")),
                getattr(north, f"{name}_i").eq(getattr(south, f"{name}_o")),
                getattr(self, f"{name}_o").eq(getattr(north, f"{name}_o")),
            ]
        return m


def stack_ports(config: Config, height: int) -> dict:
    """Return the members of `height` rows.

    ``mode``, ``wave_i``, ``wave_o``: as of a cell, but waves pass from the top row to the row below
    the stack. ``shift``: a bit a column, for all rows at once. ``west``, ``east``: one sum a row. `COLUMN_PORTS`: what a cell has to its north
    and south, once a column. ``taps_i``: ``gradient_o`` of the three rows below, nearest first;
    ``taps_o``: of the three top rows, or of those that there are and the ones below.
    """
    cell = cell_ports(config)
    members = {name: cell[name] for name in ("mode", "wave_i", "wave_o")}
    for name in ("west", "east"):
        members[name] = _repeated(cell[name], height)
    for name in COLUMN_PORTS:
        members[name] = _repeated(cell[name], config.columns)
    taps = data.ArrayLayout(members["gradient_i"].shape, TAPS)
    members["shift"] = In(config.columns)
    return {**members, "taps_i": In(taps), "taps_o": Out(taps)}


def _repeated(member, count: int):
    direction = In if member.flow == In else Out
    return direction(data.ArrayLayout(member.shape, count))


def place_stack(m: Module, platform, name: str, config: Config, height: int, cell: type):
    """Add a row or a stack of rows."""
    if height == 1:
        return place(m, platform, name, f"{cell.MODULE}_row", partial(Row, config, cell))
    return place(m, platform, name, f"{cell.MODULE}_rows_{height}",
                 partial(Stack, config, height, cell))
