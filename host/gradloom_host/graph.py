"""Networks as lists of layers, with the shapes that follow."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Add", "AveragePool", "Conv", "Graph", "Layer", "Linear", "MaxPool", "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the activations of one sample."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class Conv:
    """A convolution, and a ReLU unless switched off.

    Parameters
    ----------
    channels : int
        That leave.
    kernel : int or (int, int)
        Taps in y and in x.
    stride, padding, groups : int
    bias, relu : bool
    """

    channels: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True
    relu: bool = True

    @property
    def taps(self) -> tuple[int, int]:
        """Taps in y and in x."""
        kernel = self.kernel
        return (kernel, kernel) if isinstance(kernel, int) else kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A fully connected layer on all pixels and channels."""

    features: int
    bias: bool = True
    relu: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxPool:
    """The largest of each `size` x `size` window; windows do not overlap."""

    size: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragePool:
    """The mean of each `size` x `size` window; windows do not overlap."""

    size: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    """The sum of what the layer before and an earlier layer give.

    Parameters
    ----------
    of : int
        Index of the earlier layer; -1 is not allowed, the input has no gradient.
    relu : bool
    """

    of: int
    relu: bool = True


Layer = Conv | Linear | MaxPool | AveragePool | Add


@dataclass(frozen=True, slots=True)
class Graph:
    """A network: the shape of its input and its layers, the last of which gives the logits.

    Raises
    ------
    ValueError
        If a layer does not fit what it is given, or the last is no `Linear` without ReLU.
    """

    input: Shape
    layers: tuple[Layer, ...]

    def __init__(self, input: Shape, layers: Sequence[Layer]):
        object.__setattr__(self, "input", input)
        object.__setattr__(self, "layers", tuple(layers))
        if not self.layers or not isinstance(self.layers[-1], Linear) or self.layers[-1].relu:
            raise ValueError("a network ends in a Linear with relu=False: its logits")
        self.shapes()

    def shapes(self) -> list[Shape]:
        """Return the shape that each layer gives."""
        shapes: list[Shape] = []
        for index, layer in enumerate(self.layers):
            given = shapes[-1] if shapes else self.input
            try:
                shapes.append(_shape(layer, given, shapes, index))
            except ValueError as error:
                raise ValueError(f"layer {index} ({type(layer).__name__}): {error}") from None
        return shapes

    def sources(self, index: int) -> tuple[int, ...]:
        """Return the layers that layer `index` reads; -1 is the input."""
        layer = self.layers[index]
        return (index - 1, layer.of) if isinstance(layer, Add) else (index - 1,)

    def macs(self) -> list[int]:
        """Return the multiply-accumulates of each layer for the forward pass of one sample."""
        shapes = self.shapes()
        found = []
        for index, layer in enumerate(self.layers):
            given = shapes[index - 1] if index else self.input
            if isinstance(layer, Conv):
                taps = layer.taps[0] * layer.taps[1]
                found.append(shapes[index].pixels * layer.channels * taps
                             * given.channels // layer.groups)
            elif isinstance(layer, Linear):
                found.append(given.channels * given.pixels * layer.features)
            else:
                found.append(0)
        return found


def _shape(layer: Layer, given: Shape, before: list[Shape], index: int) -> Shape:
    if isinstance(layer, Linear):
        if layer.features < 1:
            raise ValueError(f"features must be at least 1, not {layer.features!r}")
        return Shape(layer.features, 1, 1)
    if isinstance(layer, Add):
        if not 0 <= layer.of < index - 1:
            raise ValueError(
                f"`of` must name a layer from 0 to {index - 2}, not {layer.of!r}")
        if before[layer.of] != given:
            raise ValueError(f"cannot add {before[layer.of]} to {given}: make the shapes equal")
        return given
    if isinstance(layer, Conv):
        if given.channels % layer.groups or layer.channels % layer.groups:
            raise ValueError(
                f"{layer.groups} groups must divide {given.channels} and {layer.channels} channels")
        (taps_y, taps_x), stride, pad = layer.taps, layer.stride, layer.padding
        if min(taps_y, taps_x, stride) < 1 or pad < 0:
            raise ValueError("kernel and stride must be at least 1, padding at least 0")
        if pad >= min(taps_y, taps_x):
            raise ValueError(f"padding {pad} must be less than the kernel {layer.kernel!r}")
        height = (given.height + 2 * pad - taps_y) // stride + 1
        width = (given.width + 2 * pad - taps_x) // stride + 1
        if height < 1 or width < 1:
            raise ValueError(f"a kernel of {layer.kernel!r} exceeds {given}: pad it more")
        return Shape(layer.channels, height, width)
    if layer.size < 2:
        raise ValueError(f"a window must be at least 2, not {layer.size!r}")
    if given.height < layer.size or given.width < layer.size:
        raise ValueError(f"a window of {layer.size} exceeds {given}")
    return Shape(given.channels, given.height // layer.size, given.width // layer.size)
