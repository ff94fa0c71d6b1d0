"""The golden vector unit pools, adds and updates as loops over images do."""

import numpy as np
import pytest

from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, round_shift, saturate, sign_extend
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.program import Descriptor, Function, Opcode, Region, memory_shape
from gradloom_golden.vector import (
    SUM_BITS,
    add,
    average,
    execute,
    maximum,
    maximum_gradient,
    update_bias,
    vector_counts,
    vector_cycles,
)

TINY = preset("tiny")
LANES = TINY.lane_count
KEEP = [2, 0]


class State:
    """Buffers of a golden machine, and images in them."""

    def __init__(self, config=TINY):
        self.config = config
        self.memory = {
            region: np.zeros(memory_shape(config, region)[:2], np.int64)
            for region in (Region.ACTIVATION, Region.GRADIENT, Region.BIAS, Region.KEEP)
        }
        self.memory[Region.KEEP][1:1 + len(KEEP), 0] = KEEP
        self.mask = np.ones(self.memory[Region.ACTIVATION].shape, bool)
        self.sums = np.zeros((config.bias_depth, config.columns), np.int64)
        self.lfsr = Lfsr(Bank.VECTOR, config.lane_count)

    def run(self, function, **fields):
        d = Descriptor(opcode=Opcode.VECTOR, function=function, **{"k_tiles": 1} | fields)
        execute(self.config, self.memory, self.mask, self.sums, d, self.lfsr.draw)
        return d

    def put(self, region, base, values):
        """Store values (..., lanes) from a word on."""
        flat = np.reshape(values, (-1, self.config.lane_count))
        self.memory[region][base:base + len(flat)] = flat & 0xFF

    def take(self, region, base, *shape):
        """Return signed 8-bit values that `put` would have stored."""
        words = self.memory[region][base:base + int(np.prod(shape))]
        return sign_extend(words, 8).reshape(*shape, -1)


