"""Where the rows of a streaming descriptor lie: pixels of images, moved by the taps of a kernel.

Nothing is unfolded in memory: a convolution is a walk over addresses. The side that moves with the
taps is zero outside its image; the other reads the same rows for every tap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .program import Descriptor, Opcode

__all__ = ["Steps", "Tile", "d_rows", "steps_of", "taps", "tiles", "weight_tile", "x_rows"]


@dataclass(frozen=True, slots=True)
class Steps:
    """The pixel of each step, int64 arrays (T,)."""

    index: np.ndarray
    image: np.ndarray
    y: np.ndarray
    x: np.ndarray


@dataclass(frozen=True, slots=True)
class Tile:
    """One place of the weight tile loop nest."""

    block: int
    tap_y: int
    tap_x: int
    n: int


def taps(d: Descriptor) -> tuple[int, int]:
    """Return the tap rows and taps a row that the descriptor visits."""
    return (d.taps_y, d.taps_x) if d.conv else (1, 1)


def steps_of(d: Descriptor) -> Steps:
    """Return where each of the T steps is. Without `conv` all are in one row of one image."""
    index = np.arange(d.steps)
    if not d.conv:
        return Steps(index, np.zeros_like(index), np.zeros_like(index), index)
    return Steps(index, index // (d.t_x * d.t_y), index // d.t_x % d.t_y, index % d.t_x)


def tiles(d: Descriptor) -> Iterator[Tile]:
    """Yield the tiles in the order that the array takes them.

    Forward, the reduction over blocks and taps is the inner loop. Backward, that over outputs is,
    and where D moves with the taps, that over the taps as well.
    """
    rows, columns = taps(d)
    order = [(block, y, x) for block in range(d.k_tiles) for y in range(rows)
             for x in range(columns)]
    if d.opcode == Opcode.FORWARD:
        yield from (Tile(*k, n) for n in range(d.n_tiles) for k in order)
    else:
        yield from (Tile(*k, n) for k in order for n in range(d.n_tiles))


def weight_tile(d: Descriptor, tile: Tile) -> int:
    """Return the number of a tile, counted from the base, in units of `rows` buffer words."""
    if not d.conv:
        return tile.block * d.n_tiles + tile.n
    return (tile.block * d.w_block + tile.tap_y * d.w_row + tile.tap_x * d.w_pixel + tile.n)


def _moved(d: Descriptor, steps: Steps, tile: Tile) -> tuple[int, np.ndarray]:
    """Return the address offset of a tap, and which steps it leaves inside the image."""
    y = d.y_first + steps.y * d.y_step + tile.tap_y * d.tap_dy
    x = d.x_first + steps.x * d.x_step + tile.tap_x * d.tap_dx
    inside = (y >= 0) & (y < d.y_limit) & (x >= 0) & (x < d.x_limit)
    return tile.tap_y * d.tap_row + tile.tap_x * d.tap_pixel, inside


def x_rows(d: Descriptor, tile: Tile, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the word of X of each step, from the first word of its block, and what is inside.

    Parameters
    ----------
    image : int array (T,)
        The image that each step reads: that of its step, or of the keep list.
    """
    steps = steps_of(d)
    if not d.conv:
        return steps.index, np.ones(d.steps, bool)
    offset = d.x_offset + image * d.x_image + steps.y * d.x_row + steps.x * d.x_pixel
    if d.d_moves:
        return offset, np.ones(d.steps, bool)
    moved, inside = _moved(d, steps, tile)
    return offset + moved, inside | bool(d.patch)


def d_rows(d: Descriptor, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Return the word of D of each step, from the first word of its block, and what is inside."""
    steps = steps_of(d)
    if not (d.conv and d.d_moves):
        return steps.index, np.ones(d.steps, bool)
    moved, inside = _moved(d, steps, tile)
    return d.d_offset + steps.image * d.d_image + steps.y * d.d_row + steps.x + moved, inside
