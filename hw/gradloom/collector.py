"""What happens to sums when they leave the array: added over tiles, then narrowed and stored."""

from functools import partial

from amaranth import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.lfsr import Bank

from .emit import place
from .layouts import DescriptorLayout
from .lfsr import Lfsr
from .requantize import RequantizeLane
from .rounding import HALF, saturate
from .select import select
from .tile_loop import BlockPointer, TileLoop

__all__ = ["Collector", "CollectorLane"]


class CollectorLane(wiring.Component):
    """One element of a row: added to its sum, and narrowed a cycle later.

    Members
    -------
    forward : In(1)
        Take `south`, else `east`.
    south, east : In(signed(sum_bits))
    is_first : In(1)
        Add to 0 instead of `kept`.
    kept : In(signed(accumulator_bits))
    total : Out(signed(accumulator_bits))
        Saturated, in the same cycle.
    pass_on, relu, y_unsigned, shift, activation, gradient, positive
        As of a `RequantizeLane`, for the total of the cycle before.
    stochastic : In(1)
        Round by `random`, else half up.
    random : In(16)
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "forward": In(1),
            "south": In(signed(config.sum_bits)),
            "east": In(signed(config.sum_bits)),
            "is_first": In(1),
            "kept": In(signed(config.accumulator_bits)),
            "total": Out(signed(config.accumulator_bits)),
            "pass_on": In(1), "relu": In(1), "y_unsigned": In(1), "shift": In(5),
            "stochastic": In(1), "random": In(16),
            "activation": Out(unsigned(config.operand_bits)),
            "gradient": Out(unsigned(config.gradient_bits)),
            "positive": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        bits = self.config.accumulator_bits
        part = Signal(signed(self.config.sum_bits))
        total = Signal(signed(bits + 1))
        m.d.comb += [
            part.eq(Mux(self.forward, self.south, self.east)),
            total.eq(Mux(self.is_first, 0, self.kept) + part),
            self.total.eq(saturate(m, total, bits, name="total")),
        ]
        result = Signal(signed(bits))
        random = Signal(16)
        m.d.sync += result.eq(self.total)
        m.d.comb += random.eq(Mux(self.stochastic, self.random, HALF))
        place(m, platform, "requantize", "requantize_lane", partial(RequantizeLane, self.config),
              inputs={"total": result, "random": random, "pass_on": self.pass_on,
                      "relu": self.relu, "y_unsigned": self.y_unsigned, "shift": self.shift},
              outputs={"activation": self.activation, "gradient": self.gradient,
                       "positive": self.positive})
        return m


class Collector(wiring.Component):
    """Adds the tiles of a reduction in the sums buffer and writes finished rows.

    `coming` announces a row of sums one cycle before it stands at `sums_south` or `sums_east`.
    Rows come tile by tile, `steps` a tile, in the order of the loop nest. The last tile of a
    reduction is masked, rounded, clipped and written two cycles after its row was announced.
    Sums are read in the cycle in which a row is announced, and written in the next: with tiles of
    one step, there must be a cycle without `coming` between two rows.

    Members
    -------
    start : In(1)
        `descriptor` is new; no row before the next cycle.
    descriptor : In(DescriptorLayout)
    forward : In(1)
    coming : In(1)
    sums_south, sums_east : In
    sums_* : the sums buffer's ports
    keep_address : Out, keep_index : In
        Keep list: index t, answered a cycle later.
    mask_* : the ReLU mask buffer's read port
    out_* : a finished row: block address and part, elements, sign bits; `out_en` with `forward`
        for the activation buffer, else for the gradient buffer.
    seed_load, seed : In
    """

    def __init__(self, config: Config):
        self.config = config
        lanes = config.lane_count
        steps = ceil_log2(config.steps_depth)
        sums = data.ArrayLayout(unsigned(config.accumulator_bits), lanes)
        self.address_bits = ceil_log2(max(config.activation_depth, config.gradient_depth))
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "forward": In(1),
            "coming": In(1),
            "sums_south": In(data.ArrayLayout(signed(config.sum_bits), config.columns)),
            "sums_east": In(data.ArrayLayout(signed(config.sum_bits), config.rows)),
            "sums_read_en": Out(1),
            "sums_read_address": Out(steps),
            "sums_read_data": In(sums),
            "sums_write_en": Out(1),
            "sums_write_address": Out(steps),
            "sums_write_data": Out(sums),
            "keep_address": Out(steps),
            "keep_index": In(steps),
            "mask_read_en": Out(1),
            "mask_read_address": Out(ceil_log2(config.activation_depth)),
            "mask_read_data": In(lanes),
            "out_en": Out(1),
            "out_address": Out(self.address_bits),
            "out_part": Out(ceil_log2(lanes)),
            "out_activations": Out(data.ArrayLayout(unsigned(config.operand_bits), lanes)),
            "out_gradients": Out(data.ArrayLayout(unsigned(config.gradient_bits), lanes)),
            "out_positive": Out(lanes),
            "seed_load": In(1),
            "seed": In(31),
        })

    def elaborate(self, platform):
        m = Module()
        step, first, last = self._coming_row(m)
        is_first, finished, here_step = self._add(m, step, first, last)
        arrived = self._mask(m, finished, here_step)
        masks = self._narrow(m, *arrived)
        self._lanes(m, platform, is_first, arrived[0], masks)
        return m

    def _coming_row(self, m):
        """Know which row comes next: its step and its place in the reduction."""
        descriptor = self.descriptor
        m.submodules.loop = loop = TileLoop()
        step = Signal(ceil_log2(self.config.steps_depth))
        tile_ends = Signal()
        m.d.comb += [
            loop.start.eq(self.start),
            loop.outer_count.eq(Mux(self.forward, descriptor.n_tiles, descriptor.k_tiles)),
            loop.inner_count.eq(Mux(self.forward, descriptor.k_tiles, descriptor.n_tiles)),
            tile_ends.eq(self.coming & (step == descriptor.steps - 1)),
            loop.advance.eq(tile_ends),
            self.sums_read_en.eq(self.coming & ~loop.inner_first),
            self.sums_read_address.eq(step),
            self.keep_address.eq(step),
        ]
        with m.If(self.start | tile_ends):
            m.d.sync += step.eq(0)
        with m.Elif(self.coming):
            m.d.sync += step.eq(step + 1)
        return step, loop.inner_first, loop.inner_last

    def _add(self, m, step, first, last):
        """Keep sums in the buffer until the last tile of a reduction."""
        descriptor = self.descriptor
        here = Signal()
        is_first = Signal()
        is_last = Signal()
        here_step = Signal.like(step)
        finished = Signal()
        m.d.sync += [
            here.eq(self.coming), is_first.eq(first), is_last.eq(last), here_step.eq(step),
        ]
        m.d.comb += [
            self.sums_write_en.eq(here & (~is_last | descriptor.keep_sums)),
            self.sums_write_address.eq(here_step),
            finished.eq(here & is_last & ~descriptor.keep_sums),
        ]
        return is_first, finished, here_step

    def _mask(self, m, finished, here_step):
        """Read the mask of a finished row: that of dX[t, k] lies where X[t, k] was read."""
        config, descriptor = self.config, self.descriptor
        m.submodules.mask_pointer = pointer = BlockPointer(
            ceil_log2(config.activation_depth), self._part_bits(config.rows))
        last_step = here_step == descriptor.steps - 1
        index = Mux(descriptor.gather, self.keep_index, here_step)
        m.d.comb += [
            pointer.rewind.eq(self.start),
            pointer.base.eq(descriptor.x_base),
            pointer.stride.eq(descriptor.x_stride),
            pointer.advance.eq(finished & last_step),
            self.mask_read_en.eq(finished & descriptor.mask & ~self.forward),
            self.mask_read_address.eq(pointer.address + index),
        ]
        arrived = Signal()
        arrived_step = Signal.like(here_step)
        mask_part = Signal(max(1, pointer.part_bits))
        m.d.sync += [arrived.eq(finished), arrived_step.eq(here_step), mask_part.eq(pointer.part)]
        return arrived, arrived_step, mask_part

    def _narrow(self, m, valid, step, mask_part):
        """Write a finished row; return what its elements are masked with."""
        config, descriptor = self.config, self.descriptor
        lanes = config.lane_count
        masks = Signal(lanes)
        masked = descriptor.mask & ~self.forward
        mask_row = select(m, self.mask_read_data, mask_part, config.rows, name="mask_row")
        m.d.comb += masks.eq(Mux(masked, mask_row, (1 << lanes) - 1))

        part_bits = {side: self._part_bits(width) for side, width in
                     (("south", config.columns), ("east", config.rows))}
        pointers = {}
        for side, bits in part_bits.items():
            m.submodules[f"{side}_pointer"] = pointer = BlockPointer(self.address_bits, bits)
            pointers[side] = pointer
            m.d.comb += [
                pointer.rewind.eq(self.start),
                pointer.base.eq(descriptor.out_base),
                pointer.stride.eq(descriptor.steps),
                pointer.advance.eq(valid & (step == descriptor.steps - 1)),
            ]
        south, east = pointers["south"], pointers["east"]
        m.d.comb += [
            self.out_en.eq(valid),
            self.out_address.eq(Mux(self.forward, south.address, east.address) + step),
            self.out_part.eq(Mux(self.forward, south.part, east.part)),
        ]

        return masks

    def _lanes(self, m, platform, is_first, valid, masks):
        """Add, mask, round and clip, in every lane."""
        config, descriptor = self.config, self.descriptor
        m.submodules.lfsr = lfsr = Lfsr(Bank.REQUANTIZE, config.lane_count)
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(valid & descriptor.stochastic),
        ]
        shared = {"forward": self.forward, "is_first": is_first, "relu": descriptor.relu,
                  "y_unsigned": descriptor.y_unsigned, "shift": descriptor.out_shift,
                  "stochastic": descriptor.stochastic}
        absent = Const(0, config.sum_bits)
        for lane in range(config.lane_count):
            place(m, platform, f"lane_{lane}", "collector_lane", partial(CollectorLane, config),
                  inputs={**shared,
                          "south": self.sums_south[lane] if lane < config.columns else absent,
                          "east": self.sums_east[lane] if lane < config.rows else absent,
                          "kept": self.sums_read_data[lane], "pass_on": masks[lane],
                          "random": lfsr.state[lane][:16]},
                  outputs={"total": self.sums_write_data[lane],
                           "activation": self.out_activations[lane],
                           "gradient": self.out_gradients[lane],
                           "positive": self.out_positive[lane]})

    def _part_bits(self, width):
        return ceil_log2(self.config.lane_count // width)
