"""A golden machine that trains a network layer by layer and remembers every random draw it used.

Draws are noted where the values lie that they rounded, so they can be read as tensors, whatever the
order of tiles, chunks and phases in which the machine came to them.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.fixed import sign_extend
from gradloom_golden.geometry import Tile
from gradloom_golden.lfsr import Bank, high_half, low_half
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    OFFSET_BITS,
    SCALES,
    Descriptor,
    Function,
    Opcode,
    Region,
    Register,
)
from gradloom_host.graph import Conv, Graph, Linear
from gradloom_host.placement import compile_network, tile_matrix
from gradloom_host.tensors import Policy

__all__ = ["MachineTraining", "RecordingMachine"]

LOW_SHARE, LOW_EXPONENT = 0.25, -20


class RecordingMachine(GoldenMachine):
    """`notes[region]` has the draws in the place of the values; `steps` those of weights' steps."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.notes = {region: np.zeros_like(words) for region, words in self.memory.items()}
        self.steps = np.zeros_like(self.memory[Region.WEIGHT])
        self._tile: Tile | None = None

    def _peek(self, bank: Bank, rows: int) -> np.ndarray:
        return deepcopy(self._lfsrs[bank]).draw(rows)

    def _finish(self, d, total, block, rows, *, width, allowed=None):
        if d.stochastic and not d.keep_sums:
            draws = low_half(self._peek(Bank.REQUANTIZE, d.steps))[:, :width]
            word, columns = self._block(Region.GRADIENT, d.out_base, d.out_stride, block, width,
                                        rows)
            self.notes[Region.GRADIENT][word, columns] = draws
        super()._finish(d, total, block, rows, width=width, allowed=allowed)

    def _x(self, d, tile):
        self._tile = tile
        return super()._x(d, tile)

    def _packed(self, d, x, block, uses):
        if d.lanes_log2 and not d.patch:
            assert self._tile is not None
            rows, _ = self._x_words(d, self._tile)
            word, place = self._block(Region.ACTIVATION, d.x_base, d.x_stride, block,
                                      self.config.rows, rows)
            self.notes[Region.ACTIVATION][word, place] = low_half(self._peek(Bank.PACK, d.steps))
        return super()._packed(d, x, block, uses)

    def _apply(self, d, wgrad, weight_rows, state_rows):
        draws = self._peek(Bank.UPDATE, len(wgrad))
        self.notes[Region.WEIGHT][weight_rows] = low_half(draws)
        self.steps[weight_rows] = high_half(draws)
        super()._apply(d, wgrad, weight_rows, state_rows)

    def _vector(self, d):
        if d.function == Function.ADD and d.stochastic:
            draws = low_half(self._peek(Bank.VECTOR, d.k_tiles * d.steps))
            for block in range(d.k_tiles):
                first = d.out_base + block * d.out_stride
                self.notes[Region.GRADIENT][first:first + d.steps] = (
                    draws[block * d.steps:][:d.steps])
        elif d.function == Function.BIAS_UPDATE and d.last:
            draws = low_half(self._peek(Bank.VECTOR, d.n_tiles))
            self.notes[Region.BIAS][d.bias_base:d.bias_base + d.n_tiles] = draws
        super()._vector(d)


