"""Sums are added over tiles, masked, rounded and placed as the golden machine does it."""

import numpy as np
import pytest

from gradloom.collector import Collector
from gradloom_golden import lfsr
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
        self.sum_reads = 0
        self.written = {}                                  # cycle: address, part and the elements
        self.expected = {}

    def run(self, layers, pattern):
        """Stream the layers, each a descriptor and its sums, of shape (outer, inner, T, width)."""
        dut = self.dut
        simulate(dut, self._testbench(layers, pattern), processes=[
            memory(self.sums, dut.sums_read_address, dut.sums_read_data, dut.sums_read_en),
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
                results = iter(self._results(d, parts, random))
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
        if ctx.get(dut.sums_write_en):
            self.sums[ctx.get(dut.sums_write_address)] = read(ctx, dut.sums_write_data)
        if ctx.get(dut.out_en):
            self.written[self.cycle] = [
                ctx.get(dut.out_address), ctx.get(dut.out_part),
                read(ctx, dut.out_activations), read(ctx, dut.out_gradients),
                ctx.get(dut.out_positive)]
        await ctx.tick()
        self.cycle += 1

    def _results(self, d, parts, random):
        """Return address, part and the finished row of every write, in order."""
        config = self.config
        outer, inner, steps, width = parts.shape
        results = []
        for block in range(outer):
            total = np.zeros((steps, width), np.int64)
            for tile in range(inner):
                total = saturate(total + parts[block, tile], config.accumulator_bits)
            for step in range(steps):
                draw = HALF
                if d.stochastic and not d.keep_sums:
                    draw = lfsr.low_half(random.draw(1)[0])[:width]
                row = total[step]
                if d.mask and d.opcode == Opcode.BACKWARD:
                    row = np.where(self._allowed(d, block, step), row, 0)
                share = config.lane_count // width
                address = d.out_base + block // share * steps + step
                results.append((address, block % share, round_shift(row, d.out_shift, draw)))
        return [] if d.keep_sums else results

    def _allowed(self, d, block, step):
        share = self.config.lane_count // self.config.rows
        index = self.keep[step] if d.gather else step
        word = self.mask[d.x_base + block // share * d.x_stride + index]
        return word >> block % share * self.config.rows + np.arange(self.config.rows) & 1

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


CONFIGS = {
    "tiny": TINY, "wide": TINY.with_changes(columns=8), "tall": TINY.with_changes(rows=8),
    "flat": TINY.with_changes(columns=16), "gradients": TINY.with_changes(gradient_bits=16),
    "operands": TINY.with_changes(operand_bits=4, lanes=False),
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
    ]
    bench = Bench(config, rng)
    bench.run(layers, pattern)
    bench.check(layers)
    tiles_after_the_first = sum(parts[:, 1:, :, 0].size for _, parts in layers)
    assert bench.sum_reads == tiles_after_the_first


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
