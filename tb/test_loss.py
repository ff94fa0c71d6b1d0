"""The loss unit against `gradloom_golden.loss`, in every rule and layout."""

import numpy as np
import pytest

from gradloom.loss import Loss
from gradloom_golden.budget import choose_cycles
from gradloom_golden.confidence import NEVER
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from gradloom_golden.importance import MOST, error_shift, field
from gradloom_golden.loss import LossUnit, loss_cycles, margins, probabilities
from gradloom_golden.program import Descriptor, Opcode, SkipRule
from simulate import memory, put, simulate

TINY = preset("tiny")
CONFIGS = [TINY, TINY.with_changes(columns=8, gradient_bits=16),
           TINY.with_changes(operand_bits=4, lanes=False)]
START_CYCLES = 2
"""A descriptor is accepted and started before its unit is busy."""

CLEAR = None
"""In place of a job: zero the loss."""

X_BASE, X_STRIDE, OUT_BASE, OUT_STRIDE = 5, 40, 3, 38


def loss(logits, labels, *, exponent=-4, **fields):
    """Return a job: a LOSS descriptor for these logits, with them."""
    steps, classes = logits.shape
    given = {"x_base": X_BASE, "x_stride": X_STRIDE, "out_base": OUT_BASE,
             "out_stride": OUT_STRIDE, "first": 1, "threshold": NEVER, **fields}
    d = Descriptor(opcode=Opcode.LOSS, steps=steps, classes=classes, **given)
    return d, logits, labels, exponent


def threshold(bound):
    return Descriptor(opcode=Opcode.THRESHOLD, bound=bound), None, None, 0


