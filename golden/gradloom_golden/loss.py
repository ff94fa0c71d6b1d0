"""Softmax cross-entropy on integer logits: the error D, the loss, and the samples to keep.

Logits are integers in units of ``2**exponent``. Each is taken as its distance to the row's largest,
so that every exponential is at most 1. A distance times log2(e) becomes a power u >= 0 of two with
8 fraction bits, and ``2**-u`` a table entry shifted; the sum is inverted once, by an integer
division, and each exponential multiplied with that. Probabilities have 16 fraction bits.

How far that is from softmax, with C classes: u is rounded by at most 2**-9, which moves p by at
most ``ln(2) 2**-10`` (45 units of 2**-16); all that is cut adds a unit a class, and five. The loss
in bits is off by at most ``2**-8 + (C + 5) 2**-15``, and 5e-6 of itself. Neither holds above an
exponent of 8, where u is that of 8: the next logit's exponential is zero at both.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import importance
from .budget import ONE, Budget
from .confidence import NEVER
from .config import Config
from .fixed import HALF, integer_range, round_shift, saturate
from .lfsr import Bank, Lfsr, low_half
from .program import Descriptor, SkipRule

__all__ = [
    "FRACTION_BITS", "LOG2_E", "POWER_FRACTION_BITS", "RECIPROCAL_BITS", "LossUnit", "Outcome",
    "binary_logarithm", "cross_entropy", "error", "exponential_table", "exponentials", "is_label",
    "loss_cycles", "losses", "margins", "normalise", "powers", "probabilities",
]

FRACTION_BITS = 16
"""Of exponentials, probabilities and losses."""

LOG2_E = 94548
"""log2(e) in units of 2**-16."""

POWER_FRACTION_BITS = 8

RECIPROCAL_BITS = 33
"""The divider returns ``2**33`` over a mantissa of 17 bits."""


def exponential_table() -> np.ndarray:
    """Return round(65536 * 2**(-i / 256)) for i = 0 to 255."""
    return np.rint(65536 * 2.0 ** (-np.arange(256) / 256)).astype(np.int64)


_TABLE = exponential_table()


def powers(distances, exponent: int) -> np.ndarray:
    """Return u = distance * 2**exponent * log2(e), 8 fraction bits, rounded to nearest.

    Distances have at most 8 bits. Exponents beyond -23 and 8 act as these.
    """
    shift = min(max(POWER_FRACTION_BITS - exponent, 0), 31)
    return round_shift(np.asarray(distances, np.int64) * LOG2_E, shift)


def exponentials(power) -> np.ndarray:
    """Return ``2**-u`` in units of 2**-16, cut; `power` is u with 8 fraction bits."""
    power = np.asarray(power, np.int64)
    fraction = power & (1 << POWER_FRACTION_BITS) - 1
    return _TABLE[fraction] >> np.minimum(power >> POWER_FRACTION_BITS, 17)


def normalise(total) -> tuple[np.ndarray, np.ndarray]:
    """Return mantissas of 17 bits with a leading one, cut, and the bits dropped (0 to 15).

    `total` is an int array of 65536 to ``2**32 - 1``: the largest logit adds 65536.
    """
    total = np.asarray(total, np.int64)
    dropped = np.zeros_like(total)
    for bit in range(17, 32):
        dropped += total >> bit > 0
    return total >> dropped, dropped


def binary_logarithm(total) -> np.ndarray:
    """Return log2(total / 65536) in units of 2**-16, bit by bit: square, and halve if over 2."""
    mantissa, result = normalise(total)
    for _ in range(FRACTION_BITS):
        square = mantissa * mantissa
        over = square >> 33
        result = result << 1 | over
        mantissa = square >> 16 + over
    return result


def is_label(labels, classes: int) -> np.ndarray:
    """Return bool (T, classes), true at each row's label; nowhere if the label names no class."""
    return np.arange(classes) == np.asarray(labels)[:, None]


def margins(logits, labels, *, bits: int) -> np.ndarray:
    """Return the label's logit less the largest other one, shape (T,).

    A label that names no class counts as one of the least `bits`-bit logit.
    """
    logits = np.asarray(logits, np.int64)
    least = integer_range(bits)[0]
    labelled = is_label(labels, logits.shape[1])
    own = np.where(labelled, logits, least).max(axis=1)
    return own - np.where(labelled, least, logits).max(axis=1)


def _powers(logits, exponent):
    logits = np.asarray(logits, np.int64)
    return powers(logits.max(axis=1, keepdims=True) - logits, exponent)


