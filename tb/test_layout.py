"""Layouts: every element lies where the definition puts it, and comes back from there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.config import PRESETS
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import OFFSET_BITS, Region, memory_shape
from gradloom_host import layout

TINY = PRESETS["tiny"]
CONFIGS = (
    TINY,
    TINY.with_changes(rows=8),
    TINY.with_changes(columns=16),
    TINY.with_changes(rows=16, columns=8, gradient_bits=16),
    TINY.with_changes(operand_bits=4, lanes=False, master_bits=12, accumulator_bits=24),
)
BUFFERS = (Region.ACTIVATION, Region.GRADIENT, Region.WEIGHT, Region.STATE, Region.SUMS)
BITS = {
    Region.ACTIVATION: "operand_bits", Region.GRADIENT: "gradient_bits",
    Region.WEIGHT: "operand_bits", Region.STATE: "state_bits", Region.SUMS: "accumulator_bits",
}

configs = st.sampled_from(CONFIGS)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def matrix(seed, shape, bits, *, signed=True):
    low = -(1 << bits - 1) if signed else 0
    return np.random.default_rng(seed).integers(low, low + (1 << bits), shape)


@given(configs, st.sampled_from(BUFFERS), st.integers(1, 12), seeds, st.booleans())
def test_words_come_back(config, region, count, seed, signed):
    elements = memory_shape(config, region)[1]
    rows = matrix(seed, (count, elements), getattr(config, BITS[region]), signed=signed)
    words = layout.to_words(config, region, rows)
    assert words.dtype == np.uint32
    assert len(words) == count * layout.words_each(config, region)
    np.testing.assert_array_equal(layout.from_words(config, region, words, signed=signed), rows)


@given(configs, st.sampled_from(BUFFERS), seeds)
def test_words_at_an_address_are_the_buffer_words_there(config, region, seed):
    bits, elements = getattr(config, BITS[region]), memory_shape(config, region)[1]
    rows = matrix(seed, (3, elements), bits)
    machine = GoldenMachine(config)
    machine.write(layout.address(config, region, 5), layout.to_words(config, region, rows))
    expected = np.zeros_like(machine.memory[region])
    expected[5:8] = rows & (1 << bits) - 1
    np.testing.assert_array_equal(machine.memory[region], expected)


@given(configs, sizes, sizes, st.booleans(), seeds)
def test_matrix_words_hold_each_element_where_its_block_lies(config, steps, features, west, seed):
    edge = config.rows if west else config.columns
    region = Region.ACTIVATION if west else Region.GRADIENT
    values = matrix(seed, (steps, features), getattr(config, BITS[region]))
    words = layout.matrix_words(config, region, values, edge)
    rows = layout.from_words(config, region, words)
    lanes = config.lane_count
    assert len(rows) == steps * layout.blocks_of(features, edge, lanes)
    expected = np.zeros_like(rows)
    for step in range(steps):
        for feature in range(features):
            expected[feature // lanes * steps + step, feature % lanes] = values[step, feature]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(
        layout.words_matrix(config, region, words, steps, features), values)


@given(configs, sizes, sizes, seeds)
def test_unsigned_matrices_come_back(config, steps, features, seed):
    values = matrix(seed, (steps, features), config.operand_bits, signed=False)
    words = layout.matrix_words(config, Region.ACTIVATION, values, config.rows)
    back = layout.words_matrix(config, Region.ACTIVATION, words, steps, features, signed=False)
    np.testing.assert_array_equal(back, values)


@given(configs, sizes, sizes, seeds)
def test_tiles_lie_row_tile_after_row_tile(config, inputs, outputs, seed):
    values = matrix(seed, (inputs, outputs), config.operand_bits)
    tile_rows = layout.tile(config, values)
    rows, columns = config.rows, config.columns
    n_tiles = -(-outputs // columns)
    expected = np.zeros((-(-inputs // rows) * n_tiles * rows, columns), np.int64)
    for k in range(inputs):
        for n in range(outputs):
            tile = k // rows * n_tiles + n // columns
            expected[tile * rows + k % rows, n % columns] = values[k, n]
    np.testing.assert_array_equal(tile_rows, expected)
    np.testing.assert_array_equal(layout.untile(config, tile_rows, values.shape), values)


@given(sizes, st.sampled_from([4, 8, 16]), st.sampled_from([4, 8, 16]))
def test_blocks_hold_whole_tiles(features, edge, lanes):
    lanes = max(edge, lanes)
    padded = layout.tiles_of(features, edge) * edge
    assert features <= padded < features + edge
    words = layout.blocks_of(features, edge, lanes)
    assert (words - 1) * lanes < padded <= words * lanes


def test_addresses_count_host_words():
    config = TINY.with_changes(gradient_bits=16)
    assert layout.address(config, Region.ACTIVATION, 3) == (2 << OFFSET_BITS) + 3
    assert layout.address(config, Region.GRADIENT, 3) == (3 << OFFSET_BITS) + 6
    assert layout.address(config, Region.SUMS, 3) == (6 << OFFSET_BITS) + 12
    assert layout.address(config, Region.KEEP, 3) == (7 << OFFSET_BITS) + 3


@pytest.mark.parametrize(("values", "bits", "unsigned"), [
    ([[-128, 127]], 8, False), ([[0, 255]], 8, True), ([[-8, 7]], 4, False),
    (np.array([[200]], np.uint8), 8, True),
])
def test_checked_returns_what_fits(values, bits, unsigned):
    array = layout.checked("x", values, bits, unsigned=unsigned)
    assert array.dtype == np.int64
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize(("values", "options", "error", "words"), [
    ([[1.0]], {}, TypeError, "x must hold integers, not float64"),
    ([[True]], {}, TypeError, "x must hold integers, not bool"),
    ([1, 2], {}, ValueError, r"x must have 2 axes and elements, not shape \(2,\)"),
    (np.zeros((0, 3), int), {}, ValueError, r"not shape \(0, 3\)"),
    ([[1]], {"axes": 1}, ValueError, r"x must have 1 axes and elements, not shape \(1, 1\)"),
    ([[0, 1], [2, 128]], {}, ValueError, r"x\[1, 1\] is 128: scale it into -128 to 127"),
    ([[-129]], {}, ValueError, r"x\[0, 0\] is -129: scale it into -128 to 127"),
    ([[-1]], {"unsigned": True}, ValueError, r"x\[0, 0\] is -1: scale it into 0 to 255"),
    ([[256]], {"unsigned": True}, ValueError, r"x\[0, 0\] is 256: scale it into 0 to 255"),
    (np.array([[2**64 - 1]], np.uint64), {}, ValueError, r"is 18446744073709551615: scale"),
])
def test_checked_names_what_does_not_fit(values, options, error, words):
    with pytest.raises(error, match=words):
        layout.checked("x", values, 8, **options)
