"""The confidence comparator lists the samples that `gradloom_golden.confidence` keeps."""

import numpy as np
import pytest

from gradloom.confidence import Confidence
from gradloom_golden import confidence as golden
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import Descriptor, Opcode
from simulate import memory, put, simulate

TINY = preset("tiny")
CONFIGS = [TINY, TINY.with_changes(columns=8), TINY.with_changes(operand_bits=4, lanes=False)]
BASE = 5


class Bench:
    """A comparator with its logits and labels; runs one descriptor after the other."""

    def __init__(self, config):
        self.config = config
        self.dut = Confidence(config)
        self.buffer = np.zeros((config.activation_depth, config.lane_count), np.int64)
        self.labels = np.zeros(config.steps_depth, np.int64)
        self.kept, self.counts, self.busy = [], [], []

    def run(self, jobs, rng):
        """Each job is logits, labels and a threshold."""
        dut = self.dut

        async def testbench(ctx):
            for logits, labels, threshold in jobs:
                steps, classes = logits.shape
                self._store(logits, labels, rng)
                d = Descriptor(opcode=Opcode.CONFIDENCE, x_base=BASE, steps=steps, classes=classes,
                               threshold=threshold)
                bits = sum(word << 32 * index for index, word in enumerate(d.encode()))
                ctx.set(dut.descriptor.as_value(), bits)
                put(ctx, dut.start, 1)
                await ctx.tick()
                put(ctx, dut.start, 0)
                await self._watch(ctx)

        simulate(dut, testbench, processes=[
            memory(self.buffer, dut.read_address, dut.read_data, dut.read_en),
            memory(self.labels, dut.label_address, dut.label)])

    def _store(self, logits, labels, rng):
        """Put the logits where the forward pass leaves them, noise behind the last class."""
        lanes, bits = self.config.lane_count, self.config.operand_bits
        steps, classes = logits.shape
        words = -(-classes // lanes)
        padded = rng.integers(0, 1 << bits, (steps, words * lanes))
        padded[:, :classes] = logits & (1 << bits) - 1
        self.buffer[BASE:BASE + words * steps] = (
            padded.reshape(steps, words, lanes).transpose(1, 0, 2).reshape(-1, lanes))
        self.labels[:steps] = labels

    async def _watch(self, ctx):
        dut = self.dut
        keep, skipped, busy = {}, 0, 0
        while ctx.get(dut.busy):
            busy += 1
            skipped += ctx.get(dut.skipped_one)
            assert ctx.get(dut.kept_one) == ctx.get(dut.keep_write_en)
            if ctx.get(dut.keep_write_en):
                keep[ctx.get(dut.keep_write_address)] = ctx.get(dut.keep_write_data)
            await ctx.tick()
        assert list(keep) == list(range(len(keep)))
        self.kept.append(list(keep.values()))
        self.counts.append((ctx.get(dut.kept), skipped))
        self.busy.append(busy)


def jobs_for(config, rng):
    bits = config.operand_bits
    low, high = integer_range(bits)
    jobs = []
    for steps, classes in ((9, 10), (1, 2), (7, config.lane_count), (5, 3 * config.lane_count + 1),
                           (config.steps_depth, 5), (3, 4 * config.lane_count)):
        logits = rng.integers(low, high, (steps, classes), endpoint=True)
        labels = rng.integers(0, classes, steps)
        logits[0] = low
        margins = golden.margins(logits, labels)
        for threshold in (0, 1, golden.NEVER, max(0, int(np.median(margins))),
                          max(0, int(margins.max())), max(0, int(margins.max())) + 1):
            jobs.append((logits, labels, threshold))
    confident = np.full((4, 3), low)
    confident[:, 1] = high
    jobs.append((confident, np.array([1, 0, 1, 2]), high - low))
    return jobs


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_golden_model(config, rng):
    jobs = jobs_for(config, rng)
    bench = Bench(config)
    bench.run(jobs, rng)
    expected = [golden.keep_list(*job).tolist() for job in jobs]
    assert bench.kept == expected
    assert bench.counts == [(len(keep), len(job[0]) - len(keep))
                            for keep, job in zip(expected, jobs, strict=True)]
    words = [logits.shape[0] * -(-logits.shape[1] // config.lane_count) for logits, *_ in jobs]
    assert bench.busy == [count + 2 for count in words]


def test_a_label_that_names_no_class_counts_as_the_least_logit(rng):
    logits = np.array([[-128, -128, -128], [-128, -128, -127], [127, 0, 3]])
    bench = Bench(TINY)
    # The third lane of a second word is behind the last class, and is none either.
    bench.run([(logits, np.array([3, 9, 65535]), 0), (logits, np.array([3, 9, 65535]), 1)], rng)
    assert bench.kept == [[1, 2], [0, 1, 2]]
