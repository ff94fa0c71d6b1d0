"""Delay lines: the stagger between a whole row of operands and the array's wavefront."""

from functools import partial

from amaranth import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
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
        word = self.i
        for name in ("first", "second"):
            part = place(m, platform, name, f"delay_{self.width}x{half}",
                         partial(Delay, self.width, half))
            m.d.comb += part.i.eq(word)
            word = part.o
        m.d.comb += self.o.eq(word)
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
    i, o : In, Out(ArrayLayout(bits, lanes))
    """

    def __init__(self, bits: int, lanes: int, *, reverse: bool = False):
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"A skew has a power of two of lanes, not {lanes!r}")
        self.bits = bits
        self.lanes = lanes
        self.reverse = reverse
        self.CLOCKED = lanes > 1
        layout = data.ArrayLayout(unsigned(bits), lanes)
        super().__init__({"i": In(layout), "o": Out(layout)})

    def elaborate(self, platform):
        m = Module()
        word, result = self.i.as_value(), self.o.as_value()
        if self.lanes == 1:
            m.d.comb += result.eq(word)
            return m
        half = self.lanes // 2
        width = half * self.bits
        late = place(m, platform, "late", f"delay_{width}x{half}", partial(Delay, width, half))
        kind = "deskew" if self.reverse else "skew"
        halves = [
            place(m, platform, name, f"{kind}_{self.bits}x{half}",
                  partial(Skew, self.bits, half, reverse=self.reverse))
            for name in ("low", "high")
        ]
        low, high = word[:width], word[width:]
        m.d.comb += [
            late.i.eq(low if self.reverse else high),
            halves[0].i.as_value().eq(late.o if self.reverse else low),
            halves[1].i.as_value().eq(high if self.reverse else late.o),
            result.eq(Cat(halves[0].o.as_value(), halves[1].o.as_value())),
        ]
        return m
