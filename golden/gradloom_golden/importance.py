"""Samples kept by chance, the surer the rarer, and weighted so that the gradient stays the same.

A sample whose label has the error ``e = 1 - p_y`` is kept with probability ``2**-n``, and its D
multiplied by ``2**n``: then the mean over the draws is the gradient of all samples, which that of a
threshold is not. With k the most for which ``e 2**k`` is below 1, so that it is at least a half,

    n = min(k, cap) + extra

Where the cap leaves k alone, all D that are kept are alike in size, which gives the least variance
that as many samples kept can have (Katharopoulos and Fleuret, ICML 2018, who bound the gradient of
a sample by its D, too; Wang, Chen and Zhu, ICLR 2024, sample at each layer). That factors are
powers of two is our choice: they cost a shift, and a D that is shifted fits the range of the
others, for its entry at the label is -e. `extra` is the same for all samples, so the learning rate
makes up for it, not D.
"""

import numpy as np

__all__ = ["DRAW_BITS", "MOST", "error_shift", "field", "is_drawn", "parts"]

MOST = 7
"""Cap and extra each have three bits."""

DRAW_BITS = 16
"""Of a draw, of which the upper n are looked at."""

_EXTRA_PLACE = 4


def field(cap: int, extra: int = 0) -> int:
    """Return the field `threshold` of a LOSS descriptor with `SkipRule.IMPORTANCE`.

    Raises
    ------
    ValueError
        If `cap` or `extra` is not an integer from 0 to `MOST`.
    """
    for name, value in (("cap", cap), ("extra", extra)):
        if type(value) is not int or not 0 <= value <= MOST:
            raise ValueError(f"{name} must be an integer from 0 to {MOST}, not {value!r}")
    return cap | extra << _EXTRA_PLACE


def parts(threshold: int) -> tuple[int, int]:
    """Return the cap and the extra of a field; bits beside them have no meaning."""
    return threshold & MOST, threshold >> _EXTRA_PLACE & MOST


def error_shift(probabilities, cap: int) -> np.ndarray:
    """Return min(k, cap) of samples by their p_y, int array of 0 to 65536 in units of 2**-16."""
    errors = (1 << 16) - np.asarray(probabilities, np.int64)
    shift = np.zeros_like(errors)
    for k in range(1, cap + 1):
        shift += errors < 1 << 16 - k
    return shift


def is_drawn(halvings, draws) -> np.ndarray:
    """Return whether samples are kept: where the upper n bits of a draw are zero."""
    return np.asarray(draws, np.int64) >> DRAW_BITS - np.asarray(halvings, np.int64) == 0
