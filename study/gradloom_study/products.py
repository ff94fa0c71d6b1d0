"""Exact products of integers in floating point.

A sum of products of integers is exact in any order, with or without fused additions, if the sum of
the absolute products stays within the integers that the type counts one by one: every partial sum
does then, too. With eight-bit operands that allows 1,024 terms of two signed ones and 514 of an
unsigned and a signed one in float32, at worst. Here the bound is that of the operands at hand, the
largest X times the largest sum of absolute weights, so that real layers of a few thousand terms
pass; where it does not hold, the product is done in float64, whose 53 bits always suffice.

Algorithms that multiply something else (Winograd, FFT, TF32) are not exact. On CPUs oneDNN's direct
convolution is; elsewhere convolutions are matrix products of unfolded images, for which PyTorch
leaves TF32 off unless it is told otherwise. `check_device` tries it.

Images are (B, height, width, channels) and contiguous, which PyTorch calls channels_last; weights
of convolutions are (outputs, inputs, taps_y, taps_x).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from .fixed import EXACT

__all__ = ["Geometry", "check_device", "forward", "input_gradient", "patches", "sum_type",
           "weight_gradient"]

SUM_LIMIT = (1 << 31) - 1
"""Where golden's 32-bit sums would begin to saturate."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a kernel moves over an image."""

    stride: int = 1
    padding: int = 0

    def size(self, size: int, taps: int) -> int:
        """Return the places of a kernel along an edge."""
        return (size + 2 * self.padding - taps) // self.stride + 1


def _channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2)


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 2, 3, 1).contiguous()


def sum_type(bound: float) -> torch.dtype:
    """Return the shortest type in which sums up to `bound` are exact.

    Raises
    ------
    ValueError
        If golden's sums could saturate, which is not emulated.
    """
    if bound > SUM_LIMIT:
        raise ValueError(
            f"sums could grow to {bound:,.0f}, beyond the 32 bits of the machine's: use smaller "
            "biases or fewer inputs")
    return torch.float32 if bound <= EXACT[torch.float32] else torch.float64


def patches(x: torch.Tensor, taps: tuple[int, int], geometry: Geometry) -> torch.Tensor:
    """Return the window of every place, (B, places, taps_y * taps_x * channels)."""
    channels = x.shape[3]
    found = functional.unfold(
        _channels_first(x), taps, padding=geometry.padding, stride=geometry.stride)
    found = found.view(len(x), channels, taps[0] * taps[1], -1)
    return found.permute(0, 3, 2, 1).reshape(len(x), found.shape[3], -1)


def _rows(weight: torch.Tensor) -> torch.Tensor:
    """Return weights as a matrix (taps_y * taps_x * inputs, outputs)."""
    return weight.permute(2, 3, 1, 0).reshape(-1, len(weight))


def forward(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, largest: int, *,
            start: torch.Tensor | None = None, unfold: bool | None = None) -> torch.Tensor:
    """Return Y (B, height, width, outputs), exact.

    Parameters
    ----------
    x : float32 tensor
        Integers.
    weight : float32 tensor
    largest : int
        Of the absolute values of X.
    start : float tensor (outputs,), optional
        Where the sums begin.
    unfold : bool, optional
        Multiply unfolded images; by default off CPUs.
    """
    bound = float(weight.abs().sum((1, 2, 3)).max()) * largest
    if start is not None:
        bound += float(start.abs().max())
        start = start.to(sum_type(bound))
    x, weight = x.to(sum_type(bound)), weight.to(sum_type(bound))
    if not _unfolds(x, unfold):
        return _channels_last(functional.conv2d(
            _channels_first(x), weight, start, geometry.stride, geometry.padding))
    taps = weight.shape[2], weight.shape[3]
    y = patches(x, taps, geometry) @ _rows(weight)
    y = y if start is None else y + start
    return y.view(len(x), geometry.size(x.shape[1], taps[0]),
                  geometry.size(x.shape[2], taps[1]), -1)


