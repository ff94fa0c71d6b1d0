"""The vector unit does to its buffers what `gradloom_golden.vector` does."""

import numpy as np
import pytest

from gradloom.emit import to_verilog
from gradloom.vector import Vector, VectorLane
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, saturate
from gradloom_golden.lfsr import Bank, Lfsr
from gradloom_golden.program import Descriptor, Function, Opcode, Region, element_bits, memory_shape
from gradloom_golden.vector import SUM_BITS, execute, vector_counts, vector_cycles
from simulate import memory, play, put, read, simulate

TINY = preset("tiny").with_changes(activation_depth=512, gradient_depth=512)
CONFIGS = [
    TINY, TINY.with_changes(columns=8), TINY.with_changes(rows=8),
    TINY.with_changes(gradient_bits=16), TINY.with_changes(operand_bits=4, lanes=False),
]
REGIONS = (Region.ACTIVATION, Region.GRADIENT, Region.BIAS, Region.KEEP)
HALF_DEPTH = 256
"""What is read lies below, what is written above."""
LIMIT = 2000
"""Cycles after which a unit hangs."""
COUNTERS = ("x_reads", "d_reads", "mask_reads", "y_writes", "dx_writes")


class Bench:
    """A vector unit with its buffers, beside the golden ones."""

    def __init__(self, config, rng, seed=0):
        self.config, self.seed = config, seed
        self.dut = Vector(config)
        self.golden = {
            region: rng.integers(0, 1 << element_bits(config, region),
                                 memory_shape(config, region)[:2])
            for region in REGIONS
        }
        self.golden[Region.KEEP] %= 3
        self.golden_mask = rng.integers(0, 2, self.golden[Region.ACTIVATION].shape).astype(bool)
        self.real = {region: contents.copy() for region, contents in self.golden.items()}
        self.mask = self.mask_words(self.golden_mask)
        self.golden_sums = np.zeros((config.bias_depth, config.columns), np.int64)
        self.lfsr = Lfsr(Bank.VECTOR, config.lane_count, seed)

    def mask_words(self, mask):
        return mask @ (1 << np.arange(self.config.lane_count))

    def run(self, descriptors):
        """Run one descriptor after the other; compare buffers, cycles and accesses after each."""
        dut = self.dut

        async def testbench(ctx):
            put(ctx, dut.seed, self.seed)
            put(ctx, dut.seed_load, 1)
            await ctx.tick()
            put(ctx, dut.seed_load, 0)
            for index, d in enumerate(descriptors):
                bits = sum(word << 32 * place for place, word in enumerate(d.encode()))
                ctx.set(dut.descriptor.as_value(), bits)
                put(ctx, dut.start, 1)
                assert not ctx.get(dut.busy)
                await ctx.tick()
                put(ctx, dut.start, 0)
                cycles, counts = await self._watch(ctx)
                self._compare(index, d, cycles, counts)

        simulate(dut, testbench, processes=[
            memory(self.real[Region.ACTIVATION], dut.activation_read_address,
                   dut.activation_read_data, dut.activation_read_en),
            memory(self.real[Region.GRADIENT], dut.gradient_read_address,
                   dut.gradient_read_data, dut.gradient_read_en),
            memory(self.real[Region.BIAS], dut.bias_read_address, dut.bias_read_data,
                   dut.bias_read_en),
            memory(self.real[Region.KEEP][:, 0], dut.keep_address, dut.keep_index),
            memory(self.mask, dut.mask_read_address, dut.mask_read_data, dut.mask_read_en),
        ])

    async def _watch(self, ctx):
        """Store what is written until the unit is idle; return cycles and counts."""
        dut = self.dut
        cycles, counts = 0, dict.fromkeys(COUNTERS, 0)
        while ctx.get(dut.busy):
            cycles += 1
            assert cycles < LIMIT
            counts["x_reads"] += ctx.get(dut.activation_read_en)
            counts["d_reads"] += ctx.get(dut.gradient_read_en)
            counts["mask_reads"] += ctx.get(dut.mask_read_en)
            writes = []
            if ctx.get(dut.out_en):
                gradient = ctx.get(dut.out_gradient)
                counts["dx_writes" if gradient else "y_writes"] += 1
                address = ctx.get(dut.out_address)
                region = Region.GRADIENT if gradient else Region.ACTIVATION
                elements = read(ctx, dut.out_gradients if gradient else dut.out_activations)
                writes.append((self.real[region], address, elements))
            if ctx.get(dut.mask_write_en):
                writes.append((self.mask, ctx.get(dut.out_address), ctx.get(dut.out_positive)))
            if ctx.get(dut.bias_write_en):
                writes.append((self.real[Region.BIAS], ctx.get(dut.bias_write_address),
                               read(ctx, dut.bias_write_data)))
            await ctx.tick()
            for contents, address, word in writes:
                contents[address] = word
        return cycles, counts

    def _compare(self, index, d, cycles, counts):
        execute(self.config, self.golden, self.golden_mask, self.golden_sums, d, self.lfsr.draw)
        for region in REGIONS:
            np.testing.assert_array_equal(
                self.real[region], self.golden[region], f"{index}: {region.name} after {d}")
        np.testing.assert_array_equal(
            self.mask, self.mask_words(self.golden_mask), f"{index}: mask after {d}")
        assert cycles == vector_cycles(self.config, d), (index, d)
        assert counts == dict.fromkeys(COUNTERS, 0) | vector_counts(self.config, d), (index, d)


