"""A row of cells."""

from functools import partial

from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from gradloom_golden.config import Config

from .emit import place
from .pe import TAPS, ProcessingElement, cell_ports

__all__ = ["COLUMN_PORTS", "Row"]

COLUMN_PORTS = ("gradient_i", "gradient_o", "sum_i", "sum_o", "weight_i", "weight_o", "drain_i",
                "drain_o")
"""Members that a row has once a column."""


class Row(wiring.Component):
    """Cells side by side: X and dX sums flow east through it, the rest passes north and south.

    LATENCY is one cycle a cell from west to east, one cycle from north to south.

    Parameters
    ----------
    config : Config

    Members
    -------
    mode, wave_i, west, east
        As of a cell.
    COLUMN_PORTS
        Arrays of a cell's members, one a column.
    taps : In(ArrayLayout(ArrayLayout(gradient, columns), TAPS))
        `gradient_o` of the three rows below, nearest first.
    """

    def __init__(self, config: Config):
        self.config = config
        ports = cell_ports(config)
        members = {name: ports[name] for name in ("mode", "wave_i", "west", "east")}
        for name in COLUMN_PORTS:
            member = ports[name]
            direction = In if member.flow == In else Out
            members[name] = direction(data.ArrayLayout(member.shape, config.columns))
        gradients = members["gradient_i"].shape
        members["taps"] = In(data.ArrayLayout(gradients, TAPS))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        west, wave = self.west, self.wave_i
        for column in range(self.config.columns):
            cell = place(m, platform, f"cell_{column}", "pe",
                         partial(ProcessingElement, self.config))
            m.d.comb += [
                cell.mode.eq(self.mode),
                cell.wave_i.eq(wave),
                cell.west.eq(west),
            ]
            for name in COLUMN_PORTS:
                ours, theirs = getattr(self, name)[column], getattr(cell, name)
                inward = name.endswith("_i")
                m.d.comb += theirs.eq(ours) if inward else ours.eq(theirs)
            for tap in range(TAPS):
                m.d.comb += cell.taps[tap].eq(self.taps[tap][column])
            west, wave = cell.east, cell.wave_o
        m.d.comb += self.east.eq(west)
        return m
