"""The update against Python integers, one weight at a time."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.fixed import HALF
from gradloom_golden.optimizer import Rule, join, split, update

EVERY_DRAW = np.arange(65536)
RULES = st.builds(
    Rule, gradient_shift=st.integers(0, 31), momentum=st.booleans(),
    decay_shift=st.integers(0, 7), rate_shift=st.integers(0, 31))
DRAWS = st.integers(0, 65535)


def clipped(value, bits):
    return min(max(value, -(1 << bits - 1)), (1 << bits - 1) - 1)


def rounded(value, shift, draw):
    return floor(Fraction(floor(Fraction(value * 65536, 1 << shift)) + draw, 65536))


def reference(master, velocity, gradient, rule, bits, draws):
    """Return one weight and its velocity after a step."""
    push = clipped(rounded(gradient, rule.gradient_shift, draws[0]), 16)
    if not rule.momentum:
        return clipped(master - push, bits), velocity
    swapped = int.from_bytes(draws[1].to_bytes(2, "big"), "little") ^ 0x8080
    velocity = clipped(velocity - rounded(velocity, rule.decay_shift, swapped) + push, 16)
    return clipped(master - rounded(velocity, rule.rate_shift, draws[1]), bits), velocity


@given(st.integers(12, 16), st.data(), RULES, st.tuples(DRAWS, DRAWS))
def test_update_equals_the_scalar_reference(bits, data, rule, draws):
    master = data.draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    velocity = data.draw(st.integers(-(1 << 15), (1 << 15) - 1))
    gradient = data.draw(st.integers(-(1 << 31), (1 << 31) - 1))
    got = update([[master]], [[velocity]], [[gradient]], rule, master_bits=bits,
                 random_gradient=[[draws[0]]], random_step=[[draws[1]]])
    expected = reference(master, velocity, gradient, rule, bits, draws)
    assert tuple(int(array[0, 0]) for array in got) == expected


def stepped(master, gradient, rule, *, velocity=0, draw=0):
    got = update(master, velocity, gradient, rule, master_bits=12, random_gradient=draw,
                 random_step=draw)
    return tuple(int(value) for value in got)


def test_everything_saturates():
    plain = Rule(gradient_shift=0)
    assert stepped(2000, -100, plain) == (2047, 0)
    assert stepped(-2000, 100, plain) == (-2048, 0)
    push = Rule(gradient_shift=0, momentum=True, decay_shift=7, rate_shift=5)
    assert stepped(0, 1 << 30, push) == (-1023, 32767)
    assert stepped(0, 1 << 30, push, velocity=32767) == (-1023, 32767)
    assert stepped(0, -(1 << 30), push, velocity=-32768) == (1024, -32768)


def test_momentum_keeps_part_of_the_velocity():
    rule = Rule(gradient_shift=2, momentum=True, decay_shift=3, rate_shift=1)
    assert stepped(0, 400, rule) == (-50, 100)
    assert stepped(-50, 0, rule, velocity=100, draw=HALF) == (-94, 87)
    assert stepped(0, 0, rule, velocity=0, draw=65535) == (0, 0)


def test_plain_descent_leaves_the_velocity():
    assert stepped(0, 8, Rule(gradient_shift=3), velocity=1234) == (-1, 1234)


@pytest.mark.parametrize("shift", [0, 4, 16])
@pytest.mark.parametrize("gradient", [1, -1, 777, -98765])
def test_the_mean_step_is_exact(gradient, shift):
    if shift == 0:
        gradient %= 1000
    got, _ = update(np.zeros(65536), np.zeros(65536), gradient, Rule(gradient_shift=shift),
                    master_bits=16, random_gradient=EVERY_DRAW, random_step=0)
    assert Fraction(int(got.sum()), 65536) == -Fraction(gradient, 1 << shift)


@pytest.mark.parametrize("velocity", [1, -3, 12345])
def test_the_mean_step_of_momentum_is_exact(velocity):
    rule = Rule(gradient_shift=0, momentum=True, decay_shift=7, rate_shift=8)
    kept = velocity * Fraction(127, 128)
    got, velocities = update(np.zeros(65536), velocity, 0, rule, master_bits=16,
                             random_gradient=0, random_step=EVERY_DRAW)
    assert Fraction(int(velocities.sum()), 65536) == kept
    assert Fraction(int(got.sum()), 65536) == -kept / 256


def test_weights_without_a_gradient_stay_where_they_are():
    """Whatever way a velocity dies down, half of them must die down the other way."""
    rng = np.random.default_rng(1)
    rule = Rule(gradient_shift=0, momentum=True, decay_shift=3, rate_shift=4)
    master, velocity = np.zeros(4096, np.int64), rng.integers(-7, 8, 4096)
    velocity -= velocity[::-1]
    for _ in range(200):
        master, velocity = update(
            master, velocity, 0, rule, master_bits=16, random_gradient=0,
            random_step=rng.integers(0, 65536, 4096))
    assert not velocity.any()
    assert abs(master.mean()) < 5 * master.std() / 64


@pytest.mark.parametrize(("master_bits", "operand_bits"), [(12, 8), (16, 8), (12, 4), (16, 4)])
def test_split_and_join(master_bits, operand_bits):
    residue_bits = master_bits - operand_bits
    half = 1 << master_bits - 1
    master = np.arange(-half, half)
    weight, residue = split(master, residue_bits)
    np.testing.assert_array_equal(join(weight, residue, residue_bits), master)
    assert ((0 <= residue) & (residue < 1 << residue_bits)).all()
    assert weight.min() == -(1 << operand_bits - 1)
    assert weight.max() == (1 << operand_bits - 1) - 1


def test_the_array_sees_the_weight_rounded_to_nearest():
    for master in range(-2048, 2048, 7):
        stands_for = Fraction(master - 8, 16)
        assert split(master, 4)[0] == floor(stands_for + Fraction(1, 2))