def flags(rng, *names):
    return {name: int(rng.integers(0, 2)) for name in names}


def number(rng, low, high):
    return int(rng.integers(low, high, endpoint=True))


def vector(function, **fields):
    return Descriptor(opcode=Opcode.VECTOR, function=function, **fields)


def added(rng, config, **fields):
    """Return a random addition."""
    images, t_y, t_x = number(rng, 1, 3), number(rng, 1, 3), number(rng, 1, 3)
    pixels = t_y * t_x
    shifts = {name: number(rng, 0, high) for name, high in (
        ("gradient_shift", 6), ("rate_shift", 6), ("out_shift", 8))}
    common = {
        "steps": images * pixels, "t_y": t_y, "t_x": t_x, "pixels": pixels,
        "k_tiles": number(rng, 1, 2), "x_base": number(rng, 0, 40), "x_stride": 30,
        "d_base": number(rng, 100, 140), "d_stride": 31, "out_base": HALF_DEPTH, "out_stride": 40,
        "packed_base": number(rng, 0, 40), "w_block": 50, "x_image": 17,
        "first_sample": number(rng, 0, 4),
    }
    return vector(Function.ADD, **common | shifts | flags(
        rng, "gradients", "mask", "gather", "relu", "x_unsigned", "y_unsigned", "stochastic")
        | fields)


def windowed(rng, config, function, *, images=None, t_y=None, t_x=None, **fields):
    """Return a random descriptor that walks over the windows of images."""
    backward = function in (Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT)
    taps_y, taps_x = number(rng, 1, 3), number(rng, 1, 3)
    step_y, step_x = (taps_y, taps_x) if backward else (number(rng, 1, 2), number(rng, 1, 3))
    t_y, t_x = t_y or number(rng, 1, 2), t_x or number(rng, 1, 2)
    images = images or number(rng, 1, 3)
    pad_y, pad_x = number(rng, 0, 1), number(rng, 0, 2)
    height = max(1, (t_y - 1) * step_y + taps_y - 2 * pad_y + number(rng, 0, 1))
    width = max(1, (t_x - 1) * step_x + taps_x - 2 * pad_x + number(rng, 0, 1))
    pixel = 1
    row = width * pixel + number(rng, 0, 1)
    image = height * row
    pixels = t_y * t_x
    common = {
        "steps": images * pixels - number(rng, 0, pixels - 1), "k_tiles": number(rng, 1, 2),
        "t_y": t_y, "t_x": t_x, "pixels": pixels,
        "x_base": 20, "x_stride": 110, "d_base": 30, "d_stride": 40,
        "out_base": HALF_DEPTH + 20, "out_stride": 100,
        "packed_base": 9, "w_block": 60, "first_sample": number(rng, 0, 3),
        "x_pixel": step_x * pixel, "x_row": step_y * row, "x_image": image,
        "x_offset": -pad_y * row - pad_x * pixel, "tap_row": row, "tap_pixel": pixel,
        "taps_y": taps_y, "taps_x": taps_x, "y_first": -pad_y, "x_first": -pad_x,
        "y_limit": height, "x_limit": width, "y_step": step_y, "x_step": step_x,
        "tap_dy": 1, "tap_dx": 1,
        "factor": int(rng.choice([0, 1, 37, 255])), "out_shift": number(rng, 0, 10),
    }
    return vector(function, **common | flags(
        rng, "mask", "gather", "relu", "x_unsigned", "y_unsigned", "stochastic", "gradients")
        | fields)


def bias_updates(rng, config):
    """Return the chunks of a random bias update."""
    chunks = number(rng, 1, 3)
    common = {
        "n_tiles": number(rng, 1, 5), "k_tiles": 1, "d_base": number(rng, 0, 100), "d_stride": 60,
        "bias_base": number(rng, 0, 9), "gradient_shift": number(rng, 0, 10),
        "stochastic": number(rng, 0, 1),
    }
    return [vector(Function.BIAS_UPDATE, **common, steps=number(rng, 1, 25), first=index == 0,
                   last=index == chunks - 1) for index in range(chunks)]


def equal_pairs(bench, rng):
    """Have maxima and their windows agree often."""
    for contents in (bench.golden[Region.ACTIVATION], bench.real[Region.ACTIVATION]):
        contents[:HALF_DEPTH] %= 3


@pytest.mark.parametrize("config", CONFIGS)
def test_additions_equal_the_golden_model(config, rng):
    bench = Bench(config, rng, seed=77)
    bench.run([added(rng, config) for _ in range(8)])


