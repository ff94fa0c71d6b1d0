# amaranth: UnusedElaboratable=no
"""The LFSR bank equals its golden twin, draw by draw."""

import numpy as np
import pytest

from gradloom.lfsr import Lfsr
from gradloom_golden import lfsr as golden
from simulate import play, stalled

DRAWS = 40
ZERO_STATE = 0x9E3779B9 & 0x7FFFFFFF
"""The seed that lane 0 of bank 0 turns into zero."""


def states(bank, lanes, seed):
    return golden.Lfsr(bank, lanes, seed).draw(DRAWS)


@pytest.mark.parametrize("bank", golden.Bank)
@pytest.mark.parametrize("lanes", [1, 5])
def test_starts_as_if_seeded_with_zero(bank, lanes):
    cycles = [{"advance": 1, "seed": 5}] * (DRAWS + 1)
    seen = play(Lfsr(bank, lanes), cycles, "state")["state"]
    np.testing.assert_array_equal(seen[1:], states(bank, lanes, 0))


def test_a_seed_may_come_in_the_first_cycle():
    cycles = [{"load": 1, "seed": 9}, *[{"load": 0, "advance": 1}] * DRAWS]
    seen = play(Lfsr(golden.Bank.PACK, 2), cycles, "state")["state"]
    np.testing.assert_array_equal(seen[1:], states(golden.Bank.PACK, 2, 9))


@pytest.mark.parametrize("seed", [1, ZERO_STATE, (1 << 31) - 1, 0x12345678])
@pytest.mark.parametrize("pattern", ["1", "1101", "001"])
def test_follows_its_seed_and_holds_between_draws(seed, pattern):
    bank, lanes = golden.Bank.REQUANTIZE, 4
    advances = [step is not None for step in stalled(range(DRAWS), pattern)]
    seeding = {"load": 1, "advance": 1, "seed": seed}
    cycles = [{"advance": 1}, seeding, *({"load": 0, "advance": advance} for advance in advances)]
    seen = play(Lfsr(bank, lanes), cycles, "state")["state"][2:]
    assert seen.all(), "a register of zeros never leaves zero"
    np.testing.assert_array_equal(seen[advances], states(bank, lanes, seed))


def test_seeding_wins_again_and_again():
    cycles = [{"load": 1, "advance": 1, "seed": 7}] * 3
    seen = play(Lfsr(golden.Bank.PACK, 2), cycles, "state")["state"]
    assert (seen[1:] == states(golden.Bank.PACK, 2, 7)[0]).all()


@pytest.mark.parametrize("lanes", [0, -1])
def test_rejects_an_empty_bank(lanes):
    with pytest.raises(ValueError, match=f"needs at least 1 lane, not {lanes}$"):
        Lfsr(golden.Bank.PACK, lanes)
