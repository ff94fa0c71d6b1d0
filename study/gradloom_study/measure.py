"""What the precision policies measure on a batch: angles, noise, and gradient diversity."""

import numpy as np
import torch

from gradloom_golden.lfsr import Bank
from gradloom_golden.precision import dot_products

from .fixed import narrow_
from .layers import Weighted
from .policies.precision import BITS, Measured
from .step import OPERAND_BITS, Step

__all__ = ["dots", "measure"]


def _integers(gradient: torch.Tensor) -> np.ndarray:
    return gradient.cpu().numpy().astype(np.int64)


def dots(layer: Weighted, x: torch.Tensor, d: torch.Tensor, largest: int, bits: int,
         step: Step) -> tuple[int, int, int]:
    """Return <g,g>, <g,h>, <h,h> of the gradient of a layer and that of X cut to `bits`."""
    full = layer.gradient(x, d, largest)
    cut = layer.packed_gradient(x, d, largest, OPERAND_BITS // bits, step)
    return dot_products(_integers(full), _integers(cut))


def _noise(x: torch.Tensor, largest: int, bits: int, step: Step) -> float:
    shift = OPERAND_BITS - bits
    unsigned = largest == (1 << OPERAND_BITS) - 1
    cut = narrow_(x.clone(memory_format=torch.contiguous_format), shift, bits, signed=not unsigned,
                  draws=step.draws.draw(Bank.PACK, x.shape)).mul_(1 << shift)
    power = float(x.double().square().sum())
    return float((cut - x).double().square().sum()) / power if power else 0.0


def _diversity(layer: Weighted, x: torch.Tensor, d: torch.Tensor, largest: int) -> float:
    """Return the sum of squared summands of a gradient over the square of their sum."""
    power = float(layer.gradient(x, d, largest).square().sum())
    return layer.squared_summands(x, d) / power if power else 0.0


def measure(layer: Weighted, x: torch.Tensor, d: torch.Tensor, largest: int,
            step: Step) -> Measured:
    """Return what a batch tells about a layer."""
    narrower = [bits for bits in BITS if bits < OPERAND_BITS]
    return Measured(
        dots={bits: dots(layer, x, d, largest, bits, step) for bits in narrower},
        noise={bits: _noise(x, largest, bits, step) for bits in narrower},
        diversity=_diversity(layer, x, d, largest))
