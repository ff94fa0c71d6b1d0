"""Rows, and stacks of rows, pass everything on in the cycle and the direction that they say."""

import numpy as np
import pytest

from gradloom.pe import TAPS
from gradloom.row import Row, Stack
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, sign_extend
from simulate import play

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY.with_changes(overlap=False),
    "wide": TINY.with_changes(overlap=False, columns=8),
    "plain": TINY.with_changes(overlap=False, lanes=False, gradient_bits=16),
}
CYCLES = 20


@pytest.fixture(params=CONFIGS)
def config(request):
    """Configuration of a row."""
    return CONFIGS[request.param]


def rows_of(config, height):
    return Row(config) if height == 1 else Stack(config, height)


def drawn(rng, bits, shape):
    return rng.integers(*integer_range(bits), shape, endpoint=True)


def late(values, cycles):
    """Return the rows as they were `cycles` ago, zero before the first."""
    return np.concatenate([np.zeros((cycles, *values.shape[1:]), np.int64), values])[:len(values)]


def staggered(values, *, axis_first=0):
    """Delay column j of the values by ``axis_first + j`` cycles."""
    return np.stack([late(values[:, j], axis_first + j) for j in range(values.shape[1])], axis=1)


@pytest.mark.parametrize("height", [1, 2, 4])
def test_a_forward_wave_crosses_all_rows(config, height, rng):
    columns = config.columns
    weights = drawn(rng, config.operand_bits, (height, columns))
    x = drawn(rng, config.operand_bits, (CYCLES, height))
    above = drawn(rng, 8, (CYCLES, columns))
    settings = {"mode": {"forward": 1, "two": 0, "four": 0}}
    # The first row to enter ends on top.
    cycles = [{**settings, "shift": [1] * columns, "weight_i": row} for row in weights]
    cycles += [{"shift": [0] * columns, "west": west, "sum_i": sums}
               for west, sums in zip(staggered(x), staggered(above), strict=True)]
    seen = play(rows_of(config, height), cycles, "sum_o", "east")
    sums, east = seen["sum_o"][height:], seen["east"][height:]
    settled = height + columns
    expected = staggered(above + x @ weights, axis_first=height)
    np.testing.assert_array_equal(sums[settled:], expected[settled:])
    np.testing.assert_array_equal(
        sign_extend(east, config.operand_bits)[settled:],
        staggered(x, axis_first=columns)[settled:])


@pytest.mark.parametrize("height", [1, 2, 4])
def test_sums_of_a_backward_wave_go_east(config, height, rng):
    columns = config.columns
    weights = drawn(rng, config.operand_bits, (height, columns))
    d = drawn(rng, config.gradient_bits, (CYCLES, columns))
    settings = {"mode": {"forward": 0, "two": 0, "four": 0}}
    cycles = [{**settings, "shift": [1] * columns, "weight_i": row} for row in weights]
    cycles += [{"shift": [0] * columns, "gradient_i": row} for row in staggered(d)]
    east = play(rows_of(config, height), cycles, "east")["east"][height:]
    np.testing.assert_array_equal(east, staggered(d @ weights.T, axis_first=columns))


@pytest.mark.parametrize("height", [1, 2, 4])
def test_gradients_go_south_and_the_rows_above_see_them(config, height, rng):
    gradients = drawn(rng, config.gradient_bits, (CYCLES, config.columns))
    below = drawn(rng, config.gradient_bits, (CYCLES, TAPS, config.columns))
    cycles = [{"gradient_i": d, "taps_i": taps} for d, taps in zip(gradients, below, strict=True)]
    seen = play(rows_of(config, height), cycles, "gradient_o", "taps_o")
    np.testing.assert_array_equal(seen["gradient_o"], late(gradients, height))
    own = [late(gradients, row + 1) for row in range(height)]
    expected = np.stack([*own, *below.transpose(1, 0, 2)][:TAPS], axis=1)
    np.testing.assert_array_equal(seen["taps_o"], expected)


@pytest.mark.parametrize("height", [1, 2, 4])
def test_a_shift_moves_one_column(config, height, rng):
    columns = config.columns
    shape = (CYCLES, columns)
    shifts = rng.integers(0, 2, shape)
    weights = drawn(rng, config.operand_bits, shape)
    gradients = drawn(rng, config.wgrad_bits, shape)
    cycles = [{"shift": bits, "weight_i": w, "drain_i": g}
              for bits, w, g in zip(shifts, weights, gradients, strict=True)]
    seen = play(rows_of(config, height), [*cycles, {"shift": [0] * columns}], "weight_o", "drain_o")
    for name, given in (("weight_o", weights), ("drain_o", gradients)):
        for column in range(columns):
            chain = [0] * height
            for cycle in range(CYCLES):
                assert seen[name][cycle, column] == chain[0]
                if shifts[cycle, column]:
                    chain = [*chain[1:], given[cycle, column]]


@pytest.mark.parametrize("height", [1, 2, 4])
def test_a_wave_reaches_the_row_below_after_every_row(config, height, rng):
    waves = rng.integers(0, 2, (CYCLES, 2))
    cycles = [{"wave_i": {"os": int(os), "swap": int(swap)}} for os, swap in waves]
    seen = play(rows_of(config, height), cycles, "wave_o")["wave_o"]
    np.testing.assert_array_equal(seen, late(waves @ [1, 2], height))
