# amaranth: UnusedElaboratable=no
"""The lane multiplier equals `lane_multiply` in simulation and the arithmetic by proof."""


import numpy as np
import pytest
from amaranth import Module, Signal, signed
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from gradloom.lane_multiplier import LaneMultiplier
from gradloom_golden.lanes import lane_multiply
from gradloom_synth.yosys import run_script

LANES = (1, 2, 4)
NEWEST_FIRST = {1: (), 2: (1, 0), 4: (3, 1, 2, 0)}
"""Fields of a word in the order of the steps that they go with."""


def factor_choices(rng, bits, lanes, count):
    """Return corner cases and random factors, equal within each field."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    corners = [(low,) * 4, (high,) * 4, (-1,) * 4, (low, low, high, high), (low, high, low, high)]
    drawn = np.vstack([corners, rng.integers(low, high, (count, 4), endpoint=True)])
    return np.repeat(drawn[:, :: 4 // lanes], 4 // lanes, axis=1)


def results(dut, lanes, factors):
    """Return what the multiplier gives for each choice of factors and each word."""
    got = []

    async def testbench(ctx):
        ctx.set(dut.two, lanes == 2)
        ctx.set(dut.four, lanes == 4)
        for choice in factors.tolist():
            # What does not count is another factor than any that does.
            ctx.set(dut.factor, choice[0] if lanes == 1 else ~choice[0])
            for port in dut.steps:
                ctx.set(port, ~choice[0])
            for port, field in zip(dut.steps, NEWEST_FIRST[lanes]):
                ctx.set(port, choice[field * 4 // lanes])
            for word in range(256):
                ctx.set(dut.word, word)
                got.append(ctx.get(dut.product) + ctx.get(dut.carry))

    sim = Simulator(dut)
    sim.add_testbench(testbench)
    sim.run()
    return np.reshape(got, (len(factors), 256))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("lanes", LANES)
def test_equals_the_golden_model(bits, lanes, rng):
    factors = factor_choices(rng, bits, lanes, 25)
    got = results(LaneMultiplier(bits), lanes, factors)
    expected = lane_multiply(np.arange(256), factors[:, None], lanes, unsigned=False)
    np.testing.assert_array_equal(got, expected)


class Comparison(wiring.Component):
    """Tells whether the multiplier equals products written with ``*``, in one mode."""

    def __init__(self, dut, lanes):
        self._dut = dut
        self._lanes = lanes
        super().__init__({
            "word": In(8),
            "factors": In(signed(dut.factor_bits)).array(4),
            "same": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self._dut
        lanes, bits = self._lanes, 8 // self._lanes
        m.d.comb += [
            dut.word.eq(self.word),
            dut.two.eq(lanes == 2),
            dut.four.eq(lanes == 4),
            dut.factor.eq(self.factors[0]),
            *(step.eq(self.factors[field])
              for step, field in zip(dut.steps, NEWEST_FIRST[lanes])),
        ]
        fields = [self.word[k * bits : (k + 1) * bits].as_signed() for k in range(lanes)]
        sums = [field * self.factors[k] for k, field in enumerate(fields)]
        # Both sides less what the multiplier also carries late, added in its order: the engine
        # compares intermediate sums well and unlike trees of adders for hours.
        late = self.word[5] if lanes == 4 else 0
        sums[0] -= dut.carry
        sums[lanes // 2] -= late
        while len(sums) > 1:
            sums = [low + high for low, high in zip(sums[::2], sums[1::2], strict=True)]
        given = Signal(signed(dut.factor_bits + 10))
        expected = Signal.like(given)
        m.d.comb += [
            given.eq(dut.product - late),
            expected.eq(sums[0]),
            self.same.eq(given == expected),
        ]
        return m


def prove(comparison, folder, fixed):
    """Ask Yosys' SAT engine for all inputs, once for each value of the `fixed` top word bits."""
    (folder / "design.il").write_text(rtlil.convert(comparison, name="top", emit_src=False))
    given = [f"-set word[7:{8 - fixed}] {value}" for value in range(1 << fixed)] if fixed else [""]
    asked = [f"sat -verify -prove same 1 {value} top" for value in given]
    script = ["read_rtlil design.il", "prep -flatten -top top", "opt -full", *asked, ""]
    (folder / "proof.ys").write_text("\n".join(script))
    # A failing pass ends the process that runs it, so it gets one of its own.
    return run_script(folder, "proof.ys")


@pytest.mark.parametrize("lanes", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_equals_the_arithmetic_for_every_input(lanes, tmp_path):
    fixed = {1: 6, 2: 4, 4: 4}[lanes]
    run = prove(Comparison(LaneMultiplier(8), lanes), tmp_path, fixed)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert run.stdout.count("SUCCESS!") == 1 << fixed


@pytest.mark.parametrize("bits", [0, 4, 12, 8.5])
def test_rejects_other_factor_widths(bits):
    with pytest.raises(ValueError, match=rf"^Factors must have 8 or 16 bits, not {bits}$"):
        LaneMultiplier(bits)
