"""Where a weight gradient leaves the array: it updates its weight, or is stored."""

from functools import partial
from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.lfsr import Bank
from gradloom_golden.optimizer import VELOCITY_BITS
from gradloom_golden.program import Drain, Opcode

from .emit import place
from .layouts import DescriptorLayout
from .lfsr import Lfsr
from .rounding import round_shift, saturate
from .tile_loop import WeightWalk

__all__ = ["Optimizer", "OptimizerLane"]


class OptimizerLane(wiring.Component):
    """One column's update, in three stages: round, move the velocity, move the weight.

    The gradient and what the velocity loses are rounded. A gradient, its old weight and its state
    enter together; new weight and state leave two cycles later.

    Members
    -------
    gradient : In(signed(state_bits))
        As accumulated from packed activations; `x_shift` scales it back.
    weight : In(signed(operand_bits)), state : In(state_bits)
    random : In(31)
        One LFSR draw: low half for the gradient, high half for the step.
    x_shift, gradient_shift, rate_shift, decay_shift, momentum, store
        Of the descriptor.
    accumulate : In(1)
        Store the gradient plus the state, saturated.
    new_weight : Out(operand_bits), new_state : Out(state_bits)
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "gradient": In(signed(config.state_bits)),
            "weight": In(signed(config.operand_bits)),
            "state": In(unsigned(config.state_bits)),
            "random": In(31),
            "x_shift": In(3), "gradient_shift": In(5), "rate_shift": In(5), "decay_shift": In(3),
            "momentum": In(1), "store": In(1), "accumulate": In(1),
            "new_weight": Out(unsigned(config.operand_bits)),
            "new_state": Out(unsigned(config.state_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        residue_bits = config.residue_bits

        # Round the gradient, and what the velocity loses.
        scaled = Signal(signed(config.state_bits))
        m.d.comb += scaled.eq(self.gradient << self.x_shift)
        pushed = round_shift(m, scaled, self.gradient_shift, self.random[:16], name="gradient")
        total = Signal(signed(config.state_bits + 1))
        m.d.comb += total.eq(scaled + Mux(self.accumulate, self.state.as_signed(), 0))
        push = Signal(signed(VELOCITY_BITS))
        gradient = Signal(config.state_bits)
        velocity = Signal(signed(VELOCITY_BITS))
        kept = Signal(signed(VELOCITY_BITS))
        master = Signal(signed(config.master_bits))
        step_draw, draw = self.random[15:], Signal(16)
        decay_draw = Cat(step_draw[8:], step_draw[:8]) ^ 0x8080
        m.d.comb += velocity.eq(self.state[residue_bits:])
        lost = round_shift(m, velocity, self.decay_shift, decay_draw, name="lost")
        m.d.sync += [
            push.eq(saturate(m, pushed, VELOCITY_BITS, name="push")),
            gradient.eq(saturate(m, total, config.state_bits, name="total")),
            kept.eq(Mux(self.momentum, velocity - lost, velocity)),
            master.eq(Cat(self.state[:residue_bits], self.weight)),
            draw.eq(step_draw),
        ]

        # Move the velocity.
        moved = Signal(signed(VELOCITY_BITS + 1))
        m.d.comb += moved.eq(kept + push)
        with_momentum = saturate(m, moved, VELOCITY_BITS, name="velocity")
        old_push = Signal.like(push)
        old_gradient = Signal.like(gradient)
        new_velocity = Signal.like(velocity)
        old_master = Signal.like(master)
        old_draw = Signal.like(draw)
        m.d.sync += [
            old_push.eq(push),
            old_gradient.eq(gradient),
            new_velocity.eq(Mux(self.momentum, with_momentum, kept)),
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
    `start` at the latest. An UPDATE descriptor takes its gradients from the state buffer instead,
    a row in two cycles.

    Members
    -------
    start : In(1)
        `descriptor` is new; no row before the next cycle.
    descriptor : In(DescriptorLayout)
    coming : In(1)
    drained, old_weights : In
    busy : Out(1)
        An UPDATE runs.
    weight_read_en, weight_read_address, weight_read_data
        Of an UPDATE.
    state_*, weight_* : ports of the two buffers
    seed_load, seed : In
    """

    LATENCY = 3

    def __init__(self, config: Config):
        self.config = config
        columns = config.columns
        address = ceil_log2(config.weight_depth)
        state = data.ArrayLayout(unsigned(config.state_bits), columns)
        weights = data.ArrayLayout(unsigned(config.operand_bits), columns)
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "coming": In(1),
            "drained": In(data.ArrayLayout(signed(config.wgrad_bits), columns)),
            "old_weights": In(data.ArrayLayout(signed(config.operand_bits), columns)),
            "busy": Out(1),
            "state_read_en": Out(1),
            "state_read_address": Out(address),
            "state_read_data": In(state),
            "state_write_en": Out(1),
            "state_write_address": Out(address),
            "state_write_data": Out(state),
            "weight_read_en": Out(1),
            "weight_read_address": Out(address),
            "weight_read_data": In(weights),
            "weight_write_en": Out(1),
            "weight_write_address": Out(address),
            "weight_write_data": Out(weights),
            "seed_load": In(1),
            "seed": In(31),
        })

    def elaborate(self, platform):
        m = Module()
        descriptor = self.descriptor
        # The last row is written when the next descriptor has come already.
        held = Signal(DescriptorLayout)
        m.d.sync += held.eq(descriptor)
        row, updates = self._update_rows(m)
        stages = self._rows(m, held, row, updates)
        allowed = self._groups(m, stages[0])
        self._lanes(m, platform, held, allowed, stages[0])
        return m

    def _update_rows(self, m):
        """Count through an UPDATE: the gradient of a row, then its state and weights."""
        config, descriptor = self.config, self.descriptor
        self.updating = Signal()
        self.second = Signal()
        row = Signal(ceil_log2(config.weight_depth) + 1)
        tail = Signal(self.LATENCY)
        updates = self.updating & self.second
        m.d.sync += tail.eq((tail << 1) | self.updating)
        m.d.comb += self.busy.eq(self.updating | tail.any())
        with m.If(self.start):
            m.d.sync += [
                self.updating.eq(descriptor.opcode == Opcode.UPDATE), self.second.eq(0), row.eq(0),
            ]
        with m.Elif(self.updating):
            m.d.sync += self.second.eq(~self.second)
            with m.If(self.second):
                m.d.sync += row.eq(row + 1)
                with m.If(row == descriptor.rows - 1):
                    m.d.sync += self.updating.eq(0)
        return row, updates

    def _rows(self, m, held, row, updates):
        """Address state and weights of the row that comes, and again when its results leave."""
        config, descriptor = self.config, self.descriptor
        address = ceil_log2(config.weight_depth)
        coming = self.coming | updates
        m.submodules.walk = self.walk = walk = WeightWalk(config.rows, address)
        m.d.comb += [
            walk.start.eq(self.start),
            walk.descriptor.eq(descriptor),
            walk.advance.eq(self.coming),
        ]
        offsets = [Signal(address, name=f"offset_{stage}") for stage in range(self.LATENCY + 1)]
        m.d.comb += offsets[0].eq(Mux(self.updating, row, walk.offset))
        for earlier, later in pairwise(offsets):
            m.d.sync += later.eq(earlier)
        stages = Signal(self.LATENCY)
        m.d.sync += stages.eq((stages << 1) | coming)
        written = stages[-1]
        reads_state = self.coming & (descriptor.drain != Drain.STORE)
        m.d.comb += [
            self.state_read_en.eq(self.updating | reads_state),
            self.state_read_address.eq(
                Mux(self.updating & ~self.second, descriptor.packed_base, descriptor.state_base)
                + offsets[0]),
            self.weight_read_en.eq(updates),
            self.weight_read_address.eq(descriptor.w_base + row),
            self.state_write_en.eq(written),
            self.state_write_address.eq(held.state_base + offsets[-1]),
            self.weight_write_en.eq(written & self._moves_weights(held)),
            self.weight_write_address.eq(held.w_base + offsets[-1]),
        ]
        return stages

    def _moves_weights(self, descriptor):
        return (descriptor.drain == Drain.UPDATE) | (descriptor.opcode == Opcode.UPDATE)

    def _groups(self, m, here):
        """Tell which columns belong to the group of a drained row, if the layer has groups."""
        config, descriptor, walk = self.config, self.descriptor, self.walk
        bits = 18
        tile_first = Signal(signed(bits))
        first, next_first, first_here = (
            Signal(signed(bits), name=name) for name in ("first", "next_first", "first_here"))
        place, next_place = Signal(17), Signal(17)
        m.d.comb += [
            first.eq(Mux(walk.tile_first, tile_first + descriptor.n_first, next_first)),
            place.eq(Mux(walk.tile_first, descriptor.k_first, next_place)),
        ]
        with m.If(self.start):
            m.d.sync += tile_first.eq(0)
        with m.Elif(walk.step_n):
            m.d.sync += tile_first.eq(Mux(walk.last_n, 0, tile_first - config.columns))
        with m.If(self.coming):
            m.d.sync += [
                first_here.eq(first), next_first.eq(first), next_place.eq(place + 1),
            ]
            with m.If(place + 1 == descriptor.k_group):
                m.d.sync += [next_first.eq(first + descriptor.n_group), next_place.eq(0)]
        end_here = first_here + descriptor.n_group
        one_group = (descriptor.k_group == 0) | self.updating | (
            descriptor.opcode == Opcode.UPDATE)
        allowed = Signal(config.columns)
        for column in range(config.columns):
            m.d.comb += allowed[column].eq(
                one_group | ((first_here <= column) & (end_here > column)))
        return allowed

    def _lanes(self, m, platform, held, allowed, here):
        """Update, in every column."""
        config, descriptor = self.config, self.descriptor
        m.submodules.lfsr = lfsr = Lfsr(Bank.UPDATE, config.columns)
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(here & self._moves_weights(descriptor)),
        ]
        of_update = Signal()
        m.d.sync += of_update.eq(self.updating)
        x_shift = Signal(3)
        m.d.comb += x_shift.eq(Mux(of_update, 0, descriptor.x_shift))
        shared = {"x_shift": x_shift, "gradient_shift": descriptor.gradient_shift,
                  "accumulate": descriptor.drain == Drain.ACCUMULATE}
        shared |= {name: getattr(held, name)
                   for name in ("decay_shift", "momentum", "rate_shift")}
        shared["store"] = ~self._moves_weights(held)
        for column in range(config.columns):
            stored = Signal(signed(config.state_bits), name=f"stored_{column}")
            gradient = Signal.like(stored, name=f"gradient_{column}")
            weight = Signal(signed(config.operand_bits), name=f"weight_{column}")
            with m.If(self.second):
                m.d.sync += stored.eq(self.state_read_data[column])
            m.d.comb += [
                gradient.eq(Mux(of_update, stored, Mux(allowed[column], self.drained[column], 0))),
                weight.eq(Mux(of_update, self.weight_read_data[column],
                              self.old_weights[column])),
            ]
            place(m, platform, f"lane_{column}", "optimizer_lane",
                  partial(OptimizerLane, config),
                  inputs={**shared, "gradient": gradient, "weight": weight,
                          "state": self.state_read_data[column],
                          "random": lfsr.state[column]},
                  outputs={"new_state": self.state_write_data[column],
                           "new_weight": self.weight_write_data[column]})
