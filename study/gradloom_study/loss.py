"""The loss on a batch of logits, by golden's own routines: they are few numbers.

Nothing is repeated here: probabilities, errors and losses are `gradloom_golden.loss`'s.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gradloom_golden import loss as golden
from gradloom_golden.fixed import HALF, round_shift, saturate
from gradloom_golden.lfsr import Bank

from .draws import Draws
from .step import GRADIENT_BITS, OPERAND_BITS, Integers

__all__ = ["Judged", "error", "judge"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """What a batch's logits say.

    Parameters
    ----------
    logits : int64 array (B, classes)
    labels : int64 array (B,)
    exponent : int
        Of the logits.
    own : int64 array (B,)
        Probability of the label, in units of 2**-16.
    margin : int64 array (B,)
        The label's logit less the largest other.
    losses : float64 array (B,)
        Nats.
    """

    logits: np.ndarray
    labels: np.ndarray
    exponent: int
    own: np.ndarray
    margin: np.ndarray
    losses: np.ndarray

    @property
    def correct(self) -> int:
        """Samples whose label is what `argmax` finds: the first of the largest logits.

        The machine's counter takes every tie for wrong. Logits of eight bits tie in a sample of a
        hundred, those of float32 hardly ever, so that rule would be another measure for integers.
        """
        return int(np.count_nonzero(self.logits.argmax(axis=1) == self.labels))


def judge(logits: Integers, labels: np.ndarray) -> Judged:
    """Return what the logits (B, 1, 1, classes) say about the labels (B,)."""
    values = logits.values.flatten(1).cpu().numpy().astype(np.int64)
    labels = np.asarray(labels, np.int64)
    probabilities = golden.probabilities(values, logits.exponent)
    return Judged(
        logits=values, labels=labels, exponent=logits.exponent,
        own=probabilities[np.arange(len(labels)), labels],
        margin=golden.margins(values, labels, bits=OPERAND_BITS),
        losses=golden.losses(values, labels, logits.exponent) * (np.log(2) / 65536))


def error(judged: Judged, keep: np.ndarray, draws: Draws | None,
          weights: np.ndarray | None = None, shift: np.ndarray | int = 0) -> Integers:
    """Return D of the kept samples, (kept, 1, 1, classes).

    Parameters
    ----------
    judged : Judged
    keep : int array (kept,)
    draws : Draws or None
        None rounds to nearest.
    weights : float array (kept,), optional
        By which the errors of samples are multiplied, at most 2: D then has half the units. The
        machine has no such weights, its host could have.
    shift : int array (kept,), optional
        By how many bits the errors of samples are shifted left.
    """
    logits, labels = judged.logits[keep], judged.labels[keep]
    random: np.ndarray | int = HALF
    if draws is not None:
        random = draws.draw(Bank.ERROR, logits.shape).cpu().numpy().astype(np.int64) + HALF
    exponent = 1 - GRADIENT_BITS
    if weights is None:
        found = golden.error(logits, labels, judged.exponent, bits=GRADIENT_BITS, random=random,
                             shift=shift)
    else:
        exponent += 1
        gap = golden.probabilities(logits, judged.exponent)
        gap = gap - golden.ONE * golden.is_label(labels, gap.shape[1])
        factors = weights * 2.0 ** np.asarray(shift)
        gap = np.rint(gap * factors[:, None]).astype(np.int64)
        found = saturate(round_shift(gap, golden.FRACTION_BITS + exponent, random), GRADIENT_BITS)
    values = torch.from_numpy(found).float()
    return Integers(values[:, None, None], exponent)
