"""Exact convolutions of any shape on a device: forward, input gradient and weight gradient."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradloom_golden.config import Config

from . import layout
from .conv_passes import LARGEST, MOST_TAPS, Passes
from .device import Device

__all__ = ["Convolution"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """A convolution of integers (images, channels, height, width).

    Parameters
    ----------
    stride, padding : (int, int)
        Vertical and horizontal: 1 to 255, and 0 to 255 zeros on each side.
    groups : int
        Channels fall into so many groups, each with weights of its own.

    Raises
    ------
    ValueError
        If one of them is out of range.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def __post_init__(self):
        for name, least in (("stride", 1), ("padding", 0)):
            pair = getattr(self, name)
            if not all(least <= value <= LARGEST for value in pair):
                raise ValueError(
                    f"{name} must be two numbers from {least} to {LARGEST}, not {pair!r}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1, not {self.groups!r}")

    def forward(self, device: Device, x, w, *, unsigned: bool = False) -> np.ndarray:
        """Return Y, the convolution of X with W.

        Parameters
        ----------
        device : Device
        x : int array (images, inputs, height, width)
            Of `operand_bits` bits, signed or `unsigned`.
        w : int array (outputs, inputs / groups, taps_y, taps_x)
            Of `operand_bits` bits.

        Returns
        -------
        int64 array (images, outputs, out_height, out_width)

        Raises
        ------
        TypeError, ValueError
            If an operand holds other than integers, one out of range, or has the wrong shape.
        """
        x, w = self._checked(device, x, w, unsigned=unsigned)
        y = np.empty(self._out_shape(x, w), np.int64)
        for count, inputs, outputs in self._bundles(device.config, w):
            passes = self._passes(device, _dense(w[outputs], count), unsigned=unsigned)
            y[:, outputs] = passes.forward(x[:, inputs], y.shape[2:])
        return y

    def backward(
        self, device: Device, x, w, d, *, unsigned: bool = False, input_gradient: bool = True,
        weight_gradient: bool = True,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return dX and dW, interleaved on the array where both are asked for.

        Parameters
        ----------
        device : Device
        x, w
            As for `forward`.
        d : int array (images, outputs, out_height, out_width)
            Gradient of Y, of `gradient_bits` bits.
        input_gradient, weight_gradient : bool
            What to compute.

        Returns
        -------
        int64 array like x or None, int64 array like w or None

        Raises
        ------
        TypeError, ValueError
            As for `forward`.
        """
        x, w = self._checked(device, x, w, unsigned=unsigned)
        d = layout.checked("d", d, device.config.gradient_bits, axes=4)
        if d.shape != self._out_shape(x, w):
            raise ValueError(f"d has shape {d.shape}: x and w ask for {self._out_shape(x, w)}")
        dx = np.empty_like(x) if input_gradient else None
        dw = np.empty_like(w) if weight_gradient else None
        for count, inputs, outputs in self._bundles(device.config, w):
            passes = self._passes(device, _dense(w[outputs], count), unsigned=unsigned)
            if dx is not None:
                dx[:, inputs], dense = passes.input_gradient(
                    x[:, inputs], d[:, outputs], both=weight_gradient)
            elif dw is not None:
                dense = passes.weight_gradient(x[:, inputs], d[:, outputs])
            else:
                continue
            if dw is not None:
                dw[outputs] = _diagonal(dense, count)
        return dx, dw

    def _checked(self, device: Device, x, w, *, unsigned: bool) -> tuple[np.ndarray, np.ndarray]:
        bits = device.config.operand_bits
        x = layout.checked("x", x, bits, unsigned=unsigned, axes=4)
        w = layout.checked("w", w, bits, axes=4)
        if x.shape[1] != w.shape[1] * self.groups:
            raise ValueError(f"x has {x.shape[1]} channels, w takes {w.shape[1]} in each of "
                             f"{self.groups} groups: they must agree")
        if w.shape[0] % self.groups:
            raise ValueError(
                f"w has {w.shape[0]} outputs: make them a multiple of the {self.groups} groups")
        if max(w.shape[2:]) > MOST_TAPS:
            raise ValueError(f"w has {w.shape[2:]} taps: use at most {MOST_TAPS} along an axis")
        if min(self._out_shape(x, w)) < 1:
            raise ValueError(f"w has {w.shape[2:]} taps: pad x {x.shape[2:]} to no less than that, "
                             f"not by {self.padding}")
        return x, w

    def _out_shape(self, x: np.ndarray, w: np.ndarray) -> tuple[int, ...]:
        size = ((given + 2 * padding - taps) // stride + 1 for given, padding, taps, stride
                in zip(x.shape[2:], self.padding, w.shape[2:], self.stride))
        return len(x), len(w), *size

    def _bundles(self, config: Config, w: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
        """Yield how many groups share a tile, and which inputs and outputs are theirs."""
        outputs, inputs = len(w) // self.groups, w.shape[1]
        most = max(1, min(config.rows // inputs, config.columns // outputs))
        for first in range(0, self.groups, most):
            last = min(first + most, self.groups)
            yield (last - first, slice(first * inputs, last * inputs),
                   slice(first * outputs, last * outputs))

    def _passes(self, device: Device, dense: np.ndarray, *, unsigned: bool) -> Passes:
        return Passes(device=device, weights=dense, stride=self.stride, padding=self.padding,
                      unsigned=unsigned)


def _dense(w: np.ndarray, groups: int) -> np.ndarray:
    """Return weights (taps_y, taps_x, inputs, outputs), zero between inputs and other groups."""
    outputs, inputs, *taps = w.shape
    own = w.reshape(groups, -1, inputs, *taps).transpose(3, 4, 0, 2, 1)
    dense = np.zeros((*taps, groups, inputs, groups, outputs // groups), np.int64)
    for group in range(groups):
        dense[:, :, group, :, group] = own[:, :, group]
    return dense.reshape(*taps, groups * inputs, outputs)


def _diagonal(dense: np.ndarray, groups: int) -> np.ndarray:
    """Return the weights that `_dense` made dense."""
    *taps, inputs, outputs = dense.shape
    blocks = dense.reshape(*taps, groups, inputs // groups, groups, outputs // groups)
    own = np.stack([blocks[:, :, group, :, group] for group in range(groups)])
    return own.transpose(0, 4, 3, 1, 2).reshape(outputs, inputs // groups, *taps)
