"""Sampling by importance: what it keeps, and that its mean is the gradient of all samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.importance import (
    MOST,
    PLACES,
    draws_of,
    error_shift,
    field,
    is_drawn,
    parts,
)
from gradloom_golden.lfsr import advance
from gradloom_golden.loss import error, probabilities

EVERY_DRAW = np.arange(65536)


@given(st.integers(0, 65536), st.integers(0, MOST))
def test_shifted_errors_stay_below_one(own, cap):
    shift = int(error_shift(own, cap))
    shifted = (65536 - own) * 2 ** shift
    assert 0 <= shift <= cap
    assert shift == 0 or shifted < 65536
    assert shift == cap or 2 * shifted >= 65536


@pytest.mark.parametrize("k", range(1, MOST + 1))
def test_an_error_of_a_power_of_two_shifts_to_a_half(k):
    assert error_shift([65536 - (65536 >> k), 65537 - (65536 >> k)], MOST).tolist() == [k - 1, k]


@pytest.mark.parametrize("halvings", range(2 * MOST + 1))
def test_a_sample_is_kept_by_one_draw_in_a_power_of_two(halvings):
    assert np.count_nonzero(is_drawn(halvings, EVERY_DRAW)) == 65536 >> halvings


@pytest.mark.parametrize("logit", [0, 35, 75, 110])
@pytest.mark.parametrize("cap", [0, 3, MOST])
def test_the_mean_over_all_draws_is_the_gradient(cap, logit):
    logits, labels = np.array([[logit, 0, -20]]), [0]
    [shift] = error_shift(probabilities(logits, -4)[:, 0], cap)
    assert shift == min(cap, {0: 0, 35: 2, 75: 6, 110: 9}[logit])
    # With 16 bits D is far finer than what is compared.
    [once] = error(logits, labels, -4, bits=16, shift=[shift])
    [whole] = error(logits, labels, -4, bits=16)
    mean = once * np.count_nonzero(is_drawn(shift, EVERY_DRAW)) / 65536
    assert np.abs(mean - whole).max() <= 0.5
    assert np.abs(once).max() < 32768


@pytest.mark.parametrize("exponent", range(-7, 1))
def test_a_shifted_gap_keeps_the_range(exponent, rng):
    # Two classes at every distance, and many that share what the label lacks.
    two = np.array([[127, 127 - distance] for distance in range(256)])
    many = rng.integers(-128, -60, (200, 300))
    many[:, 0] = rng.integers(-80, 128, 200)
    assert error_shift(probabilities(two, exponent)[:, 0], MOST).max() > 1
    for logits in (two, many):
        p = probabilities(logits, exponent)
        shift = error_shift(p[:, 0], MOST)
        gap = p - 65536 * (np.arange(p.shape[1]) == 0)
        assert (np.abs(gap) << shift[:, None]).max() <= 65536


def test_draws_of_two_samples_are_not_tied():
    # Each bit of a draw is a sum of bits of the seed; all that a cap looks at are independent.
    states = np.array([1 << bit for bit in range(31)])
    rows = []
    for _ in range(1024):
        draws = draws_of(states)
        rows.append([sum(int(draw >> 15 - n & 1) << bit for bit, draw in enumerate(draws))
                     for n in range(MOST)])
        states = advance(states)
    assert sorted(PLACES) == list(range(16))
    assert all(are_independent(rows[0] + row) for row in rows[1:])
    assert not are_independent([*rows[0], rows[0][0] ^ rows[0][3]])


def are_independent(forms):
    """Return whether no sum of the forms, integers of their bits, is zero."""
    basis = []
    for form in forms:
        rest = form
        for one in basis:
            rest = min(rest, rest ^ one)
        if not rest:
            return False
        basis.append(rest)
    return True


@given(st.integers(0, MOST), st.integers(0, MOST))
def test_fields_hold_both(cap, extra):
    assert parts(field(cap, extra)) == (cap, extra) == parts(field(cap, extra) | 0xFF88)


@pytest.mark.parametrize(("cap", "extra", "said"), [
    (8, 0, "cap must be an integer from 0 to 7, not 8"),
    (-1, 0, "cap must be an integer from 0 to 7, not -1"),
    (True, 0, "cap must be an integer from 0 to 7, not True"),
    (0, 9, "extra must be an integer from 0 to 7, not 9"),
])
def test_fields_are_refused(cap, extra, said):
    with pytest.raises(ValueError, match=said):
        field(cap, extra)
