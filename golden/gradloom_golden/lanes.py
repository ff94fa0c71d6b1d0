"""Packed activations: 1x8, 2x4 or 4x2 bits of consecutive t in one word.

Field f (from the low end) of a packed word holds step `bit_reverse(f)` of its group. That order
lets the cell pick its gradients with fewer multiplexers (docs/architecture.md).
"""

import numpy as np
from numpy.typing import ArrayLike

from .fixed import HALF, round_shift, saturate, sign_extend

__all__ = ["STEP_OF_FIELD", "lane_multiply", "lane_values", "pack", "quantize", "unpack"]

STEP_OF_FIELD = {1: (0,), 2: (0, 1), 4: (0, 2, 1, 3)}
"""For 1, 2 or 4 lanes: which step of the group each field of the word holds."""


def quantize(x, bits: int, shift: int, *, unsigned: bool, random: ArrayLike = HALF) -> np.ndarray:
    """Cut activations to `bits` bits by dropping `shift` low bits, rounded, saturated."""
    return saturate(round_shift(x, shift, random), bits, signed=not unsigned)


def pack(values, lanes: int) -> np.ndarray:
    """Pack `lanes` rows a word.

    Parameters
    ----------
    values : int array (T, K)
        Of 8 // lanes bits, signed or unsigned. T is padded with zero rows.

    Returns
    -------
    int64 array (ceil(T / lanes), K)
        Words of 8 bits, unsigned.
    """
    bits = 8 // lanes
    steps, width = np.shape(values)
    padded = np.zeros((-steps % lanes + steps, width), np.int64)
    padded[:steps] = values
    groups = padded.reshape(-1, lanes, width) & (1 << bits) - 1
    words = np.zeros((len(groups), width), np.int64)
    for field, step in enumerate(STEP_OF_FIELD[lanes]):
        words |= groups[:, step] << field * bits
    return words


def lane_values(word, lanes: int, *, unsigned: bool) -> np.ndarray:
    """Return the fields of 8-bit words, lowest first, on a new last axis."""
    bits = 8 // lanes
    raw = np.asarray(word, np.int64)[..., None] >> bits * np.arange(lanes) & (1 << bits) - 1
    return raw if unsigned else sign_extend(raw, bits)


def unpack(words, lanes: int, steps: int, *, unsigned: bool) -> np.ndarray:
    """Return the first `steps` rows that `pack` packed."""
    fields = lane_values(words, lanes, unsigned=unsigned)
    order = np.argsort(STEP_OF_FIELD[lanes])
    rows = np.moveaxis(fields[..., order], -1, 1)
    return rows.reshape(-1, fields.shape[1])[:steps]


def lane_multiply(word, gradients, lanes: int, *, unsigned: bool) -> np.ndarray:
    """Return the sum over the fields of `word` of field times gradient.

    Parameters
    ----------
    word : int array
        8-bit words.
    gradients : int array (..., 4)
        One factor a quarter of the word, lowest first. A field of 4 or 8 bits covers two or four
        quarters, and its factor stands in each of them.
    """
    gradients = np.asarray(gradients, np.int64)
    values = lane_values(word, lanes, unsigned=unsigned)
    return (values * gradients[..., ::4 // lanes]).sum(-1)
