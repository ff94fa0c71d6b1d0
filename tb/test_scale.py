"""The scale table resolves, measures and adapts as `gradloom_golden.scale` does."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gradloom.emit import to_rtlil
from gradloom.scale import RangeGroup, Scales
from gradloom_golden import scale as golden
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import SCALES
from simulate import play, put, simulate
from test_golden_scale import descriptors

TINY = preset("tiny")
CONFIGS = [
    TINY, TINY.with_changes(columns=32), TINY.with_changes(gradient_bits=16),
    TINY.with_changes(operand_bits=4, lanes=False),
]


class Bench:
    """A scale unit beside the golden one; every access goes to both."""

    def __init__(self, config):
        self.config = config
        self.dut = Scales(config)
        self.golden = golden.Scales()

    def run(self, *jobs):
        """Do the jobs one after the other, from a table of zeros."""
        async def testbench(ctx):
            for place in range(SCALES):
                await self.write(ctx, place, 0)
            for job in jobs:
                await job(ctx)

        simulate(self.dut, testbench)

    async def pulse(self, ctx, **inputs):
        for name, value in inputs.items():
            put(ctx, getattr(self.dut, name), value)
        await ctx.tick()
        for name in inputs:
            if len(getattr(self.dut, name)) == 1:
                put(ctx, getattr(self.dut, name), 0)

    async def write(self, ctx, place, exponent, *, by_host=False):
        side = ("host_write", "host_address", "host_data_i") if by_host else (
            "write_en", "write_address", "write_data")
        bits = 32 if by_host else 8
        await self.pulse(ctx, **dict(zip(side, (1, place, exponent & (1 << bits) - 1))))
        self.golden.exponents[place] = exponent

    async def check(self, ctx, *, by_host=False):
        """Compare the whole table."""
        side = ("host_read", "host_address", "host_data_o") if by_host else (
            "read_en", "read_address", "read_data")
        table = []
        for place in range(SCALES):
            await self.pulse(ctx, **dict(zip(side, (1, place))))
            table.append(ctx.get(getattr(self.dut, side[2])))
        np.testing.assert_array_equal(table, self.golden.exponents & 0xFF)

    async def offer(self, ctx, d):
        ctx.set(self.dut.descriptor.as_value(),
                sum(word << 32 * index for index, word in enumerate(d.encode())))

    async def resolve(self, ctx, d):
        dut = self.dut
        await self.offer(ctx, d)
        await self.pulse(ctx, resolve=1)
        for _ in range(dut.RESOLVE_CYCLES - 1):
            assert not ctx.get(dut.resolved)
            await ctx.tick()
        assert ctx.get(dut.resolved)
        wanted = self.golden.resolve(d)
        words = [int(ctx.get(dut.effective.as_value())) >> 32 * index & (1 << 32) - 1
                 for index in range(len(d.encode()))]
        assert type(d).decode(words) == wanted.descriptor
        await ctx.tick()
        assert not ctx.get(dut.resolved)
        found = ctx.get(dut.bias_shift), ctx.get(dut.exponent)
        assert found == (wanted.bias_shift, wanted.exponent)
        return wanted

    async def begin(self, ctx, resolved):
        await self.pulse(ctx, begin=1)
        self.golden.begin(resolved)

    async def measure(self, ctx, scale, values, rng, *, gradient=False, signed=True):
        """Offer words of values, and noise that is not to be measured."""
        config = self.config
        bits = config.gradient_bits if gradient else config.operand_bits
        low, _ = integer_range(bits)
        above = 1 << self.dut.bits
        for word in values:
            noise = rng.integers(0, above, len(word)) >> bits << bits
            await self.pulse(ctx, measure=1, scale=scale, is_gradient=gradient,
                             is_unsigned=not signed, elements=word & (1 << bits) - 1 | noise)
            if rng.integers(4) == 0:
                await self.pulse(ctx, measure=0, scale=int(rng.integers(SCALES)),
                                 elements=np.full(len(word), low & (1 << bits) - 1))
        self.golden.measure(scale, values, bits, signed=signed)

    async def rescale(self, ctx, last=None, rng=None):
        """RESCALE; `last` is measured when it has already started."""
        dut = self.dut
        await self.pulse(ctx, start=1)
        cycles = 0
        if last is not None:
            assert ctx.get(dut.busy)
            put(ctx, dut.measure, 1)
            put(ctx, dut.scale, last[0])
            put(ctx, dut.elements, last[1])
            self.golden.measure(last[0], last[1], self.config.operand_bits)
            await ctx.tick()
            put(ctx, dut.measure, 0)
            cycles = 1
        while ctx.get(dut.busy):
            cycles += 1
            await ctx.tick()
        assert cycles == dut.RESCALE_CYCLES
        self.golden.rescale()


def random_words(config, bits, signed, rng):
    """Return some words of small or large elements, some of them clipped."""
    low, high = integer_range(bits, signed=signed)
    top = max(1, high >> int(rng.integers(0, 3)))
    shape = int(rng.integers(1, 40)), config.lane_count
    values = rng.integers(max(low, -top), top, shape)
    values[rng.random(shape) < rng.choice([0, 0.002, 0.02])] = rng.choice([low, high])
    return values


@pytest.mark.parametrize("gradient_bits", [8, 16])
@pytest.mark.parametrize("operand_bits", [4, 8])
@pytest.mark.parametrize(("is_gradient", "signed"), [(0, True), (0, False), (1, True)])
def test_a_group_counts_the_ends_of_the_range(operand_bits, gradient_bits, is_gradient, signed,
                                              rng):
    bits = gradient_bits if is_gradient else operand_bits
    low, high = integer_range(bits, signed=signed)
    edges = np.unique([low, low + 1, low // 2 - 1, low // 2, low // 2 + 1, -1, 0, 1, high // 2,
                       high // 2 + 1, high - 1, high])
    edges = edges[edges >= low]
    rows = [np.full(4, edge) for edge in edges]
    rows += list(rng.choice(edges, (100, 4)))
    noise = rng.integers(0, 1 << max(operand_bits, gradient_bits), (len(rows), 4)) >> bits << bits
    seen = play(RangeGroup(4, operand_bits, gradient_bits), (
        {"elements": row & (1 << bits) - 1 | above, "is_gradient": is_gradient,
         "is_unsigned": not signed}
        for row, above in zip(rows, noise, strict=True)), "clipped", "large", clocked=False)
    rows = np.array(rows)
    at_end = (rows == high) | (rows == low) & (low < 0)
    np.testing.assert_array_equal(seen["clipped"], at_end.sum(axis=1))
    np.testing.assert_array_equal(seen["large"], (2 * np.abs(rows) > high).any(axis=1))


@pytest.mark.parametrize("spread", [4, 20, 128])
def test_resolves_as_the_golden_model(spread, rng):
    bench = Bench(TINY)

    async def job(ctx):
        for place, exponent in enumerate(rng.integers(-spread, spread, SCALES).tolist()):
            await bench.write(ctx, place, exponent, by_host=bool(place % 2))
        await bench.check(ctx)
        await bench.check(ctx, by_host=True)
        for d in descriptors(rng, 8):
            await bench.write(ctx, d.out_scale, int(rng.integers(-spread, spread)))
            resolved = await bench.resolve(ctx, d)
            if rng.integers(4):
                # Without, nothing was kept of it.
                await bench.begin(ctx, resolved)
            plain = replace(d, scaled=0, out_scale=(d.out_scale + 1) % SCALES)
            if rng.integers(4) == 0:
                await bench.resolve(ctx, plain)
            elif rng.integers(2) == 0:
                # What is not scaled begins without being resolved.
                await bench.offer(ctx, plain)
                await bench.begin(ctx, bench.golden.resolve(plain))
        await bench.check(ctx)

    bench.run(job)


@pytest.mark.parametrize("config", CONFIGS)
def test_adapts_as_the_golden_model(config, rng):
    bench = Bench(config)
    moved = set()

    async def job(ctx):
        for place, exponent in enumerate(rng.integers(-128, 128, SCALES).tolist()):
            await bench.write(ctx, place, exponent)
        for _ in range(6):
            before = bench.golden.exponents.copy()
            for scale in rng.choice([0, 1, 2, 7, 8, 31, SCALES // 2, SCALES - 1], 10).tolist():
                gradient = bool(rng.integers(2))
                signed = gradient or bool(rng.integers(2))
                bits = config.gradient_bits if gradient else config.operand_bits
                words = random_words(config, bits, signed, rng)
                await bench.measure(ctx, scale, words, rng, gradient=gradient, signed=signed)
                await ctx.tick().repeat(int(rng.integers(2, 5)))
            await bench.rescale(ctx)
            moved.update(np.unique(bench.golden.exponents - before).tolist())
            await bench.check(ctx)

    bench.run(job)
    assert {-1, 0, 1} <= moved


def test_measures_to_the_last_word_before_a_rescale(rng):
    bench = Bench(TINY)
    full, small = np.full((1, 4), 127), np.full((1, 4), 1)

    async def job(ctx):
        # Each word alone decides: two scales three cycles apart, the second after the start.
        await bench.measure(ctx, 3, full, np.random.default_rng(1))
        await ctx.tick()
        await bench.rescale(ctx, (9, full[0]))
        await bench.check(ctx)
        await bench.rescale(ctx)
        await bench.check(ctx)
        await bench.rescale(ctx, (9, small[0]))
        await bench.check(ctx)

    bench.run(job)
    assert bench.golden.exponents[[3, 9]].tolist() == [1, 0]


def test_every_lane_counts():
    bench = Bench(CONFIGS[1])
    lanes = CONFIGS[1].lane_count

    async def job(ctx):
        for lane in range(lanes):
            for scale, value in ((lane, 64), (lane + lanes, -128)):
                word = np.zeros(lanes, np.int64)
                word[lane] = value
                await bench.pulse(ctx, measure=1, scale=scale, elements=word & 0xFF)
                await ctx.tick().repeat(2)
                bench.golden.measure(scale, word, 8)
        await bench.rescale(ctx)
        await bench.check(ctx)

    bench.run(job)
    assert bench.golden.exponents.tolist() == (
        [0] * lanes + [1] * lanes + [0] * (SCALES - 2 * lanes))


@pytest.mark.parametrize("count", [256, 512])
def test_lets_one_clipped_element_in_256_pass(count):
    bench = Bench(TINY)

    async def job(ctx):
        for place, (length, clipped) in enumerate(
                (length, clipped) for length in (count - 4, count, count + 4)
                for clipped in (0, count // 256, count // 256 + 1)):
            values = np.zeros(length, np.int64)
            values[:clipped] = [127, -128, 127][:clipped]
            for word in values.reshape(-1, 4):
                await bench.pulse(ctx, measure=1, scale=place, elements=word & 0xFF)
            bench.golden.measure(place, values, 8)
            await ctx.tick().repeat(2)
        await bench.rescale(ctx)
        await bench.check(ctx)

    bench.run(job)
    assert bench.golden.exponents[:9].tolist() == [-1, 1, 1, -1, 0, 1, -1, 0, 1]


@pytest.mark.parametrize("config", CONFIGS)
def test_has_one_group_for_sixteen_lanes(config):
    text = to_rtlil(Scales(config), "scales")
    assert len(re.findall(r"cell \\range_group ", text)) == -(-config.lane_count // 16)


def test_takes_the_cycles_that_it_promises():
    assert (Scales.RESOLVE_CYCLES, Scales.RESCALE_CYCLES) == (7, 137)
