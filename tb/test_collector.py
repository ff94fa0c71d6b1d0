"""Sums are added over tiles, masked, rounded and placed as the golden machine does it."""

import numpy as np
import pytest

from gradloom.collector import BIAS_BITS, Collector
from gradloom_golden import geometry, lfsr
from gradloom_golden.config import preset
from gradloom_golden.fixed import HALF, integer_range, round_shift, saturate
from gradloom_golden.program import Descriptor, Opcode
from simulate import memory, put, read, simulate, stalled

TINY = preset("tiny")
SEED = 0x0BADCAFE
SETTLE = 4
"""Cycles from the last row of a descriptor to the next start, as the machine leaves at least."""


def descriptor_bits(d):
    return sum(word << 32 * index for index, word in enumerate(d.encode()))


class Bench:
    """A collector between memories, fed with sums tile by tile."""

    def __init__(self, config, rng):
        self.config = config
        self.rng = rng
        self.dut = Collector(config)
        lanes = config.lane_count
        self.sums = rng.integers(0, 1 << config.accumulator_bits, (config.steps_depth, lanes))
        self.keep = rng.permutation(config.steps_depth)
        self.mask = rng.integers(0, 1 << lanes, config.activation_depth)
        low, high = integer_range(BIAS_BITS)
        self.bias = rng.integers(low, high, (config.bias_depth, config.columns), endpoint=True)
        self.sum_reads = self.bias_reads = 0
        self.written = {}                                  # cycle: address, part and the elements
        self.expected = {}

    def run(self, layers, pattern):
        """Stream the layers, each a descriptor and its sums, of shape (outer, inner, T, width)."""
        dut = self.dut
        simulate(dut, self._testbench(layers, pattern), processes=[
            memory(self.sums, dut.sums_read_address, dut.sums_read_data, dut.sums_read_en),
            memory(self.bias, dut.bias_read_address, dut.bias_read_data, dut.bias_read_en),
            memory(self.keep, dut.keep_address, dut.keep_index),
            memory(self.mask, dut.mask_read_address, dut.mask_read_data, dut.mask_read_en),
        ])

    def _testbench(self, layers, pattern):
        dut, config = self.dut, self.config

        async def testbench(ctx):
            put(ctx, dut.seed, SEED)
            put(ctx, dut.seed_load, 1)
            await ctx.tick()
            put(ctx, dut.seed_load, 0)
            random = lfsr.Lfsr(lfsr.Bank.REQUANTIZE, config.lane_count, SEED)
            self.cycle = 0
            for d, parts in layers:
                ctx.set(dut.descriptor.as_value(), descriptor_bits(d))
                forward = d.opcode == Opcode.FORWARD
                put(ctx, dut.forward, forward)
                put(ctx, dut.start, 1)
                await self._step(ctx, None, None)
                put(ctx, dut.start, 0)
                drop = int(self.rng.integers(1 << len(dut.bias_drop)))
                put(ctx, dut.bias_drop, drop)
                results = iter(self._results(d, parts, random, drop))
                outer, inner, steps, _ = parts.shape
                arriving = None
                rows = [(o, i, t) for o in range(outer) for i in range(inner)
                        for t in range(steps)]
                for place in stalled(rows, pattern):
                    put(ctx, dut.coming, place is not None)
                    if place is not None and place[1] == inner - 1 and not d.keep_sums:
                        self.expected[self.cycle + 2] = next(results)
                    await self._step(ctx, arriving, forward)
                    arriving = None if place is None else parts[place]
                put(ctx, dut.coming, 0)
                await self._step(ctx, arriving, forward)
                for _ in range(SETTLE):
                    await self._step(ctx, None, None)
                assert next(results, None) is None

        return testbench

    async def _step(self, ctx, sums, forward):
        """Show a row of sums, or noise, for a cycle; note what is written in it."""
        dut, config = self.dut, self.config
        low, high = integer_range(config.sum_bits)
        for port, lanes, wanted in ((dut.sums_south, config.columns, True),
                                    (dut.sums_east, config.rows, False)):
            noise = self.rng.integers(low, high, lanes)
            put(ctx, port, sums if sums is not None and forward == wanted else noise)
        self.sum_reads += ctx.get(dut.sums_read_en)
        self.bias_reads += ctx.get(dut.bias_read_en)
        if ctx.get(dut.sums_write_en):
            self.sums[ctx.get(dut.sums_write_address)] = read(ctx, dut.sums_write_data)
        if ctx.get(dut.out_en):
            self.written[self.cycle] = [
                ctx.get(dut.out_address), ctx.get(dut.out_part),
                read(ctx, dut.out_activations), read(ctx, dut.out_gradients),
                ctx.get(dut.out_positive)]
        await ctx.tick()
        self.cycle += 1

    def _results(self, d, parts, random, drop):
        """Return address, part and the finished row of every write, in order."""
        config = self.config
        _, inner, steps, width = parts.shape
        results = []
        for block, tile in enumerate(list(geometry.tiles(d))[::inner]):
            total = np.zeros((steps, width), np.int64)
            if d.bias and d.opcode == Opcode.FORWARD:
                bias = (self.bias[d.bias_base + block] << BIAS_BITS - 1) >> drop
                total += saturate(bias, config.accumulator_bits)
            for part in parts[block]:
                total = saturate(total + part, config.accumulator_bits)
            places = self._places(d, tile, width)
            for step in range(steps):
                draw = HALF
                if d.stochastic and not d.keep_sums:
                    draw = lfsr.low_half(random.draw(1)[0])[:width]
                row = total[step]
                if d.mask and d.opcode == Opcode.BACKWARD:
                    row = np.where(self._allowed(d, tile)[step], row, 0)
                results.append((*places[step], round_shift(row, d.out_shift, draw)))
        return [] if d.keep_sums else results

    def _places(self, d, tile, width):
        """Return where the finished row of each step goes: address and part."""
        share = self.config.lane_count // width
        block, rows = tile.n, np.arange(d.steps)
        if d.opcode == Opcode.BACKWARD:
            block = tile.block
            rows, _ = geometry.x_rows(d, tile, geometry.steps_of(d).image)
        stride = d.out_stride if d.conv else d.steps
        addresses = (d.out_base + block // share * stride + rows) % (1 << self.dut.address_bits)
        return [(address, block % share) for address in addresses.tolist()]

    def _allowed(self, d, tile):
        """Return, for each step, where the X that was read has passed its ReLU."""
        config = self.config
        share = config.lane_count // config.rows
        image = geometry.steps_of(d).image
        if d.gather:
            image = self.keep[(d.first_sample + image) % config.steps_depth]
        rows, _ = geometry.x_rows(d, tile, image)
        if d.gather and not d.conv:
            rows = self.keep[:d.steps]
        words = self.mask[
            (d.x_base + tile.block // share * d.x_stride + rows) % config.activation_depth]
        lanes = tile.block % share * config.rows + np.arange(config.rows)
        return words[:, None] >> lanes & 1

    def check(self, layers):
        """Compare all that was written, and when, with what should have been."""
        config = self.config
        assert list(self.written) == list(self.expected)
        flags = iter([d for d, parts in layers if not d.keep_sums
                      for _ in range(parts.shape[0] * parts.shape[2])])
        for cycle, (address, part, quotients) in self.expected.items():
            d = next(flags)
            got_address, got_part, activations, gradients, positive = self.written[cycle]
            assert (got_address, got_part) == (address, part)
            width = len(quotients)
            if d.opcode == Opcode.FORWARD:
                y = np.maximum(quotients, 0) if d.relu else quotients
                narrow = saturate(y, config.operand_bits, signed=not d.y_unsigned)
                assert activations[:width] == (narrow & (1 << config.operand_bits) - 1).tolist()
                signs = positive >> np.arange(width) & 1
                np.testing.assert_array_equal(signs, y > 0)
            else:
                narrow = saturate(quotients, config.gradient_bits)
                assert gradients[:width] == (narrow & (1 << config.gradient_bits) - 1).tolist()


def layer(config, rng, *, forward, steps, outer, inner, **fields):
    """Return a descriptor and random sums for it."""
    low, high = integer_range(config.sum_bits)
    width = config.columns if forward else config.rows
    parts = rng.integers(low, high, (outer, inner, steps, width), endpoint=True)
    parts >>= rng.integers(0, config.sum_bits, parts.shape)
    k_tiles, n_tiles = (inner, outer) if forward else (outer, inner)
    opcode = Opcode.FORWARD if forward else Opcode.BACKWARD
    return Descriptor(opcode=opcode, steps=steps, k_tiles=k_tiles, n_tiles=n_tiles,
                      x_stride=steps + 3, x_base=9, **fields), parts


def walked(config, rng, kind, **fields):
    """Return a descriptor that walks over pixels and taps, and random sums for it.

    Any offsets and steps do: addresses wrap at the end of a buffer, and nothing here reads one.
    """
    images, t_y, t_x, taps_y, taps_x, k_tiles, n_tiles = rng.integers(1, 3, 7).tolist()
    taps = taps_y * taps_x
    forward = kind == "forward"
    outer = {"forward": n_tiles, "X moves": k_tiles * taps, "D moves": k_tiles}[kind]
    d, parts = layer(config, rng, forward=forward, steps=images * t_y * t_x, outer=outer,
                     inner=k_tiles * taps * n_tiles // outer)
    values = {name: getattr(d, name) for name in d.__slots__} | {
        "conv": 1, "d_moves": kind == "D moves", "k_tiles": k_tiles, "n_tiles": n_tiles,
        "t_y": t_y, "t_x": t_x, "taps_y": taps_y, "taps_x": taps_x,
        "x_pixel": int(rng.integers(4)), "x_row": int(rng.integers(20)),
        "x_image": int(rng.integers(60)), "x_offset": int(rng.integers(-20, 20)),
        "tap_row": int(rng.integers(-9, 9)), "tap_pixel": int(rng.integers(-3, 3)),
        "out_base": int(rng.integers(100)), "out_stride": int(rng.integers(60)),
        "first_sample": int(rng.integers(config.steps_depth)),
        "out_shift": config.sum_bits - 9, "y_limit": 1, "x_limit": 1,
    }
    return Descriptor(**values | fields), parts


CONFIGS = {
    "tiny": TINY, "wide": TINY.with_changes(columns=8), "tall": TINY.with_changes(rows=8),
    "flat": TINY.with_changes(columns=16), "gradients": TINY.with_changes(gradient_bits=16),
    "operands": TINY.with_changes(operand_bits=4, lanes=False),
    "narrow": TINY.with_changes(accumulator_bits=24),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_equals_the_golden_model(name, pattern, rng):
    config = CONFIGS[name]
    shift = config.sum_bits - 9
    layers = [
        layer(config, rng, forward=True, steps=5, outer=3, inner=2, out_base=20, out_shift=shift),
        layer(config, rng, forward=False, steps=3, outer=5, inner=2, out_base=11, out_shift=shift,
              stochastic=1, mask=1),
        layer(config, rng, forward=True, steps=2, outer=5, inner=1, out_base=40, relu=1,
              out_shift=shift, y_unsigned=1, stochastic=1),
        layer(config, rng, forward=False, steps=4, outer=3, inner=3, out_shift=0, mask=1, gather=1),
        layer(config, rng, forward=False, steps=4, outer=2, inner=1, out_shift=3),
        layer(config, rng, forward=True, steps=2, outer=2, inner=2, out_base=7, mask=1, relu=1),
        layer(config, rng, forward=True, steps=3, outer=4, inner=2, out_base=7, bias=1, bias_base=3,
              out_shift=shift),
        # A backward pass has no bias.
        layer(config, rng, forward=False, steps=3, outer=2, inner=2, out_base=7, bias=1,
              out_shift=shift),
        layer(config, rng, forward=True, steps=3, outer=3, inner=1, out_base=7, bias=1,
              out_shift=shift + 2),
    ]
    bench = Bench(config, rng)
    bench.run(layers, pattern)
    bench.check(layers)
    tiles_after_the_first = sum(parts[:, 1:, :, 0].size for _, parts in layers)
    assert bench.sum_reads == tiles_after_the_first
    assert bench.bias_reads == 3 * (4 + 3)


@pytest.mark.parametrize("name", ["tiny", "wide", "tall"])
def test_rows_of_convolutions_go_where_the_golden_model_puts_them(name, rng):
    config = CONFIGS[name]
    layers = [
        walked(config, rng, "forward", bias=1, bias_base=5),
        walked(config, rng, "D moves", mask=1, stochastic=1),
        walked(config, rng, "X moves", mask=1, gather=1),
        walked(config, rng, "forward", relu=1),
        walked(config, rng, "D moves", mask=1, gather=1),
        walked(config, rng, "X moves"),
        walked(config, rng, "D moves", keep_sums=1),
    ]
    bench = Bench(config, rng)
    bench.run(layers, "1110")
    bench.check(layers)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("name", ["tiny", "wide", "tall"])
def test_kept_sums_lie_in_the_buffer_and_nothing_is_written(forward, name, rng):
    config = CONFIGS[name]
    d, parts = layer(config, rng, forward=forward, steps=6, outer=2, inner=3, keep_sums=1)
    bench = Bench(config, rng)
    bench.run([(d, parts)], "1101")
    bench.check([(d, parts)])
    kept = bench.sums[:6]
    width = parts.shape[-1]
    np.testing.assert_array_equal(
        kept[:, :width], parts[-1].sum(axis=0) & (1 << config.accumulator_bits) - 1)
    assert not kept[:, width:].any()


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_saturate_tile_by_tile(sign, rng):
    config = TINY.with_changes(accumulator_bits=24)
    low, high = integer_range(config.sum_bits)
    d, parts = layer(config, rng, forward=True, steps=2, outer=1, inner=90, out_shift=20)
    parts[:] = high if sign > 0 else low
    # Once saturated, the way back starts at the limit.
    parts[0, 75:, :, :2] = low if sign > 0 else high
    bench = Bench(config, rng)
    bench.run([(d, parts)], "1")
    bench.check([(d, parts)])


def test_a_lone_row_a_tile(rng):
    layers = [layer(TINY, rng, forward=forward, steps=1, outer=3, inner=2, out_shift=9)
              for forward in (True, False)]
    bench = Bench(TINY, rng)
    bench.run(layers, "10")
    bench.check(layers)
