"""The budget's threshold by hand, against a search, and its bound on squared errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.budget import BUCKETS, ONE, Budget, choose_cycles
from gradloom_golden.confidence import NEVER

WIDTH = ONE // BUCKETS


def chosen(probabilities, bound):
    budget = Budget()
    budget.add(probabilities)
    return budget.choose(bound)


def test_errors_add_to_their_bucket():
    budget = Budget()
    budget.add([65536, 65535, 64513, 64512, 32768, 1, 0])
    expected = np.zeros(BUCKETS, np.int64)
    expected[0] = 1023 ** 2 >> 16
    expected[1] = 1024 ** 2 >> 16
    expected[32] = 1 << 14
    expected[63] = (65535 ** 2 >> 16) + 65536
    assert budget.sums.tolist() == expected.tolist()


def test_sums_saturate():
    budget = Budget()
    for _ in range(3):
        budget.add(np.zeros(30000, int))
    assert budget.sums[63] == (1 << 32) - 1


@pytest.mark.parametrize(("bound", "edge"), [
    (15, 1), (16, 2), (79, 2), (80, 63), (65535, 63)])
def test_whole_buckets_within_the_budget_are_skipped(bound, edge):
    # Squares of 16, 64 and 65456 make 65536.
    assert chosen([65536 - 1024, 65536 - 2048, 40], bound) == ONE + 1 - edge * WIDTH


@pytest.mark.parametrize(("probabilities", "bound"), [
    ([], 65535), ([65536, 65536], 65535), ([65536, 30000, 20], 0), ([0, 100], 32767)])
def test_all_samples_stay_without_an_error_to_spend(probabilities, bound):
    threshold = chosen(probabilities, bound)
    kept = [p for p in probabilities if p < threshold or threshold == NEVER]
    assert kept == probabilities


def test_choosing_empties_the_buckets():
    budget = Budget()
    assert budget.threshold == NEVER
    budget.add([60000, 100])
    assert budget.choose(60000) == budget.threshold != NEVER
    assert not budget.sums.any()
    assert budget.choose(60000) == NEVER


@given(st.lists(st.integers(0, ONE), max_size=60), st.integers(1, 65535))
def test_the_threshold_is_the_lowest_edge_within_the_budget(probabilities, bound):
    squares = {p: (ONE - p) ** 2 >> 16 for p in probabilities}
    total = sum(squares[p] for p in probabilities)

    def spent(limit):
        return sum(squares[p] for p in probabilities if p >= limit)

    edges = [ONE + 1 - WIDTH * count for count in range(1, BUCKETS)]
    within = [edge for edge in edges if spent(edge) << 16 <= bound * total]
    expected = min(within) if total and within else NEVER
    assert chosen(probabilities, bound) == expected


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("bound", [655, 6554, 30000])
def test_the_bound_on_the_squared_error_holds(classes, bound, rng):
    p = rng.dirichlet(np.full(classes, 0.15), 2000)
    labels = np.where(rng.random(2000) < 0.8, p.argmax(axis=1), rng.integers(0, classes, 2000))
    own = np.floor(p[np.arange(2000), labels] * ONE).astype(int)
    gap = p - np.eye(classes)[labels]
    squared = (gap * gap).sum(axis=1)
    threshold = chosen(own, bound)
    skipped = own >= threshold
    assert skipped.any()
    share = 2 * bound / ONE * (1 - 1 / classes)
    assert squared[skipped].sum() <= share * squared.sum() + 2000 / (1 << 15)


def test_cycles():
    assert choose_cycles() == 148
