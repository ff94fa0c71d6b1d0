"""The scale table: resolves the shifts of descriptors, measures ranges and adapts exponents."""

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import SCALES, Function, Opcode
from gradloom_golden.scale import (
    EXPONENT_BITS,
    FORMULAS,
    LEAST_BIAS_SHIFT,
    SHIFTS,
    TABLE_BITS,
    TERMS,
)

from .buffer import HOST_BITS, Buffer
from .emit import place
from .layouts import DescriptorLayout
from .ram import Ram
from .rounding import saturate
from .select import select

__all__ = ["RangeGroup", "Scales"]

SCALE_BITS = ceil_log2(SCALES)
COUNT_BITS = 32
SHIFT_BITS = 5
GROUP = 16
"""Lanes that are counted within a cycle."""


class RangeGroup(wiring.Component):
    """Counts which elements lie at an end of their range. Combinational.

    Members
    -------
    elements : In(ArrayLayout(bits, lanes))
    is_gradient : In(1)
        They are signed and have `gradient_bits`, else `operand_bits`.
    is_unsigned : In(1)
        Of activations.
    clipped : Out
        How many are the greatest number, or the least if it is negative.
    large : Out(1)
        One would not fit after doubling.
    """

    CLOCKED = False

    def __init__(self, lanes: int, operand_bits: int, gradient_bits: int):
        self.operand_bits = operand_bits
        self.gradient_bits = gradient_bits
        self.bits = max(operand_bits, gradient_bits)
        super().__init__({
            "elements": In(data.ArrayLayout(unsigned(self.bits), lanes)),
            "is_gradient": In(1), "is_unsigned": In(1),
            "clipped": Out(range(lanes + 1)), "large": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = len(self.elements)
        clipped = Signal(lanes)
        large = Signal(lanes)
        for lane in range(lanes):
            element = self.elements[lane]
            at_end, is_large = self._place(element, self.operand_bits, self.is_unsigned)
            as_gradient = self._place(element, self.gradient_bits, 0)
            m.d.comb += [
                clipped[lane].eq(Mux(self.is_gradient, as_gradient[0], at_end)),
                large[lane].eq(Mux(self.is_gradient, as_gradient[1], is_large)),
            ]
        m.d.comb += [
            self.clipped.eq(_sum(m, list(clipped), name="clipped")),
            self.large.eq(large.any()),
        ]
        return m

    def _place(self, element, bits, is_unsigned):
        """Return whether an element is at an end, and whether it would be past it doubled."""
        # Comparisons only: Verilator 5.48 lets bits of inverted flags stray into sums.
        value = element[:bits]
        low = 1 << bits - 1
        at_end = Mux(is_unsigned, value == (1 << bits) - 1, (value == low) | (value == low - 1))
        quarter = low >> 1
        is_large = Mux(is_unsigned, value >= low,
                       (value >= quarter) & (value <= low + quarter))
        return at_end, is_large


class Scales(wiring.Component):
    """The exponents of tensors, as `gradloom_golden.scale` defines their use.

    Three things happen independently. `resolved` comes `RESOLVE_CYCLES` after `resolve`; with
    `begin`, then or later, the exponent of an output that is measured and has no shift left is
    raised. Measured words add to the counts of their scale; words of different scales are at least
    three cycles apart. RESCALE takes `RESCALE_CYCLES`; a word measured before may still come in
    the cycle after `start`. The table has one read and one write port: none of resolve, begin and
    rescale while the host or a transfer uses it.

    Members
    -------
    resolve : In(1)
        `descriptor` is new, and stays until `resolved`.
    begin : In(1)
        `descriptor` starts to compute. If it is `scaled`, it was the last to be resolved.
    descriptor : In(DescriptorLayout)
    resolved : Out(1)
        `effective` is valid in this cycle.
    effective : Out(DescriptorLayout)
        The descriptor with the shifts to use.
    bias_shift : Out(signed(5)), exponent : Out(signed(8))
        For a FORWARD's bias and for LOSS, from the cycle after `resolved` until the next one.
    measure : In(1)
        Count the word `elements`, written with exponent `scale`.
    scale : In
    elements, is_gradient, is_unsigned
        As of a `RangeGroup`.
    start : In(1), busy : Out(1)
        RESCALE.
    read_en, read_address, read_data, write_en, write_address, write_data
        The table, an exponent a word: as of a `Ram`.
    host_read, host_write, host_address, host_data_i, host_data_o
        As of a `Buffer`.
    """

    RESOLVE_CYCLES = len(TERMS) + 1
    CLOSE = 5
    WALK = 8
    RESCALE_CYCLES = WALK + SCALES + 1

    def __init__(self, config: Config):
        self.config = config
        self.bits = max(config.operand_bits, config.gradient_bits)
        # Words, not elements, are counted: each has `lane_count`.
        self.totals = data.StructLayout({
            "large": 1, "clipped": COUNT_BITS, "words": COUNT_BITS - ceil_log2(config.lane_count),
        })
        super().__init__({
            "resolve": In(1),
            "begin": In(1),
            "descriptor": In(DescriptorLayout),
            "resolved": Out(1),
            "effective": Out(DescriptorLayout),
            "bias_shift": Out(signed(SHIFT_BITS)),
            "exponent": Out(signed(TABLE_BITS)),
            "measure": In(1),
            "scale": In(SCALE_BITS),
            "elements": In(data.ArrayLayout(unsigned(self.bits), config.lane_count)),
            "is_gradient": In(1),
            "is_unsigned": In(1),
            "start": In(1),
            "busy": Out(1),
            "read_en": In(1),
            "read_address": In(SCALE_BITS),
            "read_data": Out(TABLE_BITS),
            "write_en": In(1),
            "write_address": In(SCALE_BITS),
            "write_data": In(TABLE_BITS),
            "host_read": In(1),
            "host_write": In(1),
            "host_address": In(SCALE_BITS),
            "host_data_i": In(HOST_BITS),
            "host_data_o": Out(HOST_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        table = self._table(m)
        self._resolve(m, table)
        flush = Signal()
        word = self._count(m, platform)
        stored, seen = self._merge(m, *self._gather(m, word, flush))
        self._rescale(m, table, stored, seen, flush)
        return m

    def _table(self, m):
        m.submodules.table = table = Buffer(SCALES, 1, TABLE_BITS, host_bits=HOST_BITS)
        m.d.comb += [
            table.read_en.eq(self.read_en),
            table.read_address.eq(self.read_address),
            self.read_data.eq(table.read_data[0]),
            table.write_parts.eq(self.write_en),
            table.write_address.eq(self.write_address),
            table.write_data[0].eq(self.write_data),
            table.host_read.eq(self.host_read),
            table.host_write.eq(self.host_write),
            table.host_address.eq(self.host_address),
            table.host_data_i.eq(self.host_data_i),
            self.host_data_o.eq(table.host_data_o),
        ]
        return table

    def _resolve(self, m, table):
        """Read the exponents one by one, and add each to the shifts that it is part of."""
        descriptor = self.descriptor
        turn = Signal(range(self.RESOLVE_CYCLES + 1))
        value = Signal(signed(TABLE_BITS))
        low = Signal(signed(TABLE_BITS))
        term = Signal(signed(TABLE_BITS))
        m.d.comb += [
            self.resolved.eq(turn == self.RESOLVE_CYCLES),
            value.eq(table.read_data[0]),
            term.eq(Mux(turn == TERMS.index("low") + 1, low, value)),
        ]
        with m.If(self.resolve):
            m.d.sync += turn.eq(1)
        with m.Elif(self.resolved):
            m.d.sync += turn.eq(0)
        with m.Elif(turn != 0):
            m.d.sync += turn.eq(turn + 1)

        for index, name in enumerate(TERMS[:-1]):
            with m.If(self.resolve if index == 0 else turn == index):
                m.d.comb += [
                    table.read_en.eq(1), table.read_address.eq(descriptor[f"{name}_scale"]),
                ]
        with m.If(turn == TERMS.index("x") + 1):
            m.d.sync += [low.eq(value), self.exponent.eq(Mux(descriptor.scaled, value, 0))]
        with m.If((turn == TERMS.index("d") + 1) & (value < low)):
            m.d.sync += low.eq(value)
        out = Signal(signed(TABLE_BITS))
        with m.If(turn == TERMS.index("out") + 1):
            m.d.sync += out.eq(value)
        self._raise(m, table, out, self._shifts(m, turn, term))

    def _raise(self, m, table, out, out_total):
        """Raise the exponent of the output to what a shift of zero makes of the sums."""
        raised = saturate(m, out - out_total, TABLE_BITS, name="raised")
        descriptor = self.descriptor
        with m.If(self.begin & descriptor.scaled & descriptor.measure & (out_total < 0)):
            m.d.comb += [
                table.write_parts.eq(1), table.write_address.eq(descriptor.out_scale),
                table.write_data[0].eq(raised),
            ]

    def _shifts(self, m, turn, term):
        """Add up every shift, and put it in the descriptor where the descriptor needs it.

        Return the sum that `out_shift` is clipped from, zero where nothing is added.
        """
        m.d.comb += self.effective.as_value().eq(self.descriptor.as_value())
        users = {user: self._is_user(m, *user) for user in FORMULAS}
        out_total = Const(0)
        for shift in SHIFTS:
            formulas = [(users[user], formulas[shift]) for user, formulas in FORMULAS.items()
                        if shift in formulas]
            total = self._total(m, shift, turn, term, formulas)
            if shift == "bias_shift":
                self._bias_shift(m, total, users[Opcode.FORWARD, None])
                continue
            if shift == "out_shift":
                out_total = total
            for bits in {formula.bits for _, formula in formulas}:
                clipped = saturate(
                    m, total, bits, name=f"{shift}_{bits}", unsigned_range=Const(1))
                takes = Cat(*(user for user, formula in formulas if formula.bits == bits))
                with m.If(takes.any()):
                    m.d.comb += self.effective[shift].eq(clipped)
        return out_total

    def _is_user(self, m, opcode, function):
        """Return if the descriptor takes shifts from the table as `opcode` and `function` do."""
        descriptor = self.descriptor
        name = Opcode(opcode).name.lower()
        condition = descriptor.scaled & (descriptor.opcode == opcode)
        if function is not None:
            name = f"{name}_{Function(function).name.lower()}"
            condition &= descriptor.function == function
        is_user = Signal(name=f"is_{name}")
        m.d.comb += is_user.eq(condition)
        return is_user

    def _total(self, m, shift, turn, term, formulas):
        """Add a field and the terms of whichever formula is used."""
        # Four terms of eight bits at most.
        total = Signal(signed(TABLE_BITS + 2), name=f"{shift}_total")
        first = Signal(signed(TABLE_BITS), name=f"{shift}_first")
        plus = Signal(name=f"{shift}_plus")
        minus = Signal(name=f"{shift}_minus")
        for is_user, formula in formulas:
            with m.If(is_user):
                if formula.field:
                    m.d.comb += first.eq(self.descriptor[formula.field])
                m.d.comb += [
                    plus.eq(_is_turn(turn, formula.plus)),
                    minus.eq(_is_turn(turn, formula.minus)),
                ]
        with m.If(self.resolve):
            m.d.sync += total.eq(first)
        with m.Elif(plus):
            m.d.sync += total.eq(total + term)
        with m.Elif(minus):
            m.d.sync += total.eq(total - term)
        return total

    def _bias_shift(self, m, total, is_forward):
        clipped = Signal(signed(SHIFT_BITS))
        m.d.comb += clipped.eq(saturate(m, total, SHIFT_BITS, name="bias_shift"))
        with m.If(self.resolved):
            m.d.sync += self.bias_shift.eq(Mux(
                is_forward, Mux(clipped < LEAST_BIAS_SHIFT, LEAST_BIAS_SHIFT, clipped), 0))

    def _count(self, m, platform):
        """Count the clipped elements of a word, in two cycles."""
        config = self.config
        lanes = min(GROUP, config.lane_count)
        counts, large = [], Signal(config.lane_count // lanes)
        for group in range(config.lane_count // lanes):
            found = Signal(range(lanes + 1), name=f"group_{group}_clipped")
            here = Signal(name=f"group_{group}_large")
            place(m, platform, f"group_{group}", "range_group",
                  partial(RangeGroup, lanes, config.operand_bits, config.gradient_bits),
                  inputs={"elements": self.elements.as_value()[group * lanes * self.bits:]
                          [:lanes * self.bits],
                          "is_gradient": self.is_gradient, "is_unsigned": self.is_unsigned},
                  outputs={"clipped": found, "large": here})
            count = Signal.like(found, name=f"group_{group}_count")
            m.d.sync += [count.eq(found), large[group].eq(here)]
            counts.append(count)
        measured = Signal()
        scale = Signal(SCALE_BITS)
        word = Signal(data.StructLayout({
            "measured": 1, "large": 1, "scale": SCALE_BITS, "clipped": range(config.lane_count + 1),
        }))
        m.d.sync += [
            measured.eq(self.measure), scale.eq(self.scale),
            word.measured.eq(measured), word.scale.eq(scale), word.large.eq(large.any()),
            word.clipped.eq(_sum(m, counts, name="word_clipped")),
        ]
        return word

    def _gather(self, m, word, flush):
        """Add up the words of a scale; return the totals in the cycle in which they end."""
        totals = Signal(self.totals)
        scale = Signal(SCALE_BITS)
        is_open = Signal()
        goes_on = Signal()
        end = Signal()
        m.d.comb += [
            goes_on.eq(is_open & (word.scale == scale)),
            end.eq(is_open & (flush | (word.measured & ~goes_on))),
        ]
        with m.If(word.measured):
            m.d.sync += [
                is_open.eq(1), scale.eq(word.scale),
                totals.large.eq(word.large | (goes_on & totals.large)),
                totals.clipped.eq(word.clipped + Mux(goes_on, totals.clipped, 0)),
                totals.words.eq(1 + Mux(goes_on, totals.words, 0)),
            ]
        with m.Elif(flush):
            m.d.sync += is_open.eq(0)
        return end, scale, totals

    def _merge(self, m, end, scale, totals):
        """Add totals to those that are stored: read in the one cycle, write in the next."""
        m.submodules.stored = stored = Ram(SCALES, 1, self.totals.size)
        seen = Signal(SCALES)
        added = Signal(self.totals)
        place = Signal(SCALE_BITS)
        waiting = Signal()
        merging = Signal()
        m.d.sync += merging.eq(waiting & ~merging)
        with m.If(merging):
            # One word that is shifted: a bit selected by number would be a choice for each.
            m.d.sync += [waiting.eq(0), seen.eq(seen | Const(1) << place)]
        with m.If(end):
            m.d.sync += [waiting.eq(1), place.eq(scale), added.eq(totals)]

        before = Signal(self.totals)
        after = Signal(self.totals)
        m.d.comb += [
            before.eq(Mux(select(m, seen, place, 1, name="seen_here"), stored.read_data, 0)),
            after.large.eq(before.large | added.large),
            after.clipped.eq(before.clipped + added.clipped),
            after.words.eq(before.words + added.words),
            stored.read_en.eq(waiting),
            stored.read_address.eq(place),
            stored.write_en.eq(merging),
            stored.write_address.eq(place),
            stored.write_data.eq(after.as_value()),
        ]
        return stored, seen

    def _rescale(self, m, table, stored, seen, flush):
        """Walk through the table and adapt the exponent of everything measured."""
        step = Signal(range(self.RESCALE_CYCLES))
        place = Signal(SCALE_BITS)
        reads = Signal()
        adapts = Signal()
        adapted = Signal(SCALE_BITS)
        m.d.comb += [
            flush.eq(self.busy & (step == self.CLOSE)),
            reads.eq(self.busy & (step >= self.WALK) & (step < self.WALK + SCALES)),
            place.eq(step - self.WALK),
        ]
        m.d.sync += [adapts.eq(reads), adapted.eq(place)]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), step.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += [step.eq(step + 1), self.busy.eq(step != self.RESCALE_CYCLES - 1)]
        with m.If(reads):
            m.d.comb += [
                table.read_en.eq(1), table.read_address.eq(place),
                stored.read_en.eq(1), stored.read_address.eq(place),
            ]

        found = data.View(self.totals, stored.read_data)
        elements = Signal(COUNT_BITS)
        better = Signal(signed(TABLE_BITS + 1))
        exponent = Signal(signed(EXPONENT_BITS))
        m.d.comb += [
            elements.eq(found.words << ceil_log2(self.config.lane_count)),
            better.eq(table.read_data[0].as_signed() + Mux(
                found.clipped << 8 > elements, 1, Mux(found.large, 0, -1))),
            exponent.eq(saturate(m, better, EXPONENT_BITS, name="exponent")),
        ]
        with m.If(adapts):
            # The place adapted is always the first bit, and all are clear in the end.
            m.d.sync += seen.eq(seen >> 1)
            m.d.comb += [
                table.write_parts.eq(seen[0]), table.write_address.eq(adapted),
                table.write_data[0].eq(exponent),
            ]


def _is_turn(turn: Value, terms: tuple[str, ...]) -> Value:
    """Return if it is the turn of one of `terms`."""
    return Cat(*(turn == TERMS.index(term) + 1 for term in terms)).any()


def _sum(m: Module, counts: list[Value], *, name: str) -> Value:
    """Return the sum of counts, added in pairs."""
    level = 0
    while len(counts) > 1:
        pairs = []
        for index in range(0, len(counts), 2):
            both = counts[index] + counts[index + 1]
            pair = Signal(both.shape(), name=f"{name}_{level}_{index // 2}")
            m.d.comb += pair.eq(both)
            pairs.append(pair)
        counts = pairs
        level += 1
    return counts[0]
