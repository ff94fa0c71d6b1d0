"""A network as arrays: what its products are, before any machine is chosen.

GEMM view of a layer, for one sample: `pixels` rows of X (pixels, K) for each of `taps` positions of
the kernel, weights (taps, K, N), and as many rows of D and Y. Backward, the pixels of X that differ
by a multiple of the stride meet the same taps: they form a phase (decision 5), and each is a
product of its own.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from .layers import Layer, Network

__all__ = ["Geometry", "geometry"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Geometry:
    """Arrays over the L layers of a network, and over the F phases of their input gradients.

    Attributes
    ----------
    inputs, outputs : int64 array (L,)
        Features of one group.
    groups : int64 array (L,)
        Groups of a convolution, or independent products of a sample.
    taps : int64 array (L,)
    pixels : int64 array (L,)
        Rows of Y of a sample.
    image : int64 array (L,)
        Rows of X of a sample.
    meetings : int64 array (L,)
        Pairs of a row of Y and a tap whose row of X is no padding, of a sample.
    is_product : bool array (L,)
        Of two activations: each sample has a product of its own, and nothing is updated.
    is_first : bool array (L,)
        Needs no input gradient.
    phase_pixels, phase_taps : int64 array (F,)
        Rows of X of a phase and the taps that meet them.
    phase_start : int64 array (L,)
        First phase of each layer; every layer has at least one.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    groups: np.ndarray
    taps: np.ndarray
    pixels: np.ndarray
    image: np.ndarray
    meetings: np.ndarray
    is_product: np.ndarray
    is_first: np.ndarray
    phase_pixels: np.ndarray
    phase_taps: np.ndarray
    phase_start: np.ndarray

    @property
    def phase_layer(self) -> np.ndarray:
        """Layer of each phase, int64 (F,)."""
        ends = np.append(self.phase_start[1:], len(self.phase_pixels))
        return np.repeat(np.arange(len(self.phase_start)), ends - self.phase_start)

    @property
    def weights(self) -> np.ndarray:
        """Elements of the second operand of a sample, or the stored weights, int64 (L,)."""
        return self.groups * self.taps * self.inputs * self.outputs

    @property
    def macs(self) -> np.ndarray:
        """Multiplications forward of a sample, those with padding included, int64 (L,)."""
        return self.pixels * self.weights


@lru_cache(maxsize=256)
def geometry(network: Network) -> Geometry:
    """Return the arrays of a network."""
    layers = network.layers
    phases = [_phases(layer) for layer in layers]
    counts = [len(one) for one in phases]
    flat = np.array([phase for one in phases for phase in one], np.int64)

    def array(values, kind: type = np.int64) -> np.ndarray:
        return np.array(list(values), kind)

    return Geometry(
        inputs=array(layer.inputs // layer.groups for layer in layers),
        outputs=array(layer.outputs // layer.groups for layer in layers),
        groups=array(layer.groups * layer.copies for layer in layers),
        taps=array(layer.taps for layer in layers),
        pixels=array(prod(layer.out_size) for layer in layers),
        image=array(prod(layer.size) for layer in layers),
        meetings=array(prod(_meetings(*axis) for axis in _axes(layer)) for layer in layers),
        is_product=array((layer.kind == "matmul" for layer in layers), bool),
        is_first=array((not layer.input_gradient for layer in layers), bool),
        phase_pixels=flat[:, 0], phase_taps=flat[:, 1],
        phase_start=np.cumsum([0, *counts[:-1]]),
    )


def _axes(layer: Layer) -> list[tuple[int, ...]]:
    """Return size, outputs, taps, stride, dilation and padding before, of height and width."""
    return [(layer.size[axis], layer.out_size[axis], layer.kernel[axis], layer.stride[axis],
             layer.dilation[axis], layer.padding[axis]) for axis in range(2)]


@lru_cache(maxsize=4096)
def _meetings(size: int, outputs: int, taps: int, stride: int, dilation: int, before: int) -> int:
    """Return the pairs of an output and a tap along an axis whose input exists."""
    found = 0
    for tap in range(taps):
        first = -(-(before - tap * dilation) // stride)
        last = (size - 1 + before - tap * dilation) // stride
        found += max(0, min(last, outputs - 1) - max(first, 0) + 1)
    return found


@lru_cache(maxsize=4096)
def _axis_phases(size: int, taps: int, stride: int, dilation: int,
                 before: int) -> tuple[tuple[int, int], ...]:
    """Return inputs and taps of each phase along an axis that any tap meets."""
    found = []
    for phase in range(min(stride, size)):
        here = sum((phase + before - tap * dilation) % stride == 0 for tap in range(taps))
        if here:
            found.append((len(range(phase, size, stride)), here))
    return tuple(found)


def _phases(layer: Layer) -> list[tuple[int, int]]:
    """Return pixels and taps of each phase."""
    down, across = (_axis_phases(size, taps, stride, dilation, before)
                    for size, _, taps, stride, dilation, before in _axes(layer))
    found = [(height * width, y * x) for height, y in down for width, x in across]
    return found or [(1, 0)]                               # the kernel never meets the image
