"""Where a weight gradient leaves the array: it updates its weight, or is stored."""

from functools import partial

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.lfsr import Bank
from gradloom_golden.optimizer import VELOCITY_BITS
from gradloom_golden.program import Drain

from .emit import place
from .layouts import DescriptorLayout
from .lfsr import Lfsr
from .rounding import round_shift, saturate

__all__ = ["Optimizer", "OptimizerLane"]


class OptimizerLane(wiring.Component):
    """One column's update, in three stages: round the gradient, move the velocity, move the weight.

    A gradient, its old weight and its state enter together; new weight and state leave two cycles
    later.

    Members
    -------
    gradient : In(signed(wgrad_bits))
        As accumulated from packed activations; `x_shift` scales it back.
    weight : In(signed(operand_bits)), state : In(state_bits)
    random : In(31)
        One LFSR draw: low half for the gradient, high half for the step.
    x_shift, gradient_shift, rate_shift, decay_shift, momentum, store
        Of the descriptor.
    new_weight : Out(operand_bits), new_state : Out(state_bits)
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "gradient": In(signed(config.wgrad_bits)),
            "weight": In(signed(config.operand_bits)),
            "state": In(unsigned(config.state_bits)),
            "random": In(31),
            "x_shift": In(3), "gradient_shift": In(5), "rate_shift": In(5), "decay_shift": In(3),
            "momentum": In(1), "store": In(1),
            "new_weight": Out(unsigned(config.operand_bits)),
            "new_state": Out(unsigned(config.state_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        residue_bits = config.residue_bits

        # Round the gradient.
        scaled = Signal(signed(config.wgrad_bits))
        m.d.comb += scaled.eq(self.gradient << self.x_shift)
        pushed = round_shift(m, scaled, self.gradient_shift, self.random[:16], name="gradient")
        push = Signal(signed(VELOCITY_BITS))
        gradient = Signal(signed(config.wgrad_bits))
        velocity = Signal(signed(VELOCITY_BITS))
        master = Signal(signed(config.master_bits))
        draw = Signal(16)
        m.d.sync += [
            push.eq(saturate(m, pushed, VELOCITY_BITS, name="push")),
            gradient.eq(scaled),
            velocity.eq(self.state[residue_bits:]),
            master.eq(Cat(self.state[:residue_bits], self.weight)),
            draw.eq(self.random[15:]),
        ]

        # Move the velocity.
        decayed = Signal(signed(VELOCITY_BITS + 1))
        moved = Signal(signed(VELOCITY_BITS + 2))
        m.d.comb += [
            decayed.eq(velocity - (velocity >> self.decay_shift)),
            moved.eq(decayed + push),
        ]
        with_momentum = saturate(m, moved, VELOCITY_BITS, name="velocity")
        old_push = Signal.like(push)
        old_gradient = Signal.like(gradient)
        new_velocity = Signal.like(velocity)
        old_master = Signal.like(master)
        old_draw = Signal.like(draw)
        m.d.sync += [
            old_push.eq(push),
            old_gradient.eq(gradient),
            new_velocity.eq(Mux(self.momentum, with_momentum, velocity)),
            old_master.eq(master),
            old_draw.eq(draw),
        ]

        # Move the weight.
        smooth = round_shift(m, new_velocity, self.rate_shift, old_draw, name="step")
        changed = Signal(signed(max(config.master_bits, VELOCITY_BITS + 1) + 1))
        m.d.comb += changed.eq(old_master - Mux(self.momentum, smooth, old_push))
        new_master = saturate(m, changed, config.master_bits, name="master")
        m.d.comb += [
            self.new_weight.eq(new_master[residue_bits:]),
            self.new_state.eq(Mux(self.store, old_gradient,
                                  Cat(new_master[:residue_bits], new_velocity))),
        ]
        return m


class Optimizer(wiring.Component):
    """Takes drained rows in the order of the tiles, reads their state, writes weights and state.

    `coming` announces a drained row one cycle before it stands at `drained` and `old_weights`; its
    results are written three cycles after the announcement, the last ones in the cycle of the next
    `start` at the latest. Rows lie one after the other from
    `w_base` and `state_base`.

    Members
    -------
    start : In(1)
        `descriptor` is new; no row before the next cycle.
    descriptor : In(DescriptorLayout)
    coming : In(1)
    drained, old_weights : In
    state_*, weight_* : ports of the two buffers
    seed_load, seed : In
    """

    LATENCY = 3

    def __init__(self, config: Config):
        self.config = config
        columns = config.columns
        address = ceil_log2(config.weight_depth)
        state = data.ArrayLayout(unsigned(config.state_bits), columns)
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "coming": In(1),
            "drained": In(data.ArrayLayout(signed(config.wgrad_bits), columns)),
            "old_weights": In(data.ArrayLayout(signed(config.operand_bits), columns)),
            "state_read_en": Out(1),
            "state_read_address": Out(address),
            "state_read_data": In(state),
            "state_write_en": Out(1),
            "state_write_address": Out(address),
            "state_write_data": Out(state),
            "weight_write_en": Out(1),
            "weight_write_address": Out(address),
            "weight_write_data": Out(data.ArrayLayout(unsigned(config.operand_bits), columns)),
            "seed_load": In(1),
            "seed": In(31),
        })

    def elaborate(self, platform):
        m = Module()
        descriptor = self.descriptor
        store = descriptor.drain == Drain.STORE
        read_row = Signal(ceil_log2(self.config.weight_depth))
        write_row = Signal.like(read_row)
        stages = Signal(self.LATENCY)
        m.d.sync += stages.eq((stages << 1) | self.coming)
        written = stages[-1]
        # The last row is written when the next descriptor has come already.
        held = Signal(DescriptorLayout)
        m.d.sync += held.eq(descriptor)
        with m.If(self.start):
            m.d.sync += [read_row.eq(0), write_row.eq(0)]
        with m.Else():
            m.d.sync += [read_row.eq(read_row + self.coming), write_row.eq(write_row + written)]
        m.d.comb += [
            self.state_read_en.eq(self.coming & ~store),
            self.state_read_address.eq(descriptor.state_base + read_row),
            self.state_write_en.eq(written),
            self.state_write_address.eq(held.state_base + write_row),
            self.weight_write_en.eq(written & (held.drain != Drain.STORE)),
            self.weight_write_address.eq(held.w_base + write_row),
        ]

        m.submodules.lfsr = lfsr = Lfsr(Bank.UPDATE, self.config.columns)
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(stages[0] & ~store),
        ]
        shared = {name: getattr(descriptor, name) for name in ("x_shift", "gradient_shift")}
        shared |= {name: getattr(held, name)
                   for name in ("decay_shift", "momentum", "rate_shift")}
        shared["store"] = held.drain == Drain.STORE
        for column in range(self.config.columns):
            place(m, platform, f"lane_{column}", "optimizer_lane",
                  partial(OptimizerLane, self.config),
                  inputs={**shared, "gradient": self.drained[column],
                          "weight": self.old_weights[column],
                          "state": self.state_read_data[column],
                          "random": lfsr.state[column]},
                  outputs={"new_state": self.state_write_data[column],
                           "new_weight": self.weight_write_data[column]})
        return m
