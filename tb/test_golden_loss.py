"""Softmax, its gradient and its report against floating point."""

import math

import numpy as np
import pytest

from gradloom_golden.loss import cross_entropy, error, exponential_table, probabilities

EXPONENTS = [-6, -4, -2]
EVERY_DRAW = np.arange(65536)


def softmax(logits, exponent):
    scaled = np.asarray(logits) * 2.0 ** exponent
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def batch(rng, classes, count=200):
    return rng.integers(-100, 101, (count, classes)), rng.integers(0, classes, count)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_table_holds_rounded_exponentials(exponent):
    table = exponential_table(exponent)
    assert len(table) == 256
    for index, entry in enumerate(table.tolist()):
        assert abs(entry - 65536 * math.exp(-index * 2.0 ** exponent)) <= 0.5
    assert table[0] == 65536


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_probabilities_equal_softmax(exponent, classes, rng):
    logits, _ = batch(rng, classes)
    p = probabilities(logits, exponent)
    tolerance = (1 + 0.5 * classes) / 65536
    assert np.abs(p / 65536 - softmax(logits, exponent)).max() <= tolerance
    assert (p.sum(axis=1) <= 65536).all()
    assert (p.sum(axis=1) > 65536 - classes).all()


def test_far_logits_share_the_last_entry():
    near, far = probabilities([[0, -255], [0, -5000]], -4)
    assert near.tolist() == far.tolist()
    nearer, near = probabilities([[0, -254], [0, -255]], -6)
    assert nearer.tolist() != near.tolist()


def test_only_differences_count():
    shifted = probabilities([[10, -20, 30], [-90, -120, -70]], -4)
    assert shifted[0].tolist() == shifted[1].tolist()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_error_is_the_slope_of_the_cross_entropy(exponent, bits, rng):
    logits, labels = batch(rng, 6, 20)
    d = error(logits, labels, exponent, bits=bits)
    width, unit = 1e-3, 2.0 ** -(bits - 1)
    for t, label in enumerate(labels):
        for j in range(6):
            moved = np.repeat(logits[t][None].astype(float), 2, axis=0)
            moved[:, j] += [width, -width]
            up, down = -np.log(softmax(moved, exponent)[:, label])
            slope = (up - down) / (2 * width) / 2.0 ** exponent
            assert abs(d[t, j] * unit - min(slope, 1 - unit)) <= 0.51 * unit + 5 / 65536


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("classes", [2, 10])
def test_errors_of_a_sample_nearly_cancel(classes, bits, rng):
    d = error(*batch(rng, classes), -4, bits=bits)
    assert np.abs(d.sum(axis=1)).max() <= classes


def test_error_has_the_sign_of_p_less_y(rng):
    logits, labels = batch(rng, 5)
    d = error(logits, labels, -4, bits=16)
    labelled = np.eye(5, dtype=bool)[labels]
    assert (d[labelled] <= 0).all()
    assert (d[~labelled] >= 0).all()


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -128, 127), (16, -32768, 32767)])
def test_error_saturates(bits, low, high):
    d = error([[255, 0]], [1], 0, bits=bits)
    assert d.tolist() == [[high, low]]


def test_random_rounding_of_the_error_is_unbiased():
    logits = np.repeat([[7, 0, -9]], 65536, axis=0)
    draws = np.repeat(EVERY_DRAW[:, None], 3, axis=1)
    d = error(logits, np.zeros(65536, int), -4, bits=8, random=draws)
    gap = probabilities([[7, 0, -9]], -4)[0] - [65536, 0, 0]
    assert (d.sum(axis=0) * 512 == gap * 65536).all()


def test_the_error_does_not_depend_on_the_batch(rng):
    logits, labels = batch(rng, 4)
    whole = error(logits, labels, -4, bits=8)
    assert error(logits[5:7], labels[5:7], -4, bits=8).tolist() == whole[5:7].tolist()


@pytest.mark.parametrize("exponent", [-6, -5])
def test_cross_entropy_equals_floating_point(exponent, rng):
    logits, labels = batch(rng, 10)
    expected = -np.log(softmax(logits, exponent)[np.arange(len(labels)), labels]).mean()
    assert cross_entropy(logits, labels, exponent) == pytest.approx(expected, rel=2e-3)


def test_cross_entropy_of_a_hopeless_sample_is_finite():
    assert cross_entropy([[255, 0]], [1], 0) == pytest.approx(math.log(65536))