class Bench:
    """A loss unit with its memories, beside the golden unit; runs jobs on both and compares.

    Parameters
    ----------
    seed : int or None
        Put in before the first job; None leaves what the unit starts with.
    """

    def __init__(self, config, rng, *, seed=None):
        self.config = config
        self.rng = rng
        self.seed = seed
        self.dut = Loss(config)
        self.golden = LossUnit(config)
        self.buffer = np.zeros((config.activation_depth, config.lane_count), np.int64)
        self.labels = np.zeros(config.steps_depth, np.int64)
        self.outcomes = []

    def run(self, jobs):
        dut = self.dut

        async def testbench(ctx):
            if self.seed is not None:
                self.golden.seed(self.seed)
                put(ctx, dut.seed, self.seed)
                put(ctx, dut.seed_load, 1)
            await ctx.tick()
            put(ctx, dut.seed_load, 0)
            for job in jobs:
                if job is CLEAR:
                    await self._clear(ctx)
                else:
                    await self._job(ctx, *job)
                assert ctx.get(dut.loss_sum) == self.golden.loss
                assert ctx.get(dut.kept) == self.golden.kept
                assert ctx.get(dut.threshold) == self.golden.budget.threshold

        simulate(dut, testbench, processes=[
            memory(self.buffer, dut.read_address, dut.read_data, dut.read_en),
            memory(self.labels, dut.label_address, dut.label, dut.read_en)])
        return self.outcomes

    async def _job(self, ctx, d, logits, labels, exponent):
        dut = self.dut
        if logits is not None:
            self._store(d, logits, labels)
        put(ctx, dut.exponent, exponent)
        ctx.set(dut.descriptor.as_value(),
                sum(word << 32 * index for index, word in enumerate(d.encode())))
        put(ctx, dut.start, 1)
        assert not ctx.get(dut.busy)
        await ctx.tick()
        put(ctx, dut.start, 0)
        seen = await self._watch(ctx)
        if d.opcode == Opcode.THRESHOLD:
            self.golden.choose(d)
            assert seen == ({}, {}, {"skipped": 0, "kept": 0, "correct": 0},
                            choose_cycles() - START_CYCLES)
            return
        outcome = self.golden.run(d, logits, labels, exponent)
        self.outcomes.append(outcome)
        count = len(outcome.keep)
        keep = {outcome.first_kept + r: t for r, t in enumerate(outcome.keep.tolist())}
        assert seen == (
            keep, self._words(d, outcome),
            {"skipped": outcome.skipped, "kept": count, "correct": outcome.correct},
            loss_cycles(d, count) - START_CYCLES)

    async def _clear(self, ctx):
        put(ctx, self.dut.clear_loss, 1)
        await ctx.tick()
        put(ctx, self.dut.clear_loss, 0)
        self.golden.loss = 0

    def _store(self, d, logits, labels):
        """Lay out the logits, noise behind the last class and wherever no word is read."""
        lanes, bits = self.config.lane_count, self.config.operand_bits
        steps, classes = logits.shape
        self.buffer[:] = self.rng.integers(0, 1 << bits, self.buffer.shape)
        for column in range(classes):
            rows = d.x_base + column // lanes * d.x_stride + np.arange(steps)
            self.buffer[rows, column % lanes] = logits[:, column] & (1 << bits) - 1
        self.labels[:] = self.rng.integers(0, classes, self.labels.shape)
        self.labels[d.first_sample:d.first_sample + steps] = labels

    def _words(self, d, outcome):
        """Return what should be written, by address."""
        lanes, bits = self.config.lane_count, self.config.gradient_bits
        words = {}
        for row, error in enumerate(outcome.error.tolist()):
            padded = error + [0] * (-len(error) % lanes)
            for block in range(len(padded) // lanes):
                address = d.out_base + block * d.out_stride + outcome.first_kept + row
                words[address] = [value & (1 << bits) - 1
                                  for value in padded[block * lanes:(block + 1) * lanes]]
        return words

    async def _watch(self, ctx):
        """Return the entries of the keep list, the words of D, samples counted and cycles."""
        dut = self.dut
        keep, words, busy = {}, {}, 0
        counts = {"skipped": 0, "kept": 0, "correct": 0}
        while ctx.get(dut.busy):
            busy += 1
            counts["skipped"] += ctx.get(dut.skipped_one)
            counts["kept"] += ctx.get(dut.kept_one)
            counts["correct"] += ctx.get(dut.correct_one)
            if ctx.get(dut.keep_write_en):
                address = ctx.get(dut.keep_write_address)
                assert address not in keep
                keep[address] = ctx.get(dut.keep_write_data)
            if ctx.get(dut.gradient_write_en):
                address = ctx.get(dut.gradient_write_address)
                assert address not in words
                words[address] = [ctx.get(dut.gradient_write_data[lane])
                                  for lane in range(self.config.lane_count)]
            await ctx.tick()
        for port in (dut.keep_write_en, dut.gradient_write_en, dut.kept_one, dut.correct_one):
            assert not ctx.get(port)
        return keep, words, counts, busy


def batch(rng, config, steps, classes, *, confident=False):
    """Return random logits and labels; `confident` ones mostly agree."""
    low, high = integer_range(config.operand_bits)
    logits = rng.integers(low, high, (steps, classes), endpoint=True)
    labels = rng.integers(0, classes, steps)
    if confident:
        logits //= 3
        logits[np.arange(steps), labels] = rng.integers(0, high, steps, endpoint=True)
    return logits, labels


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_golden_unit_in_every_shape(config, rng):
    lanes = config.lane_count
    jobs = []
    for steps, classes in ((5, 10), (1, 2), (4, lanes), (3, 3 * lanes + 1), (2, lanes + 1)):
        for exponent in (-3, int(rng.integers(-7, 0))):
            logits, labels = batch(rng, config, steps, classes)
            logits[0] = integer_range(config.operand_bits)[0]
            jobs.append(loss(logits, labels, exponent=exponent))
    outcomes = Bench(config, rng).run(jobs)
    assert sum(outcome.correct for outcome in outcomes)
    assert all(len(outcome.keep) == len(job[1])
               for outcome, job in zip(outcomes, jobs, strict=True))


def test_a_whole_batch_of_extremes(rng):
    low, high = integer_range(8)
    logits = rng.choice([low, -1, 0, high], (TINY.steps_depth, 6))
    labels = rng.integers(0, 6, len(logits))
    Bench(TINY, rng).run([
        loss(logits, labels, exponent=exponent) for exponent in (-4, 0)])


def test_every_exponent(rng):
    jobs = []
    for exponent in (-64, -40, -24, -23, -22, -9, -1, 0, 1, 4, 7, 8, 9, 10, 40, 63):
        logits = np.array([[127, -128, 126], [3, 3, 2], *rng.integers(-128, 128, (1, 3))])
        jobs.append(loss(logits, np.array([1, 0, 2]), exponent=exponent))
    Bench(TINY, rng).run(jobs)


def test_many_equal_classes(rng):
    # Of equal logits the sum has as many bits more as the number of classes.
    config = TINY.with_changes(activation_depth=1024)
    jobs = []
    for classes in (1, 2, 3, 7, 8, 15, 16, 17, 64, 129, 256):
        equal = np.zeros((1, classes), np.int64)
        jobs.append(loss(equal, np.array([classes // 2]), x_stride=1, out_stride=1))
    Bench(config, rng).run(jobs)


@pytest.mark.parametrize("config", CONFIGS)
def test_stochastic_rounding_draws_once_a_class_of_each_kept_sample(config, rng):
    logits, labels = batch(rng, config, 6, 5, confident=True)
    middle = int(np.median(margins(logits, labels, bits=config.operand_bits)))
    jobs = [
        loss(logits, labels, stochastic=1),
        loss(logits, labels, stochastic=1, function=SkipRule.MARGIN, threshold=max(0, middle)),
        loss(logits, labels),
        loss(logits, labels, stochastic=1, schedule=1),
        loss(logits, labels, stochastic=1),
    ]
    default = Bench(config, rng).run(jobs)
    seeded = Bench(config, rng, seed=12345).run(jobs)
    assert 0 < len(default[1].keep) < 6
    assert default[0].error.tolist() != default[4].error.tolist()
    assert default[0].error.tolist() != seeded[0].error.tolist()


@pytest.mark.parametrize("rule", [SkipRule.PROBABILITY, SkipRule.MARGIN])
def test_thresholds_on_both_sides(rule, rng):
    logits, labels = batch(rng, TINY, 16, 4, confident=True)
    values = margins(logits, labels, bits=8)
    if rule == SkipRule.PROBABILITY:
        values = probabilities(logits, -4)[np.arange(16), labels]
    positive = np.sort(values[(values > 0) & (values < NEVER)])
    limits = sorted({0, 1, NEVER, NEVER - 1,
                     *(int(positive[len(positive) // 2]) + step for step in (-1, 0, 1))})
    outcomes = Bench(TINY, rng).run([
        loss(logits, labels, function=rule, threshold=limit) for limit in limits])
    for limit, outcome in zip(limits, outcomes, strict=True):
        expected = np.ones(16, bool) if limit == NEVER else values < limit
        assert outcome.keep.tolist() == np.flatnonzero(expected).tolist()


def test_never_keeps_a_certain_sample(rng):
    logits = np.array([[127, -128], [-128, 127]])
    certain = np.array([0, 1])
    assert probabilities(logits, 0).max() == 65536
    for rule in (SkipRule.PROBABILITY, SkipRule.MARGIN, SkipRule.BUDGET):
        [outcome] = Bench(TINY, rng).run([
            loss(logits, certain, exponent=0, function=rule)])
        assert outcome.keep.tolist() == [0, 1]


@pytest.mark.parametrize("config", CONFIGS)
def test_importance_draws_once_a_sample_and_shifts_the_error(config, rng):
    logits, labels = batch(rng, config, 16, 5, confident=True)
    exponent = 3 - config.operand_bits
    jobs = []
    for stochastic, threshold in ((1, field(0)), (0, field(MOST)), (1, field(2, 1))):
        by_importance = {"function": SkipRule.IMPORTANCE, "threshold": threshold,
                         "stochastic": stochastic, "exponent": exponent}
        jobs.append(loss(logits, labels, **by_importance))
        # An evaluation draws nothing, nor does another rule.
        jobs.append(loss(logits[:2], labels[:2], **by_importance, schedule=1))
        jobs.append(loss(logits[:2], labels[:2], threshold=threshold, exponent=exponent))
    jobs.append(jobs[3])
    kept = [outcome.keep.tolist() for outcome in Bench(config, rng).run(jobs)[::3]]
    seeded = [outcome.keep.tolist() for outcome in Bench(config, rng, seed=12345).run(jobs)[::3]]
    assert kept[0] == seeded[0] == list(range(16))
    assert all(0 < len(some) < 16 for some in kept[1:])
    assert kept[1] != kept[3]
    assert kept != seeded


@pytest.mark.parametrize("config", CONFIGS)
def test_importance_keeps_samples_of_each_shift(config, rng):
    # Two classes: the label's error goes through its powers of two as the distance grows. A sample
    # of shift k comes often enough to be kept.
    low, high = integer_range(config.operand_bits)
    exponent = 3 - config.operand_bits
    own = probabilities([[high, high - d] for d in range(high - low + 1)], exponent)[:, 0]
    shifts = error_shift(own, MOST)
    distances = [int(np.flatnonzero(shifts == k)[0]) for k in range(MOST + 1)]
    jobs, seen = [], set()
    for k, distance in enumerate(distances):
        logits = np.array([[high, high - distance]] * 32)
        jobs += [loss(logits, np.zeros(32, int), exponent=exponent, stochastic=1, first=chunk == 0,
                      out_base=0, out_stride=1, function=SkipRule.IMPORTANCE, threshold=field(MOST))
                 for chunk in range(1 + (1 << k) // 16)]
    bench = Bench(config.with_changes(gradient_depth=512, steps_depth=64), rng, seed=3)
    for outcome, (_, logits, _, _) in zip(bench.run(jobs), jobs, strict=True):
        if len(outcome.keep):
            seen.add(int(logits[0, 0] - logits[0, 1]))
    assert seen == set(distances)


def test_importance_of_the_certain_the_hopeless_and_the_unlabelled(rng):
    logits = np.array([[127, -128], [-128, 127], [127, -128], [0, 0]] * 8)
    labels = np.array([0, 0, 9, 65535] * 8)
    first, second = Bench(TINY, rng).run([
        loss(logits[:16], labels[:16], exponent=0, function=SkipRule.IMPORTANCE,
             threshold=field(3)),
        loss(logits[16:], labels[16:], exponent=0, function=SkipRule.IMPORTANCE,
             threshold=field(3), first=0, first_sample=16)])
    # Of each four samples the last three have all error there is: they always stay.
    for outcome in (first, second):
        assert {t % 4 for t in outcome.keep.tolist()} >= {1, 2, 3}
        assert np.count_nonzero(outcome.keep % 4) == 12
    assert second.first_kept == len(first.keep)


def test_importance_does_not_know_more_fields(rng):
    logits, labels = batch(rng, TINY, 20, 4, confident=True)
    plain, noisy = (Bench(TINY, rng).run([loss(
        logits, labels, function=SkipRule.IMPORTANCE, threshold=field(3, 1) | other)])
        for other in (0, 0xFF88))
    assert plain[0].keep.tolist() == noisy[0].keep.tolist()


@pytest.mark.parametrize("config", CONFIGS[:2])
def test_the_budget_chooses_a_threshold_from_what_was_seen(config, rng):
    jobs, limits = [], []
    for bound in (0, 2000, 20000, 60000, 65535):
        for chunk in range(2):
            logits, labels = batch(rng, config, 16, 5, confident=True)
            jobs.append(loss(logits, labels, function=SkipRule.BUDGET, first=chunk == 0,
                             first_sample=16 * chunk))
        jobs.append(threshold(bound))
        limits.append(len(jobs))
    # Nothing was seen since the last, so nothing is skipped.
    jobs.append(threshold(30000))
    logits, labels = batch(rng, config, 8, 5, confident=True)
    jobs.append(loss(logits, labels, function=SkipRule.BUDGET))
    bench = Bench(config, rng)
    outcomes = bench.run(jobs)
    skipped = [outcome.skipped for outcome in outcomes]
    assert skipped[:4] == [0] * 4
    assert any(skipped[4:-1])
    assert skipped[-1] == 0


def test_a_budget_remembers_samples_that_another_rule_skips(rng):
    logits, labels = batch(rng, TINY, 20, 4, confident=True)
    bench = Bench(TINY, rng)
    bench.run([loss(logits, labels, function=SkipRule.MARGIN, threshold=0), threshold(30000)])
    assert bench.golden.budget.threshold != NEVER


def test_chunks_of_a_batch_go_on_where_the_last_ended(rng):
    parts = [batch(rng, TINY, steps, 6, confident=True) for steps in (7, 1, 9)]
    first_samples, jobs = (0, 7, 8), []
    for first, (logits, labels) in zip(first_samples, parts, strict=True):
        jobs.append(loss(logits, labels, first=first == 0, first_sample=first, threshold=50000))
    # An evaluation between two chunks leaves the batch alone, even with `first`.
    jobs.insert(2, loss(*parts[0], schedule=1, first=1))
    bench = Bench(TINY, rng)
    outcomes = [outcome for index, outcome in enumerate(bench.run(jobs)) if index != 2]
    kept = np.cumsum([len(outcome.keep) for outcome in outcomes]).tolist()
    assert [outcome.first_kept for outcome in outcomes] == [0, *kept[:-1]]
    assert 0 < kept[0] < 7
    assert bench.golden.kept == kept[-1]
    again = bench.golden.kept
    bench = Bench(TINY, rng)
    bench.run([*jobs, jobs[0]])
    assert bench.golden.kept == kept[0] != again


def test_an_evaluation_only_adds_loss_and_counts_what_is_correct(rng):
    logits, labels = batch(rng, TINY, 9, 5, confident=True)
    bench = Bench(TINY, rng)
    [outcome] = bench.run([
        loss(logits, labels, schedule=1), threshold(40000)])
    assert outcome.correct > 0
    assert bench.golden.loss > 0
    # Its samples are no part of the budget.
    assert bench.golden.budget.threshold == NEVER


def test_a_label_that_names_no_class_has_no_probability(rng):
    logits = np.array([[9, 0, 0], [-128, -128, -128], [-128, -128, -127], [127, 0, 3]])
    # The fourth lane of the word is behind the last class, and is none either.
    labels = np.array([1, 3, 9, 65535])
    [outcome, by_margin] = Bench(TINY, rng).run([
        loss(logits, labels, threshold=1),
        loss(logits, labels, function=SkipRule.MARGIN, threshold=0)])
    assert outcome.keep.tolist() == [1, 2, 3]
    assert outcome.correct == 0
    assert (outcome.error >= 0).all()
    assert by_margin.keep.tolist() == [0, 2, 3]


def test_a_tie_is_not_correct(rng):
    logits = np.array([[5, 5, 0], [6, 5, 0], [4, 5, 0]])
    [outcome] = Bench(TINY, rng).run([loss(logits, np.zeros(3, int))])
    assert outcome.correct == 1


def test_the_loss_can_be_cleared(rng):
    bench = Bench(TINY, rng)
    job = loss(*batch(rng, TINY, 3, 4))
    bench.run([job, CLEAR, job, job])
    twice = bench.golden.loss
    bench = Bench(TINY, rng)
    bench.run([job])
    assert bench.golden.loss * 2 == twice > 0
