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
from .tile_loop import BlockPointer, TapPointer, TileLoop
from .walk import PixelWalk

__all__ = ["Collector", "CollectorLane"]

BIAS_BITS = 16


class CollectorLane(wiring.Component):
    """One element of a row: added to its sum, and narrowed a cycle later.

    Members
    -------
    forward : In(1)
        Take `south`, else `east`.
    south, east : In(signed(sum_bits))
    is_first : In(1)
        Add to the bias, or 0, instead of `kept`.
    biased : In(1), bias : In(signed(16)), bias_drop : In(5)
        The bias is multiplied by ``2**(15 - bias_drop)``.
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
            "biased": In(1), "bias": In(signed(BIAS_BITS)), "bias_drop": In(5),
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
        aligned = Signal(signed(2 * BIAS_BITS - 1))
        start = Signal(signed(bits))
        m.d.comb += aligned.eq(
            Mux(self.biased, (self.bias << BIAS_BITS - 1) >> self.bias_drop, 0))
        if len(aligned) > bits:
            m.d.comb += start.eq(saturate(m, aligned, bits, name="start"))
        else:
            m.d.comb += start.eq(aligned)
        part = Signal(signed(self.config.sum_bits))
        total = Signal(signed(bits + 1))
        m.d.comb += [
            part.eq(Mux(self.forward, self.south, self.east)),
            total.eq(Mux(self.is_first, start, self.kept) + part),
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
            "bias_read_en": Out(1),
            "bias_read_address": Out(ceil_log2(config.bias_depth)),
            "bias_read_data": In(data.ArrayLayout(signed(BIAS_BITS), config.columns)),
            "bias_drop": In(5),
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
        self._coming_row(m)
        is_first, finished = self._add(m)
        arrived, masks = self._finish(m, finished)
        self._lanes(m, platform, is_first, arrived, masks)
        return m

    def _coming_row(self, m):
        """Know which row comes next: its step and its place in the reduction."""
        config, descriptor = self.config, self.descriptor
        m.submodules.loop = self.loop = loop = TileLoop()
        self.step = step = Signal(ceil_log2(config.steps_depth))
        self.tile_ends = Signal()
        bias_row = Signal(ceil_log2(config.bias_depth))
        m.d.comb += [
            loop.start.eq(self.start),
            loop.descriptor.eq(descriptor),
            loop.forward.eq(self.forward),
            self.tile_ends.eq(self.coming & (step == descriptor.steps - 1)),
            loop.advance.eq(self.tile_ends),
            self.sums_read_en.eq(self.coming & ~loop.inner_first),
            self.sums_read_address.eq(step),
            self.bias_read_en.eq(self.coming & loop.inner_first & descriptor.bias & self.forward),
            self.bias_read_address.eq(bias_row),
        ]
        with m.If(self.start | self.tile_ends):
            m.d.sync += step.eq(0)
        with m.Elif(self.coming):
            m.d.sync += step.eq(step + 1)
        with m.If(self.start):
            m.d.sync += bias_row.eq(descriptor.bias_base)
        with m.Elif(loop.step_n):
            m.d.sync += bias_row.eq(bias_row + 1)
        self._places(m)

    def _places(self, m):
        """Where the coming row goes if it is finished: Y lies in order, dX as X does."""
        config, descriptor, loop = self.config, self.descriptor, self.loop
        bits = self.address_bits
        m.submodules.tap = tap = TapPointer(bits)
        m.submodules.walk = walk = PixelWalk(bits)
        tap.follow(m, loop, self.start)
        rewind = self.start | self.tile_ends
        m.d.comb += [
            tap.row.eq(descriptor.tap_row), tap.pixel.eq(descriptor.tap_pixel),
            walk.rewind.eq(rewind), walk.advance.eq(self.coming),
            walk.t_x.eq(descriptor.t_x), walk.t_y.eq(descriptor.t_y),
            walk.pixel.eq(descriptor.x_pixel), walk.row.eq(descriptor.x_row),
        ]
        image = Signal(ceil_log2(config.steps_depth))
        image_offset = Signal(bits)
        next_image = self.coming & walk.image_last
        with m.If(rewind):
            m.d.sync += [image.eq(descriptor.first_sample), image_offset.eq(0)]
        with m.Elif(next_image):
            m.d.sync += [image.eq(image + 1), image_offset.eq(image_offset + descriptor.x_image)]

        pixel = Signal(bits)
        place = Signal(bits)
        m.d.comb += [
            pixel.eq(walk.address + descriptor.x_offset + Mux(descriptor.d_moves, 0, tap.offset)),
            place.eq(Mux(descriptor.conv, image_offset, self.step)),
            self.keep_address.eq(Mux(descriptor.conv, image, self.step)),
        ]
        stride = Mux(descriptor.conv, descriptor.out_stride, descriptor.steps)
        pointers = {}
        for name, width, step, base, apart in (
                ("south", config.columns, loop.step_n, descriptor.out_base, stride),
                ("east", config.rows, loop.step_block, descriptor.out_base, stride),
                ("mask", config.rows, loop.step_block, descriptor.x_base, descriptor.x_stride)):
            m.submodules[f"{name}_pointer"] = pointer = BlockPointer(bits, self._part_bits(width))
            pointers[name] = pointer
            m.d.comb += [
                pointer.rewind.eq(self.start), pointer.advance.eq(step),
                pointer.base.eq(base), pointer.stride.eq(apart),
            ]
        south, east, mask = pointers["south"], pointers["east"], pointers["mask"]
        within = Mux(descriptor.conv, pixel, 0)
        self.out_here = Signal(bits)
        self.part_here = Signal.like(self.out_part)
        self.mask_here = Signal(bits)
        self.mask_part_here = Signal(max(1, mask.part_bits))
        m.d.sync += [
            self.out_here.eq(Mux(self.forward, south.address + self.step,
                                 east.address + within + place)),
            self.part_here.eq(Mux(self.forward, south.part, east.part)),
            self.mask_here.eq(mask.address + within + Mux(descriptor.gather, 0, place)),
            self.mask_part_here.eq(mask.part),
        ]

    def _add(self, m):
        """Keep sums in the buffer until the last tile of a reduction."""
        descriptor, loop = self.descriptor, self.loop
        here = Signal()
        is_first = Signal()
        is_last = Signal()
        here_step = Signal.like(self.step)
        finished = Signal()
        m.d.sync += [
            here.eq(self.coming), is_first.eq(loop.inner_first), is_last.eq(loop.inner_last),
            here_step.eq(self.step),
        ]
        m.d.comb += [
            self.sums_write_en.eq(here & (~is_last | descriptor.keep_sums)),
            self.sums_write_address.eq(here_step),
            finished.eq(here & is_last & ~descriptor.keep_sums),
        ]
        return is_first, finished

    def _finish(self, m, finished):
        """Read the mask of a finished row, that of dX where X was read; then write the row."""
        config, descriptor = self.config, self.descriptor
        masked = descriptor.mask & ~self.forward
        kept = self.keep_index * Mux(descriptor.conv, descriptor.x_image, 1)
        arrived = Signal()
        mask_part = Signal.like(self.mask_part_here)
        m.d.comb += [
            self.mask_read_en.eq(finished & masked),
            self.mask_read_address.eq(self.mask_here + Mux(descriptor.gather, kept, 0)),
            self.out_en.eq(arrived),
        ]
        m.d.sync += [
            arrived.eq(finished), mask_part.eq(self.mask_part_here),
            self.out_address.eq(self.out_here), self.out_part.eq(self.part_here),
        ]
        lanes = config.lane_count
        masks = Signal(lanes)
        mask_row = select(m, self.mask_read_data, mask_part, config.rows, name="mask_row")
        m.d.comb += masks.eq(Mux(masked, mask_row, (1 << lanes) - 1))
        return arrived, masks

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
                  "stochastic": descriptor.stochastic,
                  "biased": descriptor.bias & self.forward, "bias_drop": self.bias_drop}
        absent = Const(0, config.sum_bits)
        no_bias = Const(0, BIAS_BITS)
        for lane in range(config.lane_count):
            place(m, platform, f"lane_{lane}", "collector_lane", partial(CollectorLane, config),
                  inputs={**shared,
                          "south": self.sums_south[lane] if lane < config.columns else absent,
                          "east": self.sums_east[lane] if lane < config.rows else absent,
                          "bias": self.bias_read_data[lane] if lane < config.columns else no_bias,
                          "kept": self.sums_read_data[lane], "pass_on": masks[lane],
                          "random": lfsr.state[lane][:16]},
                  outputs={"total": self.sums_write_data[lane],
                           "activation": self.out_activations[lane],
                           "gradient": self.out_gradients[lane],
                           "positive": self.out_positive[lane]})

    def _part_bits(self, width):
        return ceil_log2(self.config.lane_count // width)
