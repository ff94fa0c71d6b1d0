"""Networks larger than the buffers: tensors stay in memory and pass through them in windows.

A window is some images of the batch. A piece of work is one layer on one window, forward or
backward; pieces use the halves of each buffer in turn, so that the next is loaded and the last is
saved while one computes. What a piece has just written is read where it lies.

Activations that the backward pass needs are saved as narrow as its lanes read them, with the ReLU
mask beside; it loads those of kept samples only.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gradloom_golden.config import Config
from gradloom_golden.program import Descriptor, Opcode, Region
from gradloom_golden.transfer import row_bytes

from .compiler import Network
from .graph import Add, Graph
from .operations import Operations
from .pieces import Group, Operation, Piece, Step, Use, load, memory_fields
from .placement import place_network
from .tensors import CompileError, Policy, Tensor, Weights, Window

__all__ = ["Streamed"]

DEPTHS = {
    Region.ACTIVATION: "activation_depth", Region.GRADIENT: "gradient_depth",
    Region.IMAGE: "image_depth",
}
"""Buffers that are used in halves; the ReLU mask lies as the activations do."""


class Streamed:
    """A network laid out in memory, and the lists that train it.

    Parameters
    ----------
    config : Config
    graph : Graph
    batch : int
    lanes : tuple of int
        As of the `Policy` of all steps: what activations are kept for.

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
        self.lanes = lanes
        self._operations = Operations(config, self.network, lanes)
        self._stores = self._operations.stores
        self.resident_weights = self._operations.resident_weights
        # Zero until memory has been given.
        self._addresses = dict.fromkeys((*self._stores, "labels", "weights", "state"), 0)
        self._needed = {evaluate: self._needed_stores(evaluate) for evaluate in (False, True)}

    # Memory.

    def _needed_stores(self, evaluate: bool) -> set[str]:
        """Return the stores that any piece of a step loads."""
        step = Step(batch=0, policy=Policy(), evaluate=evaluate)
        return {store for piece in self._pieces([step]) for use in piece.loaded()
                for store in use.stores}

    def reserve(self, room: Callable[[int], int]) -> None:
        """Take memory for what leaves the buffers during a step.

        Parameters
        ----------
        room : callable
            Return the address, a multiple of 4,096, of so many bytes.
        """
        for name in sorted(self._needed[False] - {"images"}):
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
        return sum(self._bytes(name) for name in self._needed[False] - {"images"})

    @property
    def kept_bytes(self) -> int:
        """Memory of a batch's activations and masks that stay from forward to backward pass."""
        step = Step(batch=0, policy=Policy())
        kept = {store for piece in self._pieces([step]) for use in piece.loaded() if use.gathered
                for store in use.stores}
        return sum(self._bytes(name) for name in kept - {"images"})

    # Weights.

    def _placed(self, group: Group, half: int) -> Weights:
        """Return the weights of a group as they lie in their half of the buffers."""
        weights = self.network.weights[group.index]
        if self.resident_weights:
            return weights
        blocks, taps_y, taps_x, n_tiles = weights.tiles
        base = half * (self.config.weight_depth // 2)
        if group.backward:
            return replace(weights, tiles=(group.count, taps_y, taps_x, n_tiles), base=base,
                           spare=base + self._operations.group_rows(group))
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
                fields = {"rows": 1, "steps": self._operations.group_rows(group)}
            elif group.count == n_tiles:
                fields = {"rows": 1, "steps": weights.count * config.rows}
            else:
                first += group.first * config.rows
                fields = {"rows": blocks * taps_y * taps_x, "steps": group.count * config.rows,
                          "packed_base": n_tiles * config.rows * word}
            found.append(Descriptor(
                opcode=opcode, function=region, out_base=base, **fields,
                **memory_fields(self._addresses[name] + first * word)))
        return found

    # Pieces.

    def _pieces(self, steps: Iterable[Step]) -> list[Piece]:
        """Cut the operations into windows, and give every tensor its place."""
        found: list[Piece] = []
        for step in steps:
            for operation in self._operations.of_step(step):
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
        """Return the words of each buffer that a window of an operation takes."""
        total = {space: operation.spare(images).get(space, 0) for space in DEPTHS}
        uses = (*operation.reads, *operation.writes)
        for use in uses:
            total[use.space] += use.words(images)
        if operation.group and images * max(use.pixels for use in uses) > self.config.steps_depth:
            # The last of its descriptors begins inside a tensor, yet is checked for all of it.
            for space in DEPTHS:
                total[space] += max(
                    (images * use.pixels for use in uses if use.space == space), default=0)
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
        ValueError
            If a policy has other lanes than the network was laid out for.
        """
        for step in steps:
            if step.policy.lanes != self.lanes:
                raise ValueError(
                    f"the network was laid out for lanes {self.lanes}, not {step.policy.lanes}: "
                    "construct another")
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
                if name in self._needed[piece.step.evaluate]:
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
