"""Rounding, saturation and sign against exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.fixed import HALF, integer_range, round_shift, saturate, sign_extend

VALUES = st.integers(-(1 << 46), (1 << 46) - 1)
SHIFTS = st.integers(0, 31)
DRAWS = st.integers(0, 65535)
EVERY_DRAW = np.arange(65536)


@given(VALUES, SHIFTS, DRAWS)
def test_round_shift_adds_the_draw_to_the_cut_fraction(value, shift, draw):
    cut = Fraction(floor(Fraction(value, 1 << shift) * 65536), 65536)
    assert round_shift(value, shift, draw) == floor(cut + Fraction(draw, 65536))


@given(VALUES, SHIFTS)
def test_half_rounds_to_nearest_halves_up(value, shift):
    expected = floor(Fraction(value, 1 << shift) + Fraction(1, 2))
    assert round_shift(value, shift) == round_shift(value, shift, HALF) == expected


@pytest.mark.parametrize("shift", [0, 1, 7, 15, 16])
@pytest.mark.parametrize("value", [0, 1, -1, 127, -129, 54321, -98765, (1 << 46) - 1, -(1 << 46)])
def test_stochastic_rounding_is_unbiased(value, shift):
    total = sum(round_shift(value, shift, EVERY_DRAW).tolist())
    assert Fraction(total, 65536) == Fraction(value, 1 << shift)


@pytest.mark.parametrize("shift", [17, 24, 31])
@pytest.mark.parametrize("value", [1, -1, 54321, -98765, (1 << 46) - 1, -(1 << 46)])
def test_longer_shifts_are_biased_by_less_than_one_draw(value, shift):
    total = sum(round_shift(value, shift, EVERY_DRAW).tolist())
    assert 0 <= Fraction(value, 1 << shift) - Fraction(total, 65536) < Fraction(1, 65536)


@given(VALUES, SHIFTS)
def test_an_exact_quotient_ignores_the_draw(value, shift):
    value >>= shift
    assert round_shift(value << shift, shift, 65535) == round_shift(value << shift, shift, 0)


def test_round_shift_broadcasts_the_draws():
    rounded = round_shift([[3], [5]], 2, [0, 65535])
    assert rounded.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(("bits", "signed", "expected"), [
    (8, True, (-128, 127)), (8, False, (0, 255)), (1, True, (-1, 0)), (2, False, (0, 3)),
    (32, True, (-(1 << 31), (1 << 31) - 1)),
])
def test_integer_range(bits, signed, expected):
    assert integer_range(bits, signed=signed) == expected


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_saturate_keeps_the_range_and_clips_the_rest(bits, signed):
    low, high = integer_range(bits, signed=signed)
    values = [low - 1, low, low + 1, high - 1, high, high + 1, -(1 << 40), 1 << 40]
    expected = [low, low, low + 1, high - 1, high, high, low, high]
    assert saturate(values, bits, signed=signed).tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 31])
def test_sign_extend_reads_low_bits_as_twos_complement(bits):
    low, high = integer_range(bits)
    values = np.array([low, -1, 0, high])
    for above in (0, 1, 5):
        raw = (values & (1 << bits) - 1) | above << bits
        assert sign_extend(raw, bits).tolist() == values.tolist()
