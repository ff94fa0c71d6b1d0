"""Random bits for stochastic rounding: a bank of 31-bit LFSRs, one a lane."""

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.lfsr import Bank, initial_state

__all__ = ["LFSR_BITS", "Lfsr"]

LFSR_BITS = 31


class Lfsr(wiring.Component):
    """A bank of registers that advance 16 bits at once, together.

    `state` is the current draw; `advance` steps to the next one; `load` seeds the bank and wins.
    See `gradloom_golden.lfsr` for the sequence.

    Parameters
    ----------
    bank : Bank
        Spreads the seed differently for each user.
    lanes : int

    Members
    -------
    load : In(1)
    seed : In(31)
    advance : In(1)
    state : Out(ArrayLayout(31, lanes))
    """

    def __init__(self, bank: Bank, lanes: int):
        if lanes < 1:
            raise ValueError(f"An LFSR bank needs at least 1 lane, not {lanes!r}")
        self.bank = bank
        self.lanes = lanes
        super().__init__({
            "load": In(1),
            "seed": In(LFSR_BITS),
            "advance": In(1),
            "state": Out(data.ArrayLayout(unsigned(LFSR_BITS), lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        for lane in range(self.lanes):
            spread = initial_state(0, self.bank, lane)
            state = Signal(LFSR_BITS, init=spread, name=f"state_{lane}")
            seeded = Signal(LFSR_BITS, name=f"seeded_{lane}")
            m.d.comb += [seeded.eq(self.seed ^ spread), self.state[lane].eq(state)]
            with m.If(self.load):
                m.d.sync += state.eq(Mux(seeded == 0, 1, seeded))
            with m.Elif(self.advance):
                fresh = (state[15:] ^ state[12:28])[:16]
                m.d.sync += state.eq(Cat(fresh, state[:15]))
        return m
