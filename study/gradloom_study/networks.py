"""Networks as lists of layers: those of `gradloom_host.graph`, and what residual networks add.

The same list makes a network of the machine's integers (`build`) and one of float32
(`gradloom_study.floating`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from gradloom_host import graph
from gradloom_host.cnn import BIAS_EXPONENT, FIRST_EXPONENT, INPUT_EXPONENT, LEAST_WEIGHT_EXPONENT
from gradloom_host.graph import AveragePool, Conv, Linear, MaxPool, Shape

from . import layers, optimizer
from .fixed import saturate_
from .norm import BatchNorm
from .products import Geometry
from .scale import WIDTH, Scale
from .step import OPERAND_BITS, Integers, Step

__all__ = ["NETWORKS", "NORMS", "Add", "Network", "Norm", "Shortcut", "Spec", "build", "mlp",
           "resnet", "vgg"]

assert (BIAS_EXPONENT, FIRST_EXPONENT) == (layers.BIAS_EXPONENT, Scale().exponent)

NORMS = ("batch", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """Batch normalization, by the host, and a ReLU unless switched off."""

    relu: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcut:
    """Every `stride`-th pixel of layer `of`, with zeros as further channels."""

    of: int
    channels: int
    stride: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    """The sum of what the layer before and an earlier layer give, and a ReLU."""

    of: int
    relu: bool = True


Layer = graph.Layer | Norm | Shortcut | Add


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A network.

    Parameters
    ----------
    input : Shape
    layers : sequence of layer
        The last is a `Linear` without ReLU.
    gains : dict of int to float
        By what the first weights of a layer are multiplied, where not by 1.
    """

    input: Shape
    layers: Sequence[Layer]
    gains: dict[int, float] = field(default_factory=dict)

    def sources(self, index: int) -> list[int]:
        """Return the layers that layer `index` reads; -1 is the input."""
        layer = self.layers[index]
        if isinstance(layer, Shortcut):
            return [layer.of]
        return [index - 1, layer.of] if isinstance(layer, Add | graph.Add) else [index - 1]

    def shapes(self) -> list[Shape]:
        """Return the shape that each layer gives."""
        found: list[Shape] = []
        for index, layer in enumerate(self.layers):
            given = [found[of] if of >= 0 else self.input for of in self.sources(index)]
            found.append(_shape(layer, given))
        return found

    def macs(self) -> dict[int, int]:
        """Return the multiplications of a sample's forward pass, by layer with weights."""
        shapes, found = self.shapes(), {}
        for index, layer in enumerate(self.layers):
            given = shapes[self.sources(index)[0]] if index else self.input
            if isinstance(layer, Conv):
                found[index] = (shapes[index].pixels * layer.channels * layer.taps[0]
                                * layer.taps[1] * given.channels)
            elif isinstance(layer, Linear):
                found[index] = given.channels * given.pixels * layer.features
        return found


