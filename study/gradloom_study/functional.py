"""The machine's products as autograd functions, to be mixed into any PyTorch model.

Tensors are floats, ``integers * 2**exponent``; products and roundings, forward and backward, are
those of `gradloom_study.layers`. Exponents are chosen for each tensor when it is used, the finest
that holds all of it, as a host would. Weights stay PyTorch's: what an optimizer of 16-bit masters
adds is in the layers only.
"""

import math

import torch

from gradloom_golden.lfsr import Bank

from . import products
from .draws import Draws
from .fixed import narrow_
from .products import Geometry
from .step import GRADIENT_BITS, OPERAND_BITS

__all__ = ["IntegerConv2d", "conv2d", "linear", "quantize"]


def quantize(tensor: torch.Tensor, bits: int, draws: Draws | None = None, *,
             bank: Bank = Bank.REQUANTIZE) -> tuple[torch.Tensor, int]:
    """Return signed integers, float32, and the exponent of the finest grid that holds all.

    Parameters
    ----------
    tensor : float tensor
        Finite, in the range of float32.
    bits : int
    draws : Draws, optional
        Round stochastically.
    bank : Bank
        Who draws.
    """
    tensor = tensor.float()
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError(f"an element is {largest}: only finite numbers have an exponent")
    exponent = math.ceil(math.log2(largest / ((1 << bits - 1) - 1))) if largest else 0
    # In float64: the scale of a small tensor is beyond float32.
    values = tensor.double().mul_(2.0 ** -exponent).float().contiguous()
    drawn = None if draws is None else draws.draw(bank, values.shape)
    return narrow_(values, 0, bits, draws=drawn), exponent


class IntegerConv2d(torch.autograd.Function):
    """A convolution on integers: Y, dX and dW are exact products of eight-bit operands.

    D is rounded stochastically; X is cut for dW as `lanes` say.
    """

    @staticmethod
    def forward(ctx, x, weight, geometry: Geometry, draws: Draws, lanes: int):
        """Return Y of x (B, channels, height, width)."""
        values, x_exponent = quantize(x.permute(0, 2, 3, 1), OPERAND_BITS)
        integers, w_exponent = quantize(weight, OPERAND_BITS)
        ctx.save_for_backward(values, integers)
        ctx.settings = geometry, draws, lanes, x_exponent, w_exponent
        y = products.forward(values, integers, geometry, 1 << OPERAND_BITS - 1)
        return (y * 2.0 ** (x_exponent + w_exponent)).float().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, *gradients):
        """Return dX and dW."""
        values, weight = ctx.saved_tensors
        geometry, draws, lanes, x_exponent, w_exponent = ctx.settings
        d, d_exponent = quantize(gradients[0].permute(0, 2, 3, 1), GRADIENT_BITS, draws)
        dx = dw = None
        limit = 1 << GRADIENT_BITS - 1
        if ctx.needs_input_grad[0]:
            size = values.shape[1], values.shape[2]
            dx = products.input_gradient(d, weight, geometry, size, limit)
            dx = (dx * 2.0 ** (d_exponent + w_exponent)).float().permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            shift, bits = OPERAND_BITS - OPERAND_BITS // lanes, OPERAND_BITS // lanes
            if lanes > 1:
                values = narrow_(values.clone(), shift, bits,
                                 draws=draws.draw(Bank.PACK, values.shape))
            taps = weight.shape[2], weight.shape[3]
            dw = products.weight_gradient(values, d, taps, geometry, 1 << bits - 1)
            dw = dw.mul_(2.0 ** (shift + x_exponent + d_exponent)).float()
        return dx, dw, None, None, None


def conv2d(x: torch.Tensor, weight: torch.Tensor, draws: Draws, *, stride: int = 1,
           padding: int = 0, lanes: int = 1) -> torch.Tensor:
    """Return a convolution (B, outputs, height, width); as PyTorch's, on integers.

    Parameters
    ----------
    x : float tensor (B, channels, height, width)
    weight : float tensor (outputs, channels, taps_y, taps_x)
    draws : Draws
        Round D, and X where it is cut.
    stride, padding : int
    lanes : int
        Activations in a word of the weight gradient: 1, 2 or 4.
    """
    found = IntegerConv2d.apply(x, weight, Geometry(stride, padding), draws, lanes)
    assert isinstance(found, torch.Tensor)
    return found


def linear(x: torch.Tensor, weight: torch.Tensor, draws: Draws, *, lanes: int = 1) -> torch.Tensor:
    """Return ``x @ weight.T`` (B, outputs) on integers; a convolution of one pixel."""
    y = conv2d(x[:, :, None, None], weight[:, :, None, None], draws, lanes=lanes)
    return y[:, :, 0, 0]