def windows(height, width, edge, step, pad, images):
    """Return the geometry of square windows over images that lie in whole words."""
    t_y, t_x = (1 + (extent + 2 * pad - edge) // step for extent in (height, width))
    return {
        "steps": images * t_y * t_x, "t_y": t_y, "t_x": t_x, "pixels": t_y * t_x,
        "taps_y": edge, "taps_x": edge, "y_first": -pad, "x_first": -pad,
        "y_limit": height, "x_limit": width, "y_step": step, "x_step": step,
        "tap_dy": 1, "tap_dx": 1, "tap_row": width, "tap_pixel": 1,
        "x_pixel": step, "x_row": step * width, "x_image": height * width,
        "x_offset": -pad * (width + 1),
    }


def cut(x, ty, tx, edge, step, pad):
    """Return the part of the images (B, H, W, lanes) that a window sees."""
    first_y, first_x = ty * step - pad, tx * step - pad
    return x[:, max(0, first_y):first_y + edge, max(0, first_x):first_x + edge]


@pytest.mark.parametrize(("edge", "step", "pad"), [(2, 2, 0), (3, 2, 1), (1, 1, 0), (3, 3, 0)])
@pytest.mark.parametrize("function", [Function.MAXIMUM, Function.AVERAGE])
def test_pools_every_window(function, edge, step, pad, rng):
    blocks, images, height, width = 2, 3, 5, 4
    x = rng.integers(-128, 128, (blocks, images, height, width, LANES))
    g = windows(height, width, edge, step, pad, images)
    state = State()
    state.put(Region.ACTIVATION, 0, x)
    state.run(function, **g, x_stride=images * height * width, out_base=130, out_stride=60,
              k_tiles=blocks, factor=3, out_shift=5)
    for block in range(blocks):
        y = state.take(Region.ACTIVATION, 130 + 60 * block, images, g["t_y"], g["t_x"])
        for ty in range(g["t_y"]):
            for tx in range(g["t_x"]):
                seen = cut(x[block], ty, tx, edge, step, pad)
                if function == Function.MAXIMUM:
                    expected = seen.max(axis=(1, 2))
                else:
                    expected = saturate(round_shift(3 * seen.sum(axis=(1, 2)), 5), 8)
                np.testing.assert_array_equal(y[:, ty, tx], expected)


@pytest.mark.parametrize("gather", [0, 1])
@pytest.mark.parametrize("masked", [0, 1])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("function", [Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT])
def test_hands_gradients_back_to_their_windows(function, pad, masked, gather, rng):
    height, width, edge = 5, 4, 2
    samples = KEEP if gather else [0, 1, 2]
    x = rng.integers(-2, 2, (3, height, width, LANES))
    g = windows(height, width, edge, edge, pad, len(samples))
    t_y, t_x = g["t_y"], g["t_x"]
    y = np.stack([[cut(x, ty, tx, edge, edge, pad).max(axis=(1, 2)) for tx in range(t_x)]
                  for ty in range(t_y)]).transpose(2, 0, 1, 3)
    gradient = rng.integers(-128, 128, (len(samples), t_y, t_x, LANES))
    mask = rng.integers(0, 2, x.shape).astype(bool)
    state = State()
    state.put(Region.ACTIVATION, 0, x)
    state.put(Region.ACTIVATION, 100, y)
    state.put(Region.GRADIENT, 0, gradient)
    state.mask[:x[..., 0].size] = mask.reshape(-1, LANES)
    before = state.memory[Region.GRADIENT].copy()
    state.run(function, **g, packed_base=100, out_base=40, gather=gather, first_sample=1,
              mask=masked, factor=5, out_shift=4)
    pixels = len(samples) * height * width
    result = state.take(Region.GRADIENT, 40, len(samples), height, width)
    expected = np.zeros_like(result)
    for place, sample in enumerate(samples):
        for ty, tx, lane in np.ndindex(t_y, t_x, LANES):
            here = gradient[place, ty, tx, lane]
            window = cut(x, ty, tx, edge, edge, pad)[sample, ..., lane]
            handed = cut(expected, ty, tx, edge, edge, pad)[place, ..., lane]
            if function == Function.AVERAGE_GRADIENT:
                handed[...] = saturate(round_shift(5 * here, 4), 8)
            else:
                handed[np.unravel_index(window.argmax(), window.shape)] = here
    if masked:
        expected = np.where(mask[samples], expected, 0)
    np.testing.assert_array_equal(result, expected)
    outside = np.delete(np.arange(len(before)), np.s_[40:40 + pixels])
    np.testing.assert_array_equal(state.memory[Region.GRADIENT][outside], before[outside])


@pytest.mark.parametrize("gather", [0, 1])
def test_adds_gradients_behind_the_masks_of_their_samples(gather, rng):
    pixels, samples = 6, KEEP if gather else [0, 1, 2]
    a, b = rng.integers(-128, 128, (2, len(samples), pixels, LANES))
    mask = rng.integers(0, 2, (3, pixels, LANES)).astype(bool)
    state = State()
    state.put(Region.GRADIENT, 0, a)
    state.put(Region.GRADIENT, 30, b)
    state.mask[7:7 + 3 * pixels] = mask.reshape(-1, LANES)
    state.run(Function.ADD, gradients=1, mask=1, gather=gather, first_sample=1, d_base=30,
              out_base=60, steps=len(samples) * pixels, t_x=pixels, t_y=1, pixels=pixels,
              packed_base=7, gradient_shift=2, rate_shift=1, out_shift=3)
    expected = saturate(round_shift(4 * a + 2 * b, 3), 8)
    np.testing.assert_array_equal(state.take(Region.GRADIENT, 60, len(samples), pixels),
                                  np.where(mask[samples], expected, 0))


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("unsigned", [0, 1])
def test_adds_activations(relu, unsigned, rng):
    low = 0 if unsigned else -128
    a, b = rng.integers(low, low + 256, (2, 2, 9, LANES))
    state = State()
    for block in range(2):
        state.put(Region.ACTIVATION, 20 * block, a[block])
        state.put(Region.ACTIVATION, 50 + 20 * block, b[block])
    state.run(Function.ADD, steps=9, k_tiles=2, x_stride=20, d_base=50, d_stride=20, out_base=100,
              out_stride=20, relu=relu, x_unsigned=unsigned, d_unsigned=unsigned,
              y_unsigned=unsigned)
    for block in range(2):
        total = a[block] + b[block]
        words = slice(100 + 20 * block, 109 + 20 * block)
        y = np.maximum(total, 0) if relu else total
        expected = saturate(y, 8, signed=not unsigned) & 0xFF
        np.testing.assert_array_equal(state.memory[Region.ACTIVATION][words], expected)
        assert (state.mask[words] == ((total > 0) | (not relu))).all()


@pytest.mark.parametrize("columns", [4, 8])
@pytest.mark.parametrize("rows", [4, 8])
def test_sums_a_bias_gradient_over_chunks(rows, columns, rng):
    config = TINY.with_changes(rows=rows, columns=columns)
    state, lanes, tiles, steps = State(config), config.lane_count, 3, 10
    parts = lanes // columns
    bias = rng.integers(-3000, 3000, (tiles, columns))
    state.memory[Region.BIAS][5:5 + tiles] = bias & 0xFFFF
    state.sums[:] = 12345
    total = np.zeros(tiles * columns, np.int64)
    for chunk in range(3):
        gradient = rng.integers(-128, 128, (-(-tiles // parts), steps, lanes))
        state.put(Region.GRADIENT, 3, gradient)
        total += gradient.sum(axis=1).reshape(-1)[:tiles * columns]
        state.run(Function.BIAS_UPDATE, n_tiles=tiles, steps=steps, d_base=3, d_stride=steps,
                  bias_base=5, gradient_shift=2, first=chunk == 0, last=chunk == 2)
    expected = bias - round_shift(total.reshape(tiles, columns), 2)
    written = sign_extend(state.memory[Region.BIAS], 16)
    np.testing.assert_array_equal(written[5:5 + tiles], expected)
    assert not written[:5].any()
    assert not written[5 + tiles:].any()


def test_a_bias_gradient_saturates_between_chunks_and_its_bias_always():
    state = State()
    low, high = integer_range(SUM_BITS)
    state.sums[0] = [high, high, low, low]
    state.put(Region.GRADIENT, 0, [[1, -1, 1, -1]])
    chunk = {"n_tiles": 1, "steps": 1}
    state.run(Function.BIAS_UPDATE, **chunk)
    assert state.sums[0].tolist() == [high, high - 1, low + 1, low]
    state.run(Function.BIAS_UPDATE, **chunk, last=1, gradient_shift=16)
    assert state.memory[Region.BIAS][0].tolist() == [0x8000, 0x8000, 0x7FFF, 0x7FFF]


@pytest.mark.parametrize("gradients", [0, 1])
def test_fills_the_pixels_it_walks_over(gradients, rng):
    region = Region.GRADIENT if gradients else Region.ACTIVATION
    state = State()
    state.memory[region][:] = 7
    state.run(Function.FILL, **windows(4, 5, 2, 2, 0, 2), gradients=gradients, out_base=9)
    expected = np.full((2, 4, 5), 7)
    expected[:, :4, :4] = 0
    assert (state.take(region, 9, 2, 4, 5) == expected[..., None]).all()
    assert (state.memory[region][:9] == 7).all()
    assert (state.memory[region][49:] == 7).all()


def test_every_word_takes_one_draw(rng):
    state = State()
    a = rng.integers(-128, 128, (6, LANES))
    state.put(Region.ACTIVATION, 0, a)
    state.run(Function.ADD, steps=6, d_base=100, out_base=50, out_shift=3, stochastic=1)
    state.put(Region.GRADIENT, 0, a)
    state.run(Function.BIAS_UPDATE, steps=6, n_tiles=1, first=1, last=1, gradient_shift=4,
              stochastic=1)
    draws = low_half(Lfsr(Bank.VECTOR, LANES).draw(7))
    np.testing.assert_array_equal(
        state.take(Region.ACTIVATION, 50, 6), saturate(round_shift(a, 3, draws[:6]), 8))
    np.testing.assert_array_equal(
        sign_extend(state.memory[Region.BIAS][0], 16), -round_shift(a.sum(axis=0), 4, draws[6]))


def test_functions_on_small_arrays():
    x = np.array([[[-5], [-9], [100]], [[1], [2], [3]]])
    valid = np.array([[True, True, False], [False, False, False]])
    assert maximum(x, valid).tolist() == [[-5], [0]]
    assert average(x, valid, 2).tolist() == [[-28], [0]]
    ties = np.array([[[4], [4], [1]]])
    window = np.array([[9]]), np.array([[4]])
    every = np.ones((1, 3), bool)
    assert maximum_gradient(*window, ties, every).ravel().tolist() == [9, 0, 0]
    every[0, 0] = False
    assert maximum_gradient(*window, ties, every).ravel().tolist() == [0, 9, 0]
    assert add(np.array([-3]), np.array([5]), 31, 2).tolist() == [-3 * (1 << 31) + 20]
    assert update_bias(np.array([100]), 6, 2).tolist() == [98]


def test_cycles_and_counts_of_a_pooled_image():
    g = windows(4, 4, 2, 2, 0, 2)
    d = Descriptor(opcode=Opcode.VECTOR, function=Function.MAXIMUM_GRADIENT, k_tiles=3, mask=1, **g)
    # A block and its handoff, then four taps and the maximum for each of eight windows.
    assert vector_cycles(TINY, d) == 3 * (2 + 8 * 5) + 2
    assert vector_counts(TINY, d) == {
        "x_reads": 3 * 8 * 5, "d_reads": 3 * 8, "dx_writes": 3 * 32, "mask_reads": 3 * 32}
    padded = Descriptor(opcode=Opcode.VECTOR, function=Function.AVERAGE, k_tiles=1,
                        **windows(2, 2, 3, 1, 1, 1))
    assert vector_counts(TINY, padded) == {"x_reads": 16, "y_writes": 4}
    assert vector_cycles(TINY, padded) == 2 + 4 * 9 + 2
    summed = Descriptor(opcode=Opcode.VECTOR, function=Function.BIAS_UPDATE, n_tiles=3, steps=10)
    two = TINY.with_changes(rows=8)
    # Three halves of two words: to start a word and its walk, to load and to finish each half.
    assert vector_cycles(two, summed) == 2 * (2 + 10) + 2 * 3 + 2
    assert vector_counts(two, summed) == {"d_reads": 20}
