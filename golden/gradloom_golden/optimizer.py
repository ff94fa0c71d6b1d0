"""Stochastic gradient descent on integers, as done where the gradient leaves the array.

A master weight of `master_bits` is kept as its top `operand_bits`, which the array multiplies
with, and an unsigned residue. The weight it stands for is the master less half a residue range,
so the top part is that weight rounded to nearest.

Everything that is cut is rounded stochastically, what a velocity loses too. Were that cut
downwards, velocities from 1 to ``2**decay_shift - 1`` would lose nothing and negative ones at least
1: their mean would be half of that above what gradients make it, and all weights would sink,
whatever they learn.
"""

from dataclasses import dataclass

import numpy as np

from .fixed import round_shift, saturate

__all__ = ["VELOCITY_BITS", "Rule", "decay_draws", "join", "split", "update"]

VELOCITY_BITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Shifts of one update.

    Parameters
    ----------
    gradient_shift : int
        The step is dW / 2**gradient_shift, or with momentum what is added to the velocity.
    momentum : bool
    decay_shift : int
        The velocity keeps 1 - 2**-decay_shift of itself.
    rate_shift : int
        With momentum the step is velocity / 2**rate_shift.
    """

    gradient_shift: int
    momentum: bool = False
    decay_shift: int = 3
    rate_shift: int = 0


def join(weight, residue, residue_bits: int) -> np.ndarray:
    """Return the master weight from the part that the array sees and the residue."""
    return (np.asarray(weight, np.int64) << residue_bits) + residue


def split(master, residue_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the part that the array sees and the residue."""
    master = np.asarray(master, np.int64)
    return master >> residue_bits, master & (1 << residue_bits) - 1


def decay_draws(random_step) -> np.ndarray:
    """Return the draws that round what velocities lose: those of the step with bytes swapped.

    A decay of up to 7 bits looks at one byte, a rate of up to 8 at the other; of a larger one the
    step is off by up to a thousandth of a unit on average. `HALF` stays what it is.
    """
    random = np.asarray(random_step, np.int64)
    return (random >> 8 | (random & 0xFF) << 8) ^ 0x8080


def update(master, velocity, gradient, rule: Rule, *, master_bits: int,
           random_gradient, random_step) -> tuple[np.ndarray, np.ndarray]:
    """Return the new master weights and velocities; all arrays have one shape.

    Both random arrays are 16-bit draws. The rounded gradient, the velocity (16 bits) and the
    master weight saturate.
    """
    push = saturate(round_shift(gradient, rule.gradient_shift, random_gradient), VELOCITY_BITS)
    velocity = np.asarray(velocity, np.int64)
    step = push
    if rule.momentum:
        kept = velocity - round_shift(velocity, rule.decay_shift, decay_draws(random_step))
        velocity = saturate(kept + push, VELOCITY_BITS)
        step = round_shift(velocity, rule.rate_shift, random_step)
    return saturate(np.asarray(master, np.int64) - step, master_bits), velocity
