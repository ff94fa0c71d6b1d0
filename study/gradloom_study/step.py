"""What one training step hands to every layer, and the tensors that pass between layers."""

from dataclasses import dataclass

import torch

from gradloom_golden.config import ceil_log2
from gradloom_golden.optimizer import Rule
from gradloom_host.compiler import RATE_SHIFT

from .draws import Draws
from .optimizer import RESIDUE_BITS

__all__ = ["GRADIENT_BITS", "OPERAND_BITS", "Integers", "Step"]

OPERAND_BITS = 8
GRADIENT_BITS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """A tensor of ``values * 2**exponent``.

    Parameters
    ----------
    values : float32 tensor (B, ..., channels)
        Integers of eight bits, contiguous.
    exponent : int
    unsigned : bool
    relu : bool
        A ReLU made it: gradients are zero where it is.
    """

    values: torch.Tensor
    exponent: int
    unsigned: bool = False
    relu: bool = False

    @property
    def largest(self) -> int:
        """Bound of the absolute values."""
        return (1 << OPERAND_BITS) - 1 if self.unsigned else 1 << OPERAND_BITS - 1

    def picked(self, keep: torch.Tensor | None) -> torch.Tensor:
        """Return the values of the samples that are kept."""
        return self.values if keep is None else self.values[keep]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One training step.

    Parameters
    ----------
    batch : int
        Samples, kept or not: the gradient is divided by it. A power of two.
    draws : Draws
    keep : int64 tensor, optional
        The samples that get a gradient; all without.
    rate : int
        -log2 of the learning rate, for the mean over the batch.
    momentum : int or None
        The velocity keeps 1 - 2**-momentum of itself.
    stochastic : bool
        Round gradients stochastically; updates and packing always are.
    update : bool
        Weights learn.
    """

    batch: int
    draws: Draws
    keep: torch.Tensor | None = None
    rate: int = 4
    momentum: int | None = 3
    stochastic: bool = True
    update: bool = True

    def __post_init__(self):
        if self.batch < 1 or self.batch & self.batch - 1:
            raise ValueError(
                f"batch must be a power of two, which the learning rate takes in, not "
                f"{self.batch!r}")

    @property
    def rate_field(self) -> int:
        """The field `rate` of the machine's descriptors of weight gradients."""
        smooth = RATE_SHIFT if self.momentum else 0
        return self.rate + ceil_log2(self.batch) - RESIDUE_BITS - smooth

    @property
    def bias_rate_field(self) -> int:
        """The same of bias updates, which have no velocity but take its whole sum at once."""
        return self.rate + ceil_log2(self.batch) - (self.momentum or 0)

    def rule(self, gradient_shift: int) -> Rule:
        """Return the update of a weight whose gradient is shifted by so much."""
        smooth = self.momentum or 0
        return Rule(gradient_shift=gradient_shift, momentum=bool(smooth), decay_shift=smooth,
                    rate_shift=RATE_SHIFT if smooth else 0)
