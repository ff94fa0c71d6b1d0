"""Which samples get a gradient: by the machine's rules as its golden unit, by others as told."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.confidence import threshold_from_probability  # noqa: E402
from gradloom_golden.config import PRESETS  # noqa: E402
from gradloom_golden.importance import draws_of  # noqa: E402
from gradloom_golden.lfsr import Bank, Lfsr  # noqa: E402
from gradloom_golden.loss import LossUnit  # noqa: E402
from gradloom_golden.program import Descriptor, Opcode, SkipRule  # noqa: E402
from gradloom_study.loss import error, judge  # noqa: E402
from gradloom_study.policies.skip import SKIPS, Schedule, make_skip  # noqa: E402
from gradloom_study.step import Integers  # noqa: E402

COUNT, CLASSES = 24, 5


def made(kind, *, epochs=4, samples=400, rates=(), seed=1, **options):
    schedule = Schedule(epochs=epochs, samples=samples, rates=rates)
    return make_skip({"kind": kind, **options}, schedule, np.random.default_rng(seed))


def judged(values, labels, exponent=-4):
    logits = Integers(torch.from_numpy(values).float()[:, None, None], exponent)
    return judge(logits, labels)


def batch(rng):
    return rng.integers(-128, 128, (COUNT, CLASSES)), rng.integers(0, CLASSES, COUNT)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 16), exponent=st.integers(-7, -2),
       kind=st.sampled_from(["threshold", "margin", "budget"]),
       share=st.sampled_from([0.51, 0.8, 0.95, 0.999999]))
def test_policies_keep_what_the_loss_unit_keeps(seed, exponent, kind, share):
    # Three epochs of three batches: the budget's threshold comes from the epoch before.
    rng = np.random.default_rng(seed)
    unit = LossUnit(PRESETS["tiny"])
    policy = made(kind, **{"error" if kind == "budget" else "probability": share})
    rule, threshold = {
        "threshold": (SkipRule.PROBABILITY, min(round(share * 65536), 65534)),
        "margin": (SkipRule.MARGIN, threshold_from_probability(share, exponent)),
        "budget": (SkipRule.BUDGET, 0),
    }[kind]
    for epoch in range(3):
        assert policy.start(epoch) is None
        for _ in range(3):
            values, labels = batch(rng)
            outcome = unit.run(Descriptor(
                opcode=Opcode.LOSS, steps=COUNT, classes=CLASSES, function=rule,
                threshold=threshold), values, labels, exponent)
            found = policy.keep(judged(values, labels, exponent), np.arange(COUNT))
            np.testing.assert_array_equal(np.flatnonzero(found), outcome.keep)
        policy.finish()
        if kind == "budget":
            unit.choose(Descriptor(opcode=Opcode.THRESHOLD, bound=min(round(share * 65536), 65534)))


class GoldenDraws:
    """In place of a policy's generator: what the machine draws for the samples it may keep."""

    def __init__(self, seed):
        self._lfsr = Lfsr(Bank.KEEP, 1, seed)

    def integers(self, high, size):
        assert high == 1 << 16
        return draws_of(self._lfsr.draw(size))[:, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 16), exponent=st.integers(-7, -2), cap=st.integers(0, 7),
       extra=st.integers(0, 7), bonus=st.integers(0, 100))
def test_importance_keeps_and_shifts_as_the_loss_unit(seed, exponent, cap, extra, bonus):
    rng = np.random.default_rng(seed)
    unit = LossUnit(PRESETS["tiny"])
    unit.seed(seed)
    policy = made("importance", cap=cap, extra=extra)
    policy.rng = GoldenDraws(seed)
    assert policy.boost(1, COUNT) == extra
    for _ in range(3):
        values, labels = batch(rng)
        values[np.arange(COUNT), labels] = np.minimum(
            values[np.arange(COUNT), labels] + bonus, 127)
        outcome = unit.run(Descriptor(
            opcode=Opcode.LOSS, steps=COUNT, classes=CLASSES, function=SkipRule.IMPORTANCE,
            threshold=cap + 16 * extra), values, labels, exponent)
        seen = judged(values, labels, exponent)
        keep = np.flatnonzero(policy.keep(seen, np.arange(COUNT)))
        np.testing.assert_array_equal(keep, outcome.keep)
        found = error(seen, keep, None, shift=policy.shifts(seen)[keep])
        np.testing.assert_array_equal(found.values[:, 0, 0].numpy(), outcome.error)


