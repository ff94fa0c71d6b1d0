"""Batch normalization, which the machine leaves to its host: in float32, between two layers.

The host reads the eight-bit sums Y of a convolution, normalizes them over the whole batch, and
writes eight-bit activations; backward it reads dX and writes D, rounded stochastically. Both
tensors have exponents that adapt as all others.

Samples that are skipped get no gradient, here neither, so backward the batch is those kept: what D
owes to a shared mean and variance is taken off by sums over the kept alone. So their D adds up to
zero and has no part along the activations, as that of a whole batch; what is left of one moves
weights where normalization hides it, until the running means come too late.
"""

import torch

from gradloom_golden.lfsr import Bank

from .fixed import narrow_
from .layers import Layer
from .scale import Scale
from .step import GRADIENT_BITS, OPERAND_BITS, Integers, Step

__all__ = ["EPSILON", "KEPT", "BatchNorm"]

EPSILON = 1e-5
KEPT = 0.9
"""Of running means and variances at each batch."""


class BatchNorm(Layer):
    """Normalization of each channel; a ReLU with it.

    Parameters
    ----------
    channels : int
    relu : bool

    Attributes
    ----------
    gain, offset : float32 tensor (channels,)
        Learned with the rate and momentum of the machine's weights.
    """

    def __init__(self, channels: int, *, relu: bool = True):
        super().__init__(y=Scale(), d=Scale())
        self.relu = relu
        self.gain: torch.Tensor
        self.offset: torch.Tensor
        self.mean: torch.Tensor
        self.variance: torch.Tensor
        self.gain_velocity: torch.Tensor
        self.offset_velocity: torch.Tensor
        for name, value in (("gain", 1.0), ("offset", 0.0), ("mean", 0.0), ("variance", 1.0),
                            ("gain_velocity", 0.0), ("offset_velocity", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self._saved: tuple[Integers, torch.Tensor, torch.Tensor] | None = None

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return normalized activations; with `train` by the batch, else by running means."""
        [given] = x
        exponent = self.scales["y"].exponent
        unit, x_unit = 2.0 ** -exponent, 2.0 ** given.exponent
        gain, offset = self.gain * unit, self.offset * unit
        values = given.values.permute(0, 3, 1, 2)
        if train:
            y, mean, inverse = torch.native_batch_norm(
                values, gain, offset, None, None, True, 0.0, EPSILON / x_unit ** 2)
            self._saved = given, mean, inverse
            self._follow(mean, inverse, given.exponent, values.numel() // len(mean))
        else:
            inverse = torch.rsqrt(self.variance + EPSILON)
            y = torch.native_batch_norm(
                values, gain, offset, self.mean / x_unit,
                inverse.pow(-2) / x_unit ** 2, False, 0.0, 0.0)[0]
        y = narrow_(y.permute(0, 2, 3, 1).contiguous(), 0, OPERAND_BITS, signed=not self.relu)
        if train:
            self.scales["y"].measure(y, OPERAND_BITS, signed=not self.relu)
        return Integers(y, exponent, unsigned=self.relu, relu=self.relu)

    def _follow(self, mean, inverse, exponent: int, count: int) -> None:
        unit = 2.0 ** exponent
        variance = (inverse.pow(-2) * unit ** 2 - EPSILON) * (count / max(count - 1, 1))
        self.mean.lerp_(mean * unit, 1 - KEPT)
        self.variance.lerp_(variance, 1 - KEPT)

    def backward(self, d: Integers, step: Step) -> Integers:
        """Return D of what came; with `step.update` learn gain and offset."""
        assert self._saved is not None, "forward(train=True) comes before backward"
        (x, mean, inverse), self._saved = self._saved, None
        exponent = self.scales["d"].exponent
        kept = x.picked(step.keep)
        if not len(kept):
            return Integers(torch.zeros_like(kept), exponent)
        gain = self.gain * 2.0 ** (d.exponent - x.exponent - exponent)
        of_kept = mean, inverse
        if step.keep is not None:
            variance, kept_mean = torch.var_mean(kept, (0, 1, 2), correction=0)
            of_kept = kept_mean, torch.rsqrt(variance + EPSILON * 4.0 ** -x.exponent)
        narrower = inverse / of_kept[1]
        dx, by_gain, by_offset = torch.ops.aten.native_batch_norm_backward(
            d.values.permute(0, 3, 1, 2), kept.permute(0, 3, 1, 2), gain * narrower, None, None,
            *of_kept, True, 0.0, [True, True, True])
        by_gain = by_gain * narrower + (of_kept[0] - mean) * inverse * by_offset
        dx = dx.permute(0, 2, 3, 1).contiguous()
        draws = step.draws.draw(Bank.REQUANTIZE, dx.shape) if step.stochastic else None
        narrow_(dx, 0, GRADIENT_BITS, draws=draws)
        self.scales["d"].measure(dx, GRADIENT_BITS)
        if step.update:
            self._learn(by_gain, by_offset, 2.0 ** (d.exponent - step.rate) / step.batch, step)
        return Integers(dx, exponent)

    def _learn(self, by_gain, by_offset, scale: float, step: Step) -> None:
        kept = 1 - 2.0 ** -step.momentum if step.momentum else 0.0
        for value, velocity, gradient in (
            (self.gain, self.gain_velocity, by_gain),
            (self.offset, self.offset_velocity, by_offset),
        ):
            velocity.mul_(kept).add_(gradient, alpha=scale)
            value.sub_(velocity)
