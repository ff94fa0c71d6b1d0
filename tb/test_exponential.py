"""The pipeline of exponentials equals `gradloom_golden.loss` for every distance."""

import pytest

from gradloom.exponential import Exponential
from gradloom_golden.loss import exponentials, powers
from simulate import play

LATENCY = Exponential.LATENCY


@pytest.mark.parametrize("exponent", [-64, -24, -23, -8, -5, -3, 0, 5, 8, 9, 63])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_distance(bits, exponent):
    cycles = [{"distance": distance % (1 << bits), "exponent": exponent}
              for distance in range((1 << bits) + LATENCY)]
    seen = play(Exponential(bits), cycles, "power", "value")
    power = powers(range(1 << bits), exponent)
    assert seen["power"][LATENCY:].tolist() == power.tolist()
    assert seen["value"][LATENCY:].tolist() == exponentials(power).tolist()
