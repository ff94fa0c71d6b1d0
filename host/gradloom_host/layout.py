"""How matrices lie in the machine's buffers.

A buffer word holds `lane_count` elements. Features are cut into blocks of one array edge; blocks
stand side by side in a word where the edge is shorter than the word; row t of a group of
blocks is word ``base + group * stride + t``.
"""

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import OFFSET_BITS, Region, memory_shape

__all__ = [
    "address", "blocks_of", "checked", "from_words", "matrix_words", "tiles_of", "to_words",
    "untile", "words_matrix",
]

HOST_BITS = 32


def checked(name: str, values, bits: int, *, unsigned: bool = False, axes: int = 2) -> np.ndarray:
    """Return `values` as int64 if every element fits, else say which does not.

    Raises
    ------
    TypeError
        If the elements are not integers.
    ValueError
        If the array has other than `axes` axes, no element, or one that is out of range.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, not {array.dtype}")
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{name} must have {axes} axes and elements, not shape {array.shape}")
    low, high = integer_range(bits, signed=not unsigned)
    outside = (array < low) | (array > high)
    if outside.any():
        where = tuple(int(index) for index in np.argwhere(outside)[0])
        raise ValueError(
            f"{name}{list(where)} is {array[where]}: scale it into {low} to {high}")
    return array.astype(np.int64)


def blocks_of(features: int, edge: int, lanes: int) -> int:
    """Return the words that one row of `features` takes, padded to whole tiles."""
    return -(-tiles_of(features, edge) * edge // lanes)


def tiles_of(features: int, edge: int) -> int:
    """Return the tiles along an edge of `features`."""
    return -(-features // edge)


def address(config: Config, region: Region, word: int) -> int:
    """Return the host address of a buffer word."""
    return region << OFFSET_BITS | word * words_each(config, region)


def words_each(config: Config, region: Region) -> int:
    """Return the 32-bit host words in a buffer word."""
    _, elements, bits = memory_shape(config, region)
    return max(1, elements * bits // HOST_BITS)


def to_words(config: Config, region: Region, rows) -> np.ndarray:
    """Return the host words of whole buffer words; `rows` (count, elements), any sign."""
    _, elements, bits = memory_shape(config, region)
    values = np.asarray(rows, np.int64).reshape(-1, elements)
    values = values & (1 << element_bits(config, region)) - 1
    packed = values.reshape(-1, min(elements, HOST_BITS // bits))
    shifts = bits * np.arange(packed.shape[1])
    return (packed << shifts).sum(axis=1).astype(np.uint32)


def from_words(config: Config, region: Region, words, *, signed: bool = True) -> np.ndarray:
    """Return the elements in host words, shape (count, elements)."""
    _, elements, bits = memory_shape(config, region)
    shifts = bits * np.arange(min(elements, HOST_BITS // bits))
    width = element_bits(config, region)
    values = np.asarray(words, np.int64)[:, None] >> shifts & (1 << width) - 1
    if signed:
        values -= values >> width - 1 << width
    return values.reshape(-1, elements)


def element_bits(config: Config, region: Region) -> int:
    """Return the bits of an element that the machine keeps."""
    return {
        Region.ACTIVATION: config.operand_bits, Region.GRADIENT: config.gradient_bits,
        Region.WEIGHT: config.operand_bits, Region.STATE: config.state_bits,
        Region.SUMS: config.accumulator_bits,
    }.get(region, HOST_BITS)


def matrix_words(config: Config, region: Region, matrix, edge: int) -> np.ndarray:
    """Return the buffer words of a matrix (T, features) cut into blocks of `edge` features.

    Words of the first group of blocks come first, T of them; features are padded with zeros.
    """
    matrix = np.asarray(matrix, np.int64)
    lanes = config.lane_count
    groups = blocks_of(matrix.shape[1], edge, lanes)
    padded = np.zeros((len(matrix), groups * lanes), np.int64)
    padded[:, :matrix.shape[1]] = matrix
    by_group = padded.reshape(len(matrix), groups, lanes).transpose(1, 0, 2).reshape(-1, lanes)
    return to_words(config, region, by_group)


def words_matrix(config: Config, region: Region, words, steps: int, features: int, *,
                 signed: bool = True) -> np.ndarray:
    """Return the matrix (steps, features) that `matrix_words` laid out."""
    lanes = config.lane_count
    rows = from_words(config, region, words, signed=signed)
    matrix = rows.reshape(-1, steps, lanes).transpose(1, 0, 2).reshape(steps, -1)
    return matrix[:, :features]


def tile(config: Config, matrix) -> np.ndarray:
    """Return the tile rows of a weight matrix (K, N), tile (k, n) after tile (k, n - 1)."""
    matrix = np.asarray(matrix, np.int64)
    rows, columns = config.rows, config.columns
    k_tiles, n_tiles = tiles_of(matrix.shape[0], rows), tiles_of(matrix.shape[1], columns)
    padded = np.zeros((k_tiles * rows, n_tiles * columns), np.int64)
    padded[:matrix.shape[0], :matrix.shape[1]] = matrix
    return padded.reshape(k_tiles, rows, n_tiles, columns).transpose(0, 2, 1, 3).reshape(
        -1, columns)


def untile(config: Config, tile_rows, shape: tuple[int, int]) -> np.ndarray:
    """Return the matrix of `shape` whose tile rows `tile` made."""
    rows, columns = config.rows, config.columns
    k_tiles, n_tiles = tiles_of(shape[0], rows), tiles_of(shape[1], columns)
    matrix = np.asarray(tile_rows).reshape(k_tiles, n_tiles, rows, columns)
    return matrix.transpose(0, 2, 1, 3).reshape(k_tiles * rows, -1)[:shape[0], :shape[1]]
