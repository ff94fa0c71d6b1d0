"""Cells to compare with: what a systolic array is without this project's ideas.

They stand in the same rows and behind the same edges as `gradloom.pe.ProcessingElement`, take the
same operands, and are measured, not simulated in the machine.
"""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring

from gradloom_golden.config import Config

from .pe import cell_ports

__all__ = ["PlainElement", "SwitchableElement"]


def _multiply(m: Module, config: Config, x, factor) -> Signal:
    product = Signal(signed(config.product_bits))
    m.d.comb += product.eq(x[:config.operand_bits].as_signed() * factor)
    return product


class PlainElement(wiring.Component):
    """Weight-stationary only: ``sum_o = sum_i + west * W`` a cycle later, X goes on east.

    It does the forward pass; an input gradient needs the transposed weights, and a weight
    gradient has to be mapped to it with X or D as the stationary operand.

    Members
    -------
    See `cell_ports`; what it does not need stays zero.
    """

    MODULE = "plain_pe"
    EDGES = ("west", "weight", "south")

    def __init__(self, config: Config):
        self.config = config
        super().__init__(cell_ports(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        weight = Signal(signed(config.operand_bits))
        x = Signal(signed(config.operand_bits))
        product = _multiply(m, config, self.west, weight)
        m.d.sync += [x.eq(self.west), self.sum_o.eq(self.sum_i + product)]
        m.d.comb += [self.east.eq(x), self.weight_o.eq(weight)]
        with m.If(self.shift):
            m.d.sync += weight.eq(self.weight_i)
        return m


class SwitchableElement(wiring.Component):
    """Weight- or output-stationary, one or the other for a whole pass.

    Weight-stationary: ``sum_o = sum_i + west * W``. Output-stationary: the same register
    accumulates ``west * gradient_i`` in place and is shifted out north. Sums only flow south, so
    an input gradient needs the transposed weights loaded.

    Members
    -------
    See `cell_ports`; what it does not need stays zero.
    """

    MODULE = "switchable_pe"
    EDGES = ("west", "gradient", "weight", "south", "drain")

    def __init__(self, config: Config):
        self.config = config
        super().__init__(cell_ports(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        weight = Signal(signed(config.operand_bits))
        x = Signal(signed(config.operand_bits))
        held = Signal(signed(config.wgrad_bits))
        factor = Signal(signed(config.gradient_bits))
        addend = Signal(signed(config.wgrad_bits))
        m.d.comb += [
            factor.eq(Mux(self.mode.forward, weight, self.gradient_i)),
            addend.eq(Mux(self.mode.forward, self.sum_i, held)),
        ]
        product = _multiply(m, config, self.west, factor)
        m.d.sync += [
            x.eq(self.west), self.gradient_o.eq(self.gradient_i), held.eq(addend + product),
            self.wave_o.eq(self.wave_i),
        ]
        m.d.comb += [
            self.east.eq(x), self.sum_o.eq(held), self.weight_o.eq(weight), self.drain_o.eq(held),
        ]
        with m.If(self.shift):
            m.d.sync += [weight.eq(self.weight_i), held.eq(self.drain_i)]
        with m.Elif(~self.wave_i.os & ~self.mode.forward):
            m.d.sync += held.eq(held)
        return m
