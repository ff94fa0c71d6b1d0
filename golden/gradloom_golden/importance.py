"""Samples kept by chance, the surer the rarer, and weighted so that the gradient stays the same.

A sample whose label has the error ``e = 1 - p_y`` is kept with probability ``2**-n``,

    n = min(k, cap) + extra

with k the most for which ``e 2**k`` is below 1, so that it is at least a half (0 for e = 1, no
bound for e = 0). D of a sample that is kept is multiplied by ``2**min(k, cap)``, and the learning
rate, which is the host's, by ``2**extra``. Then the mean over the draws is the gradient of all
samples, which that of a threshold is not, as far as D is not saturated: its largest value is
``1 - 2**-(bits - 1)``.

D is kept in proportion to its size, as nearly as powers of two allow, and so all that are kept are
alike in size. That is what sampling with the least variance does (Katharopoulos and Fleuret, ICML
2018, who bound the gradient of a sample by its D, too; Wang, Chen and Zhu, ICLR 2024, sample at
each layer). Powers of two are our choice: they cost a shift, and D keeps its range, since no entry
is larger than e once k is above 0.
"""

import numpy as np

from .budget import ONE
from .lfsr import low_half

__all__ = [
    "DRAW_BITS", "EXTRA_PLACE", "MOST", "PLACES", "draws_of", "error_shift", "field", "is_drawn",
    "parts",
]

MOST = 7
"""Cap and extra each have three bits."""

DRAW_BITS = 16
"""Of a draw, of which the upper n are looked at."""

PLACES = (15, 12, 11, 7, 6, 2, 1, 4, 14, 13, 10, 9, 8, 5, 3, 0)
"""Bits of an LFSR's draw in the order in which they are looked at.

Three bits of the sequence add up to zero wherever they are 31, 28 and 0 apart. With the upper bits
as they come that would tie a sample to the one two before it if n is above 4. The first seven of
these places tie no two samples less than 1,024 apart.
"""

EXTRA_PLACE = 4
"""Where extra begins in the field."""


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
    return cap | extra << EXTRA_PLACE


def parts(threshold: int) -> tuple[int, int]:
    """Return the cap and the extra of a field; bits beside them have no meaning."""
    return threshold & MOST, threshold >> EXTRA_PLACE & MOST


def error_shift(probabilities, cap: int) -> np.ndarray:
    """Return min(k, cap) of samples by their p_y, int array of 0 to 65536 in units of 2**-16."""
    errors = ONE - np.asarray(probabilities, np.int64)
    shift = np.zeros_like(errors)
    for k in range(1, cap + 1):
        shift += errors < ONE >> k
    return shift


def draws_of(states) -> np.ndarray:
    """Return the draws in states of an LFSR: its low half, by `PLACES`."""
    low = low_half(np.asarray(states, np.int64))
    draws = np.zeros_like(low)
    for place in PLACES:
        draws = draws << 1 | low >> place & 1
    return draws


def is_drawn(halvings, draws) -> np.ndarray:
    """Return whether samples are kept: where the upper n bits of a draw are zero."""
    return np.asarray(draws, np.int64) >> DRAW_BITS - np.asarray(halvings, np.int64) == 0
