"""Packed activations against explicit loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.fixed import HALF, integer_range
from gradloom_golden.lanes import (
    STEP_OF_FIELD,
    lane_multiply,
    lane_values,
    pack,
    quantize,
    unpack,
)

LANES = [1, 2, 4]


def rounded_loop(value, shift, draw):
    return ((value << 16 >> shift) + draw) >> 16


@pytest.mark.parametrize("lanes", LANES)
def test_fields_hold_steps_in_bit_reversed_order(lanes):
    width = lanes.bit_length() - 1
    reversed_order = tuple(
        int(format(field, f"0{width}b")[::-1], 2) if width else 0 for field in range(lanes))
    assert STEP_OF_FIELD[lanes] == reversed_order


@given(st.sampled_from(LANES), st.booleans(), st.integers(1, 13), st.integers(0, 1 << 30))
def test_pack_then_unpack_gives_the_rows_back(lanes, unsigned, steps, seed):
    low, high = integer_range(8 // lanes, signed=not unsigned)
    values = np.random.default_rng(seed).integers(low, high, (steps, 3), endpoint=True)
    words = pack(values, lanes)
    assert words.shape == (-(-steps // lanes), 3)
    assert ((0 <= words) & (words < 256)).all()
    np.testing.assert_array_equal(unpack(words, lanes, steps, unsigned=unsigned), values)


def test_pack_places_each_step():
    assert pack([[0x12]], 1).tolist() == [[0x12]]
    assert pack([[0x1], [0x2]], 2).tolist() == [[0x21]]
    assert pack([[0], [1], [2], [3]], 4).tolist() == [[0b11_01_10_00]]


@pytest.mark.parametrize(("lanes", "steps"), [(2, 1), (2, 5), (4, 1), (4, 3), (4, 6)])
def test_a_ragged_group_is_filled_with_zeros(lanes, steps):
    words = pack(np.full((steps, 2), 1), lanes)
    fields = lane_values(words[-1], lanes, unsigned=True)
    for field, step in enumerate(STEP_OF_FIELD[lanes]):
        expected = int(step < (steps - 1) % lanes + 1)
        assert fields[:, field].tolist() == [expected] * 2


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_lane_multiply_is_the_sum_over_fields(lanes, unsigned, rng):
    bits = 8 // lanes
    gradients = np.repeat(
        rng.integers(-(1 << 15), 1 << 15, (256, lanes)), 4 // lanes, axis=1)
    got = lane_multiply(np.arange(256), gradients, lanes, unsigned=unsigned)
    for word in range(256):
        total = 0
        for field in range(lanes):
            value = word >> field * bits & (1 << bits) - 1
            if not unsigned and value >= 1 << bits - 1:
                value -= 1 << bits
            total += value * int(gradients[word, field * 4 // lanes])
        assert got[word] == total


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_words_times_gradients_is_the_weight_gradient(lanes, unsigned, rng):
    low, high = integer_range(8 // lanes, signed=not unsigned)
    x = rng.integers(low, high, (7, 3), endpoint=True)
    d = np.zeros((8, 2), np.int64)
    d[:7] = rng.integers(-128, 128, (7, 2))
    total = np.zeros((3, 2), np.int64)
    for group, words in enumerate(pack(x, lanes)):
        ahead = d[group * lanes:(group + 1) * lanes][list(STEP_OF_FIELD[lanes])]
        quarters = np.repeat(ahead, 4 // lanes, axis=0).T
        total += lane_multiply(words[:, None], quarters[None], lanes, unsigned=unsigned)
    np.testing.assert_array_equal(total, x.T @ d[:7])


@given(st.sampled_from([2, 4]), st.booleans(), st.integers(0, 6), st.integers(0, 65535))
def test_quantize_rounds_and_saturates(bits, unsigned, shift, draw):
    low, high = integer_range(8, signed=not unsigned)
    least, most = integer_range(bits, signed=not unsigned)
    x = np.arange(low, high + 1)
    expected = [min(max(rounded_loop(value, shift, draw), least), most) for value in x.tolist()]
    assert quantize(x, bits, shift, unsigned=unsigned, random=draw).tolist() == expected


def test_quantize_rounds_to_nearest_without_draws():
    x = np.arange(-128, 128)
    np.testing.assert_array_equal(
        quantize(x, 4, 4, unsigned=False), quantize(x, 4, 4, unsigned=False, random=HALF))
