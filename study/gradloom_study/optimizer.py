"""16-bit master weights and their update: twins of `gradloom_golden.optimizer` on tensors."""

import torch

from gradloom_golden.optimizer import VELOCITY_BITS, Rule

from .fixed import round_shift_, saturate_

__all__ = ["MASTER_BITS", "RESIDUE_BITS", "rescaled", "top", "update"]

MASTER_BITS = 16
RESIDUE_BITS = 8


def top(master: torch.Tensor) -> torch.Tensor:
    """Return the eight bits that the array multiplies with, float32."""
    return master.mul(2.0 ** -RESIDUE_BITS).floor_().float()


def update(master: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor, rule: Rule, *,
           gradient_draws: torch.Tensor | None, step_draws: torch.Tensor | None,
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the new master weights and velocities; as golden's `update`.

    Parameters
    ----------
    master, velocity, gradient : float64 tensor
        Integers of one shape; gradients of at most 37 bits.
    rule : Rule
    gradient_draws, step_draws : int16 tensor, optional
        Centred, of that shape; to nearest without.
    """
    push = saturate_(round_shift_(gradient.clone(), rule.gradient_shift, gradient_draws),
                     VELOCITY_BITS)
    step = push
    if rule.momentum:
        lost = round_shift_(velocity.clone(), rule.decay_shift, _decay_draws(step_draws))
        kept = velocity - lost
        velocity = saturate_(kept.add_(push), VELOCITY_BITS)
        step = round_shift_(velocity.clone(), rule.rate_shift, step_draws)
    return saturate_(master - step, MASTER_BITS), velocity


def _decay_draws(step_draws: torch.Tensor | None) -> torch.Tensor | None:
    """Return golden's `decay_draws`, which are centred if the bytes swapped were."""
    return None if step_draws is None else step_draws << 8 | step_draws >> 8 & 0xFF


def rescaled(master: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the master weights of the same weights with an exponent greater by `steps`.

    Done by the host, between epochs: the machine itself never changes a weight's exponent. The
    weight that a master stands for is the master less half a residue range.
    """
    half = float(1 << RESIDUE_BITS - 1)
    weights = (master - half).mul_(2.0 ** -steps)
    return saturate_(weights.add_(half + 0.5).floor_(), MASTER_BITS)
