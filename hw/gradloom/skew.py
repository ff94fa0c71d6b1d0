"""Delay lines: the stagger between a whole row of operands and the array's wavefront."""

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Skew", "delay"]


def delay(m: Module, value: Value, cycles: int, *, name: str) -> Value:
    """Return `value` as it was `cycles` clock cycles ago, zero after reset."""
    if cycles == 0:
        return value
    width = len(value)
    line = Signal(width * cycles, name=name)
    m.d.sync += line.eq(Cat(value, line)[:width * cycles])
    return line[-width:]


class Skew(wiring.Component):
    """Delays element i of a vector by i cycles, or by ``lanes - 1 - i`` with `reverse`.

    Parameters
    ----------
    shape : Shape
        Shape of an element.
    lanes : int
    reverse : bool
        Undo the skew of another: together they delay every element by ``lanes - 1``.

    Members
    -------
    i, o : In, Out(ArrayLayout(shape, lanes))
    """

    def __init__(self, shape, lanes: int, *, reverse: bool = False):
        if lanes < 1:
            raise ValueError(f"A skew needs at least 1 lane, not {lanes!r}")
        self.lanes = lanes
        self.reverse = reverse
        layout = data.ArrayLayout(shape, lanes)
        super().__init__({"i": In(layout), "o": Out(layout)})

    def elaborate(self, platform):
        m = Module()
        for lane in range(self.lanes):
            cycles = self.lanes - 1 - lane if self.reverse else lane
            element = Value.cast(self.i[lane])
            late = delay(m, element, cycles, name=f"lane_{lane}")
            m.d.comb += Value.cast(self.o[lane]).eq(late)
        return m
