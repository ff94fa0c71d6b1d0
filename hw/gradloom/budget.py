"""Sums of the labels' errors by confidence, and the threshold that a budget of them allows."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.budget import BUCKET_BITS, BUCKETS, SUM_BITS
from gradloom_golden.confidence import NEVER
from gradloom_golden.config import ceil_log2

from .ram import Ram
from .select import select

__all__ = ["Budget"]

BOUND_BITS = 16
TOTAL_BITS = SUM_BITS + ceil_log2(BUCKETS)


class Budget(wiring.Component):
    """Adds squared errors to their buckets; on `choose` picks the threshold and empties them.

    `gradloom_golden.budget` is the rule. `add` takes two cycles, in the second of which there is
    no other; `choose` comes while neither is under way, and keeps the unit `busy` for `CYCLES`.

    Members
    -------
    add : In(1)
    error : In(17)
        1 - p_y in units of 2**-16; with `add`.
    square : In(17)
        Its square in units of 2**-16; with `add`.
    choose : In(1)
    bound : In(16)
        Share of the total, in units of 2**-16; from the cycle after `choose` until it is done.
    busy : Out(1)
    threshold : Out(16)
    """

    CYCLES = 2 * (BUCKETS + 1) + BOUND_BITS

    def __init__(self):
        super().__init__({
            "add": In(1), "error": In(17), "square": In(17),
            "choose": In(1), "bound": In(BOUND_BITS),
            "busy": Out(1), "threshold": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.sums = sums = Ram(BUCKETS, 1, SUM_BITS)
        # What a bucket held before is forgotten without writing it.
        filled = Signal(BUCKETS)
        bucket = Signal(range(BUCKETS))
        was_filled = Signal()
        held = Signal(SUM_BITS)
        with m.If(sums.read_en):
            m.d.sync += was_filled.eq(
                select(m, filled, sums.read_address, 1, name="is_filled"))
        with m.If(was_filled):
            m.d.comb += held.eq(sums.read_data)
        m.d.comb += bucket.eq(self.error >> BUCKET_BITS)
        with m.If(self.error[-1]):
            m.d.comb += bucket.eq(BUCKETS - 1)

        adding = Signal()
        into = Signal.like(bucket)
        square = Signal.like(self.square)
        grown = Signal(SUM_BITS + 1)
        m.d.sync += [adding.eq(self.add), into.eq(bucket), square.eq(self.square)]
        m.d.comb += [
            grown.eq(held + square),
            sums.write_en.eq(adding),
            sums.write_address.eq(into),
            sums.write_data.eq(grown[:SUM_BITS] | grown[SUM_BITS].replicate(SUM_BITS)),
        ]
        with m.If(adding):
            m.d.sync += filled.eq(filled | (1 << into))
        with m.If(self.add):
            m.d.comb += [sums.read_en.eq(1), sums.read_address.eq(bucket)]
        self._choose(m, sums, held, filled)
        return m

    def _choose(self, m, sums, held, filled):
        """Sum up, multiply by the bound bit by bit, and walk until the budget is spent."""
        total = Signal(TOTAL_BITS)
        limit = Signal(TOTAL_BITS + BOUND_BITS)
        bound = Signal(BOUND_BITS)
        place = Signal(range(BUCKETS + 1))
        grown = Signal(TOTAL_BITS)
        multiplied = Signal(range(BOUND_BITS))
        chosen = Signal(16, init=NEVER)
        m.d.comb += [
            self.busy.eq(1), self.threshold.eq(chosen), grown.eq(total + held),
        ]

        def walk():
            """Read all buckets; each arrives in `grown` a cycle after it was read."""
            m.d.sync += place.eq(place + 1)
            with m.If(place != BUCKETS):
                m.d.comb += [sums.read_en.eq(1), sums.read_address.eq(place)]
            with m.Else():
                m.d.sync += place.eq(0)
            with m.If(place != 0):
                m.d.sync += total.eq(grown)

        with m.FSM(name="budget"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.choose):
                    m.d.sync += [chosen.eq(NEVER), total.eq(0)]
                    m.next = "total"
            with m.State("total"):
                walk()
                with m.If(place == BUCKETS):
                    m.d.sync += [bound.eq(self.bound), limit.eq(0)]
                    m.next = "limit"
            with m.State("limit"):
                m.d.sync += [
                    bound.eq(bound << 1),
                    limit.eq((limit << 1) + (total & bound[-1].replicate(TOTAL_BITS))),
                    multiplied.eq(multiplied + 1),
                ]
                with m.If(multiplied == BOUND_BITS - 1):
                    m.d.sync += [total.eq(0), multiplied.eq(0)]
                    m.next = "spend"
            with m.State("spend"):
                walk()
                with m.If((place != 0) & (limit != 0) & (grown << BOUND_BITS <= limit)):
                    # One above the largest p_y of the next bucket.
                    m.d.sync += chosen.eq(((BUCKETS - place) << BUCKET_BITS) + 1)
                with m.If(place == BUCKETS):
                    m.d.sync += filled.eq(0)
                    m.next = "idle"
