"""Area of the lane multiplier, its choice of factors and its adder, against a plain one."""

import argparse
from pathlib import Path

from amaranth import Cat, Const, Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from rich.console import Console

from gradloom.emit import to_verilog
from gradloom.lane_multiplier import LaneMultiplier
from gradloom_synth.area import measure

SUM_BITS = 24


class PlainAdder(wiring.Component):
    """``total = addend + word * factor``, all signed."""

    def __init__(self):
        super().__init__({"word": In(signed(8)), "factor": In(signed(8)),
                          "addend": In(signed(SUM_BITS)), "total": Out(signed(SUM_BITS))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.total.eq(self.addend + self.word * self.factor)
        return m


class LaneAdder(wiring.Component):
    """The same on packed words, as in a cell."""

    def __init__(self):
        super().__init__({"word": In(8), "factor": In(signed(8)), "two": In(1), "four": In(1),
                          "steps": In(signed(8)).array(4), "addend": In(signed(SUM_BITS)),
                          "total": Out(signed(SUM_BITS))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = LaneMultiplier(8)
        product = Cat(multiplier.carry, multiplier.product).as_signed()
        m.d.comb += [
            multiplier.word.eq(self.word), multiplier.two.eq(self.two),
            multiplier.four.eq(self.four), multiplier.factor.eq(self.factor),
            *(step.eq(given) for step, given in zip(multiplier.steps, self.steps)),
            self.total.eq((Cat(Const(1), self.addend).as_signed() + product) >> 1),
        ]
        return m


def main() -> None:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--liberty", type=Path, help="cell library (default: an estimate)")
    liberty = parser.parse_args().liberty
    plain, lanes = (measure(to_verilog(kind(), "top"), "top", liberty)
                    for kind in (PlainAdder, LaneAdder))
    Console().print(
        f"plain {plain.gate_equivalents:.0f} GE, lanes {lanes.gate_equivalents:.0f} GE: "
        f"{lanes.area / plain.area:.2f}x; 8-bit factors, {SUM_BITS}-bit sums, {plain.library}, "
        f"{plain.yosys}; cells after synthesis, no timing")


if __name__ == "__main__":
    main()
