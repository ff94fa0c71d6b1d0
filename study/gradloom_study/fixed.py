"""Rounding and saturation on PyTorch tensors: twins of `gradloom_golden.fixed`.

Integers live in floating-point tensors, where additions and multiplications are fast. That is exact
as long as every value stays below the integers that the type counts one by one, ``2**24`` of
float32 and ``2**53`` of float64; the routines here say what they need.
"""

import torch

from gradloom_golden.fixed import integer_range

__all__ = ["BLOCK", "EXACT", "narrow_", "round_shift_", "saturate_"]

EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}
"""Integers up to here are exact, by type."""

FRACTION_BITS = 16

BLOCK = 1 << 17
"""Elements that pass through all operations together on a CPU, so that its cache holds them."""


def round_shift_(value: torch.Tensor, shift: int,
                 draws: torch.Tensor | None = None) -> torch.Tensor:
    """Divide integers by ``2**shift`` and round, in place, as golden's `round_shift`.

    With float32 the result is golden's if it fits eight bits, signed or unsigned, and else lies
    beyond them: ``q + r 2**-16`` with q cut to 16 fraction bits needs 24 bits in all up to 256, and
    larger sums, which may lose low bits, stay at 256 or above. With float64 the same holds for
    37 bits.

    Parameters
    ----------
    value : float tensor
        Integers of at most 24 bits with float32, 37 bits with float64; also fractions, which are
        then cut to 16 bits only where the type is too short for more.
    shift : int
        0 to 31.
    draws : int16 tensor, optional
        Centred, of the same shape; without them the result is rounded to nearest.
    """
    if shift > FRACTION_BITS:
        value.mul_(2.0 ** (FRACTION_BITS - shift)).floor_()
        shift = FRACTION_BITS
    value.mul_(2.0 ** -shift)
    if draws is not None:
        value.add_(draws, alpha=2.0 ** -FRACTION_BITS)
    return value.add_(0.5).floor_()


def saturate_(value: torch.Tensor, bits: int, *, signed: bool = True) -> torch.Tensor:
    """Clip to the range of a `bits`-bit integer, in place."""
    return value.clamp_(*integer_range(bits, signed=signed))


def narrow_(value: torch.Tensor, shift: int, bits: int, *, signed: bool = True,
            draws: torch.Tensor | None = None) -> torch.Tensor:
    """Round, then saturate, in place; a large tensor goes through block by block.

    Parameters are those of `round_shift_`; `value` and `draws` are contiguous.
    """
    flat = value.view(-1)
    bits_of = None if draws is None else draws.view(-1)
    step = BLOCK if value.device.type == "cpu" else max(1, flat.numel())
    for first in range(0, flat.numel(), step):
        part = flat[first:first + step]
        drawn = None if bits_of is None else bits_of[first:first + step]
        saturate_(round_shift_(part, shift, drawn), bits, signed=signed)
    return value