@pytest.mark.parametrize("function", [
    Function.MAXIMUM, Function.AVERAGE, Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT,
    Function.FILL])
@pytest.mark.parametrize("config", CONFIGS)
def test_windows_equal_the_golden_model(config, function, rng):
    bench = Bench(config, rng, seed=123456)
    if function == Function.MAXIMUM_GRADIENT:
        equal_pairs(bench, rng)
    bench.run([windowed(rng, config, function) for _ in range(6)])


def test_kept_images_equal_the_golden_model(rng):
    bench = Bench(TINY, rng)
    equal_pairs(bench, rng)
    bench.run([
        windowed(rng, TINY, function, images=3, t_y=t_y, t_x=2, gather=1, mask=1,
                 first_sample=first_sample)
        for function in (Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT)
        for t_y, first_sample in ((2, 0), (1, 3))
    ] + [added(rng, TINY, gradients=1, gather=1, mask=1, steps=12, t_y=2, t_x=2,
               pixels=4, k_tiles=2)])


@pytest.mark.parametrize("config", CONFIGS)
def test_bias_updates_equal_the_golden_model(config, rng):
    bench = Bench(config, rng, seed=5)
    bench.run([d for _ in range(3) for d in bias_updates(rng, config)])


def test_functions_leave_nothing_behind(rng):
    bench = Bench(TINY, rng)
    equal_pairs(bench, rng)
    windows = [function for function in Function
               if function not in (Function.ADD, Function.BIAS_UPDATE)]
    descriptors = []
    for _ in range(10):
        descriptors.append(windowed(rng, TINY, windows[rng.integers(len(windows))]))
        descriptors.append(added(rng, TINY))
        # A bias gradient waits while other functions run.
        if len(descriptors) < 10:
            descriptors += bias_updates(rng, TINY)[:1]
    descriptors.append(vector(Function.BIAS_UPDATE, n_tiles=8, steps=3, last=1, d_base=3,
                              d_stride=5))
    bench.run(descriptors)


def test_a_sum_saturates_before_it_is_kept():
    limits = integer_range(SUM_BITS)
    cycles, expected = [], []
    for kept, gradient in ((limits[1] - 5, 4), (limits[1] - 5, 6), (limits[0] + 9, -9),
                           (limits[0] + 9, -100)):
        cycles += [{"load": 1, "kept": kept},
                   {"load": 0, "enable": 1, "used": 1, "takes_gradient": 1, "pass_on": 1,
                    "gradient": gradient},
                   {"enable": 0}]
        expected.append(int(saturate(kept + gradient, SUM_BITS)) & (1 << SUM_BITS) - 1)
    assert play(VectorLane(TINY), cycles, "sum")["sum"][2::3].tolist() == expected


@pytest.mark.parametrize("rows", [4, 16])
def test_an_empty_batch_still_moves_the_bias(rows, rng):
    bench = Bench(TINY.with_changes(rows=rows), rng)
    chunk = {"n_tiles": 6, "gradient_shift": 2, "d_base": 7, "d_stride": 20}
    bench.run([
        vector(Function.BIAS_UPDATE, **chunk, steps=20, first=1),
        vector(Function.BIAS_UPDATE, **chunk, steps=0, last=1),
        added(rng, TINY, steps=0),
        windowed(rng, TINY, Function.AVERAGE_GRADIENT, steps=0),
        vector(Function.BIAS_UPDATE, **chunk, steps=0, first=1, last=1),
    ])


def test_an_addition_may_write_where_it_reads(rng):
    bench = Bench(TINY, rng)
    bench.run([added(rng, TINY, gradients=gradients, x_base=20, out_base=20, out_stride=30)
               for gradients in (0, 1)])


def test_large_shifts_and_factors_do_not_overflow(rng):
    bench = Bench(TINY.with_changes(gradient_bits=16), rng)
    bench.run([
        added(rng, TINY, gradients=1, gradient_shift=31, rate_shift=31, out_shift=out_shift, mask=0)
        for out_shift in (31, 30, 0)
    ] + [windowed(rng, TINY, Function.AVERAGE_GRADIENT, factor=255, out_shift=8, mask=0)])


def test_rectified_outputs_leave_their_mask(rng):
    bench = Bench(TINY, rng)
    d = added(rng, TINY, gradients=0, relu=1, x_unsigned=0, steps=9, k_tiles=2)
    bench.run([d])
    assert 0 < np.count_nonzero(bench.mask[HALF_DEPTH:HALF_DEPTH + 9])
    assert bench.real[Region.ACTIVATION][HALF_DEPTH:HALF_DEPTH + 9].max() < 128


def test_emits_verilog_with_one_module_for_all_lanes():
    text = to_verilog(Vector(TINY), "gradloom_vector")
    assert text.count("module vector_lane(") == 1
    assert text.count("vector_lane lane_") == TINY.lane_count