class MachineTraining:
    """A network on a recording machine, with random weights and exponents.

    Attributes
    ----------
    draws : dict of Bank to list of array
        Of the last step, as `gradloom_study` asks for them.
    """

    def __init__(self, config: Config, graph: Graph, batch: int, rng: np.random.Generator):
        self.config, self.graph, self.batch, self.rng = config, graph, batch, rng
        self.network = compile_network(config, graph, batch)
        self.machine = RecordingMachine(config)
        self.machine.write(Register.SEED, [int(rng.integers(1 << 31))])
        self.draws: dict[Bank, list[np.ndarray]] = {}
        exponents = rng.integers(-9, -3, SCALES)
        for region, high in ((Region.WEIGHT, 256), (Region.STATE, 256)):
            words = self.machine.memory[region]
            words[:] = rng.integers(0, high, words.shape)
        self.machine.memory[Region.BIAS][:] = rng.integers(
            0, 1 << 16, self.machine.memory[Region.BIAS].shape)
        for index, placed in self.network.weights.items():
            # Padding has no weight: the compiler's users write it so.
            rest = self._tiles(index) < 0
            rows = slice(placed.base, placed.base + len(rest))
            self.machine.memory[Region.WEIGHT][rows][rest] = 0
            self.machine.memory[Region.STATE][rows][rest] = 1 << config.residue_bits >> 1
            if placed.bias_base >= 0:
                exponents[placed.bias_scale] = -12
                outputs = self._shape(index)[-1]
                bias = self.machine.memory[Region.BIAS][
                    placed.bias_base:placed.bias_base + placed.tiles[3]]
                bias.reshape(-1)[outputs:] = 0
        # Some of what is written starts below its sums.
        written = [tensor.scale for tensor in (
            *self.network.activations, *self.network.gradients.values())]
        for place in (*written, *self.network.raw_scales.values()):
            if rng.random() < LOW_SHARE:
                exponents[place] = LOW_EXPONENT
        last = len(graph.layers) - 1
        exponents[self.network.raw_scales[last]] = 1 - config.gradient_bits
        self.machine.write(Region.SCALE << OFFSET_BITS, exponents & 0xFF)

    def _shape(self, index: int) -> tuple[int, ...]:
        layer = self.graph.layers[index]
        given = self.graph.shapes()[index - 1] if index else self.graph.input
        if isinstance(layer, Linear):
            return given.height, given.width, given.channels, layer.features
        assert isinstance(layer, Conv)
        return *layer.taps, given.channels, layer.channels

    def _tiles(self, index: int) -> np.ndarray:
        """Return the number of the weight in each place of the tiles, or -1."""
        shape = self._shape(index)
        return tile_matrix(
            self.network, index, np.arange(np.prod(shape)).reshape(shape), -1)

    def of_weights(self, index: int, words: np.ndarray) -> np.ndarray:
        """Return what lies in the rows of a layer's weights, in PyTorch's order."""
        numbers, placed = self._tiles(index), self.network.weights[index]
        raw = words[placed.base:placed.base + len(numbers)]
        shape = self._shape(index)
        dense = np.zeros(int(np.prod(shape)), np.int64)
        dense[numbers[numbers >= 0]] = raw[numbers >= 0]
        dense = dense.reshape(shape)
        if isinstance(self.graph.layers[index], Linear):
            return dense.reshape(-1, shape[-1]).T
        return dense.transpose(3, 2, 0, 1)

    def learned(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return master weights, velocities and biases of a layer."""
        memory, config = self.machine.memory, self.config
        weight = sign_extend(self.of_weights(index, memory[Region.WEIGHT]), 8)
        state = self.of_weights(index, memory[Region.STATE])
        residue = state & (1 << config.residue_bits) - 1
        velocity = sign_extend(state >> config.residue_bits, 16)
        return (weight << config.residue_bits) + residue, velocity, self._bias(index, memory)

    def _bias(self, index: int, memory) -> np.ndarray:
        placed, outputs = self.network.weights[index], self._shape(index)[-1]
        if placed.bias_base < 0:
            return np.zeros(outputs, np.int64)
        words = memory[Region.BIAS][placed.bias_base:placed.bias_base + placed.tiles[3]]
        return sign_extend(words.reshape(-1)[:outputs], 16)

    def exponent(self, place: int) -> int:
        """Return an exponent of the scale table."""
        return int(self.machine.scales.exponents[place])

    def tensor(self, tensor, words: np.ndarray) -> np.ndarray:
        """Return what lies where a tensor of the batch does, unsigned, (B, y, x, channel)."""
        shape = tensor.shape
        blocks = [words[start:start + tensor.stride] for start in range(
            tensor.base, tensor.base + tensor.blocks * tensor.stride, tensor.stride)]
        values = np.concatenate(blocks, axis=1)[:, :shape.channels]
        return values.reshape(self.batch, shape.height, shape.width, shape.channels)

    def logits(self) -> np.ndarray:
        """Return the logits, (B, classes)."""
        tensor = self.network.activations[-1]
        return sign_extend(self.tensor(tensor, self.machine.memory[Region.ACTIVATION]), 8)[:, 0, 0]

    def _run(self, descriptors: Sequence[Descriptor]) -> None:
        for d in descriptors:
            self.machine._step(0, d.encode())
            assert not self.machine._error

    def step(self, images: np.ndarray, labels: np.ndarray, policy: Policy) -> np.ndarray:
        """Train on a batch, without adapting exponents; return the samples kept."""
        machine, network = self.machine, self.network
        words = network.image.words(images)
        machine.memory[Region.IMAGE][:len(words)] = words
        machine.memory[Region.LABEL][:len(labels), 0] = labels
        self.draws = {bank: [] for bank in Bank}
        for index in range(len(self.graph.layers)):
            self._run(network.forward(index))
        lfsr = deepcopy(machine._loss._lfsr)
        self._run(network.loss(policy))
        kept = machine._kept
        if policy.stochastic:
            classes = network.activations[-1].shape.channels
            self.draws[Bank.ERROR].append(low_half(lfsr.draw(kept * classes)).reshape(-1, classes))
        keep = machine.memory[Region.KEEP][:kept, 0].copy()
        for index in reversed(range(len(self.graph.layers))):
            self._run(network.own_backward(index, policy))
            if kept:
                self._note(index, policy, keep)
            for d in network.skip_gradients(index - 1, policy):
                self._run([d])
                if kept and policy.stochastic:
                    self.draws[Bank.VECTOR].append(self._noted_gradient(index - 1, kept))
        return keep

    def _noted_gradient(self, index: int, kept: int) -> np.ndarray:
        tensor = self.network.gradients[index]
        return self.tensor(tensor, self.machine.notes[Region.GRADIENT])[:kept].copy()

    def _note(self, index: int, policy: Policy, keep: np.ndarray) -> None:
        """Collect the draws of one layer's backward pass."""
        layer, notes = self.graph.layers[index], self.machine.notes
        if not isinstance(layer, Conv | Linear):
            return
        if index and policy.stochastic:
            self.draws[Bank.REQUANTIZE].append(self._noted_gradient(index - 1, len(keep)))
        place = sorted(self.network.weights).index(index)
        if index and policy.lanes[place] > 1:
            found = self.tensor(self.network.activations[index - 1], notes[Region.ACTIVATION])
            self.draws[Bank.PACK].append(found[keep])
        self.draws[Bank.UPDATE].append(np.stack([
            self.of_weights(index, words) for words in (notes[Region.WEIGHT], self.machine.steps)]))
        if layer.bias:
            self.draws[Bank.VECTOR].append(self._bias(index, notes) & 0xFFFF)

    def rescale(self) -> None:
        """Adapt all exponents."""
        self._run([Descriptor(opcode=Opcode.RESCALE)])
