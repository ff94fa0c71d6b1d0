"""Layers as the cost model sees them: the products of a network, and their shapes."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import prod

__all__ = ["Layer", "Network", "Operator"]

KINDS = ("conv", "linear", "matmul")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One operator that multiplies, for one sample.

    Parameters
    ----------
    name : str
    kind : str
        "conv"; "linear": a product with stored weights; "matmul": of two activations, as in
        attention, whose second operand differs from sample to sample.
    outputs, inputs : int
        Features (N) and input features (K) of all groups.
    kernel, stride, dilation : (int, int)
        Along height and width.
    padding : (int, int, int, int)
        Zeros above, left, below and right.
    size : (int, int)
        Height and width of the input; of a linear layer or a product, rows and 1.
    groups : int
        Independent parts of the channels of a convolution.
    copies : int
        Independent products of a sample ("matmul"): heads, for one.
    input_gradient : bool
        Whether training needs dX; what reads only the network's input needs none.

    Raises
    ------
    TypeError, ValueError
        Naming layer, field and value.
    """

    name: str
    outputs: int
    inputs: int
    kind: str = "conv"
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    size: tuple[int, int] = (1, 1)
    groups: int = 1
    copies: int = 1
    input_gradient: bool = True

    def __post_init__(self):
        self._check_kinds()
        self._check_amounts()

    def _check_kinds(self) -> None:
        lengths = {"kernel": 2, "stride": 2, "dilation": 2, "padding": 4, "size": 2}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in lengths:
                wanted = f"{lengths[field.name]} integers"
                good = (isinstance(value, tuple) and len(value) == lengths[field.name]
                        and all(type(entry) is int for entry in value))
            else:
                kind = field.type if isinstance(field.type, type) else int
                wanted = f"of type {kind.__name__}"
                good = type(value) is kind
            if not good:
                raise TypeError(
                    f"layer {self.name!r}: {field.name} must be {wanted}, not {value!r}")

    def _check_amounts(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"layer {self.name!r}: kind must be one of {', '.join(KINDS)}, "
                             f"not {self.kind!r}")
        for name in ("outputs", "inputs", "kernel", "stride", "dilation", "size", "groups",
                     "copies"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"layer {self.name!r}: {name} must be at least 1, not {value!r}")
        if min(self.padding) < 0:
            raise ValueError(
                f"layer {self.name!r}: padding must not be negative, not {self.padding!r}")
        for name in ("inputs", "outputs"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"layer {self.name!r}: {self.groups} groups do not divide "
                                 f"{getattr(self, name)} {name}")
        if self.kind != "conv" and (prod(self.kernel + self.stride + self.dilation) != 1
                                    or any(self.padding) or self.groups != 1):
            raise ValueError(f"layer {self.name!r}: only a convolution has a kernel, stride, "
                             "dilation, padding or groups")
        if self.kind != "matmul" and self.copies != 1:
            raise ValueError(f"layer {self.name!r}: only a product of activations has copies")
        if min(self.out_size) < 1:
            raise ValueError(f"layer {self.name!r}: a kernel of {self.kernel} with dilation "
                             f"{self.dilation} exceeds the padded input {self.size}")

    @property
    def out_size(self) -> tuple[int, int]:
        """Height (P) and width (Q) of the output."""
        return tuple(
            (self.size[axis] + self.padding[axis] + self.padding[axis + 2]
             - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis in range(2))  # type: ignore[return-value]

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiplications of the forward pass of one sample, those with padding included."""
        return (prod(self.out_size) * self.copies * self.outputs * self.taps
                * (self.inputs // self.groups))

    @property
    def weights(self) -> int:
        """Stored weights, without biases; none in a product of activations."""
        if self.kind == "matmul":
            return 0
        return self.outputs * self.taps * (self.inputs // self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An operator that multiplies nothing on the array, or that nobody knows.

    Parameters
    ----------
    name, operator : str
    known : bool
        Whether it is known to need no multiplications on the array.
    """

    name: str
    operator: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Network:
    """The layers of a network, in forward order, and what else it does.

    Parameters
    ----------
    name : str
    layers : tuple of Layer
    others : tuple of Operator
        What no cost is computed for.
    """

    name: str
    layers: tuple[Layer, ...]
    others: tuple[Operator, ...] = ()

    def __init__(self, name: str, layers: Iterable[Layer], others: Iterable[Operator] = ()):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "others", tuple(others))
        if not self.layers:
            raise ValueError(f"network {name!r} has no layer that multiplies")

    @property
    def macs(self) -> int:
        """Multiplications of the forward pass of one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Stored weights, without biases."""
        return sum(layer.weights for layer in self.layers)
