"""What lets the cells treat unsigned activations as signed ones."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2

__all__ = ["Column"]


class Column(wiring.Component):
    """Completes the sums of one column whose X the west edge has shifted down.

    An unsigned field x of n bits enters the cells as ``x - 2**(n-1)``, its top bit inverted, so
    that their multipliers need no sign choice. What is missing is the same for a whole column:
    ``2**(n-1)`` times the sum of the weights in every forward sum, which therefore starts with it,
    and ``2**(n-1)`` times the sum of D in every weight gradient, which is added when it leaves.

    Everything is in the time of the column: a cycle later than in the column to its west.

    Parameters
    ----------
    config : Config
    gradients : bool
        Complete weight gradients, too; else they pass as they are.

    Members
    -------
    x_unsigned, two, four : In(1)
        Of the descriptor.
    shift, after_shift, swap : In(1)
        A weight enters now; one entered a cycle ago; (overlap) the weights that have entered are
        used from the next cycle on.
    weight : In(signed(operand_bits))
    counts, ends : In(1)
        `gradient` is part of the weight gradient; this is the last slot of a tile.
    gradient : In(signed(gradient_bits))
    sum_i : Out(signed(sum_bits))
        Where sums of the column start.
    drain_i, drain_o : In, Out(signed(wgrad_bits))
        Weight gradients as accumulated, and complete.
    """

    def __init__(self, config: Config, *, gradients: bool = True):
        self.config = config
        self.gradients = gradients
        wgrad = signed(config.wgrad_bits)
        super().__init__({
            "x_unsigned": In(1), "two": In(1), "four": In(1),
            "shift": In(1), "after_shift": In(1), "swap": In(1),
            "weight": In(signed(config.operand_bits)),
            "counts": In(1), "ends": In(1),
            "gradient": In(signed(config.gradient_bits)),
            "sum_i": Out(signed(config.sum_bits)),
            "drain_i": In(wgrad),
            "drain_o": Out(wgrad),
        })

    def elaborate(self, platform):
        m = Module()
        self._start_sums(m)
        if self.gradients:
            self._complete_gradients(m)
        else:
            m.d.comb += self.drain_o.eq(self.drain_i)
        return m

    def _start_sums(self, m):
        config = self.config
        entered = Signal(signed(config.operand_bits + ceil_log2(config.rows)))
        with m.If(self.shift):
            m.d.sync += entered.eq(Mux(self.after_shift, entered, 0) + self.weight)
        in_use = entered
        if config.overlap:
            in_use = Signal.like(entered)
            with m.If(self.swap):
                m.d.sync += in_use.eq(entered)
        with m.If(self.x_unsigned):
            m.d.comb += self.sum_i.eq(in_use << config.operand_bits - 1)

    def _complete_gradients(self, m):
        config = self.config
        so_far = Signal(signed(config.gradient_bits + ceil_log2(config.steps_depth)))
        total = Signal.like(so_far)
        whole = Signal.like(so_far)
        m.d.comb += total.eq(so_far + Mux(self.counts, self.gradient, 0))
        m.d.sync += so_far.eq(Mux(self.ends, 0, total))
        with m.If(self.ends):
            m.d.sync += whole.eq(total)

        missing = Signal(signed(config.wgrad_bits))
        with m.If(self.four):
            m.d.comb += missing.eq(whole << 1)
        with m.Elif(self.two):
            m.d.comb += missing.eq(whole << 3)
        with m.Else():
            m.d.comb += missing.eq(whole << config.operand_bits - 1)
        m.d.comb += self.drain_o.eq(self.drain_i + Mux(self.x_unsigned, missing, 0))
