# amaranth: UnusedElaboratable=no
"""Delay lines delay by what they say."""

import numpy as np
import pytest
from amaranth import Module, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom.skew import Delay, Skew, delay
from simulate import play

CYCLES = 40


def late(values, cycles):
    """Return the values as they were `cycles` ago, zero before the first."""
    return np.concatenate([np.zeros(cycles, np.int64), values])[:len(values)]


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize("bits", [1, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_each_element_has_its_delay(lanes, bits, reverse, rng):
    vectors = rng.integers(0, 1 << bits, (CYCLES, lanes))
    seen = play(Skew(bits, lanes, reverse=reverse), [{"i": vector} for vector in vectors], "o",
                elements=dict.fromkeys("io", unsigned(bits)))["o"]
    for lane in range(lanes):
        cycles = lanes - 1 - lane if reverse else lane
        np.testing.assert_array_equal(seen[:, lane], late(vectors[:, lane], cycles))


def test_one_element_needs_no_clock():
    dut = Skew(8, 1)
    assert not dut.CLOCKED
    assert Skew(8, 2).CLOCKED
    values = [3, 200, 0]
    np.testing.assert_array_equal(
        play(dut, [{"i": value} for value in values], "o", clocked=False)["o"], values)


@pytest.mark.parametrize("cycles", [1, 2, 4, 8])
def test_delay_is_exact(cycles, rng):
    values = rng.integers(0, 1 << 9, CYCLES)
    seen = play(Delay(9, cycles), [{"i": value} for value in values], "o")["o"]
    np.testing.assert_array_equal(seen, late(values, cycles))


class FewBits(wiring.Component):
    """Ports around `delay`."""

    def __init__(self, width, cycles):
        self._cycles = cycles
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(delay(m, self.i, self._cycles, name="line"))
        return m


@pytest.mark.parametrize("cycles", [0, 1, 2, 7])
@pytest.mark.parametrize("width", [1, 3])
def test_any_few_bits_can_be_delayed(cycles, width, rng):
    values = rng.integers(0, 1 << width, CYCLES)
    seen = play(FewBits(width, cycles), [{"i": value} for value in values], "o",
                clocked=cycles > 0)
    np.testing.assert_array_equal(seen["o"], late(values, cycles))


@pytest.mark.parametrize("cycles", [0, -1, 3, 12])
def test_rejects_a_delay_that_cannot_be_halved(cycles):
    with pytest.raises(ValueError, match=f"is a power of two of cycles, not {cycles}$"):
        Delay(8, cycles)


@pytest.mark.parametrize("lanes", [0, -1, 6])
def test_rejects_lanes_that_cannot_be_halved(lanes):
    with pytest.raises(ValueError, match=f"has a power of two of lanes, not {lanes}$"):
        Skew(8, lanes)
