"""Which samples are worth a gradient.

With p_y the probability of the labelled class among C classes,
``(1-p_y)^2 (1 + 1/(C-1)) <= ||p - y||^2 <= 2 (1-p_y)^2``: confidence in the *label* bounds the
squared error. Confidence in the likeliest class would also skip samples that are confidently
wrong. The margin ``z_y - max_{j != y} z_j`` orders samples nearly as p_y does and needs no
exponential: ``p_y <= 1 / (1 + exp(-margin))``.
"""

import math

import numpy as np

__all__ = ["NEVER", "fraction", "keep_list", "margins", "threshold_from_probability"]

NEVER = (1 << 16) - 1
"""A threshold that no margin reaches: every sample is kept."""


def fraction(share: float) -> int:
    """Return a probability or a budget, from 0 to below 1, in units of 2**-16.

    At most `NEVER` - 1: what rounds to one has no field, and `NEVER` means something else.
    """
    return min(round(share * (1 << 16)), NEVER - 1)


def margins(logits, labels) -> np.ndarray:
    """Return ``z_y - max_{j != y} z_j``, shape (T,); logits (T, C) integers, labels (T,)."""
    logits = np.array(logits, np.int64)
    rows = np.arange(len(logits))
    labelled = logits[rows, labels]
    logits[rows, labels] = np.iinfo(np.int64).min
    return labelled - logits.max(axis=1)


def keep_list(logits, labels, threshold: int) -> np.ndarray:
    """Return the indices of the samples whose margin is below `threshold`, in order."""
    return np.flatnonzero(margins(logits, labels) < threshold)


def threshold_from_probability(probability: float, exponent: int) -> int:
    """Return the margin, in units of ``2**exponent``, at which p_y can first reach `probability`.

    Raises
    ------
    ValueError
        If the probability is not above 0.5 and below 1: at and below a half the rule would also
        skip samples that are classified wrongly.
    """
    if not 0.5 < probability < 1:
        raise ValueError(f"a skip probability lies between 0.5 and 1, not {probability!r}")
    margin = math.log(probability / (1 - probability)) * 2.0 ** -exponent
    return max(1, min(NEVER, math.ceil(margin)))
