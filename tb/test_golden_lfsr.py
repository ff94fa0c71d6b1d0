"""The random bits against PRBS31 written one bit at a time."""

import numpy as np
import pytest

from gradloom_golden.lfsr import Bank, Lfsr, advance, high_half, initial_state, low_half

LANES = 16
SEEDS = [0, 1, 0x12345678, (1 << 31) - 1]


def bits_of(state):
    """Return the 31 bits of a state, the oldest first."""
    return [state >> place & 1 for place in reversed(range(31))]


def prbs31(start, count):
    """Return `count` bits that follow the 31 bits `start`: b[n] = b[n-31] ^ b[n-28]."""
    bits = list(start)
    for _ in range(count):
        bits.append(bits[-31] ^ bits[-28])
    return bits[31:]


@pytest.mark.parametrize("seed", SEEDS)
def test_low_halves_are_the_bit_sequence(seed):
    lfsr = Lfsr(Bank.PACK, 2, seed)
    first = int(lfsr.state[1])
    draws = lfsr.draw(200)[:, 1].tolist()
    assert draws[0] == first
    drawn = [bit for state in draws[1:] for bit in bits_of(low_half(state))[-16:]]
    assert drawn == prbs31(bits_of(first), 199 * 16)


def image(columns, state):
    """Return a linear map, given by its images of single bits, of a state."""
    result = 0
    for place, column in enumerate(columns):
        if state >> place & 1:
            result ^= column
    return result


def test_the_period_is_two_to_the_31_less_one():
    once = [advance(1 << place) for place in range(31)]
    power = once
    for _ in range(31):
        power = [image(power, column) for column in power]
    # advance^(2^31) = advance, an invertible map; 2^31 - 1 is prime, and one step moves a state.
    assert power == once
    assert all(advance(1 << place) != 1 << place for place in range(31))
    assert len({image(once, state) for state in range(1 << 12)}) == 1 << 12


@pytest.mark.parametrize("bank", Bank)
def test_no_lane_ever_starts_at_zero(bank):
    for lane in (0, 1, 255):
        hidden = 0x9E3779B9 * ((bank << 10) + lane + 1) & (1 << 31) - 1
        assert initial_state(hidden, bank, lane) == 1
        assert initial_state(hidden ^ 1, bank, lane) == 1
        assert initial_state(hidden ^ 2, bank, lane) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_every_lane_of_every_bank_starts_elsewhere(seed):
    starts = [initial_state(seed, bank, lane) for bank in Bank for lane in range(256)]
    assert 0 not in starts
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("seed", SEEDS)
def test_states_are_never_zero(seed):
    states = Lfsr(Bank.REQUANTIZE, LANES, seed).draw(5000)
    assert states.all()
    assert ((0 <= states) & (states < 1 << 31)).all()


def test_halves_are_the_two_ends_and_share_a_bit():
    state = 0b1010_0000_0000_0011_0000_0000_0000_101
    assert low_half(state) == state & 0xFFFF
    assert high_half(state) == state >> 15
    assert high_half(state) & 1 == low_half(state) >> 15
    assert high_half((1 << 31) - 1) == low_half((1 << 31) - 1) == 0xFFFF


def test_draws_continue_and_seeding_starts_again():
    whole = Lfsr(Bank.UPDATE, LANES, 7).draw(9)
    lfsr = Lfsr(Bank.UPDATE, LANES, 7)
    parts = [lfsr.draw(4), lfsr.draw(0), lfsr.draw(5)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    lfsr.seed(7)
    np.testing.assert_array_equal(lfsr.draw(9), whole)


def test_sixteen_bits_are_nearly_uniform():
    draws = low_half(Lfsr(Bank.REQUANTIZE, 64, 3).draw(4096))
    assert abs(draws.mean() - 32767.5) < 150
    assert 0.49 < (draws >= 1 << 15).mean() < 0.51
