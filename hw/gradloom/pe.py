"""Processing element: one multiplier for the forward pass, the input and the weight gradient."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config

from .lane_multiplier import LaneMultiplier
from .layouts import Mode, Wave

__all__ = ["TAPS", "ProcessingElement", "cell_ports"]

TAPS = 3
"""Rows below a cell whose passing gradients it can see."""


def cell_ports(config: Config) -> dict:
    """Return the members of a cell, by direction; a row has the same, side by side."""
    operand = signed(config.operand_bits)
    gradient = signed(config.gradient_bits)
    partial_sum = signed(config.sum_bits)
    wgrad = signed(config.wgrad_bits)
    return {
        "mode": In(Mode),
        "shift": In(1),
        "wave_i": In(Wave),
        "wave_o": Out(Wave),
        "west": In(partial_sum),
        "east": Out(partial_sum),
        "gradient_i": In(gradient),
        "gradient_o": Out(gradient),
        "taps": In(gradient).array(TAPS),
        "sum_i": In(partial_sum),
        "sum_o": Out(partial_sum),
        "weight_i": In(operand),
        "weight_o": Out(operand),
        "drain_i": In(wgrad),
        "drain_o": Out(wgrad),
    }


class ProcessingElement(wiring.Component):
    """One cell of the array: holds W[k,n] and accumulates dW[k,n].

    A slot is one cycle. Forward: ``sum_o = sum_i + west * W``, and `west` (X) goes on east.
    Weight-stationary backward: ``east = west + gradient_i * W``, and `gradient_i` (D) goes on
    south. Output-stationary backward: ``dW += west * D``, and `west` (X) goes on east. Everything
    leaves one cycle after it entered.

    With packed lanes the output-stationary slot multiplies the fields of `west` with the newest
    gradients of the group: its own register and the registers of the rows below, which still hold
    the steps before (`taps`, nearest first). The vertical chain is the gradient history.

    Fields of X are signed here; `gradloom.column.Column` adds what unsigned ones lack.

    `shift` moves weights and gradients one cell north, in all cells of a column at once: weights
    enter from the south while gradients, with the weights that they belong to, leave to the north.
    A chain that moved with the wavefront would need a second register a cell.

    Parameters
    ----------
    config : Config

    Members
    -------
    See `cell_ports`. The low bits of `west` and `east` carry X whenever they carry no sum.
    """

    MODULE = "pe"
    EDGES = ("west", "east", "gradient", "south", "weight", "drain", "old_weight")

    def __init__(self, config: Config):
        self.config = config
        super().__init__(cell_ports(config))

    def elaborate(self, platform):
        m = Module()
        weight = Signal(signed(self.config.operand_bits))
        wgrad = Signal(signed(self.config.wgrad_bits))
        product, carry = self._multiply(m, weight)

        adds_down = Signal()
        wgrad_bits = self.config.wgrad_bits
        addend = Signal(signed(wgrad_bits))
        extended = Signal(signed(wgrad_bits))
        total_and_carry = Signal(wgrad_bits + 2)
        total = total_and_carry[1:-1].as_signed()
        m.d.comb += [
            adds_down.eq(self.mode.forward | self.wave_i.os),
            addend.eq(Mux(self.wave_i.os, wgrad, Mux(self.mode.forward, self.sum_i, self.west))),
            # One adder: the multiplier leaves a carry to whoever adds its product anyway.
            extended.eq(product),
            total_and_carry.eq(Cat(Const(1), addend) + Cat(carry, extended)),
        ]

        operand_bits = self.config.operand_bits
        passing = Mux(adds_down, self.west[:operand_bits], total[:operand_bits])
        m.d.sync += [
            self.wave_o.eq(self.wave_i),
            self.gradient_o.eq(self.gradient_i),
            self.east.eq(Cat(passing, total[operand_bits:])),
        ]
        m.d.comb += self.sum_o.eq(wgrad)
        if self.config.overlap:
            self._shadow_chain(m, weight, wgrad, total, adds_down)
        else:
            self._chain(m, weight, wgrad, total, adds_down)
        return m

    def _multiply(self, m, weight):
        """Return this slot's product, from the one multiplier, as a sum and a carry."""
        x = self.west[:self.config.operand_bits]
        takes_x = Signal()
        word = Signal(unsigned(self.config.operand_bits))
        factor = Signal(signed(self.config.gradient_bits))
        m.d.comb += [
            takes_x.eq(self.mode.forward | self.wave_i.os),
            word.eq(Mux(takes_x, x, weight.as_unsigned())),
            factor.eq(Mux(self.mode.forward, weight, self.gradient_i)),
        ]
        product = Signal(signed(self.config.product_bits))
        if not self.config.lanes:
            m.d.comb += product.eq(word.as_signed() * factor)
            return product, Const(0)

        m.submodules.multiplier = multiplier = LaneMultiplier(self.config.gradient_bits)
        m.d.comb += [
            multiplier.word.eq(word),
            multiplier.factor.eq(factor),
            multiplier.two.eq(self.wave_i.os & self.mode.two),
            multiplier.four.eq(self.wave_i.os & self.mode.four),
            product.eq(multiplier.product),
        ]
        for step, gradient in zip(multiplier.steps, [self.gradient_o, *self.taps], strict=True):
            m.d.comb += step.eq(gradient)
        return product, multiplier.carry

    def _chain(self, m, weight, wgrad, total, adds_down):
        """Weights and gradients shift through the working registers: no slots meanwhile."""
        m.d.comb += [self.weight_o.eq(weight), self.drain_o.eq(wgrad)]
        with m.If(self.shift):
            m.d.sync += [weight.eq(self.weight_i), wgrad.eq(self.drain_i)]
        with m.Elif(adds_down):
            m.d.sync += wgrad.eq(total)

    def _shadow_chain(self, m, weight, wgrad, total, adds_down):
        """A second pair of registers shifts while the first works; `swap` exchanges them."""
        next_weight = Signal(signed(self.config.operand_bits))
        last_wgrad = Signal(signed(self.config.wgrad_bits))
        updated = Signal(signed(self.config.wgrad_bits))
        m.d.comb += [
            self.weight_o.eq(next_weight),
            self.drain_o.eq(last_wgrad),
            updated.eq(Mux(adds_down, total, wgrad)),
        ]
        m.d.sync += wgrad.eq(updated)
        with m.If(self.wave_i.swap):
            m.d.sync += [weight.eq(next_weight), next_weight.eq(weight), last_wgrad.eq(updated)]
            with m.If(~self.mode.forward):
                m.d.sync += wgrad.eq(0)
        with m.Elif(self.shift):
            m.d.sync += [next_weight.eq(self.weight_i), last_wgrad.eq(self.drain_i)]
