"""Activations cut to 4 or 2 bits for memory, and put back."""

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .rounding import round_shift, saturate

__all__ = ["CompressLane", "ExpandLane"]

NIBBLE, CRUMB = 4, 2


class CompressLane(wiring.Component):
    """Combinational: one element divided by a power of two with rounding, clipped to few bits.

    Parameters
    ----------
    bits : int
        Of the element, 4 or 8.

    Members
    -------
    element : In(bits)
    x_unsigned : In(1)
        Of the element and of the results.
    shift : In(3)
    random : In(16)
    nibble, crumb : Out(4), Out(2)
    """

    CLOCKED = False

    def __init__(self, bits: int):
        self.bits = bits
        super().__init__({
            "element": In(bits), "x_unsigned": In(1), "shift": In(3), "random": In(16),
            "nibble": Out(NIBBLE), "crumb": Out(CRUMB),
        })

    def elaborate(self, platform):
        m = Module()
        value = Signal(signed(self.bits + 1))
        m.d.comb += value.eq(Cat(self.element, self.element[-1] & ~self.x_unsigned).as_signed())
        quotient = round_shift(m, value, self.shift, self.random, name="value")
        for bits, name in ((NIBBLE, "nibble"), (CRUMB, "crumb")):
            m.d.comb += getattr(self, name).eq(
                saturate(m, quotient, bits, name=name, unsigned_range=self.x_unsigned))
        return m


class ExpandLane(wiring.Component):
    """Combinational: what `CompressLane` kept of one element, shifted back and wrapped to 8 bits.

    Members
    -------
    nibble, crumb : In(4), In(2)
    two_bits : In(1)
        Take the crumb, else the nibble.
    x_unsigned : In(1)
    shift : In(3)
    element : Out(8)
    """

    CLOCKED = False

    def __init__(self):
        super().__init__({
            "nibble": In(NIBBLE), "crumb": In(CRUMB), "two_bits": In(1), "x_unsigned": In(1),
            "shift": In(3), "element": Out(unsigned(8)),
        })

    def elaborate(self, platform):
        m = Module()
        value = Signal(signed(8))
        crumb, nibble = self.crumb, self.nibble
        m.d.comb += [
            value.eq(Mux(
                self.two_bits,
                Cat(crumb, crumb[-1] & ~self.x_unsigned).as_signed(),
                Cat(nibble, nibble[-1] & ~self.x_unsigned).as_signed())),
            self.element.eq(value << self.shift),
        ]
        return m
