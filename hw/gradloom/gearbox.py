"""Buffer words from beats of the bus, and beats from buffer words.

All widths are powers of two: a beat holds a whole number of words, or a word of beats.
"""

from collections.abc import Sequence
from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .select import select

__all__ = ["Narrower", "Widener"]


class _Gearbox(wiring.Component):
    """What both directions know of the widths.

    Parameters
    ----------
    beat_bits : int
    widths : sequence of int
        Of the words, ascending.
    """

    def __init__(self, beat_bits: int, widths: Sequence[int], members: dict):
        self.beat_bits = beat_bits
        self.widths = tuple(widths)
        self.word_bits = widths[-1]
        self.held_bits = max(beat_bits, self.word_bits)
        super().__init__({"width": In(range(len(widths))), **members})

    def _counts(self, m):
        """Return the last beat of a word and the last word of a beat, for the width of now."""
        last_beat = Signal(ceil_log2(self.held_bits // self.beat_bits))
        last_word = Signal(range(max(1, self.beat_bits // self.widths[0])))
        with m.Switch(self.width):
            for index, width in enumerate(self.widths):
                with m.Case(index):
                    m.d.comb += [
                        last_beat.eq(max(1, width // self.beat_bits) - 1),
                        last_word.eq(max(1, self.beat_bits // width) - 1),
                    ]
        return last_beat, last_word


class Widener(_Gearbox):
    """Makes words of beats, one a cycle.

    A word can be taken in the cycle after its last beat was, and the next beat in the cycle in
    which the last word of a beat is taken.

    Members
    -------
    width : In
        Index of the width of a word.
    i : In(stream.Signature(beat_bits))
    o : Out(stream.Signature(word_bits))
        Bits beyond the width are meaningless.
    row_ends : In(1)
        The word at `o` is the last of its row: the rest of the beat is padding.
    """

    def __init__(self, beat_bits: int, widths: Sequence[int]):
        super().__init__(beat_bits, widths, {
            "row_ends": In(1),
            "i": In(stream.Signature(beat_bits)),
            "o": Out(stream.Signature(widths[-1])),
        })

    def elaborate(self, platform):
        m = Module()
        last_beat, last_word = self._counts(m)
        held = Signal(self.held_bits)
        beat = Signal.like(last_beat)
        word = Signal.like(last_word)
        complete = Signal()
        finished = Signal()
        m.d.comb += [
            finished.eq((word == last_word) | self.row_ends),
            self.i.ready.eq(~complete | self.o.ready & finished),
            self.o.valid.eq(complete),
            self.o.payload.eq(held),
        ]
        with m.If(complete & self.o.ready):
            m.d.sync += [complete.eq(~finished), word.eq(Mux(finished, 0, word + 1))]
            low = held[:self.beat_bits]
            with m.Switch(self.width):
                for index, width in enumerate(self.widths):
                    if width < self.beat_bits:
                        with m.Case(index):
                            m.d.sync += low.eq(low >> width)
        with m.If(self.i.valid & self.i.ready):
            for place in range(self.held_bits // self.beat_bits):
                with m.If(beat == place):
                    m.d.sync += held.word_select(place, self.beat_bits).eq(self.i.payload)
            m.d.sync += [
                complete.eq(beat == last_beat),
                beat.eq(Mux(beat == last_beat, 0, beat + 1)),
            ]
        return m


class Narrower(_Gearbox):
    """Makes beats of words, one a cycle, from a source that answers in the next cycle.

    `may_ask` promises room for a word that is asked for in this cycle, and stays up until one is.
    Each word passes a combinational path outside, from `held` to `word`.

    Members
    -------
    width : In
        Index of the width of a word, as it is at `word`.
    may_ask : Out(1), asked : In(1)
    asked_last : In(1)
        With `asked`: the word is the last of its row, and its beat is not filled up.
    answer : In(word_bits)
        In the cycle after `asked`.
    held : Out(word_bits), word : In(word_bits)
    leaves : Out(1)
        The end of this cycle is the end of the word at `held`.
    o : Out(stream.Signature({"data": beat_bits, "row_ends": 1}))
        Bits behind the last word of a row are zero. Every output is a register.
    """

    QUEUE = 3

    def __init__(self, beat_bits: int, widths: Sequence[int]):
        self.beat = data.StructLayout({"data": beat_bits, "row_ends": 1})
        super().__init__(beat_bits, widths, {
            "may_ask": Out(1), "asked": In(1), "asked_last": In(1),
            "answer": In(widths[-1]),
            "held": Out(widths[-1]), "word": In(widths[-1]), "leaves": Out(1),
            "o": Out(stream.Signature(self.beat)),
        })

    def elaborate(self, platform):
        m = Module()
        last_beat, last_word = self._counts(m)
        count = Signal(range(self.QUEUE + 1))
        full, beat, row_ends = self._hold(m, last_beat, count)
        push, pushed = self._assemble(m, last_word, full, beat, row_ends)
        self._queue(m, count, push, pushed)
        return m

    def _hold(self, m, last_beat, count):
        """Keep a word until its last beat has left; ask for the next when that is certain."""
        arrives = Signal()
        arrives_last = Signal()
        full = Signal()
        row_ends = Signal()
        beat = Signal.like(last_beat)
        left = Signal.like(last_beat)
        moves = Signal()
        m.d.comb += [
            left.eq(last_beat - beat),
            moves.eq(full & (count < self.QUEUE)),
            self.leaves.eq(moves & (left == 0)),
            # An answer overwrites `held` at the end of the next cycle: by then at most two beats
            # leave, if there is room for them.
            self.may_ask.eq(Mux(
                arrives,
                (last_beat == 0) & (count + full < self.QUEUE),
                ~full | (left == 0) & (count < self.QUEUE) | (left == 1) & (count < self.QUEUE - 1),
            )),
        ]
        m.d.sync += [arrives.eq(self.asked), arrives_last.eq(self.asked_last)]
        with m.If(moves):
            m.d.sync += [beat.eq(Mux(left == 0, 0, beat + 1)), full.eq(left != 0)]
        with m.If(arrives):
            m.d.sync += [self.held.eq(self.answer), row_ends.eq(arrives_last), full.eq(1)]
        return moves, beat, row_ends & (left == 0)

    def _assemble(self, m, last_word, moves, beat, row_ends):
        """Put words narrower than a beat beside each other."""
        grain = min(self.beat_bits, self.widths[0])
        padded = Cat(self.word, Signal(self.held_bits - self.word_bits, name="padding"))
        spread = Signal(self.beat_bits)
        taken = Signal(self.beat_bits // grain)
        word = Signal.like(last_word)
        m.d.comb += [
            spread.eq(select(m, padded, beat, self.beat_bits, name="beat_of_word")),
            taken.eq(~0),
        ]
        with m.Switch(self.width):
            for index, width in enumerate(self.widths):
                if width < self.beat_bits:
                    with m.Case(index):
                        m.d.comb += [
                            spread.eq(self.word[:width].replicate(self.beat_bits // width)),
                            *(taken[part].eq(word == part * grain // width)
                              for part in range(len(taken))),
                        ]
        partial = Signal(self.beat_bits)
        filled = Signal(self.beat_bits)
        push = Signal()
        for part in range(len(taken)):
            m.d.comb += filled.word_select(part, grain).eq(Mux(
                taken[part], spread.word_select(part, grain), partial.word_select(part, grain)))
        m.d.comb += push.eq(moves & ((word == last_word) | row_ends))
        with m.If(moves):
            m.d.sync += [partial.eq(Mux(push, 0, filled)), word.eq(Mux(push, 0, word + 1))]
        pushed = Signal(self.beat)
        m.d.comb += [pushed.data.eq(filled), pushed.row_ends.eq(row_ends)]
        return push, pushed

    def _queue(self, m, count, push, pushed):
        """Hold few beats for the output; the first is always at the same place."""
        entries = [Signal(self.beat, name=f"entry_{index}") for index in range(self.QUEUE)]
        pop = Signal()
        place = Signal.like(count)
        m.d.comb += [
            self.o.valid.eq(count != 0),
            self.o.payload.eq(entries[0]),
            pop.eq(self.o.valid & self.o.ready),
            place.eq(count - pop),
        ]
        m.d.sync += count.eq(place + push)
        with m.If(pop):
            for entry, following in pairwise(entries):
                m.d.sync += entry.eq(following)
        for index, entry in enumerate(entries):
            with m.If(push & (place == index)):
                m.d.sync += entry.eq(pushed)
        return m
