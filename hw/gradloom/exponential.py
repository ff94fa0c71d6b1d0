"""Powers of two below one, from a table of 256 fractions."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.loss import LOG2_E, POWER_FRACTION_BITS, exponential_table

from .rounding import HALF, round_shift
from .select import select

__all__ = ["Exponential"]

VALUE_BITS = 17


class Exponential(wiring.Component):
    """Turns the distance of a logit to the largest into its exponential, one a cycle.

    A result stands `LATENCY` cycles after its distance. The exponent has to stand throughout.

    Parameters
    ----------
    distance_bits : int

    Members
    -------
    distance : In(distance_bits)
    exponent : In(signed(8))
        A distance is in units of ``2**exponent``.
    power : Out
        Distance in powers of two, 8 fraction bits: `gradloom_golden.loss.powers`.
    value : Out(17)
        `gradloom_golden.loss.exponentials` of `power`.
    """

    LATENCY = 3

    def __init__(self, distance_bits: int):
        self.power_bits = distance_bits + LOG2_E.bit_length()
        super().__init__({
            "distance": In(distance_bits), "exponent": In(signed(8)),
            "power": Out(self.power_bits), "value": Out(VALUE_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        exponent, most, least = self.exponent, POWER_FRACTION_BITS, POWER_FRACTION_BITS - 31
        shift = Signal(5)
        with m.If(exponent < least):
            m.d.comb += shift.eq(31)
        with m.Elif(exponent <= most):
            m.d.comb += shift.eq(most - exponent)

        product = Signal(signed(self.power_bits + 1))
        power = Signal(self.power_bits)
        rounded = round_shift(m, product, shift, Const(HALF, 16), name="power")
        m.d.sync += [
            product.eq(self.distance * LOG2_E),
            power.eq(rounded),
            self.power.eq(power),
        ]

        table = Cat(Const(value, VALUE_BITS) for value in exponential_table().tolist())
        entry = select(m, table, power[:POWER_FRACTION_BITS], VALUE_BITS, name="entry")
        whole = power[POWER_FRACTION_BITS:]
        m.d.sync += self.value.eq(Mux(whole < VALUE_BITS, entry >> whole[:5], 0))
        return m
