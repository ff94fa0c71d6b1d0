"""Delay lines: the stagger between a whole row of operands and the array's wavefront."""

from functools import partial

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .emit import place

__all__ = ["Delay", "Skew", "delay"]


def delay(m: Module, value: Value, cycles: int, *, name: str) -> Value:
    """Return a few bits as they were `cycles` clock cycles ago, zero after reset."""
    if cycles == 0:
        return value
    width = len(value)
    line = Signal(width * cycles, name=name)
    m.d.sync += line.eq(Cat(value, line)[:width * cycles])
    return line[-width:]


class Delay(wiring.Component):
    """Delays a wide word by a power of two of cycles: two of half that, down to a register.

    Parameters
    ----------
    width, cycles : int

    Members
    -------
    i, o : In(width), Out(width)
    """

    def __init__(self, width: int, cycles: int):
        if cycles < 1 or cycles & (cycles - 1):
            raise ValueError(f"A delay is a power of two of cycles, not {cycles!r}")
        self.width = width
        self.cycles = cycles
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        if self.cycles == 1:
            m.d.sync += self.o.eq(self.i)
            return m
        half = self.cycles // 2
        between = Signal(self.width)
        for name, source, target in (("first", self.i, between), ("second", between, self.o)):
            place(m, platform, name, f"delay_{self.width}x{half}",
                  partial(Delay, self.width, half), inputs={"i": source}, outputs={"o": target})
        return m


class Skew(wiring.Component):
    """Delays element i of a vector by i cycles, or by ``lanes - 1 - i`` with `reverse`.

    One half of the lanes is delayed by half their number, then both halves are skewed alike.

    Parameters
    ----------
    bits : int
        Of an element.
    lanes : int
        A power of two.
    reverse : bool
        Undo the skew of another: together they delay every element by ``lanes - 1``.

    Members
    -------
    i, o : In, Out(bits * lanes)
        Element 0 in the lowest bits.
    """

    def __init__(self, bits: int, lanes: int, *, reverse: bool = False):
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"A skew has a power of two of lanes, not {lanes!r}")
        self.bits = bits
        self.lanes = lanes
        self.reverse = reverse
        self.CLOCKED = lanes > 1
        super().__init__({"i": In(bits * lanes), "o": Out(bits * lanes)})

    def elaborate(self, platform):
        m = Module()
        if self.lanes == 1:
            m.d.comb += self.o.eq(self.i)
            return m
        half = self.lanes // 2
        width = half * self.bits
        low, high = self.i[:width], self.i[width:]
        late = Signal(width)
        place(m, platform, "late", f"delay_{width}x{half}", partial(Delay, width, half),
              inputs={"i": low if self.reverse else high}, outputs={"o": late})
        kind = "deskew" if self.reverse else "skew"
        for name, source, target in (
            ("low", late if self.reverse else low, self.o[:width]),
            ("high", high if self.reverse else late, self.o[width:]),
        ):
            place(m, platform, name, f"{kind}_{self.bits}x{half}",
                  partial(Skew, self.bits, half, reverse=self.reverse),
                  inputs={"i": source}, outputs={"o": target})
        return m