def probabilities(logits, exponent: int) -> np.ndarray:
    """Return softmax probabilities, 0 to 65536 in units of 2**-16; shape of `logits` (T, C)."""
    weights = exponentials(_powers(logits, exponent))
    mantissa, dropped = normalise(weights.sum(axis=1, keepdims=True))
    return weights * ((1 << RECIPROCAL_BITS) // mantissa) >> RECIPROCAL_BITS - 16 + dropped


def error(logits, labels, exponent: int, *, bits: int, random: ArrayLike = HALF,
          shift: ArrayLike = 0) -> np.ndarray:
    """Return D = p - y in units of ``2**-(bits - 1)``, rounded, saturated to `bits` bits.

    That of sample t times ``2**shift[t]``.

    Not divided by the batch: that is part of the learning rate, so that skipping samples does
    not change the weight of those that stay. Where the label names no class, y is zero.
    """
    gap = probabilities(logits, exponent)
    gap = gap - ONE * is_label(labels, gap.shape[1]) << np.asarray(shift)[..., None]
    return saturate(round_shift(gap, FRACTION_BITS - (bits - 1), random), bits)


def losses(logits, labels, exponent: int) -> np.ndarray:
    """Return -log2 p_y of each sample in units of 2**-16, int64 (T,).

    Where the label names no class: the loss of the likeliest class.
    """
    power = _powers(logits, exponent)
    own = np.where(is_label(labels, power.shape[1]), power, 0).sum(axis=1)
    total = exponentials(power).sum(axis=1)
    return binary_logarithm(total) + (own << FRACTION_BITS - POWER_FRACTION_BITS)


def cross_entropy(logits, labels, exponent: int) -> float:
    """Return the mean negative log-probability of the labels, in nats: a report, not a datum."""
    return float(np.mean(losses(logits, labels, exponent))) * math.log(2) / 65536


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """What one LOSS descriptor decided; empty in an evaluation but for `correct`.

    Parameters
    ----------
    first_kept : int
        Row of the keep list, and of D, at which the kept samples go on.
    keep : int64 array (B,)
        Entries of the keep list.
    error : int64 array (B, classes)
        D of the kept samples.
    skipped, correct : int
        Samples; a correct one has a margin above zero.
    """

    first_kept: int
    keep: np.ndarray
    error: np.ndarray
    skipped: int
    correct: int


class LossUnit:
    """The state of the unit, and what its descriptors do.

    Attributes
    ----------
    kept : int
        Samples kept since the last LOSS descriptor with `first`.
    loss : int
        Sum of -log2 p_y in units of 2**-16, modulo 2**64.
    budget : budget.Budget
    """

    def __init__(self, config: Config):
        self._config = config
        self._lfsr = Lfsr(Bank.ERROR, 1)
        self._keep_lfsr = Lfsr(Bank.KEEP, 1)
        self.kept = 0
        self.loss = 0
        self.budget = Budget()

    def seed(self, seed: int) -> None:
        """Seed the rounding of D, and which samples importance keeps."""
        self._lfsr.seed(seed)
        self._keep_lfsr.seed(seed)

    def run(self, d: Descriptor, logits, labels, exponent: int) -> Outcome:
        """Execute a LOSS descriptor on signed logits (T, classes) and their labels (T,)."""
        logits, labels = np.asarray(logits, np.int64), np.asarray(labels, np.int64)
        margin = margins(logits, labels, bits=self._config.operand_bits)
        self.loss = (self.loss + int(losses(logits, labels, exponent).sum())) % (1 << 64)
        correct = int(np.count_nonzero(margin > 0))
        if d.schedule & 1:
            return Outcome(
                first_kept=self.kept, keep=np.zeros(0, np.int64),
                error=np.zeros((0, d.classes), np.int64), skipped=0, correct=correct)

        labelled = is_label(labels, d.classes)
        own = np.where(labelled, probabilities(logits, exponent), 0).sum(axis=1)
        self.budget.add(own)
        is_kept, shift = self._judge(d, own, margin)
        keep = np.flatnonzero(is_kept)
        random: ArrayLike = HALF
        if d.stochastic:
            random = low_half(self._lfsr.draw(len(keep) * d.classes)).reshape(-1, d.classes)
        first_kept = 0 if d.first else self.kept
        self.kept = first_kept + len(keep)
        return Outcome(
            first_kept=first_kept, keep=keep + d.first_sample,
            error=error(logits[keep], labels[keep], exponent, bits=self._config.gradient_bits,
                        random=random, shift=shift[keep]),
            skipped=len(labels) - len(keep), correct=correct)

    def choose(self, d: Descriptor) -> None:
        """Execute a THRESHOLD descriptor."""
        self.budget.choose(d.bound)

    def _judge(self, d, own, margin):
        """Return which samples are kept, and by how many bits the error of each is shifted."""
        if d.function == SkipRule.IMPORTANCE:
            cap, extra = importance.parts(d.threshold)
            shift = importance.error_shift(own, cap)
            draws = importance.draws_of(self._keep_lfsr.draw(len(own)))[:, 0]
            return importance.is_drawn(shift + extra, draws), shift
        unshifted = np.zeros_like(own)
        if d.function == SkipRule.MARGIN:
            return margin < d.threshold, unshifted
        threshold = d.threshold if d.function == SkipRule.PROBABILITY else self.budget.threshold
        return (own < threshold) | (threshold == NEVER), unshifted


def loss_cycles(d: Descriptor, kept: int) -> int:
    """Return the cycles from the start of a LOSS descriptor to the earliest start of the next.

    Two to accept it; each sample takes two passes over its classes, and one more if it is one of
    the `kept`.
    """
    return 2 + d.steps * (2 * d.classes + 31) + kept * (d.classes + 8)
