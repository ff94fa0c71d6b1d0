"""Softmax cross-entropy on integer logits, from a table of 256 exponentials.

Logits are integers in units of ``2**exponent``; differences to the row's maximum are at most zero,
so one table entry per 8-bit difference serves. Probabilities have 16 fraction bits.
"""

import numpy as np
from numpy.typing import ArrayLike

from .fixed import HALF, round_shift, saturate

__all__ = ["cross_entropy", "error", "exponential_table", "probabilities"]

FRACTION_BITS = 16


def exponential_table(exponent: int) -> np.ndarray:
    """Return round(65536 exp(-i 2**exponent)) for i = 0 to 255."""
    return np.rint(np.exp(-np.arange(256) * 2.0 ** exponent) * 65536).astype(np.int64)


def probabilities(logits, exponent: int) -> np.ndarray:
    """Return softmax probabilities in units of 2**-16, cut; shape of `logits` (T, C)."""
    logits = np.asarray(logits, np.int64)
    below = logits.max(axis=1, keepdims=True) - logits
    weights = exponential_table(exponent)[np.minimum(below, 255)]
    return (weights << FRACTION_BITS) // weights.sum(axis=1, keepdims=True)


def error(logits, labels, exponent: int, *, bits: int, random: ArrayLike = HALF) -> np.ndarray:
    """Return D = p - y in units of ``2**-(bits - 1)``, rounded, saturated to `bits` bits.

    Not divided by the batch: that is part of the learning rate, so that skipping samples does
    not change the weight of those that stay.
    """
    gap = probabilities(logits, exponent)
    gap[np.arange(len(gap)), labels] -= 1 << FRACTION_BITS
    return saturate(round_shift(gap, FRACTION_BITS - (bits - 1), random), bits)


def cross_entropy(logits, labels, exponent: int) -> float:
    """Return the mean negative log-probability of the labels, in nats: a report, not a datum."""
    chosen = probabilities(logits, exponent)[np.arange(len(labels)), labels]
    return float(np.mean(-np.log(np.maximum(chosen, 1) / 65536.0)))