def _shape(layer: Layer, given: list[Shape]) -> Shape:
    first = given[0]
    if isinstance(layer, Norm):
        return first
    if isinstance(layer, Add | graph.Add):
        if first != given[1]:
            raise ValueError(f"cannot add {given[1]} to {first}: make the shapes equal")
        return first
    if isinstance(layer, Shortcut):
        edges = (-(-size // layer.stride) for size in (first.height, first.width))
        return Shape(layer.channels, *edges)
    # A network of one layer has the checks and the shapes of `graph`.
    return graph.Graph(first, [layer, Linear(features=1, relu=False)]).shapes()[0]


def fan_in(layer: Conv | Linear, given: Shape) -> int:
    """Return the inputs of an output."""
    pixels = given.pixels if isinstance(layer, Linear) else layer.taps[0] * layer.taps[1]
    return pixels * given.channels


def draw_weights(layer: Conv | Linear, given: Shape, gain: float,
                 generator: torch.Generator) -> torch.Tensor:
    """Return first weights, float32, by He et al. (2015); of logits they are small."""
    inputs = fan_in(layer, given)
    bound = gain * math.sqrt((6 if isinstance(layer, Conv) or layer.relu else 3 / 4) / inputs)
    shape = ((layer.features, inputs) if isinstance(layer, Linear)
             else (layer.channels, given.channels, *layer.taps))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound


class Network(nn.Module):
    """A network of the machine's integers.

    Parameters
    ----------
    spec : Spec
    input_exponent : int
    width : int
        Elements of a buffer word of the machine, as of `Scale`.

    Attributes
    ----------
    members : list of layers.Layer
        One a layer of the spec.
    """

    def __init__(self, spec: Spec, input_exponent: int = INPUT_EXPONENT, width: int = WIDTH):
        super().__init__()
        self.spec = spec
        self._input_exponent = input_exponent
        self.members = [_member(spec, index) for index in range(len(spec.layers))]
        self._registered = nn.ModuleList(self.members)
        # Gradients that meet are added with an exponent of their own.
        self.meetings = layers.Layer(**{
            str(index): Scale() for index in range(len(spec.layers)) if self._readers(index) > 1})
        for member in (*self.members, self.meetings):
            for scale in member.scales.values():
                scale.width = width
        self._outputs: list[Integers] = []

    def _readers(self, index: int) -> int:
        return sum(self.spec.sources(later).count(index)
                   for later in range(len(self.spec.layers)))

    @property
    def weighted(self) -> dict[int, layers.Weighted]:
        """The layers with weights, by index."""
        return {index: member for index, member in enumerate(self.members)
                if isinstance(member, layers.Weighted)}

    def draw(self, generator: torch.Generator, *, floor: int = LEAST_WEIGHT_EXPONENT) -> None:
        """Draw first weights, and choose their exponents as `gradloom_host.cnn` does.

        Parameters
        ----------
        generator : Generator
        floor : int
            Least exponent of weights.
        """
        shapes = self.spec.shapes()
        for index, member in self.weighted.items():
            layer = self.spec.layers[index]
            assert isinstance(layer, Conv | Linear)
            given = shapes[self.spec.sources(index)[0]] if index else self.spec.input
            spread = 3 * math.sqrt(2 / fan_in(layer, given)) / (1 << OPERAND_BITS - 1)
            member.exponent = max(floor, math.ceil(math.log2(spread)))
            drawn = draw_weights(layer, given, self.spec.gains.get(index, 1.0), generator)
            unit = 2.0 ** (member.exponent - optimizer.RESIDUE_BITS)
            rest = 1 << optimizer.RESIDUE_BITS - 1
            member.master = saturate_(
                (drawn.double() / unit).round_().add_(rest), optimizer.MASTER_BITS)

    def forward(self, images: torch.Tensor, *, train: bool = False) -> Integers:
        """Return the logits (B, 1, 1, classes).

        Parameters
        ----------
        images : tensor (B, height, width, channels)
            Integers of 0 to 255 in units of ``2**input_exponent``.
        train : bool
            `backward` follows.
        """
        given = Integers(images.float().contiguous(), self._input_exponent, unsigned=True)
        outputs: list[Integers] = []
        for index, member in enumerate(self.members):
            read = [outputs[of] if of >= 0 else given for of in self.spec.sources(index)]
            outputs.append(member(*read, train=train))
        self._outputs = outputs if train else []
        return outputs[-1]

    def backward(self, error: Integers, step: Step) -> None:
        """Hand the error of the logits of the kept samples back through all layers.

        Without a kept sample there is no backward pass: nothing is drawn, nothing learned.

        Parameters
        ----------
        error : Integers
            (kept, 1, 1, classes)
        step : Step
        """
        if not len(error.values):
            return
        arrived: list[list[Integers]] = [[] for _ in self.members]
        arrived[-1].append(error)
        for index in reversed(range(len(self.members))):
            d = self._meet(index, arrived[index], step)
            member, sources = self.members[index], self.spec.sources(index)
            if isinstance(member, layers.Add):
                for of in sources:
                    arrived[of].append(d)
                continue
            dx = member.backward(d, step)
            if dx is not None and sources[0] >= 0:
                arrived[sources[0]].append(dx)
        self._outputs = []

    def _meet(self, index: int, gradients: list[Integers], step: Step) -> Integers:
        """Return the sum of the gradients of a layer, that of its next reader first."""
        total = gradients[-1]
        # Those of later readers came before.
        for other in reversed(gradients[:-1]):
            scale = self.meetings.scales[str(index)]
            total = layers.accumulate(total, other, self._outputs[index], scale, step)
        return total

    def rescale(self) -> None:
        """Adapt all exponents, at the end of a step."""
        for member in (*self.members, self.meetings):
            member.rescale()


def _member(spec: Spec, index: int) -> layers.Layer:
    layer, shapes = spec.layers[index], spec.shapes()
    source = spec.sources(index)[0]
    given = shapes[source] if source >= 0 else spec.input
    if isinstance(layer, Conv):
        if layer.groups != 1:
            raise ValueError(f"grouped convolutions are not emulated: use 1 group, not "
                             f"{layer.groups!r}")
        return layers.Conv(
            given.channels, layer.channels, layer.taps, Geometry(layer.stride, layer.padding),
            exponent=0, bias=layer.bias, relu=layer.relu, first=index == 0)
    if isinstance(layer, Linear):
        return layers.Linear(
            fan_in(layer, given), layer.features, exponent=0, bias=layer.bias, relu=layer.relu,
            first=index == 0)
    if isinstance(layer, Norm):
        return BatchNorm(given.channels, relu=layer.relu)
    if isinstance(layer, MaxPool):
        return layers.MaxPool(layer.size)
    if isinstance(layer, AveragePool):
        return layers.AveragePool(layer.size)
    if isinstance(layer, Shortcut):
        return layers.Shortcut(layer.channels, layer.stride)
    return layers.Add(relu=layer.relu)


def build(spec: Spec, seed: int, *, input_exponent: int = INPUT_EXPONENT) -> Network:
    """Return a network with first weights drawn from a seed."""
    network = Network(spec, input_exponent)
    # What a normalization follows has no scale of its own: finer exponents cost nothing.
    floor = -15 if any(isinstance(layer, Norm) for layer in spec.layers) else LEAST_WEIGHT_EXPONENT
    network.draw(torch.Generator().manual_seed(seed), floor=floor)
    return network


def _unit(channels: int, stride: int, norm: str, *, relu: bool) -> list[Layer]:
    """Return a convolution of 3x3 taps, normalized or with a bias."""
    conv = Conv(channels=channels, kernel=3, stride=stride, padding=1, relu=relu)
    return [replace(conv, bias=False, relu=False), Norm(relu=relu)] if norm == "batch" else [conv]


def resnet(shape: Shape, classes: int, *, norm: str = "batch", blocks: int = 3,
           width: int = 16) -> Spec:
    """Return a ResNet of 6 `blocks` + 2 layers for small images: He et al. (2016), option A.

    Without normalization the branches start small, as in Fixup (Zhang et al., 2019): the first
    convolution of each by the root of the number of branches, the second by a tenth.
    """
    found, gains = _unit(width, 1, norm, relu=True), {}
    channels = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            of, before = len(found) - 1, channels
            channels = width << stage
            gains[len(found)] = (3 * blocks) ** -0.5
            found += _unit(channels, stride, norm, relu=True)
            gains[len(found)] = 0.1
            found += _unit(channels, 1, norm, relu=False)
            branch = len(found) - 1
            if stride == 1 and channels == before:
                found.append(Add(of=of))
            else:
                found += [Shortcut(of=of, channels=channels, stride=stride), Add(of=branch)]
    edge = Spec(input=shape, layers=found).shapes()[-1].height
    if edge > 1:
        found.append(AveragePool(size=edge))
    found.append(Linear(features=classes, relu=False))
    return Spec(input=shape, layers=found, gains=gains if norm == "none" else {})


def vgg(shape: Shape, classes: int, *, norm: str = "batch", width: int = 32) -> Spec:
    """Return a small VGG: three times two convolutions and pooling, and two layers on top."""
    found: list[Layer] = []
    for stage in range(3):
        for _ in range(2):
            found += _unit(width << stage, 1, norm, relu=True)
        found.append(MaxPool(size=2))
    found += [Linear(features=4 * width), Linear(features=classes, relu=False)]
    return Spec(input=shape, layers=found)


def mlp(shape: Shape, classes: int, *, norm: str = "none",
        hidden: tuple[int, ...] = (96,)) -> Spec:
    """Return fully connected layers with ReLUs between."""
    if norm != "none":
        raise ValueError(f"an mlp has norm 'none', not {norm!r}")
    if not isinstance(hidden, list | tuple) or not all(
            type(features) is int and features > 0 for features in hidden):
        raise ValueError(f"hidden must be a list of numbers of features, not {hidden!r}")
    found: list[Layer] = [Linear(features=features) for features in hidden]
    return Spec(input=shape, layers=[*found, Linear(features=classes, relu=False)])


NETWORKS: dict[str, Callable[..., Spec]] = {
    "resnet20": resnet,
    "resnet8": partial(resnet, blocks=1),
    "vgg": vgg,
    "mlp": mlp,
}
"""By the name that a study's configuration uses."""
