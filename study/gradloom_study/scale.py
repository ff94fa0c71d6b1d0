"""Dynamic fixed point: one power of two a tensor, adapted by golden's rule.

`resolve` asks golden's own scale table for the shifts of an operation; `Scale` measures a tensor as
that table does, and adapts by the same function; `resolve_into` raises its exponent as that table
does.
"""

from functools import lru_cache

import torch

from gradloom_golden.fixed import integer_range
from gradloom_golden.program import Descriptor
from gradloom_golden.scale import Resolved, Scales, better_exponent

from .fixed import BLOCK

__all__ = ["FIRST_EXPONENT", "WIDTH", "Scale", "resolve", "resolve_into"]

FIRST_EXPONENT = -5
"""Of everything that is measured, before it is."""

WIDTH = 16
"""Elements of a buffer word of the machine emulated; those that fill up a word are counted."""

PLACES = ("x", "d", "w", "out", "bias")


@lru_cache(maxsize=1 << 14)
def resolve(opcode: int, function: int = 0, *, x: int = 0, d: int = 0, w: int = 0, out: int = 0,
            bias: int = 0, rate: int = 0, out_shift: int = 0) -> Resolved:
    """Return a descriptor of an operation with the shifts that follow from exponents.

    Parameters
    ----------
    opcode, function : int
    x, d, w, out, bias : int
        Exponents of what the operation reads and writes.
    rate, out_shift : int
        Fields of the descriptor that are part of its formulas.
    """
    table = Scales()
    table.exponents[:len(PLACES)] = x, d, w, out, bias
    places = {f"{name}_scale": place for place, name in enumerate(PLACES)}
    return table.resolve(Descriptor(opcode=opcode, function=function, scaled=1, measure=1,
                                    rate=rate, out_shift=out_shift, **places))


class Scale:
    """The exponent of a tensor, and what was measured of it since it was last adapted.

    Parameters
    ----------
    exponent : int
    width : int
        Elements of a buffer word; channels beyond are counted as zeros, as the machine counts
        them. 1 counts what there is.
    """

    def __init__(self, exponent: int = FIRST_EXPONENT, width: int = WIDTH):
        self.exponent = exponent
        self.width = width
        self._count = self._clipped = 0
        self._large = False

    def measure(self, values: torch.Tensor, bits: int, *, signed: bool = True) -> None:
        """Count `values` (..., channels), integers written in `bits` bits with this exponent."""
        if not values.numel():
            return
        low, high = integer_range(bits, signed=signed)
        least, largest = (int(end) for end in torch.aminmax(values))
        channels = values.shape[-1]
        self._count += values.numel() // channels * (channels + -channels % self.width)
        # An element at an end is one further than those that are not: counted exactly, since a
        # block has fewer than 2**24.
        if largest == high:
            self._clipped += _sum(values, -1.0, float(1 - high))
        if least == low and low < 0:
            self._clipped += _sum(values, 1.0, float(low + 1))
        self._large |= 2 * max(-least, largest) > high

    def rescale(self) -> None:
        """Adapt the exponent if anything was measured, and forget the measurements."""
        if self._count:
            self.exponent = better_exponent(
                self.exponent, self._count, self._clipped, self._large)
        self._count = self._clipped = 0
        self._large = False


def resolve_into(scale: Scale, opcode: int, function: int = 0, **given: int) -> Resolved:
    """Return a descriptor of an operation that writes a tensor, as `resolve`.

    Parameters
    ----------
    scale : Scale
        Of the tensor; its exponent is raised where no shift would be left.
    opcode, function, **given
        As of `resolve`, without `out`.
    """
    found = resolve(opcode, function, out=scale.exponent, **given)
    scale.exponent = found.out_exponent
    return found


def _sum(values: torch.Tensor, sign: float, offset: float) -> int:
    """Return the sum of what ``offset - sign * values`` has above zero, block by block."""
    flat = values.reshape(-1)
    total = 0
    for first in range(0, flat.numel(), BLOCK):
        part = flat[first:first + BLOCK].mul(-sign).add_(offset)
        total += int(part.clamp_min_(0).sum())
    return total