def test_extra_of_a_list_changes_in_equal_parts_of_the_run():
    policy = made("importance", epochs=7, cap=0, extra=[2, 0, 1])
    values = np.zeros((4096, CLASSES), np.int64)
    unsure, samples = judged(values, np.zeros(4096, np.int64)), np.arange(4096)
    found = []
    for epoch in range(7):
        policy.start(epoch)
        found.append(policy.boost(1, 4096))
        share = np.mean(policy.keep(unsure, samples))
        assert share == pytest.approx(2.0 ** -found[-1], abs=0.04)
    assert found == [2, 2, 2, 0, 0, 1, 1]


def test_at_the_threshold_a_sample_is_skipped():
    # Two equal logits of two classes have probability one half; exponent 0, margin ceil(ln 3) = 2.
    even, ahead = np.array([[3, 3], [4, 3]]), np.array([[3, 3], [5, 3], [4, 3]])
    labels = np.zeros(3, np.int64)
    assert made("threshold", probability=0.5).keep(
        judged(even, labels[:2], 0), labels[:2]).tolist() == [False, False]
    assert made("threshold", probability=0.501).keep(
        judged(even, labels[:2], 0), labels[:2]).tolist() == [True, False]
    assert made("margin", probability=0.75).keep(
        judged(ahead, labels, 0), labels).tolist() == [True, False, True]


def test_a_budget_goes_on_where_it_was_saved():
    rng = np.random.default_rng(2)
    one, two = made("budget", error=0.3), made("budget", error=0.3)
    values, labels = batch(rng)
    one.keep(judged(values, labels), np.arange(COUNT))
    one.finish()
    two.restore(one.state())
    first, second = (policy.keep(judged(values, labels), np.arange(COUNT))
                     for policy in (one, two))
    np.testing.assert_array_equal(first, second)
    assert not first.all()


def test_random_skips_at_its_rate_and_goes_on_where_it_was_saved():
    policy = made("random", rate=0.76)
    values, labels = batch(np.random.default_rng(1))
    seen = judged(values, labels)
    kept = [policy.keep(seen, np.arange(COUNT)).mean() for _ in range(2000)]
    assert abs(np.mean(kept) - 0.24) < 0.01
    other = made("random", rate=0.76, seed=9)
    other.restore(policy.state())
    first, second = (each.keep(seen, np.arange(COUNT)) for each in (policy, other))
    np.testing.assert_array_equal(first, second)


def test_random_follows_the_rates_of_another():
    policy = made("random", follows="budget", rates=(0.0, 1.0), epochs=2)
    values, labels = batch(np.random.default_rng(1))
    for epoch, keeps in ((0, True), (1, False)):
        policy.start(epoch)
        assert (policy.keep(judged(values, labels), np.arange(COUNT)) == keeps).all()


def test_dbpd_skips_the_easy_until_the_revision():
    policy = made("dbpd", threshold=0.3, epochs=10, revision=0.2)
    values, labels = batch(np.random.default_rng(1))
    seen = judged(values, labels)
    for epoch in range(10):
        policy.start(epoch)
        expected = seen.own < 0.3 * 65536 if epoch < 8 else np.ones(COUNT, bool)
        np.testing.assert_array_equal(policy.keep(seen, np.arange(COUNT)), expected)
    assert [policy.boost(kept, 64) for kept in (64, 46, 45, 16, 8, 1, 0)] == [0, 0, 1, 2, 3, 3, 0]
    assert made("dbpd", rescale=False).boost(8, 64) == 0


