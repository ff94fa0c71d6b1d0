"""PyTorch layers whose products, forward and backward, run on a device.

Operands are cut to the integers of the machine, with one power of two a tensor; the products of
these integers are exact. Everything else, biases and losses and optimizers, stays PyTorch's.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .conv_device import Convolution
from .device import Device
from .missing import require

require("torch", "torch")
import torch  # noqa: E402 - where it is missing, the line above says how to install it
from torch.autograd.function import once_differentiable  # noqa: E402

__all__ = ["Conv2d", "Linear", "Quantized", "convert", "quantize"]

FLOATS = (torch.float32, torch.float64)

Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A tensor of ``integers * 2**exponent``.

    Parameters
    ----------
    integers : int64 array
    exponent : int
    unsigned : bool
    """

    integers: np.ndarray
    exponent: int
    unsigned: bool = False


def quantize(name: str, tensor: torch.Tensor, bits: int, *, unsigned: bool = False) -> Quantized:
    """Return the nearest integers of so many bits, in the finest power of two that holds all.

    Parameters
    ----------
    name : str
        What errors call the tensor.
    tensor : float tensor
        On the CPU.
    bits : int
    unsigned : bool
        Use unsigned integers if nothing is negative.

    Raises
    ------
    TypeError
        If the tensor is not of float32 or float64 on the CPU.
    ValueError
        If an element is infinite or not a number.
    """
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} lies on {tensor.device}: move it and the model to the CPU, "
                        "from where the device reads")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} holds {tensor.dtype}: convert it and the model to torch.float32")
    values = tensor.detach().numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds infinities or NaN: lower the learning rate, or scale it")
    least, most = values.min(initial=0), values.max(initial=0)
    unsigned = unsigned and least >= 0
    high = (1 << bits - (not unsigned)) - 1
    exponents = [_exponent(value / bound) for value, bound in ((most, high), (-least, high + 1))
                 if value > 0]
    exponent = max(exponents, default=0)
    return Quantized(np.rint(np.ldexp(values, -exponent)).astype(np.int64), exponent, unsigned)


def _exponent(value: float) -> int:
    """Return the least power of two that is no less than a positive value."""
    fraction, exponent = math.frexp(value)
    return exponent - (fraction == 0.5)


def _scaled(integers: np.ndarray, exponent: int, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ldexp(integers.astype(np.float64), exponent)).to(like.dtype)


class _Product(torch.autograd.Function):
    """A convolution without bias; a matrix product is one of images of one pixel."""

    @staticmethod
    def forward(ctx, x, w, conv: Convolution, device: Device):
        bits = device.config.operand_bits
        ctx.x = quantize("the input", x, bits, unsigned=True)
        ctx.w = quantize("the weight", w, bits)
        ctx.conv, ctx.device = conv, device
        y = conv.forward(device, ctx.x.integers, ctx.w.integers, unsigned=ctx.x.unsigned)
        return _scaled(y, ctx.x.exponent + ctx.w.exponent, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        d = quantize("the gradient", gradient, ctx.device.config.gradient_bits)
        input_gradient, weight_gradient, *_ = ctx.needs_input_grad
        dx, dw = ctx.conv.backward(
            ctx.device, ctx.x.integers, ctx.w.integers, d.integers, unsigned=ctx.x.unsigned,
            input_gradient=input_gradient, weight_gradient=weight_gradient)
        return (None if dx is None else _scaled(dx, d.exponent + ctx.w.exponent, gradient),
                None if dw is None else _scaled(dw, d.exponent + ctx.x.exponent, gradient),
                None, None)


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` on a device: the same parameters, initial values and state.

    Parameters
    ----------
    in_features, out_features, bias, dtype
        As of `torch.nn.Linear`.
    device : Device
        The machine that multiplies; tensors stay on the CPU.
    """

    device: Device

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, device: Device,
                 dtype: torch.dtype | None = None):
        _check_device(device)
        super().__init__(in_features, out_features, bias, dtype=dtype)
        self.device = device

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``input W' + bias``, shape (..., out_features) for (..., in_features)."""
        rows = input.reshape(-1, input.shape[-1], 1, 1)
        y = _Product.apply(rows, self.weight[:, :, None, None], Convolution(), self.device)
        y = y.reshape(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` on a device: the same parameters, initial values and state.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, groups, bias, dtype
        As of `torch.nn.Conv2d`; padding is numbers of zeros, and taps lie side by side.
    device : Device
        The machine that multiplies; tensors stay on the CPU.

    Raises
    ------
    ValueError
        If stride or padding is beyond 255, or padding is given by name.
    """

    device: Device

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1, padding: str | int | tuple[int, int] = 0, *,
        groups: int = 1, bias: bool = True, device: Device, dtype: torch.dtype | None = None,
    ):
        _check_device(device)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups,
                         bias=bias, dtype=dtype)
        _convolution(self)
        self.device = device

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution, shape (N, C, H, W) or, for one image, (C, H, W)."""
        if input.ndim not in (3, 4):
            raise ValueError(f"the input has shape {tuple(input.shape)}: give (N, C, H, W), or "
                             "(C, H, W) for one image")
        images = input.reshape(-1, *input.shape[-3:])
        y = _Product.apply(images, self.weight, _convolution(self), self.device)
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return y.reshape(*input.shape[:-3], *y.shape[1:])


def convert(model: Model, device: Device) -> Model:
    """Let every `torch.nn.Linear` and `torch.nn.Conv2d` in a model run on a device; return it.

    The model is changed in place: parameters and hooks stay, so that optimizers made before go on.
    Layers of classes derived from these two are left alone.

    Raises
    ------
    TypeError
        If `device` is no `Device`.
    ValueError
        If a layer cannot run there, which names it; the model is as it was.
    """
    _check_device(device)
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in CONVERTED]
    for name, layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            _convolution(layer, f"layer {name or 'Conv2d'!r}: ")
    for _, layer in layers:
        # A new object would lose hooks, and be another where a layer is used twice.
        layer.__class__ = CONVERTED[type(layer)]
        assert isinstance(layer, Linear | Conv2d)
        layer.device = device
    return model


CONVERTED = {torch.nn.Linear: Linear, torch.nn.Conv2d: Conv2d}


def _check_device(device: object) -> None:
    if not isinstance(device, Device):
        raise TypeError(f"device must be a gradloom_host.Device, not {device!r}: "
                        "tensors stay on the CPU")


def _convolution(layer: torch.nn.Conv2d, where: str = "") -> Convolution:
    """Return what the device computes for a layer, or say why it cannot."""
    if isinstance(layer.padding, str):
        raise ValueError(f"{where}padding {layer.padding!r} is a name: give numbers")
    if layer.padding_mode != "zeros":
        raise ValueError(f"{where}padding_mode {layer.padding_mode!r} is not computed: use 'zeros'")
    if set(layer.dilation) != {1}:
        raise ValueError(f"{where}dilation {layer.dilation} is not computed: use 1")
    (stride_y, stride_x), (pad_y, pad_x) = layer.stride, layer.padding
    try:
        return Convolution(
            stride=(stride_y, stride_x), padding=(pad_y, pad_x), groups=layer.groups)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
