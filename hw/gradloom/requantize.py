"""One element of a finished sum, narrowed for the next layer or the layer before."""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config

from .rounding import round_shift, saturate

__all__ = ["RequantizeLane"]


class RequantizeLane(wiring.Component):
    """Combinational: mask, divide by a power of two with rounding, clip.

    Members
    -------
    total : In(signed(accumulator_bits))
    pass_on : In(1)
        Zero gives a zero, as for a gradient behind a ReLU that was off.
    relu, y_unsigned : In(1)
        Of the activation.
    shift : In(5)
    random : In(16)
    activation : Out(operand_bits)
    gradient : Out(gradient_bits)
    positive : Out(1)
        The activation is above zero.
    """

    CLOCKED = False

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "total": In(signed(config.accumulator_bits)),
            "pass_on": In(1), "relu": In(1), "y_unsigned": In(1),
            "shift": In(5), "random": In(16),
            "activation": Out(unsigned(config.operand_bits)),
            "gradient": Out(unsigned(config.gradient_bits)),
            "positive": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        value = Signal(signed(self.config.accumulator_bits))
        m.d.comb += value.eq(Mux(self.pass_on, self.total, 0))
        quotient = round_shift(m, value, self.shift, self.random, name="total")
        clipped = Signal(quotient.shape())
        m.d.comb += clipped.eq(Mux(self.relu & quotient[-1], 0, quotient))
        activation = saturate(m, clipped, self.config.operand_bits, name="activation",
                              unsigned_range=self.y_unsigned)
        gradient = saturate(m, quotient, self.config.gradient_bits, name="gradient")
        m.d.comb += [
            self.activation.eq(activation),
            self.gradient.eq(gradient),
            self.positive.eq(clipped > 0),
        ]
        return m
