"""Confidence comparator: which samples of a batch keep their gradient."""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2

from .layouts import DescriptorLayout

__all__ = ["Confidence"]


class Confidence(wiring.Component):
    """Reads logits and labels, writes the list of samples whose margin is below the threshold.

    The margin is the label's logit less the largest other one. A buffer word of logits is
    compared each cycle; `busy` ends two cycles after the last word was read.

    Members
    -------
    start : In(1)
        `descriptor` is new.
    descriptor : In(DescriptorLayout)
        `x_base`, `steps` samples, `classes`, `threshold`.
    busy : Out(1)
    read_en, read_address, read_data
        Activation buffer: word b of sample t is at ``x_base + b * steps + t``.
    label_address, label
        Label memory, answered a cycle later.
    keep_write_en, keep_write_address, keep_write_data
    kept : Out
        Samples kept by the last run.
    skipped_one, kept_one : Out(1)
        A sample was decided in this cycle.
    """

    TAIL = 2

    def __init__(self, config: Config):
        self.config = config
        steps = ceil_log2(config.steps_depth)
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "busy": Out(1),
            "read_en": Out(1),
            "read_address": Out(ceil_log2(config.activation_depth)),
            "read_data": In(data.ArrayLayout(unsigned(config.operand_bits), config.lane_count)),
            "label_address": Out(steps),
            "label": In(16),
            "keep_write_en": Out(1),
            "keep_write_address": Out(steps),
            "keep_write_data": Out(steps),
            "kept": Out(steps + 1),
            "skipped_one": Out(1),
            "kept_one": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        step, word_first, word_last, first_class = self._read(m)
        best, labelled, decided, sample = self._compare_word(
            m, step, word_first, word_last, first_class)
        self._decide(m, best, labelled, decided, sample)
        return m

    def _read(self, m):
        """Walk over the samples and the words of each."""
        descriptor, lanes = self.descriptor, self.config.lane_count
        reading = Signal()
        step = Signal(ceil_log2(self.config.steps_depth))
        address = Signal(ceil_log2(self.config.activation_depth))
        first_class = Signal(17)
        word_first = Signal()
        word_last = Signal()
        m.d.comb += [
            word_first.eq(first_class == 0),
            word_last.eq(first_class + lanes >= descriptor.classes),
            self.read_en.eq(reading),
            self.read_address.eq(descriptor.x_base + address + step),
            self.label_address.eq(step),
        ]
        with m.If(self.start):
            m.d.sync += [reading.eq(1), step.eq(0), address.eq(0), first_class.eq(0)]
        with m.Elif(reading):
            m.d.sync += [
                address.eq(address + descriptor.steps), first_class.eq(first_class + lanes),
            ]
            with m.If(word_last):
                m.d.sync += [step.eq(step + 1), address.eq(0), first_class.eq(0)]
                with m.If(step == descriptor.steps - 1):
                    m.d.sync += reading.eq(0)
        tail = Signal(self.TAIL)
        m.d.sync += tail.eq((tail << 1) | reading)
        m.d.comb += self.busy.eq(reading | tail.any())
        return step, word_first, word_last, first_class

    def _compare_word(self, m, step, word_first, word_last, first_class):
        """Find the label's logit and the best of the others, word by word."""
        logit = signed(self.config.operand_bits)
        least = -(1 << self.config.operand_bits - 1)
        present = Signal()
        is_first = Signal()
        is_last = Signal()
        here_class = Signal.like(first_class)
        sample = Signal.like(step)
        m.d.sync += [
            present.eq(self.read_en), is_first.eq(word_first), is_last.eq(word_last),
            here_class.eq(first_class), sample.eq(step),
        ]

        others, own = [], []
        for lane in range(self.config.lane_count):
            value = Signal(logit, name=f"logit_{lane}")
            is_class = Signal(name=f"is_class_{lane}")
            is_label = Signal(name=f"is_label_{lane}")
            m.d.comb += [
                value.eq(self.read_data[lane]),
                is_class.eq(here_class + lane < self.descriptor.classes),
                is_label.eq(is_class & (here_class + lane == self.label)),
            ]
            others.append(Mux(is_class & ~is_label, value, least))
            own.append(Mux(is_label, value, least))

        best = Signal(logit)
        labelled = Signal(logit)
        for running, candidates in ((best, others), (labelled, own)):
            word_best = self._largest(m, candidates, name=running.name)
            before = Mux(is_first, least, running)
            with m.If(present):
                m.d.sync += running.eq(Mux(word_best > before, word_best, before))
        decided = Signal()
        decided_sample = Signal.like(sample)
        m.d.sync += [decided.eq(present & is_last), decided_sample.eq(sample)]
        return best, labelled, decided, decided_sample

    def _largest(self, m, candidates, *, name):
        level = 0
        while len(candidates) > 1:
            winners = []
            for index in range(0, len(candidates), 2):
                winner = Signal(signed(self.config.operand_bits),
                                name=f"{name}_{level}_{index // 2}")
                left, right = candidates[index:index + 2]
                m.d.comb += winner.eq(Mux(left > right, left, right))
                winners.append(winner)
            candidates = winners
            level += 1
        return candidates[0]

    def _decide(self, m, best, labelled, decided, sample):
        """Compare the margin with the threshold and list the sample if it stays."""
        margin = Signal(signed(self.config.operand_bits + 1))
        m.d.comb += [
            margin.eq(labelled - best),
            self.skipped_one.eq(decided & (margin >= self.descriptor.threshold)),
            self.kept_one.eq(decided & (margin < self.descriptor.threshold)),
            self.keep_write_en.eq(self.kept_one),
            self.keep_write_address.eq(self.kept),
            self.keep_write_data.eq(sample),
        ]
        with m.If(self.start):
            m.d.sync += self.kept.eq(0)
        with m.Elif(self.kept_one):
            m.d.sync += self.kept.eq(self.kept + 1)
