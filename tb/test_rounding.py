"""Rounding and saturation in gates equal `gradloom_golden.fixed`, at every corner."""

import numpy as np
import pytest
from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom.rounding import HALF, round_shift, saturate
from gradloom_golden import fixed
from simulate import play


class Rounding(wiring.Component):
    """Ports around `round_shift`."""

    def __init__(self, width):
        super().__init__({
            "value": In(signed(width)), "shift": In(5), "random": In(16),
            "quotient": Out(signed(width + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        quotient = round_shift(m, self.value, self.shift, self.random, name="value")
        m.d.comb += self.quotient.eq(quotient)
        return m


class Saturation(wiring.Component):
    """Ports around `saturate`; `asked` is None where there is no unsigned range."""

    def __init__(self, width, bits, *, choice):
        self._bits = bits
        self._choice = choice
        super().__init__({"value": In(signed(width)), "asked": In(1), "result": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        asked = self.asked if self._choice else None
        named = Signal.like(self.value)
        m.d.comb += [
            named.eq(self.value),
            self.result.eq(saturate(m, named, self._bits, name="value", unsigned_range=asked)),
        ]
        return m


def rounded(dut, values, shifts, randoms):
    cycles = ({"value": value, "shift": shift, "random": random}
              for value, shift, random in zip(values, shifts, randoms, strict=True))
    return play(dut, cycles, "quotient", clocked=False)["quotient"]


@pytest.mark.parametrize("width", [9, 16, 32])
def test_rounds_as_the_golden_model(width, rng):
    low, high = fixed.integer_range(width)
    corners = [low, low + 1, -1, 0, 1, high - 1, high]
    grid = [(value, shift, random) for value in corners for shift in (0, 1, width - 1, 16, 17, 31)
            for random in (0, 1, HALF - 1, HALF, 0xFFFF)]
    drawn = np.stack([rng.integers(low, high, 300, endpoint=True), rng.integers(0, 32, 300),
                      rng.integers(0, 1 << 16, 300)], axis=1)
    values, shifts, randoms = np.vstack([grid, drawn]).T
    got = rounded(Rounding(width), values, shifts, randoms)
    expected = [fixed.round_shift(*case) for case in zip(values, shifts, randoms, strict=True)]
    np.testing.assert_array_equal(got, expected)


def test_ties_go_up():
    values = np.array([-5, -3, -1, 1, 3, 5])
    got = rounded(Rounding(8), values, [1] * 6, [HALF] * 6)
    np.testing.assert_array_equal(got, [-2, -1, 0, 1, 2, 3])


@pytest.mark.parametrize(("width", "bits"), [(9, 8), (9, 2), (10, 4), (6, 5)])
def test_saturates_every_value(width, bits):
    low, high = fixed.integer_range(width)
    values = np.arange(low, high + 1)
    dut = Saturation(width, bits, choice=False)
    got = play(dut, ({"value": value} for value in values), "result", clocked=False)["result"]
    np.testing.assert_array_equal(fixed.sign_extend(got, bits), fixed.saturate(values, bits))


@pytest.mark.parametrize(("width", "bits"), [(10, 8), (10, 2), (9, 4), (6, 5)])
def test_saturates_to_the_range_that_is_asked_for(width, bits):
    low, high = fixed.integer_range(width)
    values = np.tile(np.arange(low, high + 1), 2)
    asked = np.repeat([0, 1], 1 << width)
    cycles = ({"value": value, "asked": ask} for value, ask in zip(values, asked, strict=True))
    got = play(Saturation(width, bits, choice=True), cycles, "result", clocked=False)["result"]
    np.testing.assert_array_equal(
        fixed.sign_extend(got[asked == 0], bits), fixed.saturate(values[asked == 0], bits))
    np.testing.assert_array_equal(
        got[asked == 1], fixed.saturate(values[asked == 1], bits, signed=False))
