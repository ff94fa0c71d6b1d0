"""A row of cells, and rows on top of each other."""

from functools import partial
from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member

from gradloom_golden.config import Config

from .emit import place
from .layouts import Wave
from .pe import TAPS, ProcessingElement, cell_ports

__all__ = ["COLUMN_PORTS", "Row", "Stack", "place_stack", "signals", "stack_ports"]

COLUMN_PORTS = ("shift", "gradient_i", "gradient_o", "sum_i", "sum_o", "weight_i", "weight_o",
                "drain_i", "drain_o")
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
        ports = cell_ports(self.config)
        west, wave = self.west[0], self.wave_i
        for column in range(self.config.columns):
            east = Signal.like(west, name=f"east_{column}")
            wave_east = Signal(Wave, name=f"wave_east_{column}")
            seen = [taps[column] for taps in self.taps_i]
            inputs = {"mode": self.mode, "wave_i": wave, "west": west, "taps": seen}
            outputs = {"wave_o": wave_east, "east": east}
            for name in COLUMN_PORTS:
                group = inputs if ports[name].flow == In else outputs
                group[name] = getattr(self, name)[column]
            place(m, platform, f"cell_{column}", self.cell.MODULE,
                  partial(self.cell, self.config), inputs=inputs, outputs=outputs)
            west, wave = east, wave_east
            for below, above in zip([self.gradient_o, *self.taps_i], self.taps_o):
                m.d.comb += above[column].eq(below[column])
        m.d.comb += self.east[0].eq(west)
        m.d.sync += self.wave_o.eq(self.wave_i)
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
        southward, northward = ("wave", "gradient", "sum"), ("weight", "drain", "taps")
        ports = stack_ports(self.config, self.height)
        between = {name: signals(ports[f"{name}_i"], f"{name}_between")
                   for name in southward + northward}
        for part, rows, enter, leave in (
            ("north", slice(half), southward, northward),
            ("south", slice(half, None), northward, southward),
        ):
            inputs = {"mode": self.mode, "shift": self.shift, "west": self.west[rows]}
            outputs = {"east": self.east[rows]}
            for name in enter:
                inputs[f"{name}_i"] = getattr(self, f"{name}_i")
                outputs[f"{name}_o"] = between[name]
            for name in leave:
                inputs[f"{name}_i"] = between[name]
                outputs[f"{name}_o"] = getattr(self, f"{name}_o")
            place_stack(m, platform, part, self.config, half, self.cell,
                        inputs=inputs, outputs=outputs)
        return m


def stack_ports(config: Config, height: int) -> dict:
    """Return the members of `height` rows.

    ``mode``, ``wave_i``, ``wave_o``: as of a cell, but waves pass from the top row to the row below
    the stack. ``west``, ``east``: one sum a row. `COLUMN_PORTS`: what a cell has to its north
    and south, once a column. ``taps_i``: ``gradient_o`` of the three rows below, nearest first;
    ``taps_o``: of the three top rows, or of those that there are and the ones below.

    Vectors are arrays of ports: simulators copy an element of a wide port bit by bit.
    """
    cell = cell_ports(config)
    members = {name: cell[name] for name in ("mode", "wave_i", "wave_o")}
    members |= {name: cell[name].array(height) for name in ("west", "east")}
    members |= {name: cell[name].array(config.columns) for name in COLUMN_PORTS}
    taps = cell["gradient_i"].array(TAPS, config.columns)
    return {**members, "taps_i": taps, "taps_o": taps.flip()}


def signals(member: Member, name: str) -> Any:
    """Return a signal for a member of `stack_ports`, or nested lists of them."""
    def make(dimensions, name):
        if not dimensions:
            return Signal(member.shape, name=name)
        return [make(dimensions[1:], f"{name}_{index}") for index in range(dimensions[0])]

    return make(member.dimensions, name)


def place_stack(m: Module, platform, name: str, config: Config, height: int, cell: type, *,
                inputs, outputs) -> None:
    """Add a row or a stack of rows."""
    module, part = f"{cell.MODULE}_rows_{height}", partial(Stack, config, height, cell)
    if height == 1:
        module, part = f"{cell.MODULE}_row", partial(Row, config, cell)
    place(m, platform, name, module, part, inputs=inputs, outputs=outputs)
