"""Softmax by shifts and one division, its gradient and its report against floating point."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.budget import Budget
from gradloom_golden.confidence import NEVER
from gradloom_golden.confidence import margins as confidence_margins
from gradloom_golden.config import preset
from gradloom_golden.importance import draws_of
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.loss import (
    LOG2_E,
    LossUnit,
    binary_logarithm,
    cross_entropy,
    error,
    exponential_table,
    exponentials,
    loss_cycles,
    losses,
    margins,
    normalise,
    powers,
    probabilities,
)
from gradloom_golden.program import Descriptor, Opcode, SkipRule

TINY = preset("tiny")
EXPONENTS = [-6, -4, -2]
EVERY_DRAW = np.arange(65536)


def softmax(logits, exponent):
    scaled = np.asarray(logits) * 2.0 ** exponent
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def true_losses(logits, labels, exponent):
    """Return -log2 p_y in bits, without forming p_y, which may be too small."""
    scaled = np.asarray(logits) * 2.0 ** exponent
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    own = scaled[np.arange(len(labels)), labels]
    return (np.log(np.exp(scaled).sum(axis=1)) - own) / math.log(2)


def batch(rng, classes, count=200):
    return rng.integers(-100, 101, (count, classes)), rng.integers(0, classes, count)


def spread_batch(rng, classes, spread, count=500):
    """Return logits within `spread` of the largest, which a row has at least once."""
    logits = 127 - rng.integers(0, spread + 1, (count, classes))
    logits[np.arange(count), rng.integers(0, classes, count)] = 127
    return logits, rng.integers(0, classes, count)


def loss(**fields):
    return Descriptor(opcode=Opcode.LOSS, **{"threshold": NEVER, "first": 1, **fields})


def test_the_constant_is_the_nearest():
    assert round(65536 * math.log2(math.e)) == LOG2_E


def test_the_table_holds_rounded_exponentials():
    table = exponential_table()
    assert len(table) == 256
    for index, entry in enumerate(table.tolist()):
        assert abs(entry - 65536 * 2 ** (-index / 256)) <= 0.5
    assert table[0] == 65536


@pytest.mark.parametrize("exponent", range(-24, 9))
def test_powers_are_rounded(exponent):
    distances = np.arange(256)
    exact = distances * 2.0 ** exponent * LOG2_E / 65536
    found = powers(distances, exponent) / 256
    assert (np.abs(found - exact) <= 2 ** -9).all()


@pytest.mark.parametrize(("outside", "inside"), [(-64, -24), (63, 8)])
def test_powers_stop_where_exponentials_are_one_or_zero(outside, inside):
    distances = np.arange(256)
    assert powers(distances, outside).tolist() == powers(distances, inside).tolist()
    value = exponentials(powers(distances, inside))
    assert value.tolist() == [65536] + [65536 * (inside < 0)] * 255


def test_exponentials_are_cut_and_end_at_zero():
    power = np.arange(20 * 256)
    exact = 65536 * 2.0 ** (-power / 256)
    found = exponentials(power)
    assert (found <= exact + 0.5).all()
    assert (found > exact - 1.5).all()
    assert found[16 * 256] == 1
    assert not found[16 * 256 + 1:].any()
    assert exponentials(1 << 25) == 0


@given(st.integers(65536, (1 << 32) - 1))
def test_normalised_sums_have_a_leading_one(total):
    mantissa, dropped = normalise(total)
    assert 1 << 16 <= mantissa < 1 << 17
    assert mantissa == total >> dropped


@given(st.integers(65536, (1 << 32) - 1))
def test_logarithms_are_exact_to_three_units(total):
    exact = math.log2(total / 65536) * 65536
    assert exact - 3.5 <= binary_logarithm(total) <= exact


@pytest.mark.parametrize("bit", range(16))
def test_logarithms_of_powers_of_two_are_exact(bit):
    assert binary_logarithm(65536 << bit) == bit << 16


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("spread", [4, 30, 255])
@pytest.mark.parametrize("exponent", [-8, *EXPONENTS, 0])
def test_probabilities_equal_softmax(exponent, spread, classes, rng):
    logits, _ = spread_batch(rng, classes, spread)
    p = probabilities(logits, exponent)
    tolerance = math.log(2) * 2 ** -10 + (classes + 5) / 65536
    assert np.abs(p / 65536 - softmax(logits, exponent)).max() <= tolerance
    assert p.max() <= 65536
    assert p.min() >= 0


@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_sum_nearly_to_one(classes, rng):
    total = probabilities(batch(rng, classes)[0], -4).sum(axis=1)
    assert (np.abs(total - 65536) <= classes + 1).all()


def test_a_certain_class_has_all():
    assert probabilities([[0, -255], [-255, 0]], 0).tolist() == [[65536, 0], [0, 65536]]
    assert probabilities([[0, 0]], 0).tolist() == [[32768, 32768]]


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
            assert abs(d[t, j] * unit - min(slope, 1 - unit)) <= 0.51 * unit + 56 / 65536


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


@pytest.mark.parametrize("classes", [1, 2, 10, 100])
@pytest.mark.parametrize("spread", [4, 30, 255])
@pytest.mark.parametrize("exponent", [-8, *EXPONENTS, 0])
def test_losses_equal_floating_point(exponent, spread, classes, rng):
    logits, labels = spread_batch(rng, classes, spread)
    expected = true_losses(logits, labels, exponent)
    tolerance = 2 ** -8 + (classes + 5) * 2 ** -15 + 5e-6 * expected
    assert (np.abs(losses(logits, labels, exponent) / 65536 - expected) <= tolerance).all()


@pytest.mark.parametrize("exponent", [-6, -5])
def test_cross_entropy_equals_floating_point(exponent, rng):
    logits, labels = batch(rng, 10)
    expected = -np.log(softmax(logits, exponent)[np.arange(len(labels)), labels]).mean()
    assert cross_entropy(logits, labels, exponent) == pytest.approx(expected, rel=1e-3)


def test_cross_entropy_of_a_hopeless_sample_is_its_distance():
    assert cross_entropy([[255, 0]], [1], 0) == pytest.approx(255, rel=1e-5)


def test_a_confident_sample_still_has_a_loss():
    assert losses([[127, 0]], [0], -4).tolist() == [
        math.floor(65536 * math.log2(1 + exponentials(powers(127, -4)) / 65536))]


def test_a_label_that_names_no_class():
    logits = [[4, 2, 0], [-128, -128, -128]]
    labels = [3, 7]
    assert margins(logits, labels, bits=8).tolist() == [-132, 0]
    assert error(logits, labels, -1, bits=16).min() >= 0
    assert losses(logits, labels, -1).tolist() == losses(logits, [0, 0], -1).tolist()


def test_margins_are_those_of_confidence(rng):
    logits, labels = batch(rng, 7)
    assert margins(logits, labels, bits=8).tolist() == confidence_margins(logits, labels).tolist()


class TestUnit:
    """The unit's state from descriptor to descriptor."""

    def test_keeps_what_is_less_certain(self, rng):
        logits, labels = batch(rng, 4, 50)
        own = probabilities(logits, -4)[np.arange(50), labels]
        unit = LossUnit(TINY)
        limit = int(np.sort(own)[35])
        outcome = unit.run(loss(steps=50, classes=4, threshold=limit), logits, labels, -4)
        keep = np.flatnonzero(own < limit)
        assert len(keep) == 35
        assert outcome.keep.tolist() == keep.tolist()
        assert outcome.error.tolist() == error(logits[keep], labels[keep], -4, bits=8).tolist()
        assert (outcome.skipped, unit.kept) == (50 - len(keep), len(keep))
        assert outcome.correct == np.count_nonzero(confidence_margins(logits, labels) > 0)
        assert unit.loss == losses(logits, labels, -4).sum()
        expected = Budget()
        expected.add(own)
        assert unit.budget.sums.tolist() == expected.sums.tolist()

    def test_keeps_small_margins(self, rng):
        logits, labels = batch(rng, 4, 50)
        margin = confidence_margins(logits, labels)
        limit = int(margin.max())
        outcome = LossUnit(TINY).run(
            loss(steps=50, classes=4, threshold=limit, function=SkipRule.MARGIN),
            logits, labels, -4)
        assert outcome.keep.tolist() == np.flatnonzero(margin < limit).tolist()
        assert len(outcome.keep) < 50

    def test_a_tie_is_not_correct(self):
        logits = [[5, 5, 0], [6, 5, 0], [4, 5, 0]]
        outcome = LossUnit(TINY).run(loss(steps=3, classes=3), logits, [0, 0, 0], -4)
        assert outcome.correct == 1

    def test_keeps_what_the_budget_allows(self, rng):
        logits, labels = batch(rng, 4, 50)
        own = probabilities(logits, -4)[np.arange(50), labels]
        unit = LossUnit(TINY)
        d = loss(steps=50, classes=4, function=SkipRule.BUDGET, threshold=0)
        assert len(unit.run(d, logits, labels, -4).keep) == 50
        unit.choose(Descriptor(opcode=Opcode.THRESHOLD, bound=30000))
        expected = np.flatnonzero(own < unit.budget.threshold)
        assert len(expected) < 50
        assert unit.run(d, logits, labels, -4).keep.tolist() == expected.tolist()

    @pytest.mark.parametrize("rule", [SkipRule.PROBABILITY, SkipRule.MARGIN, SkipRule.BUDGET])
    def test_never_skips_a_certain_sample(self, rule):
        d = loss(steps=1, classes=2, function=rule)
        assert LossUnit(TINY).run(d, [[127, -128]], [0], 0).keep.tolist() == [0]

    def test_keeps_by_importance(self, rng):
        logits, labels = batch(rng, 4, 300)
        unit, lfsr = LossUnit(TINY), Lfsr(Bank.KEEP, 1, 77)
        unit.seed(77)
        own = probabilities(logits, -4)[np.arange(300), labels]
        for cap, extra in ((4, 0), (7, 2), (4, 0)):
            d = loss(steps=300, classes=4, function=SkipRule.IMPORTANCE,
                     threshold=cap + 16 * extra)
            unit.run(loss(steps=300, classes=4, schedule=1, function=SkipRule.IMPORTANCE),
                     logits, labels, -4)
            outcome = unit.run(d, logits, labels, -4)
            keep, shifts = [], []
            for t, probability in enumerate(own.tolist()):
                error_of_label = 1 - probability / 65536
                halvings = 0
                while halvings < cap and error_of_label * 2 ** (halvings + 1) < 1:
                    halvings += 1
                if int(draws_of(lfsr.draw(1))[0, 0]) < 65536 / 2 ** (halvings + extra):
                    keep.append(t)
                    shifts.append(halvings)
            assert outcome.keep.tolist() == keep
            assert outcome.skipped == 300 - len(keep) > 0
            gap = probabilities(logits[keep], -4) - 65536 * np.eye(4, dtype=int)[labels[keep]]
            expected = np.floor(gap * 2.0 ** np.array(shifts)[:, None] / 512 + 0.5)
            assert outcome.error.tolist() == np.clip(expected, -128, 127).tolist()
            assert max(shifts) > 1

    def test_draws_once_a_class_of_each_kept_sample(self, rng):
        logits, labels = batch(rng, 3, 20)
        unit, lfsr = LossUnit(TINY), Lfsr(Bank.ERROR, 1, 77)
        unit.seed(77)
        for threshold in (30000, 0, NEVER):
            d = loss(steps=20, classes=3, threshold=threshold, stochastic=1)
            outcome = unit.run(d, logits, labels, -4)
            keep = outcome.keep
            draws = [int(low_half(lfsr.draw(1))[0, 0]) for _ in range(3 * len(keep))]
            expected = error(logits[keep], labels[keep], -4, bits=8,
                             random=np.array(draws, int).reshape(len(keep), 3))
            assert outcome.error.tolist() == expected.tolist()

    def test_counts_on_until_the_next_batch(self, rng):
        logits, labels = batch(rng, 3, 4)
        unit = LossUnit(TINY)
        first = [
            unit.run(loss(steps=4, classes=3, first=first, first_sample=sample),
                     logits, labels, -4)
            for first, sample in ((1, 0), (0, 4), (1, 0))]
        assert [outcome.first_kept for outcome in first] == [0, 4, 0]
        assert first[1].keep.tolist() == [4, 5, 6, 7]
        assert unit.kept == 4

    def test_an_evaluation_changes_the_loss_only(self, rng):
        logits, labels = batch(rng, 3, 4)
        unit = LossUnit(TINY)
        unit.run(loss(steps=4, classes=3), logits, labels, -4)
        sums, once = unit.budget.sums.tolist(), unit.loss
        outcome = unit.run(loss(steps=4, classes=3, schedule=1), logits, labels, -4)
        assert (len(outcome.keep), len(outcome.error), outcome.skipped) == (0, 0, 0)
        assert (unit.kept, unit.loss, unit.budget.sums.tolist()) == (4, 2 * once, sums)


def test_cycles():
    assert loss_cycles(loss(steps=3, classes=10), 0) == 2 + 3 * 51
    assert loss_cycles(loss(steps=3, classes=10), 2) == 2 + 3 * 51 + 2 * 18