def test_dbpd_revises_in_the_last_epoch_at_least():
    policy = made("dbpd", epochs=3)
    values, labels = batch(np.random.default_rng(1))
    policy.start(2)
    assert policy.keep(judged(values, labels), np.arange(COUNT)).all()


def test_infobatch_prunes_half_of_the_easy_and_weighs_the_rest():
    policy = made("infobatch", epochs=8, samples=COUNT)
    assert policy.start(0) is None
    values, labels = batch(np.random.default_rng(1))
    seen = judged(values, labels)
    every = np.arange(COUNT)
    assert policy.keep(seen, every).all()
    assert policy.weights(every) is None
    easy = seen.losses < seen.losses.mean()
    counts = np.zeros(COUNT)
    for _ in range(500):
        visited = policy.start(1)
        assert visited is not None
        counts[visited] += 1
        np.testing.assert_array_equal(policy.weights(visited), np.where(easy[visited], 2.0, 1.0))
    assert (counts[~easy] == 500).all()
    assert abs(counts[easy].mean() / 500 - 0.5) < 0.05
    assert policy.start(7) is None
    assert policy.weights(every) is None
    again = made("infobatch", epochs=8, samples=COUNT, seed=5)
    again.restore(policy.state())
    np.testing.assert_array_equal(again.start(2), policy.start(2))


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": "luck"}, "unknown skip 'luck'; choose from none, threshold, margin, budget, "
                       "importance, random, dbpd, infobatch"),
    ({"kind": "threshold"}, "skip 'threshold' needs probability"),
    ({"kind": "threshold", "probability": 1.0}, "probability must be between 0 and 1, not 1.0"),
    ({"kind": "threshold", "probability": "half"}, "cannot have {'probability': 'half'}"),
    ({"kind": "margin", "probability": 0.4}, "a skip probability lies between 0.5 and 1, not 0.4"),
    ({"kind": "budget", "error": 0}, "error must be between 0 and 1, not 0"),
    ({"kind": "importance", "cap": 8}, "cap must be an integer from 0 to 7, not 8"),
    ({"kind": "importance", "extra": 0.5}, "extra must be an integer from 0 to 7, not 0.5"),
    ({"kind": "importance", "extra": [1, 8]}, "extra must be an integer from 0 to 7, not 8"),
    ({"kind": "importance", "extra": []}, r"extra must be an integer or a list .*, not \[\]"),
    ({"kind": "random"}, "random skipping takes either rate or follows, not None and ''"),
    ({"kind": "random", "rate": 1.0}, "rate must be from 0 to below 1, not 1.0"),
    ({"kind": "dbpd", "revision": math.inf}, "revision must be from 0 to 1, not inf"),
    ({"kind": "dbpd", "rescale": "no"}, "rescale must be true or false, not 'no'"),
    ({"kind": "infobatch", "anneal": -3}, "anneal must be from 0 to 1, not -3"),
    ({"kind": "infobatch", "ratio": 0.6}, "ratio must be above 0 and at most 0.5, not 0.6"),
])
def test_what_makes_no_policy_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_skip(options, Schedule(epochs=2, samples=10), np.random.default_rng(0))


def test_every_policy_keeps_to_the_interface():
    values, labels = batch(np.random.default_rng(1))
    options: dict[str, dict[str, Any]] = {
        "threshold": {"probability": 0.9}, "margin": {"probability": 0.9},
        "budget": {"error": 0.1}, "random": {"rate": 0.5}}
    for kind in SKIPS:
        policy = made(kind, samples=COUNT, **options.get(kind, {}))
        policy.start(0)
        found = policy.keep(judged(values, labels), np.arange(COUNT))
        assert (found.dtype, found.shape) == (bool, (COUNT,))
        policy.finish()
        policy.restore(policy.state())
