"""Random bits for stochastic rounding and sampling: a bank of 31-bit LFSRs, one a lane."""

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.lfsr import Bank, initial_state

from .emit import place

__all__ = ["LFSR_BITS", "Lfsr", "LfsrLane"]

LFSR_BITS = 31


class LfsrLane(wiring.Component):
    """One register that advances 16 bits at once.

    Members
    -------
    load : In(1)
        Take ``seed ^ spread``, or 1 instead of 0; wins over `advance`.
    seed, spread : In(31)
    advance : In(1)
    state : Out(31)
    """

    def __init__(self):
        super().__init__({
            "load": In(1), "seed": In(LFSR_BITS), "spread": In(LFSR_BITS), "advance": In(1),
            "state": Out(LFSR_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        seeded = Signal(LFSR_BITS)
        m.d.comb += seeded.eq(self.seed ^ self.spread)
        with m.If(self.load):
            m.d.sync += self.state.eq(Mux(seeded == 0, 1, seeded))
        with m.Elif(self.advance):
            fresh = self.state[15:] ^ self.state[12:28]
            m.d.sync += self.state.eq(Cat(fresh, self.state[:15]))
        return m


class Lfsr(wiring.Component):
    """A bank of registers that advance 16 bits at once, together.

    `state` is the current draw; `advance` steps to the next one; `load` seeds the bank and wins.
    In the first cycle after reset the bank seeds itself with 0, unless `load` is set: the first
    draw is in the cycle after. See `gradloom_golden.lfsr` for the sequence.

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
        # A reset value of its own would make every lane a different module.
        unseeded = Signal(init=1)
        load = Signal()
        seed = Signal(LFSR_BITS)
        m.d.sync += unseeded.eq(0)
        m.d.comb += [load.eq(self.load | unseeded), seed.eq(Mux(self.load, self.seed, 0))]
        for lane in range(self.lanes):
            spread = Const(initial_state(0, self.bank, lane), LFSR_BITS)
            place(m, platform, f"lane_{lane}", "lfsr_lane", partial(LfsrLane),
                  inputs={"load": load, "seed": seed, "spread": spread, "advance": self.advance},
                  outputs={"state": self.state[lane]})
        return m
