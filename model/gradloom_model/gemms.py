"""The matrix products of training, after im2col: what simulators of products are fed with."""

from dataclasses import dataclass
from math import prod

from .layers import Layer, Network

__all__ = ["Gemm", "gemms"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemm:
    """A product of an M x K matrix and a K x N matrix, and how often it occurs with other data."""

    m: int
    n: int
    k: int
    copies: int = 1

    @property
    def macs(self) -> int:
        """Multiplications of all copies."""
        return self.m * self.n * self.k * self.copies


def gemms(network: Network, batch: int = 1) -> dict[str, list[Gemm]]:
    """Return the products of each pass, a layer each: Y = X W, dX = D W' and dW = X' D.

    A row of X is a patch: taps x inputs of a group, padding included; dX are patches, too, before
    they are added up. The input gradient of every layer is listed, of those that need none, too.
    Copies are the groups of a convolution, or the products of all samples.

    Parameters
    ----------
    network : Network
    batch : int
        Samples, whose rows follow each other.

    Raises
    ------
    ValueError
        If `batch` is not at least 1.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch!r}")
    shapes = [_shape(layer, batch) for layer in network.layers]
    return {
        "forward": [Gemm(m=t, n=n, k=k, copies=c) for t, k, n, c in shapes],
        "input gradient": [Gemm(m=t, n=k, k=n, copies=c) for t, k, n, c in shapes],
        "weight gradient": [Gemm(m=k, n=n, k=t, copies=c) for t, k, n, c in shapes],
    }


def _shape(layer: Layer, batch: int) -> tuple[int, int, int, int]:
    """Return rows, patch, outputs and copies."""
    alone = layer.kind == "matmul"
    return (prod(layer.out_size) * (1 if alone else batch),
            layer.taps * layer.inputs // layer.groups, layer.outputs // layer.groups,
            layer.groups * layer.copies * (batch if alone else 1))
