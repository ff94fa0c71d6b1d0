"""The random bits of stochastic rounding, and of what is kept by chance: a 31-bit LFSR a lane.

The bit sequence is b[n] = b[n-31] ^ b[n-28] (PRBS31, ITU-T O.150: x^31 + x^28 + 1, period
2^31 - 1). A draw is the state; after it the register advances 16 bits at once, so that
consecutive draws of 16 bits share none.
"""

from enum import IntEnum

import numpy as np

__all__ = ["Bank", "Lfsr", "advance", "high_half", "initial_state", "low_half"]

_MASK = (1 << 31) - 1


class Bank(IntEnum):
    """Who draws: each user has lanes of its own."""

    REQUANTIZE = 0
    PACK = 1
    UPDATE = 2
    ERROR = 3                             # one lane, for the error of the logits
    VECTOR = 4
    SAVE = 5
    KEEP = 6                              # one lane, for the samples that importance keeps


def initial_state(seed: int, bank: int, lane: int) -> int:
    """Return the state of a lane after seeding: the seed, spread by the golden ratio.

    The one seed that would give the all-zero state, which an LFSR never leaves, gives 1.
    """
    spread = 0x9E3779B9 * ((bank << 10) + lane + 1) & _MASK
    return ((seed ^ spread) & _MASK) or 1


def advance(state):
    """Return the state 16 bits later; works on an int or an array of states."""
    fresh = (state >> 15 ^ state >> 12) & 0xFFFF
    return (state << 16 | fresh) & _MASK


def low_half(state):
    """Return 16 random bits of a draw."""
    return state & 0xFFFF


def high_half(state):
    """Return the 16 oldest bits of a draw; they share one bit with `low_half`."""
    return state >> 15


class Lfsr:
    """A bank of `lanes` registers that advance together, once a row."""

    def __init__(self, bank: Bank, lanes: int, seed: int = 0):
        self.bank = bank
        self.lanes = lanes
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Put every lane in its initial state."""
        self.state = np.array(
            [initial_state(seed, self.bank, lane) for lane in range(self.lanes)], np.int64)

    def draw(self, rows: int) -> np.ndarray:
        """Return the states of `rows` successive draws, shape (rows, lanes)."""
        states = np.empty((rows, self.lanes), np.int64)
        state = self.state
        for row in range(rows):
            states[row] = state
            state = advance(state)
        self.state = state
        return states
