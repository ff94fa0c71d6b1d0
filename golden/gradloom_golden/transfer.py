"""Transfers between buffers and memory: what LOAD and SAVE move, and where it lies.

A row in memory is contiguous: its buffer words side by side, element 0 in the lowest bits, each
element padded as `program.memory_shape` says, or cut to 4 or 2 bits. Rows start at any multiple of
a beat of the bus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .config import Config
from .fixed import HALF, sign_extend
from .lanes import quantize
from .program import Descriptor, Error, Opcode, Region, element_bits, memory_shape

__all__ = [
    "REGIONS",
    "Plan",
    "first_error",
    "is_compressed",
    "pack_words",
    "plan",
    "row_bytes",
    "unpack_words",
    "word_bits",
]

REGIONS = frozenset(Region) - {Region.CONTROL, Region.PROGRAM, Region.SUMS, Region.SHELL}
"""Buffers that can be loaded and saved."""

_AS_SEEN = (0, 8)
_COMPRESSED = (4, 2)


def is_compressed(region: int, bits: int) -> bool:
    """Return whether elements are cut to `bits` bits in memory."""
    return region == Region.ACTIVATION and bits in _COMPRESSED


def word_bits(config: Config, region: int, bits: int = 0) -> int:
    """Return the bits that a buffer word takes in memory.

    Parameters
    ----------
    region : Region
        One of `REGIONS`.
    bits : int
        Of an element: 0 or 8 as the host sees it, or 4 or 2 for activations.

    Raises
    ------
    ValueError
        If that region does not move, or not with that width.
    """
    if region not in REGIONS:
        names = ", ".join(known.name for known in sorted(REGIONS))
        raise ValueError(f"region {region!r} cannot be moved; choose from {names}")
    _, elements, host_bits = memory_shape(config, Region(region))
    if is_compressed(region, bits):
        return elements * bits
    if bits not in _AS_SEEN:
        raise ValueError(
            f"elements of region {Region(region).name} cannot be moved as {bits!r} bits; use 0")
    return elements * host_bits


def row_bytes(config: Config, region: int, words: int, bits: int = 0) -> int:
    """Return the bytes that a row of buffer words takes in memory."""
    return -(-words * word_bits(config, region, bits) // 8)


def pack_words(config: Config, region: int, words, bits: int = 0, *, x_shift: int = 0,
               unsigned: bool = False, random: ArrayLike = HALF) -> np.ndarray:
    """Return a row of buffer words as it lies in memory.

    Parameters
    ----------
    words : int array (count, elements)
        Elements unsigned, as they lie in the buffer.
    x_shift, unsigned, random
        Of `lanes.quantize`, where elements are compressed; `random` is (count, elements).

    Returns
    -------
    uint8 array (row_bytes,)
        Bits behind the last word are zero.
    """
    words = np.asarray(words, np.int64)
    width = word_bits(config, region, bits) // words.shape[1]
    if is_compressed(region, bits):
        values = words if unsigned else sign_extend(words, config.operand_bits)
        words = quantize(values, bits, x_shift, unsigned=unsigned, random=random)
    planes = words[..., None] >> np.arange(width) & 1
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack_words(config: Config, region: int, raw, count: int, bits: int = 0, *, x_shift: int = 0,
                 unsigned: bool = False) -> np.ndarray:
    """Return the `count` buffer words of a row in memory.

    Parameters
    ----------
    raw : uint8 array
        At least the bytes of the row.

    Returns
    -------
    int64 array (count, elements)
        Unsigned, cut to the bits that the buffer keeps. Compressed elements are shifted back.
    """
    _, elements, _ = memory_shape(config, Region(region))
    width = word_bits(config, region, bits) // elements
    planes = np.unpackbits(np.asarray(raw, np.uint8), bitorder="little")
    planes = planes[:count * elements * width].reshape(count, elements, width).astype(np.int64)
    words = (planes << np.arange(width)).sum(axis=-1)
    if is_compressed(region, bits):
        words = (words if unsigned else sign_extend(words, bits)) << x_shift
    return words & (1 << element_bits(config, Region(region))) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a transfer does before the memory has answered.

    Parameters
    ----------
    addresses : tuple of int
        Of the rows that move, in bytes.
    error : Error
    failed_address : int
        Where the error lies in memory; 0 without one.
    """

    addresses: tuple[int, ...] = ()
    error: Error = Error.NONE
    failed_address: int = 0


def first_error(config: Config, d: Descriptor) -> Error:
    """Return what is wrong with a LOAD or SAVE, gathered rows not followed.

    `rows` are those that move; none or empty ones have no place that could be out of range.
    """
    beat = config.axi_data_bits // 8
    base = d.memory_high << 32 | d.memory_low
    try:
        size = row_bytes(config, d.function, d.steps, d.tested_bits)
    except ValueError:
        return Error.REGION
    if d.gather and d.opcode == Opcode.SAVE:
        return Error.REGION
    if base % beat or (d.rows > 1 and d.packed_base % beat):
        return Error.MEMORY_ALIGNMENT
    last = base if d.gather else base + (d.rows - 1) * d.packed_base + size - 1
    if d.rows and d.steps and last >> config.axi_address_bits:
        return Error.MEMORY_RANGE
    return Error.NONE


def plan(config: Config, d: Descriptor, keep: Sequence[int] | np.ndarray = ()) -> Plan:
    """Return the rows that a LOAD or SAVE moves.

    Gathered rows are checked one by one, and those before an error move.

    Parameters
    ----------
    d : Descriptor
        `rows` are those that move.
    keep : sequence of int
        The whole keep list, where rows are gathered.
    """
    base = d.memory_high << 32 | d.memory_low
    if error := first_error(config, d):
        return Plan(error=error, failed_address=base)
    if not d.steps:
        return Plan()
    size = row_bytes(config, d.function, d.steps, d.tested_bits)
    addresses = []
    for row in range(d.rows):
        index = int(keep[(d.first_sample + row) % config.steps_depth]) if d.gather else row
        address = base + index * d.packed_base
        if (address + size - 1) >> config.axi_address_bits:
            return Plan(addresses=tuple(addresses), error=Error.MEMORY_RANGE,
                        failed_address=address & (1 << 64) - 1)
        addresses.append(address)
    return Plan(addresses=tuple(addresses))
