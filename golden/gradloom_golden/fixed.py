"""Integer rounding, saturation and sign: the only routines that narrow a number.

Every value is an integer with a power-of-two scale kept outside the machine.
"""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["HALF", "better_shift", "integer_range", "round_shift", "saturate", "shift_either",
           "sign_extend"]

HALF = 0x8000
"""The `random` value that makes `round_shift` round to nearest, halves up."""


def integer_range(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """Return the least and the greatest `bits`-bit integer."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def round_shift(value, shift: int, random: ArrayLike = HALF) -> np.ndarray:
    """Divide by ``2**shift`` and round, up with the probability of the dropped fraction.

    The quotient is cut to 16 fraction bits; `random`, uniform in [0, 65536), is added there and
    the fraction dropped. `HALF` in its place rounds to nearest.

    Parameters
    ----------
    value : int array
        At most 47 bits with sign.
    shift : int
        0 to 31.
    random : int array, broadcast against `value`

    Returns
    -------
    int64 array
    """
    fraction = (np.asarray(value, np.int64) << 16) >> shift
    return (fraction + np.asarray(random, np.int64)) >> 16


def saturate(value, bits: int, *, signed: bool = True) -> np.ndarray:
    """Clip to the range of a `bits`-bit integer."""
    return np.clip(np.asarray(value, np.int64), *integer_range(bits, signed=signed))


def sign_extend(value, bits: int) -> np.ndarray:
    """Read the low `bits` of each element as two's complement."""
    low = np.asarray(value, np.int64) & (1 << bits) - 1
    return low - ((low >> bits - 1) << bits)


def better_shift(shift: int, narrowed, bits: int, *, signed: bool = True) -> int:
    """Return the shift to use next, from what the present one gave.

    One more if over 1/256 of the elements lie at an end of the range; one less if the largest
    would still fit after doubling; else the same.
    """
    low, high = integer_range(bits, signed=signed)
    narrowed = np.asarray(narrowed)
    clipped = np.count_nonzero((narrowed == high) | (narrowed == low) & (low < 0))
    if clipped * 256 > narrowed.size:
        return shift + 1
    return shift - 1 if 2 * np.abs(narrowed).max() <= high else shift


def shift_either(value, shift: int) -> np.ndarray:
    """Multiply by ``2**shift``; bits that a negative shift drops are cut, not rounded."""
    value = np.asarray(value, np.int64)
    return value << shift if shift >= 0 else value >> -shift
