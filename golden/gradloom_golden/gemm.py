"""The three matrix products of a layer, as the edge sums them: exact, then saturating by tile.

Y = X W, dX = D W^T, dW = X^T D, with X (T, K), W (K, N), D (T, N). Inside the array sums cannot
overflow; the edge adds the tiles of a reduction in order and saturates each time.
"""

import numpy as np
from numpy.typing import ArrayLike

from . import lanes as lane_words
from .fixed import HALF, saturate

__all__ = ["forward", "input_gradient", "tile_sums", "weight_gradient"]


def tile_sums(a, b, tile: int, bits: int) -> np.ndarray:
    """Return ``a @ b``, reduced `tile` terms at a time with saturating additions between."""
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    total = np.zeros((a.shape[0], b.shape[1]), np.int64)
    for start in range(0, a.shape[1], tile):
        part = a[:, start:start + tile] @ b[start:start + tile]
        total = saturate(total + part, bits)
    return total


def forward(x, w, *, rows: int, bits: int = 32) -> np.ndarray:
    """Return Y (T, N): K is reduced `rows` at a time."""
    return tile_sums(x, w, rows, bits)


def input_gradient(d, w, *, columns: int, bits: int = 32) -> np.ndarray:
    """Return dX (T, K): N is reduced `columns` at a time."""
    return tile_sums(d, np.asarray(w).T, columns, bits)


def weight_gradient(x, d, *, lanes: int = 1, shift: int = 0, unsigned: bool = False,
                    random: ArrayLike = HALF) -> np.ndarray:
    """Return dW (K, N), summed over T where the weight sits.

    Parameters
    ----------
    x : int array (T, K)
    d : int array (T, N)
    lanes : int
        1 keeps X; 2 or 4 cut it to 4 or 2 bits first (`gradloom_golden.lanes.quantize`), and the
        result is scaled back by ``2**shift``.
    """
    x, d = np.asarray(x, np.int64), np.asarray(d, np.int64)
    if lanes > 1:
        x = lane_words.quantize(x, 8 // lanes, shift, unsigned=unsigned, random=random) << shift
    return x.T @ d
