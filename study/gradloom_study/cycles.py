"""From recorded skip rates and bits to the cost of a whole training run.

A cost model says what one pass of one layer costs; this module asks it for every layer and epoch
with the samples that were kept and the bits that were used, and adds up. `SlotModel` counts the
array's slots and nothing else: what is left when loads, drains, skew and memory cost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Cost", "CostModel", "SlotModel", "WeightedLayer", "bound", "gain", "layers_of",
           "training_cost"]


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A layer with weights, as a cost model needs it.

    Parameters
    ----------
    index : int
        In the network.
    inputs, outputs : int
        Channels, or features.
    taps : (int, int)
    stride, padding : int
    size : (int, int)
        Height and width of what enters; (1, 1) of features.
    is_first : bool
        It has no input gradient.
    """

    index: int
    inputs: int
    outputs: int
    taps: tuple[int, int]
    stride: int
    padding: int
    size: tuple[int, int]
    is_first: bool

    @property
    def pixels(self) -> int:
        """Of what leaves."""
        height, width = ((size + 2 * self.padding - taps) // self.stride + 1
                         for size, taps in zip(self.size, self.taps))
        return height * width

    @property
    def macs(self) -> int:
        """Multiplications of a sample's forward pass."""
        return self.pixels * self.taps[0] * self.taps[1] * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Cost:
    """What work costs, in the units of a model."""

    cycles: float = 0.0
    accesses: float = 0.0
    energy: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cycles + other.cycles, self.accesses + other.accesses,
                    self.energy + other.energy)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.cycles * times, self.accesses * times, self.energy * times)


class CostModel(Protocol):
    """What one step of one layer costs."""

    def forward(self, layer: WeightedLayer, batch: int) -> Cost:
        """Return the cost of the forward pass of a batch."""
        ...

    def backward(self, layer: WeightedLayer, kept: float, bits: int, *,
                 interleaved: bool) -> Cost:
        """Return the cost of both gradients, with update, of the samples kept.

        `interleaved` is false for one gradient after the other, the baseline.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotModel:
    """Cycles in which a row enters an array of so many cells, if nothing else takes any.

    With q activations in a word both gradients take T (1 + 1/q) slots instead of 2 T; a first layer
    has one gradient, whose D enters one row a cycle whatever q. Nothing but cycles is counted.
    """

    cells: int = 256

    def forward(self, layer: WeightedLayer, batch: int) -> Cost:
        """Return the slots."""
        return Cost(cycles=layer.macs * batch / self.cells)

    def backward(self, layer: WeightedLayer, kept: float, bits: int, *,
                 interleaved: bool) -> Cost:
        """Return the slots."""
        passes = 1.0 if layer.is_first else 1 + (bits / 8 if interleaved else 1)
        return Cost(cycles=layer.macs * kept * passes / self.cells)


def bound(skipped: float, lanes: float) -> float:
    """Return the largest gain in slots there can be with the forward pass always computed.

    Of layers and epochs that are alike; at the means of different ones it is an estimate. What
    else the machine saves, hidden loads and a fused update, is not in it.

    ``3 / (1 + (1 - s) (1 + 1/q))``, against sequential training without skip: three passes.

    Parameters
    ----------
    skipped : float
        Share s of the samples.
    lanes : float
        q, activations in a word.
    """
    return 3 / (1 + (1 - skipped) * (1 + 1 / lanes))


def training_cost(model: CostModel, layers: Sequence[WeightedLayer], batch: int,
                  skipped: Sequence[float], bits: Sequence[dict[int, int]], *,
                  samples: int, interleaved: bool = True,
                  visited: Sequence[float] | None = None) -> Cost:
    """Return the cost of a whole run.

    Parameters
    ----------
    model : CostModel
    layers : sequence of WeightedLayer
    batch : int
    skipped : sequence of float
        By epoch: the share of the samples of a full epoch that got no gradient.
    bits : sequence of dict
        By epoch: activation bits of the weight gradient by layer index.
    samples : int
        Of a full epoch.
    interleaved : bool
    visited : sequence of float, optional
        By epoch: the share of the samples that had a forward pass, in full batches; all by default.
    """
    total = Cost()
    for epoch, (share, widths) in enumerate(zip(skipped, bits, strict=True)):
        seen = 1.0 if visited is None else visited[epoch]
        if not seen:
            continue
        steps = samples / batch * seen
        for layer in layers:
            backward = model.backward(
                layer, batch * (1 - share) / seen, widths[layer.index], interleaved=interleaved)
            total = total + (model.forward(layer, batch) + backward) * steps
    return total


def gain(model: CostModel, layers: Sequence[WeightedLayer], run: dict[str, Any], batch: int,
         epochs: int) -> tuple[Cost, Cost]:
    """Return the cost of a recorded run, and of sequential 8-bit training without skip.

    Parameters
    ----------
    model : CostModel
    layers : sequence of WeightedLayer
    run : dict
        Of a results file.
    batch : int
    epochs : int
        Of the baseline.
    """
    records = run["records"]
    full = records[0]["full"]
    eight = {layer.index: 8 for layer in layers}
    own = training_cost(
        model, layers, batch, [1 - record["kept"] / full for record in records],
        [{**eight, **{int(index): width for index, width in record["bits"].items()}}
         for record in records],
        samples=full, visited=[record["samples"] / full for record in records])
    base = training_cost(model, layers, batch, [0.0] * epochs, [eight] * epochs, samples=full,
                         interleaved=False)
    return own, base


def layers_of(spec) -> list[WeightedLayer]:
    """Return the layers with weights of a `gradloom_study.networks.Spec`."""
    shapes, found = spec.shapes(), []
    for index in spec.macs():
        layer = spec.layers[index]
        given = shapes[spec.sources(index)[0]] if index else spec.input
        if hasattr(layer, "features"):
            found.append(WeightedLayer(
                index, given.channels * given.pixels, layer.features, (1, 1), 1, 0, (1, 1),
                is_first=index == 0))
        else:
            found.append(WeightedLayer(
                index, given.channels, layer.channels, layer.taps, layer.stride, layer.padding,
                (given.height, given.width), is_first=index == 0))
    return found
