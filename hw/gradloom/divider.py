"""The reciprocal of a mantissa, a bit a cycle."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.loss import RECIPROCAL_BITS

__all__ = ["Divider"]

MANTISSA_BITS = 17
QUOTIENT_BITS = RECIPROCAL_BITS - MANTISSA_BITS + 2


class Divider(wiring.Component):
    """Divides ``2**33`` by a mantissa, dropping the remainder; one subtraction a cycle.

    `start` takes the divisor. `CYCLES` cycles follow; `done` marks the last of them, and the
    quotient stands from the next cycle until the next start.

    Members
    -------
    start : In(1)
    divisor : In(17)
        Its top bit is set.
    done : Out(1)
    quotient : Out(18)
    """

    CYCLES = QUOTIENT_BITS

    def __init__(self):
        super().__init__({
            "start": In(1), "divisor": In(MANTISSA_BITS), "done": Out(1),
            "quotient": Out(QUOTIENT_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        divisor = Signal(MANTISSA_BITS)
        remainder = Signal(MANTISSA_BITS + 1)
        left = Signal(range(self.CYCLES + 1))
        fits = Signal()
        rest = Signal(MANTISSA_BITS)
        m.d.comb += [
            fits.eq(remainder >= divisor),
            # Less than the divisor, so the bit above it is zero.
            rest.eq(remainder - Mux(fits, divisor, 0)),
            self.done.eq(left == 1),
        ]
        with m.If(self.start):
            m.d.sync += [
                divisor.eq(self.divisor), left.eq(self.CYCLES),
                # The top 17 bits of the dividend; all bits below are zero.
                remainder.eq(1 << MANTISSA_BITS - 1),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                left.eq(left - 1),
                remainder.eq(rest << 1),
                self.quotient.eq(Cat(fits, self.quotient[:-1])),
            ]
        return m
