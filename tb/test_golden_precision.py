"""The angle rule against exact rationals: equal while all fits, else as near as cutting allows."""

import math
from fractions import Fraction

import numpy as np
import pytest

from gradloom_golden.precision import (
    MANTISSA_BITS,
    angle_within,
    bound_from_degrees,
    dot_products,
)

FULL_SCALE = 1 << MANTISSA_BITS
NEAR = Fraction(1, 1 << 18)


@pytest.mark.parametrize("shape", [(1,), (7, 3), (32, 32)])
def test_dot_products_are_exact(shape, rng):
    g = rng.integers(-(1 << 31), 1 << 31, shape)
    h = rng.integers(-(1 << 31), 1 << 31, shape)
    pairs = list(zip(g.ravel().tolist(), h.ravel().tolist(), strict=True))
    assert dot_products(g, h) == (
        sum(a * a for a, _ in pairs), sum(a * b for a, b in pairs), sum(b * b for _, b in pairs))


@pytest.mark.parametrize("scale", [1 << 11, 1 << 18, 1 << 30])
@pytest.mark.parametrize("noise", [0.1, 0.3, 1, 3])
def test_decides_as_exact_arithmetic_does(scale, noise, rng):
    decided = {True: 0, False: 0}
    for _ in range(60):
        g = rng.normal(0, 1, 24)
        h = g + noise * rng.normal(0, 1, 24)
        gg, gh, hh = dot_products(np.rint(g * scale).astype(int), np.rint(h * scale).astype(int))
        square = Fraction(gh * gh, gg * hh)
        bounds = [int(square * 65536 * 15 / 16), int((square + 1) / 2 * 65536)]
        for bound in [*bounds, *rng.integers(0, 65536, 4).tolist()]:
            if gh > 0 and abs(square - Fraction(bound, 65536)) < NEAR:
                continue
            expected = gh > 0 and square >= Fraction(bound, 65536)
            assert angle_within(gg, gh, hh, bound) == expected
            decided[expected] += 1
    assert min(decided.values()) > 10


@pytest.mark.parametrize("scale", [0, 1, 40])
def test_the_bound_itself_is_within(scale):
    gg = FULL_SCALE - 1 << scale
    assert angle_within(gg, gg, gg, 65535)
    half = FULL_SCALE >> 1 << scale
    assert angle_within(half, half >> 1, half, 1 << 14)
    assert not angle_within(half, half >> 1, half, (1 << 14) + 1)


@pytest.mark.parametrize("bits", [2, 6, 12, MANTISSA_BITS])
def test_products_that_fit_are_compared_exactly(bits, rng):
    decided = {True: 0, False: 0}
    for _ in range(300):
        gg, hh = rng.integers(1, 1 << bits, 2).tolist()
        gh = int(rng.integers(1, math.isqrt(gg * hh), endpoint=True))
        at = gh * gh * 65536 // (gg * hh)
        for bound in {min(at, 65535), min(at + 1, 65535), int(rng.integers(65536))}:
            expected = Fraction(gh * gh, gg * hh) >= Fraction(bound, 65536)
            assert angle_within(gg, gh, hh, bound) == expected, (gg, gh, hh, bound)
            decided[expected] += 1
    assert min(decided.values()) > 100


def test_a_small_product_does_not_hide_a_wide_angle():
    assert not angle_within(4000, 1, 4000, 65535)


@pytest.mark.parametrize("bound", [0, 30000, 65535])
def test_right_and_blunt_angles_are_never_within(bound):
    assert not angle_within(FULL_SCALE, 0, FULL_SCALE, bound)
    assert not angle_within(FULL_SCALE, -FULL_SCALE, FULL_SCALE, bound)
    assert not angle_within(FULL_SCALE, -1, FULL_SCALE, bound)
    assert not angle_within(0, 0, 0, bound)


def test_no_bound_takes_every_acute_angle():
    assert angle_within(FULL_SCALE - 1, 1, FULL_SCALE - 1, 0)


@pytest.mark.parametrize("degrees", [0.5, 10, 45, 60, 89])
def test_bound_from_degrees_is_the_squared_cosine(degrees):
    bound = bound_from_degrees(degrees)
    assert abs(bound / 65536 - math.cos(math.radians(degrees)) ** 2) <= 2.0 ** -16
    size = 1 << 30
    for nudge, expected in ((-0.3, True), (0.3, False)):
        angle = math.radians(degrees + nudge)
        h = [round(size * math.cos(angle)), round(size * math.sin(angle))]
        assert angle_within(*dot_products([size, 0], h), bound) == expected


def test_bounds_at_the_ends():
    assert bound_from_degrees(0) == 65535
    assert bound_from_degrees(90) == 0


@pytest.mark.parametrize("degrees", [-1, 90.5, 180])
def test_rejects_an_angle_out_of_range(degrees):
    message = rf"^an angle bound lies between 0 and 90 degrees, not {degrees}$"
    with pytest.raises(ValueError, match=message):
        bound_from_degrees(degrees)
