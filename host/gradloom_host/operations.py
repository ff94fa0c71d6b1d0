"""What a step does, layer by layer, and which tensors each operation reads and writes."""

from dataclasses import replace
from typing import Any

from gradloom_golden.config import Config
from gradloom_golden.program import Descriptor, Region

from .compiler import Network
from .graph import Add, Conv, Linear, MaxPool
from .pieces import Group, Operation, Piece, Step, Store, Use
from .placement import gradient_rows
from .tensors import CompileError

__all__ = ["Operations"]


class Operations:
    """The operations of a network whose tensors stay in memory.

    Parameters
    ----------
    config : Config
    network : Network
    lanes : tuple of int
        As of `Policy`.

    Attributes
    ----------
    stores : dict of str to Store
        Every tensor that may be in memory.
    resident_weights : bool
        All weights stay in their buffers.
    """

    def __init__(self, config: Config, network: Network, lanes: tuple[int, ...]):
        self.config = config
        self.network = network
        weighted = sorted(network.weights)
        self._lanes = dict(zip(weighted, lanes * len(weighted) if len(lanes) == 1 else lanes))
        self._bits = self._kept_bits()
        spare = max(gradient_rows(config, network.graph, placed)
                    for placed in network.weights.values())
        self.resident_weights = network.weight_rows + spare <= config.weight_depth
        self.stores = self._all_stores()

    def _kept_bits(self) -> dict[int, int]:
        """Return the bits in which activations of a layer are kept for the backward pass."""
        graph = self.network.graph
        found: dict[int, int] = {}
        for index, own in self._lanes.items():
            exact = index == 0 or any(
                isinstance(layer, MaxPool) for layer in graph.layers[index - 1:index + 1])
            if own > 1 and not exact:
                found[index - 1] = 8 // own
        return found

    def _all_stores(self) -> dict[str, Store]:
        network = self.network
        image = Store(region=Region.IMAGE, blocks=1,
                      pixels=network.image.x_image // self.config.lane_count)
        found = {"images": image}
        for index, y in enumerate(network.activations):
            whole = Store(region=Region.ACTIVATION, pixels=y.shape.pixels, blocks=y.blocks)
            found[f"y{index}"] = whole
            if index in self._bits:
                found[f"y{index} cut"] = replace(
                    whole, bits=self._bits[index], unsigned=int(y.unsigned))
            if y.relu:
                found[f"y{index} mask"] = replace(whole, region=Region.MASK)
        for index, d in network.gradients.items():
            for stage in range(self._additions(index) + 1):
                found[f"d{index}.{stage}"] = Store(
                    region=Region.GRADIENT, pixels=d.shape.pixels, blocks=d.blocks)
        return found

    def of_step(self, step: Step) -> list[Operation]:
        """Return the operations of a step, in order."""
        graph = self.network.graph
        count = len(graph.layers)
        found = [each for index in range(count) for each in self._forward(index)]
        found.append(self._loss(step))
        if step.evaluate:
            return found
        for index in reversed(range(count)):
            found += self._backward(index, step)
            found += self._skip_additions(index - 1)
        return found

    def _additions(self, index: int) -> int:
        """Return how many residual additions hand a gradient back to layer `index`."""
        return sum(isinstance(layer, Add) and layer.of == index
                   for layer in self.network.graph.layers)

    def _gradient(self, index: int) -> str:
        """Return the name of the complete gradient of layer `index`; an Add hands on its own."""
        layers = self.network.graph.layers
        while index + 1 < len(layers) and isinstance(layers[index + 1], Add):
            index += 1
        return f"d{index}.{self._additions(index)}"

    def _use_y(self, index: int, *, backward: bool = False, **changes: Any) -> Use:
        """Return the use of the activations of layer `index`, or of the images before the first."""
        if index < 0:
            return Use(name="images", space=Region.IMAGE, blocks=1, stores=("images",),
                       pixels=self.stores["images"].pixels, gathered=backward)
        y = self.network.activations[index]
        use = Use(name=f"y{index}", space=Region.ACTIVATION, pixels=y.shape.pixels,
                  blocks=y.blocks, stores=(f"y{index}",), gathered=backward)
        return replace(use, **changes)

    def _use_d(self, name: str, index: int, **changes: Any) -> Use:
        d = self.network.gradients[index]
        use = Use(name=name, space=Region.GRADIENT, pixels=d.shape.pixels, blocks=d.blocks,
                  stores=(name,), kept=True)
        return replace(use, **changes)

    def _masks(self, index: int) -> tuple[str, ...]:
        return (f"y{index} mask",) if index >= 0 and self.network.activations[index].relu else ()

    def _forward(self, index: int) -> list[Operation]:
        layer = self.network.graph.layers[index]
        reads = tuple(self._use_y(source) for source in self.network.graph.sources(index))
        stores = (f"y{index}", *([f"y{index} cut"] if index in self._bits else []),
                  *self._masks(index))
        title = f"layer {index}"
        if not isinstance(layer, Conv | Linear):
            write = self._use_y(index, stores=stores)
            return [Operation(title=title, reads=reads, writes=(write,),
                              emit=lambda network, piece: network.forward(index))]
        found = []
        for group in self.groups(index, backward=False):
            write = self._use_y(index, stores=stores, block=group.first, blocks=group.count)
            found.append(Operation(
                title=title, reads=reads, writes=(write,), group=group,
                emit=lambda network, piece: network.forward(index, image_half=1)))
        return found

    def _loss(self, step: Step) -> Operation:
        last = len(self.network.graph.layers) - 1
        d = self._use_d(self._gradient(last), last)
        return Operation(
            title="the loss", reads=(self._use_y(last),),
            writes=() if step.evaluate else (d,), whole=True,
            emit=lambda network, piece: network.loss(step.policy, evaluate=step.evaluate))

    def _backward(self, index: int, step: Step) -> list[Operation]:
        layer = self.network.graph.layers[index]
        if isinstance(layer, Add):
            return []
        if not isinstance(layer, Conv | Linear):
            return self._backward_pool(index, layer, step)
        if index == 0 and not step.update:
            return []
        found = []
        cut = index - 1 in self._bits
        stores = ("images",) if index == 0 else (
            f"y{index - 1} cut" if cut else f"y{index - 1}", *self._masks(index - 1))
        for group in self.groups(index, backward=True):
            part = {} if index == 0 else {"block": group.first, "blocks": group.count}
            x = replace(self._use_y(index - 1, backward=True), stores=stores, **part)
            writes: tuple[Use, ...] = ()
            if index > 0:
                writes = (self._use_d(f"d{index - 1}.0", index - 1, **part),)
            found.append(Operation(
                title=f"the gradient of layer {index}",
                reads=(self._use_d(self._gradient(index), index), x), writes=writes, group=group,
                emit=self._emit_backward(index, step, bias=group.first == 0),
                spare=self._spare_backward(index, x)))
        return found

    def _emit_backward(self, index: int, step: Step, *, bias: bool):
        return lambda network, piece: network.own_backward(
            index, step.policy, update=step.update, image_half=1, bias=bias)

    def _spare_backward(self, index: int, x: Use):
        """Need room for packed activations, and for a pixel of zeros."""
        network = self.network
        placed, d = network.weights[index], network.gradients[index]
        blocks, pixels = x.blocks, x.pixels
        if index == 0:
            blocks, pixels = placed.tiles[0], d.shape.pixels
        own = self._lanes[index]
        return lambda images: {
            Region.ACTIVATION: blocks * -(-images * pixels // own) if own > 1 else 0,
            Region.GRADIENT: d.blocks if placed.bias_base >= 0 else 0}

    def _backward_pool(self, index, layer, step: Step) -> list[Operation]:
        if index == 0:
            return []
        masks = self._masks(index - 1)
        x = self._use_y(index - 1, backward=True, stores=masks)
        reads = [self._use_d(self._gradient(index), index), x]
        if isinstance(layer, MaxPool):
            reads[1] = replace(x, stores=(f"y{index - 1}", *masks))
            reads.append(self._use_y(index, backward=True))
        return [Operation(
            title=f"the gradient of layer {index}", reads=tuple(reads),
            writes=(self._use_d(f"d{index - 1}.0", index - 1),),
            emit=self._emit_backward(index, step, bias=False))]

    def _skip_additions(self, index: int) -> list[Operation]:
        """Add to the gradient of layer `index` what each residual addition hands back."""
        if index < 0 or isinstance(self.network.graph.layers[index + 1], Add):
            return []
        found = []
        for later, layer in enumerate(self.network.graph.layers):
            if not isinstance(layer, Add) or layer.of != index:
                continue
            stage = len(found)
            before, after = f"d{index}.{stage}", f"d{index}.{stage + 1}"
            found.append(Operation(
                title=f"the residual gradient of layer {index}",
                reads=(self._use_d(before, index), self._use_d(self._gradient(later), later),
                       self._use_y(index, backward=True, stores=self._masks(index))),
                writes=(self._use_d(after, index),),
                emit=self._emit_addition(index, stage, before, after)))
        return found

    @staticmethod
    def _emit_addition(index: int, stage: int, before: str, after: str):
        def emit(network: Network, piece: Piece) -> list[Descriptor]:
            addition = network.skip_gradients(index, piece.step.policy)[stage]
            return [replace(
                addition, x_base=piece.places[before], out_base=piece.places[after])]

        return emit

    def groups(self, index: int, *, backward: bool) -> list[Group]:
        """Cut the weights of a layer so that half a buffer holds them, and what they need.

        Raises
        ------
        CompileError
            If half a buffer does not hold the least that can be cut off.
        """
        config, weights = self.config, self.network.weights[index]
        layer = self.network.graph.layers[index]
        total = weights.tiles[0 if backward else 3]
        if self.resident_weights:
            return [Group(index=index, backward=backward, first=0, count=total)]
        room, rows, reserved = config.weight_depth // 2, weights.count // total * config.rows, 0
        if backward:
            # Gradients lie beside the state.
            reserved = gradient_rows(config, self.network.graph, weights) - rows * total
            rows *= 2
        most = total
        if rows * total + reserved > room:
            splits = getattr(layer, "groups", 1) == 1 and not (backward and index == 0)
            most = max(room - reserved, 0) // rows if splits else 0
            # Rows of tiles in memory begin at a beat.
            while most and not backward and (
                    most * config.rows * config.columns * 8 % config.axi_data_bits):
                most -= 1
        if most == 0:
            raise CompileError(
                f"the weights of layer {index} exceed half the weight buffer: raise weight_depth "
                f"{config.weight_depth}")
        return [Group(index=index, backward=backward, first=first, count=min(most, total - first))
                for first in range(0, total, most)]

    def group_rows(self, group: Group) -> int:
        """Return the rows of the weight buffer that a group takes."""
        weights = self.network.weights[group.index]
        total = weights.tiles[0 if group.backward else 3]
        return weights.count // total * group.count * self.config.rows
