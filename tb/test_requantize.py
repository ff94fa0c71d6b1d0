"""One narrowed element equals rounding and clipping as the golden model does them."""

import numpy as np
import pytest

from gradloom.requantize import RequantizeLane
from gradloom_golden.config import preset
from gradloom_golden.fixed import HALF, integer_range, round_shift, saturate
from simulate import play

TINY = preset("tiny")
CONFIGS = [
    TINY, TINY.with_changes(gradient_bits=16), TINY.with_changes(operand_bits=4, lanes=False),
    TINY.with_changes(accumulator_bits=24),
]


def cases(rng, bits):
    """Return totals around every limit, and random ones, with shifts and random bits."""
    low, high = integer_range(bits)
    edges = [0, low, high, *(sign * (1 << place) + step for place in (3, 4, 7, 8, 15, 16)
                             for sign in (-1, 1) for step in (-2, -1, 0, 1))]
    corners = [(edge, shift, random) for edge in edges for shift in (0, 1, 31)
               for random in (0, HALF, 0xFFFF)]
    magnitudes = rng.integers(low, high, 300, endpoint=True) >> rng.integers(0, bits - 1, 300)
    drawn = np.stack([magnitudes, rng.integers(0, 32, 300), rng.integers(0, 1 << 16, 300)], axis=1)
    return np.vstack([corners, drawn])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("pass_on", [1, 0])
@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("y_unsigned", [0, 1])
def test_equals_the_golden_model(config, pass_on, relu, y_unsigned, rng):
    totals, shifts, randoms = cases(rng, config.accumulator_bits).T
    flags = {"pass_on": pass_on, "relu": relu, "y_unsigned": y_unsigned}
    cycles = ({**flags, "total": total, "shift": shift, "random": random}
              for total, shift, random in zip(totals, shifts, randoms, strict=True))
    seen = play(RequantizeLane(config), cycles, "activation", "gradient", "positive", clocked=False)

    def rounded(total, shift, random):
        return int(round_shift(total * pass_on, int(shift), random))

    quotients = np.array([rounded(*case) for case in zip(totals, shifts, randoms, strict=True)])
    y = np.maximum(quotients, 0) if relu else quotients
    narrow = saturate(y, config.operand_bits, signed=not y_unsigned)
    gradient = saturate(quotients, config.gradient_bits)
    np.testing.assert_array_equal(seen["activation"], narrow & (1 << config.operand_bits) - 1)
    np.testing.assert_array_equal(seen["gradient"], gradient & (1 << config.gradient_bits) - 1)
    np.testing.assert_array_equal(seen["positive"], y > 0)


def test_needs_no_clock():
    assert not RequantizeLane.CLOCKED
