"""Loss unit: softmax cross-entropy, the error of the logits, and which samples keep it."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.budget import ONE
from gradloom_golden.confidence import NEVER
from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.fixed import integer_range
from gradloom_golden.importance import DRAW_BITS, MOST, PLACES, parts
from gradloom_golden.lfsr import Bank
from gradloom_golden.loss import FRACTION_BITS, POWER_FRACTION_BITS, RECIPROCAL_BITS
from gradloom_golden.program import Opcode, SkipRule

from .budget import Budget
from .divider import Divider
from .exponential import Exponential
from .layouts import DescriptorLayout
from .lfsr import LFSR_BITS, Lfsr
from .rounding import HALF, round_shift, saturate

__all__ = ["Loss"]

MANTISSA_BITS = 17
TOTAL_BITS = 32
LOSS_BITS = 64


class Loss(wiring.Component):
    """Executes LOSS and THRESHOLD, a class a cycle; `gradloom_golden.loss` says with what result.

    A sample's logits are read three times: for the largest, for the sum of exponentials, and, if
    the sample is kept, for D. Then its probability follows in a pipeline from each logit, and whole
    words are written, lanes behind the last class zero. `gradloom_golden.loss.loss_cycles` and
    `gradloom_golden.budget.choose_cycles` count two cycles more than the unit is `busy`.

    Members
    -------
    start : In(1)
        `descriptor` is new.
    descriptor : In(DescriptorLayout)
        LOSS: `x_base`, `x_stride`, `steps`, `classes`, `first_sample`, `function` (skip rule),
        `threshold`, `first`, `stochastic`, `out_base`, `out_stride`; bit 0 of `schedule` only
        evaluates. THRESHOLD: `bound`.
    exponent : In(signed(8))
        Of the logits; stands while `busy`.
    busy : Out(1)
    read_en, read_address, read_data
        Activation buffer: word b of sample t is at ``x_base + b * x_stride + t``.
    label_address, label
        Label memory, read with `read_en`: sample t's is at ``first_sample + t``.
    keep_write_en, keep_write_address, keep_write_data
    gradient_write_en, gradient_write_address, gradient_write_data
        Word b of the r-th kept sample goes to ``out_base + b * out_stride + r``.
    kept : Out
        Samples kept since the last LOSS with `first` that was no evaluation; where the next one
        goes.
    skipped_one, kept_one : Out(1)
        A sample was decided in this cycle; never in an evaluation.
    correct_one : Out(1)
        A sample's label had the largest logit, alone.
    clear_loss : In(1)
    loss_sum : Out(64)
        Sum of -log2 p_y in units of 2**-16 since `clear_loss`.
    threshold : Out(16)
        What the last THRESHOLD chose.
    seed_load, seed : In
    """

    def __init__(self, config: Config):
        self.config = config
        steps = ceil_log2(config.steps_depth)
        lanes = config.lane_count
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "exponent": In(signed(8)),
            "busy": Out(1),
            "read_en": Out(1),
            "read_address": Out(ceil_log2(config.activation_depth)),
            "read_data": In(data.ArrayLayout(unsigned(config.operand_bits), lanes)),
            "label_address": Out(steps),
            "label": In(16),
            "keep_write_en": Out(1),
            "keep_write_address": Out(steps),
            "keep_write_data": Out(steps),
            "gradient_write_en": Out(1),
            "gradient_write_address": Out(ceil_log2(config.gradient_depth)),
            "gradient_write_data": Out(data.ArrayLayout(unsigned(config.gradient_bits), lanes)),
            "kept": Out(steps + 1),
            "skipped_one": Out(1),
            "kept_one": Out(1),
            "correct_one": Out(1),
            "clear_loss": In(1),
            "loss_sum": Out(LOSS_BITS),
            "threshold": Out(16),
            "seed_load": In(1),
            "seed": In(LFSR_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.exponential = self._exponential = Exponential(self.config.operand_bits)
        m.submodules.divider = self._divider = Divider()
        m.submodules.budget = self._budget = Budget()
        m.submodules.lfsr = self._lfsr = Lfsr(Bank.ERROR, 1)
        m.submodules.keep_lfsr = self._keep_lfsr = Lfsr(Bank.KEEP, 1)
        self._sample = Signal(16)
        self._evaluates = self.descriptor.schedule[0]
        self._begins = Signal()
        self._error_shift = Signal(range(MOST + 1))
        # Which pass is under way.
        self._comparing = Signal()
        self._summing = Signal()
        self._producing = Signal()
        self._decides = Signal()
        self._walk(m)
        self._compare(m)
        self._sum(m)
        self._multiply(m)
        self._produce(m)
        self._decide(m)
        self._control(m)
        return m

    def _walk(self, m):
        """From `go` on read a sample's words, and offer its logits one a cycle.

        The first logit stands two cycles after `go`, with `marks[0]`; `marks[n]` are the same n
        cycles later.
        """
        config, descriptor = self.config, self.descriptor
        logit = signed(config.operand_bits)
        lane_bits = ceil_log2(config.lane_count)
        self._go = Signal()
        walking = Signal()
        column = Signal(16)
        lane = Signal(lane_bits)
        following = Signal.like(self.read_address)
        first_word = Signal.like(self.read_address)
        is_last = Signal()
        word_ends = Signal()
        m.d.comb += [
            lane.eq(column[:lane_bits]),
            first_word.eq(descriptor.x_base + self._sample),
            is_last.eq(column == descriptor.classes - 1),
            word_ends.eq(lane == config.lane_count - 1),
            self.read_en.eq(self._go | (walking & word_ends & ~is_last)),
            self.read_address.eq(Mux(self._go, first_word, following)),
            self.label_address.eq(descriptor.first_sample + self._sample),
        ]
        with m.If(self._go):
            m.d.sync += [
                walking.eq(1), column.eq(0), following.eq(first_word + descriptor.x_stride)]
        with m.Elif(walking):
            m.d.sync += [column.eq(column + 1), walking.eq(~is_last)]
            with m.If(word_ends):
                m.d.sync += following.eq(following + descriptor.x_stride)

        marks = data.StructLayout({"valid": 1, "is_label": 1, "is_last": 1, "lane": lane_bits})
        self._marks = [Signal(marks, name=f"marks_{stage}") for stage in range(8)]
        self._logit = Signal(logit)
        chosen = Signal(logit)
        with m.Switch(lane):
            for place in range(config.lane_count):
                with m.Case(place):
                    m.d.comb += chosen.eq(self.read_data[place])
        first = self._marks[0]
        m.d.sync += [
            self._logit.eq(chosen),
            first.valid.eq(walking), first.is_label.eq(column == self.label),
            first.is_last.eq(is_last), first.lane.eq(lane),
        ]
        for before, after in zip(self._marks[:-1], self._marks[1:], strict=True):
            m.d.sync += after.eq(before)
        # The sum must not see the logits of the pass before.
        with m.If(self._comparing):
            m.d.sync += self._marks[1].valid.eq(0)

    def _compare(self, m):
        """Find the largest logit, the label's, and the largest of the others."""
        least = integer_range(self.config.operand_bits)[0]
        first, logit = self._marks[0], self._logit
        self._largest, self._own, self._others = (
            Signal.like(logit, name=name) for name in ("largest", "own", "others"))
        with m.If(self._begins):
            m.d.sync += [
                register.eq(least) for register in (self._largest, self._own, self._others)]
        with m.If(self._comparing & first.valid):
            with m.If(logit > self._largest):
                m.d.sync += self._largest.eq(logit)
            with m.If(first.is_label):
                m.d.sync += self._own.eq(logit)
            with m.Elif(logit > self._others):
                m.d.sync += self._others.eq(logit)

    def _sum(self, m):
        """Add the exponentials, and keep what belongs to the label."""
        exponential, marks = self._exponential, self._marks[Exponential.LATENCY]
        self._total = Signal(TOTAL_BITS)
        self._own_value = Signal.like(exponential.value)
        self._own_power = Signal.like(exponential.power)
        m.d.comb += [
            exponential.distance.eq(self._largest - self._logit),
            exponential.exponent.eq(self.exponent),
        ]
        with m.If(self._begins):
            m.d.sync += [
                register.eq(0) for register in (self._total, self._own_value, self._own_power)]
        with m.Elif(self._summing & marks.valid):
            m.d.sync += self._total.eq(self._total + exponential.value)
            with m.If(marks.is_label):
                m.d.sync += [
                    self._own_value.eq(exponential.value), self._own_power.eq(exponential.power)]

    def _multiply(self, m):
        """One multiplier for the logarithm, the squared error and the probabilities.

        A product stands two cycles after its factors were assigned; three cycles after, the
        probability, if they were an exponential and the reciprocal.
        """
        self._mantissa = Signal(MANTISSA_BITS)
        self._dropped = Signal(range(TOTAL_BITS - MANTISSA_BITS + 1))
        dropped = Signal.like(self._dropped, name="to_drop")
        m.d.comb += self._mantissa.eq(self._total[:MANTISSA_BITS])
        for count in range(1, TOTAL_BITS - MANTISSA_BITS + 1):
            with m.If(self._total[count + MANTISSA_BITS - 1]):
                m.d.comb += [
                    self._mantissa.eq(self._total[count:count + MANTISSA_BITS]),
                    dropped.eq(count),
                ]
        with m.If(self._divider.start):
            m.d.sync += self._dropped.eq(dropped)
        m.d.comb += self._divider.divisor.eq(self._mantissa)

        self._left = Signal(MANTISSA_BITS)
        self._right = Signal.like(self._divider.quotient)
        self._raw = Signal(len(self._left) + len(self._right))
        self._product = Signal.like(self._raw)
        self._probability = Signal(MANTISSA_BITS)
        # Of the label, while the sample is judged.
        self._error_now = Signal(MANTISSA_BITS)
        m.d.comb += self._error_now.eq(ONE - self._probability)
        self._logarithm = Signal(Divider.CYCLES)
        m.d.comb += self._raw.eq(self._left * self._right)
        m.d.sync += [
            self._product.eq(self._raw),
            self._probability.eq(
                self._product[RECIPROCAL_BITS - FRACTION_BITS:] >> self._dropped),
        ]

    def _produce(self, m):
        """Round the error of each class, and write words as they fill."""
        config, descriptor = self.config, self.descriptor
        here, done = self._marks[6], self._marks[7]
        gap = Signal(signed(FRACTION_BITS + 2))
        # What is shifted is no larger than the label's error, so its range stays.
        shifted = Signal.like(gap, name="shifted")
        random = Signal(16)
        m.d.comb += [
            gap.eq(self._probability - Mux(here.is_label, ONE, 0)),
            shifted.eq(gap << self._error_shift),
            random.eq(Mux(descriptor.stochastic, self._lfsr.state[0][:16], HALF)),
            self._lfsr.load.eq(self.seed_load),
            self._lfsr.seed.eq(self.seed),
            self._lfsr.advance.eq(self._producing & here.valid & descriptor.stochastic),
        ]
        shift = FRACTION_BITS - (config.gradient_bits - 1)
        rounded = round_shift(m, shifted, Const(shift), random, name="error")
        error = saturate(m, rounded, config.gradient_bits, name="error")
        for lane in range(config.lane_count):
            with m.If(here.lane == lane):
                m.d.sync += self.gradient_write_data[lane].eq(error)
            with m.Elif(here.lane == 0):
                m.d.sync += self.gradient_write_data[lane].eq(0)

        m.d.comb += self.gradient_write_en.eq(
            self._producing & done.valid & (done.is_last | (done.lane == config.lane_count - 1)))
        with m.If(self.keep_write_en):
            m.d.sync += self.gradient_write_address.eq(descriptor.out_base + self.kept)
        with m.Elif(self.gradient_write_en):
            m.d.sync += self.gradient_write_address.eq(
                self.gradient_write_address + descriptor.out_stride)

    def _decide(self, m):
        """Judge the sample by the rule that the descriptor names, and add its loss."""
        descriptor, budget = self.descriptor, self._budget
        margin = Signal(signed(self.config.operand_bits + 1))
        limit = Signal(16)
        stays = Signal()
        m.d.comb += [
            margin.eq(self._own - self._others),
            limit.eq(Mux(descriptor.function == SkipRule.PROBABILITY,
                         descriptor.threshold, budget.threshold)),
            stays.eq((self._probability < limit) | (limit == NEVER)),
            self.correct_one.eq(self._decides & (margin > 0)),
            self.threshold.eq(budget.threshold),
            self.keep_write_address.eq(self.kept),
            self.keep_write_data.eq(descriptor.first_sample + self._sample),
        ]
        with m.If(descriptor.function == SkipRule.MARGIN):
            m.d.comb += stays.eq(margin < descriptor.threshold)
        by_importance = Signal()
        m.d.comb += by_importance.eq(descriptor.function == SkipRule.IMPORTANCE)
        error_shift, is_drawn = self._draw(m, by_importance)
        with m.If(by_importance):
            m.d.comb += stays.eq(is_drawn)

        self._keeps = Signal()
        self._missing = Signal(MANTISSA_BITS)
        sample_loss = Signal(LOSS_BITS)
        own_loss = self._own_power << FRACTION_BITS - POWER_FRACTION_BITS
        # The divider takes longer than the logarithm has bits.
        logarithm = Cat(self._logarithm[-FRACTION_BITS:], self._dropped)
        m.d.comb += [
            sample_loss.eq(logarithm + own_loss),
            budget.bound.eq(descriptor.bound),
            budget.error.eq(self._missing),
            budget.square.eq(self._product >> FRACTION_BITS),
        ]
        with m.If(self._decides):
            m.d.sync += [
                self._keeps.eq(stays & ~self._evaluates),
                self._missing.eq(self._error_now),
                self._error_shift.eq(error_shift),
            ]
        with m.If(self.clear_loss):
            m.d.sync += self.loss_sum.eq(0)
        with m.Elif(self._decides):
            m.d.sync += self.loss_sum.eq(self.loss_sum + sample_loss)

    def _draw(self, m, by_importance):
        """Draw whether importance keeps the sample; return by how much D is shifted, and that."""
        lfsr = self._keep_lfsr
        cap, extra = Signal(range(MOST + 1)), Signal(range(MOST + 1))
        shift = Signal(range(MOST + 1))
        halvings = Signal(range(2 * MOST + 1))
        looked_at = Signal(DRAW_BITS)
        drawn = Signal()
        draw = Cat(lfsr.state[0][place] for place in reversed(PLACES))
        field_cap, field_extra = parts(self.descriptor.threshold)
        with m.If(by_importance):
            m.d.comb += [cap.eq(field_cap), extra.eq(field_extra)]
        for k in range(1, MOST + 1):
            with m.If((cap >= k) & ~self._error_now[FRACTION_BITS - k:].any()):
                m.d.comb += shift.eq(k)
        m.d.comb += [
            halvings.eq(shift + extra),
            looked_at.eq(~(Const((1 << DRAW_BITS) - 1) >> halvings)),
            drawn.eq((draw & looked_at) == 0),
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(self._decides & by_importance & ~self._evaluates),
        ]
        return shift, drawn

    def _control(self, m):
        """Go through the samples: compare, sum, divide, judge, and produce D."""
        budget, divider = self._budget, self._divider
        idle = Signal()
        m.d.comb += self.busy.eq(~idle | budget.busy)
        with m.FSM(name="loss"):
            with m.State("idle"):
                m.d.comb += idle.eq(1)
                with m.If(self.start):
                    m.d.sync += self._sample.eq(0)
                    with m.If(self.descriptor.opcode == Opcode.THRESHOLD):
                        m.d.comb += budget.choose.eq(1)
                    with m.Else():
                        m.next = "begin"
                        with m.If(self.descriptor.first & ~self._evaluates):
                            m.d.sync += self.kept.eq(0)
            with m.State("begin"):
                m.d.comb += [self._begins.eq(1), self._go.eq(1)]
                m.next = "compare"
            with m.State("compare"):
                m.d.comb += self._comparing.eq(1)
                with m.If(self._marks[0].valid & self._marks[0].is_last):
                    m.d.comb += self._go.eq(1)
                    m.next = "sum"
            with m.State("sum"):
                m.d.comb += self._summing.eq(1)
                marks = self._marks[Exponential.LATENCY]
                with m.If(marks.valid & marks.is_last):
                    m.next = "normalise"
            with m.State("normalise"):
                m.d.comb += divider.start.eq(1)
                m.d.sync += [self._left.eq(self._mantissa), self._right.eq(self._mantissa)]
                m.next = "divide"
            self._probability_states(m)
            self._error_states(m)

    def _probability_states(self, m):
        """Divide, the multiplier squaring for the logarithm meanwhile; then judge the label."""
        divider = self._divider
        with m.State("divide"):
            over = self._raw[2 * MANTISSA_BITS - 1]
            root = Mux(over, self._raw[MANTISSA_BITS:], self._raw[MANTISSA_BITS - 1:])
            square = root[:MANTISSA_BITS]
            m.d.sync += [
                self._logarithm.eq(Cat(over, self._logarithm[:-1])),
                self._left.eq(square), self._right.eq(square),
            ]
            with m.If(divider.done):
                m.next = "label"
        with m.State("label"):
            m.d.sync += [self._left.eq(self._own_value), self._right.eq(divider.quotient)]
            m.next = "multiply"
        with m.State("multiply"):
            m.next = "scale"
        with m.State("scale"):
            m.next = "decide"
        with m.State("decide"):
            m.d.comb += self._decides.eq(1)
            m.d.sync += [self._left.eq(self._error_now), self._right.eq(self._error_now)]
            m.next = "square"

    def _error_states(self, m):
        """Count the label's error, and go through the classes once more if the sample is kept."""
        budget, done = self._budget, self._marks[-1]

        def next_sample():
            m.d.sync += self._sample.eq(self._sample + 1)
            m.next = "begin"
            with m.If(self._sample == self.descriptor.steps - 1):
                m.next = "idle"

        with m.State("square"):
            m.next = "record"
        with m.State("record"):
            m.d.comb += [
                budget.add.eq(~self._evaluates),
                self.kept_one.eq(self._keeps),
                self.keep_write_en.eq(self._keeps),
                self.skipped_one.eq(~self._keeps & ~self._evaluates),
            ]
            with m.If(self._keeps):
                m.d.comb += self._go.eq(1)
                m.d.sync += self._right.eq(self._divider.quotient)
                m.next = "produce"
            with m.Else():
                next_sample()
        with m.State("produce"):
            m.d.comb += self._producing.eq(1)
            m.d.sync += self._left.eq(self._exponential.value)
            with m.If(done.valid & done.is_last):
                m.d.sync += self.kept.eq(self.kept + 1)
                next_sample()
