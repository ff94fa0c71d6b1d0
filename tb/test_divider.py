"""The divider returns whole quotients for every kind of mantissa, in its time."""

import numpy as np

from gradloom.divider import Divider
from simulate import play

MANTISSAS = [1 << 16, (1 << 16) + 1, 3 << 15, (1 << 17) - 1]


def test_quotients_are_whole_and_stand(rng):
    divisors = [*MANTISSAS, *rng.integers(1 << 16, 1 << 17, 40).tolist(), 1 << 16]
    gap = Divider.CYCLES + 3
    cycles = []
    for divisor in divisors:
        cycles.append({"start": 1, "divisor": divisor})
        cycles += [{"start": 0, "divisor": 0}] * (gap - 1)
    seen = play(Divider(), cycles, "done", "quotient")
    done = seen["done"].reshape(-1, gap)
    quotients = seen["quotient"].reshape(-1, gap)
    assert (done == (np.arange(gap) == Divider.CYCLES)).all()
    standing = quotients[:, Divider.CYCLES + 1:]
    assert (standing == (1 << 33) // np.array(divisors)[:, None]).all()
