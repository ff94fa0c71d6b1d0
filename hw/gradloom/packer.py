"""Activations cut to 4 or 2 bits and packed, on their way from the buffer to the west edge."""

from functools import partial

from amaranth import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.lanes import STEP_OF_FIELD
from gradloom_golden.lfsr import Bank

from .emit import place
from .lfsr import Lfsr
from .rounding import round_shift, saturate

__all__ = ["Packer", "PackerLane"]

WORD_BITS = 8


class PackerLane(wiring.Component):
    """One lane: quantizes an activation and puts it in its field of the packed word.

    With `valid`, field `step_of_field^-1(step)` is written at the end of the cycle, and all others
    are cleared in step 0.

    Members
    -------
    valid, four, x_unsigned : In(1)
        `four` 2-bit fields, else two 4-bit ones.
    step : In(2)
    shift : In(3)
    random : In(16)
    activation : In(8)
    word : Out(8)
    """

    def __init__(self):
        super().__init__({
            "valid": In(1), "four": In(1), "x_unsigned": In(1), "step": In(2), "shift": In(3),
            "random": In(16), "activation": In(WORD_BITS), "word": Out(WORD_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        value = Signal(signed(WORD_BITS + 1))
        m.d.comb += value.eq(
            Cat(self.activation, self.activation[-1] & ~self.x_unsigned).as_signed())
        quotient = round_shift(m, value, self.shift, self.random, name="value")
        nibble = saturate(m, quotient, 4, name="nibble", unsigned_range=self.x_unsigned)
        crumb = saturate(m, quotient, 2, name="crumb", unsigned_range=self.x_unsigned)
        with m.If(self.valid):
            with m.If(self.step == 0):
                m.d.sync += self.word.eq(0)
            with m.If(self.four):
                for field, step in enumerate(STEP_OF_FIELD[4]):
                    with m.If(self.step == step):
                        m.d.sync += self.word[2 * field:2 * field + 2].eq(crumb)
            with m.Else():
                for field, step in enumerate(STEP_OF_FIELD[2]):
                    with m.If(self.step == step):
                        m.d.sync += self.word[4 * field:4 * field + 4].eq(nibble)
        return m


class Packer(wiring.Component):
    """Packs 2 or 4 successive rows of activations into one, with stochastic rounding.

    A row given with `valid` stands in `packed` from the next cycle on; step 0 clears the word
    first, so a group that ends early is padded with zeros. The LFSRs advance once a row.

    Parameters
    ----------
    lanes : int

    Members
    -------
    seed_load : In(1)
    seed : In(31)
    valid, four, x_unsigned, step, shift
        As of a `PackerLane`.
    activations, packed : In, Out(ArrayLayout(8, lanes))
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        vector = data.ArrayLayout(unsigned(WORD_BITS), lanes)
        super().__init__({
            "seed_load": In(1), "seed": In(31), "valid": In(1), "four": In(1),
            "x_unsigned": In(1), "step": In(2), "shift": In(3),
            "activations": In(vector), "packed": Out(vector),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.lfsr = lfsr = Lfsr(Bank.PACK, self.lanes)
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(self.valid),
        ]
        shared = {name: getattr(self, name)
                  for name in ("valid", "four", "x_unsigned", "step", "shift")}
        for index in range(self.lanes):
            place(m, platform, f"lane_{index}", "packer_lane", partial(PackerLane),
                  inputs={**shared, "random": lfsr.state[index][:16],
                          "activation": self.activations[index]},
                  outputs={"word": self.packed[index]})
        return m
