"""How many activation bits the weight gradient of a layer needs, by the angle it turns.

The angle between the 8-bit gradient g and the b-bit gradient h is within its bound if
``<g,h> > 0`` and ``<g,h>^2 >= cos^2 <g,g> <h,h>``. The unit computes three dot products exactly,
drops common low bits until the squares fit 24, and compares products: no division, no root.
"""

import math

import numpy as np

__all__ = ["MANTISSA_BITS", "angle_within", "bound_from_degrees", "dot_products"]

MANTISSA_BITS = 24


def dot_products(g, h) -> tuple[int, int, int]:
    """Return <g,g>, <g,h> and <h,h> as exact integers."""
    left = np.asarray(g).ravel().astype(object)
    right = np.asarray(h).ravel().astype(object)
    return int(left @ left), int(left @ right), int(right @ right)


def angle_within(gg: int, gh: int, hh: int, bound: int) -> bool:
    """Tell whether the angle's cos^2 is at least ``bound / 65536`` and the angle below 90 degrees.

    Mantissas are cut, not rounded; ``<g,h>`` cannot exceed the larger square (Cauchy-Schwarz), so
    one shift fits all three.
    """
    while max(gg, hh) >> MANTISSA_BITS:
        gg, gh, hh = gg >> 1, gh >> 1, hh >> 1
    if gh <= 0:
        return False
    return gh * gh << 16 >= bound * gg * hh


def bound_from_degrees(degrees: float) -> int:
    """Return the descriptor's `bound` for an angle in degrees, 0 to 90."""
    if not 0 <= degrees <= 90:
        raise ValueError(f"an angle bound lies between 0 and 90 degrees, not {degrees!r}")
    return min(0xFFFF, round(65536 * math.cos(math.radians(degrees)) ** 2))
