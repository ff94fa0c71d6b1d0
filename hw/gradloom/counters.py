"""Event counters that the host reads."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.program import COUNTERS

__all__ = ["COUNTER_BITS", "Counters"]

COUNTER_BITS = 40


class Counters(wiring.Component):
    """One counter for each name in `gradloom_golden.program.COUNTERS`.

    Members
    -------
    clear : In(1)
    count : In(StructLayout)
        A bit a counter: add one in this cycle.
    select : In, word : In(1)
        Which counter, and which half of it, is read.
    value : Out(32)
    """

    def __init__(self):
        super().__init__({
            "clear": In(1),
            "count": In(data.StructLayout(dict.fromkeys(COUNTERS, 1))),
            "select": In(range(len(COUNTERS))),
            "word": In(1),
            "value": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        counters = [Signal(COUNTER_BITS, name=name) for name in COUNTERS]
        for name, counter in zip(COUNTERS, counters):
            m.d.sync += counter.eq(counter + self.count[name])
            with m.If(self.clear):
                m.d.sync += counter.eq(0)
        with m.Switch(self.select):
            for index, counter in enumerate(counters):
                with m.Case(index):
                    m.d.comb += self.value.eq(Mux(self.word, counter[32:], counter[:32]))
        return m
