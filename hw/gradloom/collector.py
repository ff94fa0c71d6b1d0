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

__all__ = ["Collector"]


class Collector(wiring.Component):
    """Adds the tiles of a reduction in the sums buffer and writes finished rows.

    `coming` announces a row of sums one cycle before it stands at `sums_south` or `sums_east`.
    Rows come tile by tile, `steps` a tile, in the order of the loop nest. The last tile of a
    reduction is masked, rounded, clipped and written two cycles after its row was announced.

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
        arrived, totals = self._add(m, step, first, last)
        self._narrow(m, platform, arrived, totals)
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
        """Add the row to the sums of earlier tiles; keep it there, or pass it on when finished."""
        config, descriptor = self.config, self.descriptor
        here = Signal()
        is_first = Signal()
        is_last = Signal()
        here_step = Signal.like(step)
        m.d.sync += [
            here.eq(self.coming), is_first.eq(first), is_last.eq(last), here_step.eq(step),
        ]

        totals = []
        for lane in range(config.lane_count):
            south = self.sums_south[lane] if lane < config.columns else Const(0)
            east = self.sums_east[lane] if lane < config.rows else Const(0)
            part = Signal(signed(config.sum_bits), name=f"part_{lane}")
            total = Signal(signed(config.accumulator_bits + 1), name=f"total_{lane}")
            kept = self.sums_read_data[lane].as_signed()
            m.d.comb += [
                part.eq(Mux(self.forward, south, east)),
                total.eq(Mux(is_first, 0, kept) + part),
            ]
            totals.append(saturate(m, total, config.accumulator_bits, name=f"total_{lane}"))
            m.d.comb += self.sums_write_data[lane].eq(totals[lane])
        m.d.comb += [
            self.sums_write_en.eq(here & (~is_last | descriptor.keep_sums)),
            self.sums_write_address.eq(here_step),
        ]

        # The mask of dX[t, k] lies where X[t, k] was read.
        m.submodules.mask_pointer = pointer = BlockPointer(
            ceil_log2(config.activation_depth), self._part_bits(config.rows))
        finished = Signal()
        last_step = here_step == descriptor.steps - 1
        index = Mux(descriptor.gather, self.keep_index, here_step)
        m.d.comb += [
            finished.eq(here & is_last & ~descriptor.keep_sums),
            pointer.rewind.eq(self.start),
            pointer.base.eq(descriptor.x_base),
            pointer.stride.eq(descriptor.x_stride),
            pointer.advance.eq(finished & last_step),
            self.mask_read_en.eq(finished & descriptor.mask & ~self.forward),
            self.mask_read_address.eq(pointer.address + index),
        ]
        arrived = Signal()
        arrived_step = Signal.like(step)
        mask_part = Signal(max(1, pointer.part_bits))
        results = [Signal(signed(config.accumulator_bits), name=f"result_{lane}")
                   for lane in range(config.lane_count)]
        m.d.sync += [arrived.eq(finished), arrived_step.eq(here_step), mask_part.eq(pointer.part)]
        m.d.sync += [result.eq(total) for result, total in zip(results, totals)]
        return (arrived, arrived_step, mask_part), results

    def _narrow(self, m, platform, arrived, results):
        """Mask, round and clip a finished row, and write it."""
        config, descriptor = self.config, self.descriptor
        valid, step, mask_part = arrived
        lanes = config.lane_count
        m.submodules.lfsr = lfsr = Lfsr(Bank.REQUANTIZE, lanes)
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(valid & descriptor.stochastic),
        ]
        masks = Signal(lanes)
        masked = descriptor.mask & ~self.forward
        mask_row = select(m, self.mask_read_data, mask_part, config.rows, name="mask_row")
        m.d.comb += masks.eq(Mux(masked, mask_row, (1 << lanes) - 1))
        for index in range(lanes):
            random = Signal(16, name=f"random_{index}")
            m.d.comb += random.eq(Mux(descriptor.stochastic, lfsr.state[index][:16], HALF))
            place(m, platform, f"lane_{index}", "requantize_lane",
                  partial(RequantizeLane, config),
                  inputs={"total": results[index], "pass_on": masks[index],
                          "relu": descriptor.relu, "y_unsigned": descriptor.y_unsigned,
                          "shift": descriptor.out_shift, "random": random},
                  outputs={"activation": self.out_activations[index],
                           "gradient": self.out_gradients[index],
                           "positive": self.out_positive[index]})

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

    def _part_bits(self, width):
        return ceil_log2(self.config.lane_count // width)