def input_gradient(d: torch.Tensor, weight: torch.Tensor, geometry: Geometry,
                   size: tuple[int, int], largest: int, *,
                   unfold: bool | None = None) -> torch.Tensor:
    """Return dX (B, *size, inputs), exact.

    Parameters
    ----------
    d : float32 tensor (B, height, width, outputs)
    largest : int
        Of the absolute values of D.
    """
    bound = float(weight.abs().sum((0, 2, 3)).max()) * largest
    d, weight = d.to(sum_type(bound)), weight.to(sum_type(bound))
    inputs = weight.shape[1]
    if not _unfolds(d, unfold):
        x = d.new_empty((len(d), *size, inputs))
        return _channels_last(_backward(x, d, weight, geometry, (True, False, False))[0])
    rows = d.reshape(len(d), -1, d.shape[3]) @ _rows(weight).T
    taps = weight.shape[2], weight.shape[3]
    columns = rows.view(len(d), -1, taps[0] * taps[1], inputs).permute(0, 3, 2, 1)
    return _channels_last(functional.fold(
        columns.reshape(len(d), inputs * taps[0] * taps[1], -1), size, taps,
        padding=geometry.padding, stride=geometry.stride))


def weight_gradient(x: torch.Tensor, d: torch.Tensor, taps: tuple[int, int], geometry: Geometry,
                    largest: int, *, unfold: bool | None = None) -> torch.Tensor:
    """Return dW (outputs, inputs, *taps), float64, exact.

    The batch is cut where the largest X times the sum of the absolute D of an output could exceed
    what is exact; parts are added in float64.
    """
    shape = d.shape[3], x.shape[3], *taps
    total = torch.zeros(shape, dtype=torch.float64, device=x.device)
    if not len(x):
        return total
    for part, kind in _parts(d, largest):
        some, gradients = x[part].to(kind), d[part].to(kind)
        if _unfolds(x, unfold):
            windows = patches(some, taps, geometry).flatten(0, 1)
            rows = windows.T @ gradients.reshape(-1, shape[0])
            total += rows.view(*taps, shape[1], shape[0]).permute(3, 2, 0, 1)
        else:
            weight = some.new_empty(shape)
            total += _backward(some, gradients, weight, geometry, (False, True, False))[1]
    return total


def _parts(d: torch.Tensor, largest: int) -> Iterator[tuple[slice, torch.dtype]]:
    """Yield parts of a batch, and the type in which the sums of each are exact."""
    # These sums round: below 2**24 they are exact, above it a bound fails anyway.
    sums = (d.abs().sum((1, 2)) * largest).double()
    totals = sums.cumsum(0).cpu()
    limit = EXACT[torch.float32]
    first = 0
    while first < len(d):
        before = totals[first - 1] if first else torch.zeros_like(totals[0])
        inside = ((totals - before).amax(1) <= limit).nonzero().flatten()
        last = max(int(inside[-1]) + 1 if len(inside) else 0, first + 1)
        fits = float((totals[last - 1] - before).max()) <= limit
        yield slice(first, last), torch.float32 if fits else torch.float64
        first = last


def _unfolds(tensor: torch.Tensor, asked: bool | None) -> bool:
    return tensor.device.type != "cpu" if asked is None else asked


def _backward(x, d, weight, geometry: Geometry, wanted: tuple[bool, bool, bool]):
    twice = [geometry.padding] * 2
    return torch.ops.aten.convolution_backward(
        _channels_first(d), _channels_first(x), weight, None, [geometry.stride] * 2, twice,
        [1, 1], False, [0, 0], 1, list(wanted))


def check_device(device: torch.device | str) -> None:
    """Try the largest products on a device.

    Raises
    ------
    RuntimeError
        If they are not exact, as with TF32 or reduced precision switched on.
    """
    x = torch.full((1, 8, 8, 56), 255.0, device=device)
    d = torch.full((1, 8, 8, 64), -128.0, device=device)
    weight = torch.full((64, 56, 3, 3), -127.0, device=device)
    geometry = Geometry(padding=1)
    middle = (slice(None), slice(1, 7), slice(1, 7))
    found = (
        forward(x, weight, geometry, 255)[middle].double().unique().tolist(),
        input_gradient(d, weight, geometry, (8, 8), 128)[middle].double().unique().tolist(),
        weight_gradient(x, d, (3, 3), geometry, 255)[:, :, 1, 1].unique().tolist())
    expected = ([-255.0 * 127 * 9 * 56], [128.0 * 127 * 9 * 64], [-255.0 * 128 * 64])
    if found != expected:
        raise RuntimeError(
            f"{device} multiplies integers inexactly: {found}, not {expected}; call "
            "torch.set_float32_matmul_precision('highest')")
