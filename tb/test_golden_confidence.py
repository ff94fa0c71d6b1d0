"""The skip rule against loops, and its bounds on random probabilities."""

import math

import numpy as np
import pytest

from gradloom_golden.confidence import (
    NEVER,
    fraction,
    keep_list,
    margins,
    threshold_from_probability,
)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def sigmoid(margin):
    return 1 / (1 + math.exp(-margin))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_margins_and_keep_list_equal_loops(classes, rng):
    logits = rng.integers(-128, 128, (40, classes))
    labels = rng.integers(0, classes, 40)
    original = logits.copy()
    expected = []
    for row, label in zip(logits.tolist(), labels, strict=True):
        expected.append(row[label] - max(value for j, value in enumerate(row) if j != label))
    assert margins(logits, labels).tolist() == expected
    for threshold in (1, 20, 100, NEVER):
        kept = [t for t, margin in enumerate(expected) if margin < threshold]
        assert keep_list(logits, labels, threshold).tolist() == kept
    np.testing.assert_array_equal(logits, original)


def test_the_threshold_itself_skips():
    assert keep_list([[5, 0], [6, 0], [7, 0]], [0, 0, 0], 6).tolist() == [0]


def test_confidently_wrong_samples_and_ties_are_kept():
    assert keep_list([[127, -128], [3, 3]], [1, 0], 1).tolist() == [0, 1]


def test_never_keeps_every_sample():
    assert keep_list([[127, -128]], [0], NEVER).tolist() == [0]


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("spread", [0.1, 2, 20])
def test_confidence_in_the_label_bounds_the_squared_error(classes, spread, rng):
    p = softmax(rng.normal(0, spread, (2000, classes)))
    labels = rng.integers(0, classes, len(p))
    # 1 - p_y as the sum of the others, which keeps its digits when it is tiny.
    others = np.where(np.eye(classes, dtype=bool)[labels], 0, p)
    gap = others.sum(axis=1)
    squared = gap ** 2 + (others ** 2).sum(axis=1)
    assert (gap ** 2 * (1 + 1 / (classes - 1)) <= squared * (1 + 1e-9)).all()
    assert (squared <= 2 * gap ** 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("exponent", [-6, -4, 0])
@pytest.mark.parametrize("probability", [0.51, 0.8, 0.95, 0.999])
def test_with_two_classes_the_threshold_is_the_probability(probability, exponent):
    threshold = threshold_from_probability(probability, exponent)
    assert sigmoid(threshold * 2.0 ** exponent) >= probability
    assert threshold == 1 or sigmoid((threshold - 1) * 2.0 ** exponent) < probability


@pytest.mark.parametrize("probability", [0.6, 0.9])
def test_no_kept_sample_has_reached_the_probability(probability, rng):
    logits = rng.integers(-40, 41, (3000, 5))
    labels = logits.argmax(axis=1)
    keep = keep_list(logits, labels, threshold_from_probability(probability, -3))
    p = softmax(logits / 8)[np.arange(len(labels)), labels]
    assert 0 < len(keep) < len(labels)
    assert (p[keep] < probability).all()


def test_thresholds_stay_within_their_field():
    assert threshold_from_probability(0.5000001, 0) == 1
    assert threshold_from_probability(1 - 1e-12, -12) == NEVER


@pytest.mark.parametrize("probability", [0, 0.5, 1, 1.5, -1])
def test_rejects_a_probability_out_of_range(probability):
    message = rf"^a skip probability lies between 0\.5 and 1, not {probability}$"
    with pytest.raises(ValueError, match=message):
        threshold_from_probability(probability, -4)


def test_fractions_fit_their_field_and_are_none_that_means_never():
    assert [fraction(share) for share in (0, 2 ** -16, 0.5, 1 - 2 ** -15)] == [0, 1, 32768, 65534]
    assert [fraction(share) for share in (1 - 2 ** -16, 0.9999999)] == [NEVER - 1, NEVER - 1]
