"""Networks larger than the buffers: tensors stay in memory and pass through them in windows.

A window is some images of the batch. A piece of work is one layer on one window, forward or
backward; pieces use the halves of each buffer in turn, so that the next is loaded and the last is
saved while one computes. What a piece has just written is read where it lies.

Activations that the backward pass needs are saved as narrow as its lanes read them, with the ReLU
mask beside; it loads those of kept samples only.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradloom_golden.config import Config
from gradloom_golden.program import DESCRIPTOR_FIELDS, Descriptor, Opcode, Region
from gradloom_golden.transfer import row_bytes, word_bits

from .compiler import (
    CompileError,
    Network,
    Policy,
    Tensor,
    Weights,
    Window,
    gradient_rows,
    place_network,
)
from .graph import Add, Conv, Graph, Linear, MaxPool

__all__ = ["Step", "Streamed", "load"]

DEPTHS = {
    Region.ACTIVATION: "activation_depth", Region.GRADIENT: "gradient_depth",
    Region.IMAGE: "image_depth",
}
"""Buffers that are used in halves; the ReLU mask lies as the activations do."""

MOST_WORDS = (1 << DESCRIPTOR_FIELDS["steps"][2]) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One pass over a batch: a training step, or with `evaluate` the forward pass and the loss.

    Parameters
    ----------
    batch : int
        Number of the batch in memory.
    policy : Policy
    update : bool
        Weights learn.
    evaluate : bool
    """

    batch: int
    policy: Policy
    update: bool = True
    evaluate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A tensor of a batch in memory: a row for each block of features and each sample.

    Parameters
    ----------
    region : Region
        The buffer that it moves to and from.
    pixels : int
        Buffer words of a row.
    blocks : int
    bits : int
        Of an element, if activations are cut.
    unsigned : int
        0 or 1.
    """

    region: Region
    pixels: int
    blocks: int
    bits: int = 0
    unsigned: int = 0

    def pitch(self, config: Config) -> int:
        """Return the bytes from one row to the next."""
        beat = config.axi_data_bits // 8
        return -(-row_bytes(config, self.region, self.pixels, self.bits) // beat) * beat

    def moves(self, config: Config, opcode: Opcode, address: int, batch: int, window: Window, *,
              base: int, use: "Use", stochastic: bool = False) -> list[Descriptor]:
        """Return the transfers of a window, block after block, to or from buffer word `base` on.

        Parameters
        ----------
        address : int
            Of the whole tensor, a byte.
        batch : int
            Samples.
        use : Use
            Which blocks, and whether samples are only those kept, or are gathered.
        """
        pitch = self.pitch(config)
        stride = window.images * self.pixels
        fields = {"rows": window.images, "steps": self.pixels, "packed_base": pitch}
        if use.kept or use.gathered:
            fields |= {"kept": 1, "images": window.images, "first_sample": window.first,
                       "gather": int(use.gathered)}
        elif self._is_dense(config) and stride <= MOST_WORDS:
            fields = {"rows": 1, "steps": stride}
        if self.bits:
            fields |= {"tested_bits": self.bits, "x_shift": 8 - self.bits,
                       "x_unsigned": self.unsigned, "stochastic": int(stochastic)}
        first = 0 if use.gathered else window.first * pitch
        return [Descriptor(
            opcode=opcode, function=self.region, out_base=base + number * stride,
            **_memory(address + (use.block + number) * batch * pitch + first), **fields)
            for number in range(use.blocks)]

    def _is_dense(self, config: Config) -> bool:
        """Return whether nothing lies between two rows."""
        bits = self.pixels * word_bits(config, self.region, self.bits)
        return bits == 8 * self.pitch(config)


def load(region: Region, base: int, words: int, address: int) -> Descriptor:
    """Return the transfer of consecutive words from memory to buffer word `base` on."""
    return Descriptor(opcode=Opcode.LOAD, function=region, out_base=base, steps=words, rows=1,
                      **_memory(address))


def _memory(address: int) -> dict[str, int]:
    return {"memory_low": address & 0xFFFFFFFF, "memory_high": address >> 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """A tensor that a piece of work reads or writes.

    Parameters
    ----------
    name : str
    space : Region
        The buffer in which it has a place.
    pixels : int
        Words of an image in each block.
    blocks, block : int
        How many, and the first.
    stores : tuple of str
        Where it is read from, or may be kept, in memory.
    kept : bool
        Rows are those of kept samples.
    gathered : bool
        Kept samples are picked from all that lie in memory.
    """

    name: str
    space: Region
    pixels: int
    blocks: int
    block: int = 0
    stores: tuple[str, ...] = ()
    kept: bool = False
    gathered: bool = False

    def words(self, images: int) -> int:
        """Return the buffer words of a window."""
        return self.blocks * images * self.pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Weights of a layer that are in the buffers at once.

    Parameters
    ----------
    index : int
        The layer.
    backward : bool
    first, count : int
        Tiles of outputs forward, of inputs backward.
    """

    index: int
    backward: bool
    first: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One layer, in one direction, on a whole batch.

    Parameters
    ----------
    title : str
        For messages.
    reads, writes : tuple of Use
    emit : callable
        Return the descriptors of a piece, given the network as it then lies in the buffers.
    spare : callable
        Words needed besides in each space, given the images of a window.
    group : Group, optional
    whole : bool
        It takes the batch at once.
    """

    title: str
    reads: tuple[Use, ...]
    writes: tuple[Use, ...]
    emit: Callable[[Network, "Piece"], list[Descriptor]]
    spare: Callable[[int], dict[Region, int]] = lambda images: {}
    group: Group | None = None
    whole: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class Piece:
    """An operation on a window, and where its tensors lie in the buffers.

    Attributes
    ----------
    places : dict of str to int
        First word of each use, by name.
    in_place : set of str
        Uses that are read where the piece before wrote them.
    spares : dict of Region to int
        First word of what is needed besides.
    """

    operation: Operation
    window: Window
    step: Step
    places: dict[str, int] = field(default_factory=dict)
    in_place: set[str] = field(default_factory=set)
    spares: dict[Region, int] = field(default_factory=dict)

    def loaded(self) -> list[Use]:
        """Return the reads that come from memory."""
        return [use for use in self.operation.reads if use.name not in self.in_place]


class Streamed:
    """A network laid out in memory, and the lists that train it.

    Parameters
    ----------
    config : Config
    graph : Graph
    batch : int
    lanes : tuple of int
        As of `Policy`: what activations are kept for.

    Attributes
    ----------
    network : Network
        As if buffers had no end; scales, biases and the rows of weights are as it says.
    resident_weights : bool
        All weights stay in their buffers.

    Raises
    ------
    CompileError
        If one image of a layer, or a tile of its weights, exceeds what a buffer holds of it.
    """

    def __init__(self, config: Config, graph: Graph, batch: int, lanes: tuple[int, ...] = (1,)):
        self.config = config
        self.network = place_network(config, graph, batch)
        self._bits = self._kept_bits(lanes)
        spare = max(gradient_rows(config, graph, placed)
                    for placed in self.network.weights.values())
        self.resident_weights = self.network.weight_rows + spare <= config.weight_depth
        self._stores = self._all_stores()
        # Zero until memory has been given.
        self._addresses = dict.fromkeys((*self._stores, "labels", "weights", "state"), 0)
        self._needed = self._needed_stores()

    def _kept_bits(self, lanes: tuple[int, ...]) -> dict[int, int]:
        """Return the bits in which activations of a layer are kept for the backward pass."""
        graph = self.network.graph
        found: dict[int, int] = {}
        for place, index in enumerate(sorted(self.network.weights)):
            own = lanes[place if len(lanes) > 1 else 0]
            exact = index == 0 or any(
                isinstance(layer, MaxPool) for layer in graph.layers[index - 1:index + 1])
            if own > 1 and not exact:
                found[index - 1] = 8 // own
        return found

    # Memory.

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

    def _needed_stores(self) -> set[str]:
        """Return the stores that any piece of a training step loads."""
        step = Step(batch=0, policy=Policy())
        return {store for piece in self._pieces([step]) for use in piece.loaded()
                for store in use.stores}

    def reserve(self, room: Callable[[int], int]) -> None:
        """Take memory for what leaves the buffers during a step.

        Parameters
        ----------
        room : callable
            Return the address, a multiple of 4,096, of so many bytes.
        """
        for name in sorted(self._needed - {"images"}):
            self._addresses[name] = room(self._bytes(name))

    def place_data(self, *, images: int, labels: int, weights: int, state: int) -> None:
        """Say where images, labels and the rows of weights and state are in memory."""
        self._addresses |= {"images": images, "labels": labels, "weights": weights, "state": state}

    @property
    def image_pitch(self) -> int:
        """Bytes from one image in memory to the next."""
        return self._stores["images"].pitch(self.config)

    def _bytes(self, name: str) -> int:
        store = self._stores[name]
        return store.blocks * self.network.batch * store.pitch(self.config)

    @property
    def memory_bytes(self) -> int:
        """Memory that `reserve` takes, without rounding to pages."""
        return sum(self._bytes(name) for name in self._needed - {"images"})

    @property
    def kept_bytes(self) -> int:
        """Memory of a batch's activations and masks that stay from forward to backward pass."""
        step = Step(batch=0, policy=Policy())
        kept = {store for piece in self._pieces([step]) for use in piece.loaded() if use.gathered
                for store in use.stores}
        return sum(self._bytes(name) for name in kept - {"images"})

    # Operations of a step.

    def _operations(self, step: Step) -> list[Operation]:
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
                       pixels=self._stores["images"].pixels, gathered=backward)
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
        for group in self._groups(index, backward=False):
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
        for group in self._groups(index, backward=True):
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
        packed = x.blocks * x.pixels
        if index == 0:
            packed = placed.tiles[0] * d.shape.pixels
        return lambda images: {
            Region.ACTIVATION: packed * images if self.config.lanes else 0,
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

    # Weights.

    def _groups(self, index: int, *, backward: bool) -> list[Group]:
        """Cut the weights of a layer so that half a buffer holds them, and what they need."""
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

    def _group_rows(self, group: Group) -> int:
        weights = self.network.weights[group.index]
        total = weights.tiles[0 if group.backward else 3]
        return weights.count // total * group.count * self.config.rows

    def _placed(self, group: Group, half: int) -> Weights:
        """Return the weights of a group as they lie in their half of the buffers."""
        weights = self.network.weights[group.index]
        if self.resident_weights:
            return weights
        blocks, taps_y, taps_x, n_tiles = weights.tiles
        base = half * (self.config.weight_depth // 2)
        if group.backward:
            return replace(weights, tiles=(group.count, taps_y, taps_x, n_tiles), base=base,
                           spare=base + self._group_rows(group))
        bias = weights.bias_base + group.first if weights.bias_base >= 0 else -1
        return replace(weights, tiles=(blocks, taps_y, taps_x, group.count), base=base,
                       bias_base=bias)

    def _move_weights(self, opcode: Opcode, group: Group, half: int) -> list[Descriptor]:
        """Return the transfers of a group: its weights, and if they learn their state."""
        if self.resident_weights:
            return []
        config, weights = self.config, self.network.weights[group.index]
        blocks, taps_y, taps_x, n_tiles = weights.tiles
        base = half * (config.weight_depth // 2)
        found = []
        regions = {Region.WEIGHT: "weights"} | ({Region.STATE: "state"} if group.backward else {})
        for region, name in regions.items():
            word = row_bytes(config, region, 1)
            first = weights.base
            if group.backward:
                first += group.first * weights.block_tiles * config.rows
                fields = {"rows": 1, "steps": self._group_rows(group)}
            elif group.count == n_tiles:
                fields = {"rows": 1, "steps": weights.count * config.rows}
            else:
                first += group.first * config.rows
                fields = {"rows": blocks * taps_y * taps_x, "steps": group.count * config.rows,
                          "packed_base": n_tiles * config.rows * word}
            found.append(Descriptor(
                opcode=opcode, function=region, out_base=base, **fields,
                **_memory(self._addresses[name] + first * word)))
        return found

    # Pieces.

    def _pieces(self, steps: Iterable[Step]) -> list[Piece]:
        """Cut the operations into windows, and give every tensor its place."""
        found: list[Piece] = []
        for step in steps:
            for operation in self._operations(step):
                images = self._window_images(operation)
                for first in range(0, self.network.batch, images):
                    window = Window(
                        first=first, images=min(images, self.network.batch - first),
                        is_last=first + images >= self.network.batch, gathered=True)
                    piece = Piece(operation=operation, window=window, step=step)
                    self._place(piece, found[-1] if found else None, len(found) % 2)
                    found.append(piece)
        return found

    def _words(self, operation: Operation, images: int) -> dict[Region, int]:
        total = {space: operation.spare(images).get(space, 0) for space in DEPTHS}
        for use in (*operation.reads, *operation.writes):
            total[use.space] += use.words(images)
        return total

    def _window_images(self, operation: Operation) -> int:
        """Return the most images whose tensors half of each buffer holds, in equal windows."""
        batch = self.network.batch
        for pieces in range(1, 2 if operation.whole else batch + 1):
            images = -(-batch // pieces)
            words = self._words(operation, images)
            if all(words[space] <= getattr(self.config, depth) // 2
                   for space, depth in DEPTHS.items()):
                return images
        least = self._words(operation, batch if operation.whole else 1)
        space, depth = next((space, depth) for space, depth in DEPTHS.items()
                            if least[space] > getattr(self.config, depth) // 2)
        what = f"{batch} samples" if operation.whole else "one image"
        raise CompileError(
            f"{operation.title} needs {least[space]} words of the {space.name.lower()} buffer for "
            f"{what}, more than half of it: raise {depth} {getattr(self.config, depth)}")

    def _place(self, piece: Piece, before: Piece | None, half: int) -> None:
        free = {space: half * (getattr(self.config, depth) // 2)
                for space, depth in DEPTHS.items()}
        operation, window = piece.operation, piece.window
        for use in (*operation.reads, *operation.writes):
            if before and use in operation.reads and _lies_in(use, window, before):
                piece.in_place.add(use.name)
                piece.places[use.name] = before.places[use.name]
                continue
            piece.places[use.name] = free[use.space]
            free[use.space] += use.words(window.images)
        piece.spares = free

    def _network_of(self, piece: Piece, weights_half: int) -> Network:
        """Return the network as it lies in the buffers for a piece of work."""
        network, operation = self.network, piece.operation
        activations, gradients = list(network.activations), dict(network.gradients)
        weights, image_words = dict(network.weights), 0
        images = piece.window.images
        for use in (*operation.reads, *operation.writes):
            base = piece.places[use.name]
            if use.space == Region.IMAGE:
                image_words = base
                continue
            kind, index = use.name[0], int(use.name[1:].partition(".")[0])
            tensors = activations if kind == "y" else gradients
            tensors[index] = _moved(tensors[index], base, images, use.blocks)
        if operation.group is not None:
            weights[operation.group.index] = self._placed(operation.group, weights_half)
        # An Add has the gradient of the layer before it.
        for index, layer in reversed(list(enumerate(network.graph.layers))):
            if isinstance(layer, Add):
                gradients[index - 1] = gradients[index]
        return replace(
            network, activations=activations, gradients=gradients, weights=weights,
            image_words=image_words, spare_activations=piece.spares[Region.ACTIVATION],
            window=replace(piece.window, spare_gradients=piece.spares[Region.GRADIENT]))

    # Lists.

    def descriptors(self, steps: Sequence[Step]) -> list[Descriptor]:
        """Return the descriptors of some steps; of an evaluation or of training.

        Raises
        ------
        CompileError
            As of `Streamed`.
        """
        pieces = self._pieces(steps)
        halves = self._weight_halves(pieces)
        found: list[Descriptor] = []
        found += self._loads(None, pieces[0], halves[0])
        unsaved: list[Descriptor] = []
        for number, piece in enumerate(pieces):
            following = pieces[number + 1] if number + 1 < len(pieces) else None
            body = piece.operation.emit(self._network_of(piece, halves[number]), piece)
            if following is None or following.step is not piece.step:
                if not piece.step.evaluate:
                    body.append(Descriptor(opcode=Opcode.RESCALE))
            found += [replace(body[0], wait_memory=1), *unsaved]
            unsaved = self._saves(piece, following, halves[number])
            if following is None:
                found += body[1:] + _waiting(unsaved)
                break
            loads = self._loads(piece, following, halves[number + 1])
            if self._must_wait(piece, following):
                found += body[1:] + _waiting(unsaved + loads)
                unsaved = []
            else:
                found += loads + body[1:]
        return found

    def _weight_halves(self, pieces: list[Piece]) -> list[int]:
        """Return the half of the weight buffer of each piece: groups take turns."""
        found, half = [], 1
        before: tuple | None = None
        for piece in pieces:
            group = piece.operation.group
            if group is not None and (id(piece.step), group) != before:
                before, half = (id(piece.step), group), 1 - half
            found.append(half)
        return found

    def _address(self, name: str, piece: Piece) -> int:
        address = self._addresses[name]
        if name == "images":
            address += piece.step.batch * self.network.batch * self.image_pitch
        return address

    def _loads(self, before: Piece | None, piece: Piece, half: int) -> list[Descriptor]:
        found = []
        batch, group = self.network.batch, piece.operation.group
        if group is not None and not _same_group(before, piece):
            found += self._move_weights(Opcode.LOAD, group, half)
        for use in piece.loaded():
            for name in use.stores:
                found += self._stores[name].moves(
                    self.config, Opcode.LOAD, self._address(name, piece), batch, piece.window,
                    base=piece.places[use.name], use=use)
        if piece.operation.whole:
            found.append(load(
                Region.LABEL, 0, batch, self._addresses["labels"] + piece.step.batch * batch * 4))
        return found

    def _saves(self, piece: Piece, following: Piece | None, half: int) -> list[Descriptor]:
        found = []
        for use in piece.operation.writes:
            for name in use.stores:
                if name in self._needed:
                    found += self._stores[name].moves(
                        self.config, Opcode.SAVE, self._address(name, piece), self.network.batch,
                        piece.window, base=piece.places[use.name], use=use,
                        stochastic=piece.step.policy.stochastic)
        group = piece.operation.group
        if group is not None and group.backward and piece.step.update and (
                following is None or not _same_group(piece, following)):
            found += self._move_weights(Opcode.SAVE, group, half)
        return found

    def _must_wait(self, piece: Piece, following: Piece) -> bool:
        """Return whether loads of the following piece need what this one writes, or still reads."""
        loaded = following.loaded()
        written = {use.name for use in piece.operation.writes}
        if piece.operation.whole and any(use.gathered or use.kept for use in loaded):
            return True                                    # the keep list is not known before
        if any(use.name in written and (use.gathered or _overlap(piece.window, following.window))
               for use in loaded):
            return True
        # What is read in place lies in the half that the following piece fills.
        read = {use.space for use in piece.operation.reads if use.name in piece.in_place}
        if read & {use.space for use in loaded if use.stores}:
            return True
        group, learnt = following.operation.group, piece.operation.group
        return (group is not None and learnt is not None and group.index == learnt.index
                and not _same_group(piece, following) and not self.resident_weights)


def _lies_in(use: Use, window: Window, before: Piece) -> bool:
    """Return whether the piece before wrote just what is to be read."""
    if use.gathered:
        return False
    same = (before.window.first, before.window.images) == (window.first, window.images)
    return same and any(
        (each.name, each.block, each.blocks) == (use.name, use.block, use.blocks)
        for each in before.operation.writes)


def _overlap(one: Window, other: Window) -> bool:
    return one.first < other.first + other.images and other.first < one.first + one.images


def _same_group(before: Piece | None, piece: Piece) -> bool:
    return (before is not None and before.step is piece.step
            and before.operation.group == piece.operation.group)


def _moved(tensor: Tensor, base: int, images: int, blocks: int) -> Tensor:
    return replace(tensor, base=base, stride=images * tensor.shape.pixels, blocks=blocks)


def _waiting(transfers: list[Descriptor]) -> list[Descriptor]:
    """Let transfers start after all computing before; they run one after the other."""
    if not transfers:
        return []
    return [replace(transfers[0], wait_compute=1), *transfers[1:]]
