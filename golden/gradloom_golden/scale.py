"""Dynamic fixed point: the exponents of tensors, the shifts that follow, and how they adapt.

A tensor is integers times ``2**exponent``. A descriptor names the exponents of what it reads and
writes by their places in a table; its shifts are sums and differences of them.

Shifts narrow sums and never widen them. An exponent that is measured is therefore raised, before
anything is written, to that of the sums: below it no shift would do, the elements would be what
they were, and the exponent, since they still seem small, would fall at every step and no longer say
what they mean.
"""

from dataclasses import dataclass, replace

import numpy as np

from .fixed import integer_range, saturate
from .program import SCALES, Descriptor, Function, Opcode

__all__ = ["EXPONENT_BITS", "FORMULAS", "LEAST_BIAS_SHIFT", "SHIFTS", "TABLE_BITS", "TERMS",
           "Formula", "Resolved", "Scales", "better_exponent", "formulas_of"]

EXPONENT_BITS = 7
"""Signed bits to which `better_exponent` keeps an exponent."""

TABLE_BITS = EXPONENT_BITS + 1
"""Signed bits that the table holds."""

SHIFTS = ("out_shift", "gradient_shift", "rate_shift", "bias_shift")
"""What follows from the table. None is negative but `bias_shift`."""

LEAST_BIAS_SHIFT = -15

TERMS = ("x", "d", "w", "out", "bias", "low")
"""What shifts are made of: exponents, and `low`, the lesser of those of X and D."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A shift: a field of the descriptor, and exponents added and subtracted, then clipped.

    Parameters
    ----------
    plus, minus : tuple of str
        Among `TERMS`.
    field : str
        Of the descriptor; none if empty.
    bits : int
        Of the shift, which clips at both ends of their range.
    """

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    field: str = ""
    bits: int = 5


_GRADIENT = Formula(("w",), ("x", "d"), "rate")

FORMULAS: dict[tuple[int, int | None], dict[str, Formula]] = {
    (Opcode.FORWARD, None): {
        "out_shift": Formula(("out",), ("x", "w")),
        "bias_shift": Formula(("bias",), ("x", "w")),
    },
    (Opcode.BACKWARD, None): {
        "out_shift": Formula(("out",), ("d", "w")),
        "gradient_shift": _GRADIENT,
    },
    (Opcode.UPDATE, None): {"gradient_shift": _GRADIENT},
    (Opcode.VECTOR, Function.ADD): {
        "out_shift": Formula(("out",), ("low",)),
        "gradient_shift": Formula(("x",), ("low",), bits=4),
        "rate_shift": Formula(("d",), ("low",), bits=4),
    },
    (Opcode.VECTOR, Function.AVERAGE): {"out_shift": Formula(("out",), ("x",), "out_shift")},
    (Opcode.VECTOR, Function.AVERAGE_GRADIENT): {
        "out_shift": Formula(("out",), ("d",), "out_shift"),
    },
    (Opcode.VECTOR, Function.MAXIMUM_GRADIENT): {"out_shift": Formula(("out",), ("d",))},
    (Opcode.VECTOR, Function.BIAS_UPDATE): {
        "gradient_shift": Formula(("bias",), ("d",), "rate"),
    },
}
"""The shifts that a descriptor with `scaled` takes from the table, by opcode and function."""


def formulas_of(d: Descriptor) -> dict[str, Formula]:
    """Return the shifts of `d` that follow from the table."""
    if not d.scaled:
        return {}
    return FORMULAS.get((d.opcode, d.function if d.opcode == Opcode.VECTOR else None), {})


def better_exponent(exponent: int, count: int, clipped: int, large: bool) -> int:
    """Return the exponent to use next, as `fixed.better_shift` does from the elements themselves.

    Parameters
    ----------
    count, clipped : int
        Elements seen, and those of them at an end of the range.
    large : bool
        One would not fit after doubling.
    """
    step = 1 if clipped * 256 > count else 0 if large else -1
    return int(saturate(exponent + step, EXPONENT_BITS))


@dataclass(frozen=True, slots=True)
class Resolved:
    """A descriptor whose shifts are those to use.

    Parameters
    ----------
    descriptor : Descriptor
    bias_shift : int
        -15 to 15: by how much to shift a bias, to the left, so that it can start a sum.
    exponent : int
        Of X, for the loss. Like `bias_shift` it is 0 without `scaled`.
    out_exponent : int
        Of what is written; the table has it once that begins.
    """

    descriptor: Descriptor
    bias_shift: int
    exponent: int
    out_exponent: int


class Scales:
    """The scale table and what was measured since it was last adapted.

    Attributes
    ----------
    exponents : int64 array (SCALES,)
        8 bits, signed.
    counts, clipped : int64 array (SCALES,)
        Modulo 2**32.
    large, seen : bool array (SCALES,)
    """

    def __init__(self):
        self.exponents = np.zeros(SCALES, np.int64)
        self.counts = np.zeros(SCALES, np.int64)
        self.clipped = np.zeros(SCALES, np.int64)
        self.large = np.zeros(SCALES, bool)
        self.seen = np.zeros(SCALES, bool)

    def resolve(self, d: Descriptor) -> Resolved:
        """Return `d` with the shifts that follow from the table in place of its own.

        With `d.measure` an exponent of the output for which no shift would be left is raised, for
        `begin` to put it in the table.
        """
        values = {
            name: int(self.exponents[getattr(d, f"{name}_scale")])
            for name in TERMS if name != "low"
        }
        values["low"] = min(values["x"], values["d"])
        shifts = {}
        out_exponent = values["out"]
        for name, formula in formulas_of(d).items():
            total = getattr(d, formula.field) if formula.field else 0
            total += sum(values[term] for term in formula.plus)
            total -= sum(values[term] for term in formula.minus)
            if name == "out_shift" and total < 0 and d.measure:
                out_exponent = int(saturate(values["out"] - total, TABLE_BITS))
            if name == "bias_shift":
                shifts[name] = max(int(saturate(total, formula.bits)), LEAST_BIAS_SHIFT)
            else:
                shifts[name] = int(saturate(total, formula.bits, signed=False))
        bias_shift = shifts.pop("bias_shift", 0)
        return Resolved(replace(d, **shifts), bias_shift, values["x"] if d.scaled else 0,
                        out_exponent)

    def begin(self, resolved: Resolved) -> None:
        """Let the table have the exponent of what a descriptor is about to write."""
        self.exponents[resolved.descriptor.out_scale] = resolved.out_exponent

    def measure(self, scale: int, values, bits: int, *, signed: bool = True) -> None:
        """Count `values`, written in `bits` bits with exponent `scale` of the table."""
        values = np.asarray(values, np.int64)
        if not values.size:
            return
        low, high = integer_range(bits, signed=signed)
        at_end = (values == high) | (values == low) & (low < 0)
        wrap = 1 << 32
        self.counts[scale] = (self.counts[scale] + values.size) % wrap
        self.clipped[scale] = (self.clipped[scale] + np.count_nonzero(at_end)) % wrap
        self.large[scale] |= bool((2 * np.abs(values) > high).any())
        self.seen[scale] = True

    def rescale(self) -> None:
        """Adapt the exponent of everything measured, and forget the measurements."""
        for scale in np.flatnonzero(self.seen):
            self.exponents[scale] = better_exponent(
                int(self.exponents[scale]), int(self.counts[scale]), int(self.clipped[scale]),
                bool(self.large[scale]))
        for measured in (self.counts, self.clipped, self.large, self.seen):
            measured[:] = 0
