"""How many activation bits the weight gradients have: one small class a policy, same interface.

Bits are chosen by layer, at most once an epoch, from a batch on which everything is measured that
the policies may want. `Angle` is what the machine's precision unit does: the comparison is
`gradloom_golden.precision`'s, on exact dot products.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradloom_golden.precision import angle_within, bound_from_degrees

from .make import complete, make

__all__ = ["BITS", "PRECISIONS", "Angle", "EarlyLow", "Fixed", "Measured", "Precision",
           "Predictor", "complete_precision", "degrees", "make_precision"]

BITS = (8, 4, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one batch told about the weight gradient of a layer.

    Parameters
    ----------
    dots : dict of int to (int, int, int)
        By bits: <g,g>, <g,h>, <h,h> of the 8-bit gradient g and the cut one h, exact.
    noise : dict of int to float
        By bits: sum (Q(x) - x)^2 / sum x^2 of the activations.
    diversity : float
        sum ||g_i||^2 / ||sum g_i||^2 over the outer products that the gradient is the sum of: one
        a sample in a fully connected layer, one a pixel of D in a convolution.
    """

    dots: dict[int, tuple[int, int, int]]
    noise: dict[int, float]
    diversity: float

    def predicted(self, bits: int) -> float:
        """Return the angle, in degrees, that noise and diversity predict."""
        return math.degrees(math.atan(math.sqrt(self.noise[bits] * self.diversity)))


def _check_bits(name: str, bits: int) -> None:
    if type(bits) is not int or bits not in BITS:
        raise ValueError(f"{name} must be 8, 4 or 2, not {bits!r}")


def degrees(gg: int, gh: int, hh: int) -> float:
    """Return the angle between two gradients; 90 if one is zero. A report, not a datum."""
    if not gg or not hh:
        return 90.0
    cosine = gh / math.sqrt(gg) / math.sqrt(hh)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


class Precision:
    """The interface; as it is, it gives all layers `bits`.

    Parameters
    ----------
    epochs : int
        Of the run.
    bits : int
        8, 4 or 2.

    Attributes
    ----------
    measures : bool
        `choose` is to be called with what was measured.
    """

    measures = False

    def __init__(self, epochs: int, *, bits: int = 8):
        _check_bits("bits", bits)
        self.epochs, self._bits = epochs, bits

    def bits(self, epoch: int) -> int | None:
        """Return the bits of all layers, or None if `choose` says."""
        return self._bits

    def bound(self, epoch: int) -> float:
        """Return the largest angle, in degrees, that is allowed; 90 if any is."""
        return 90.0

    def choose(self, epoch: int, measured: Measured) -> int:
        """Return the bits of a layer."""
        return self._bits


class Fixed(Precision):
    """The same bits in all layers and epochs."""


class EarlyLow(Precision):
    """Few bits at first, more later: `bits` up to a share of the epochs, then `later`.

    Parameters
    ----------
    epochs, bits
        As of `Precision`.
    later : int
    share : float
    """

    def __init__(self, epochs: int, *, bits: int = 2, later: int = 8, share: float = 0.5):
        super().__init__(epochs, bits=bits)
        _check_bits("later", later)
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {share!r}")
        self._later, self._turn = later, share * epochs

    def bits(self, epoch):
        """Return those of the epoch."""
        return self._bits if epoch < self._turn else self._later


class Angle(Precision):
    """The fewest bits whose gradient turns by no more than a bound, measured layer by layer.

    Parameters
    ----------
    epochs : int
    first, last : float
        Bounds of the first and the last epoch, degrees; those between lie on a line.
    reserve : float
        Share of the bound that a measured angle leaves free, from 0 to below 1: until the next
        measurement gradients get smaller and angles grow.
    """

    measures = True

    def __init__(self, epochs: int, *, first: float = 45.0, last: float = 20.0,
                 reserve: float = 0.5):
        super().__init__(epochs)
        for angle in (first, last):
            bound_from_degrees(angle)                       # refuse it early
        if not 0 <= reserve < 1:
            raise ValueError(f"reserve must be from 0 to below 1, not {reserve!r}")
        self._first, self._last, self._share = first, last, 1 - reserve

    def bits(self, epoch):
        """Return None: they are measured."""
        return None

    def bound(self, epoch):
        """Return the bound of the epoch."""
        return self._first + (self._last - self._first) * epoch / max(1, self.epochs - 1)

    def choose(self, epoch, measured) -> int:
        """Return what the precision unit picks: 4 bits are tried, then 2."""
        bound = bound_from_degrees(self._share * self.bound(epoch))
        picked = 8
        for bits in (4, 2):
            if angle_within(*measured.dots[bits], bound):
                picked = bits
        return picked


class Predictor(Angle):
    """The same, with the angle predicted: tan^2 = noise to signal times gradient diversity."""

    def choose(self, epoch, measured) -> int:
        """Return the fewest bits whose predicted angle is within the bound; 8 of no gradient."""
        bound = self._share * self.bound(epoch)
        return min((bits for bits in (4, 2) if measured.dots[bits][0]
                    and measured.predicted(bits) <= bound), default=8)


PRECISIONS: dict[str, Callable[..., Precision]] = {
    "fixed": Fixed, "early-low": EarlyLow, "angle": Angle, "predictor": Predictor,
}
"""By the name that a study's configuration uses."""


def complete_precision(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of the configuration with all defaults."""
    return complete("precision", PRECISIONS, options, "fixed")


def make_precision(options: Mapping[str, Any], epochs: int) -> Precision:
    """Return the policy that a table of the configuration describes: its `kind` and parameters.

    Raises
    ------
    ValueError
        If there is no such kind, or it has no such parameter.
    """
    return make("precision", PRECISIONS, options, "fixed", epochs)
