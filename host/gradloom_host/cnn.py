"""Trains a convolutional network: every step on the machine, from lists in its memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from gradloom_golden.optimizer import split
from gradloom_golden.program import (
    SCALES,
    Descriptor,
    Opcode,
    Region,
    Register,
    memory_shape,
)

from .compiler import Network, Policy, compile_network, tile_matrix
from .graph import Conv, Graph, Linear
from .system import System

__all__ = ["Epoch", "ImageData", "ImageTrainer", "memory_needed"]

PAGE = 4096
INPUT_EXPONENT = -8
BIAS_EXPONENT = -12
FIRST_EXPONENT = -5
LEAST_WEIGHT_EXPONENT = -7
"""With 8 bits, weights may grow to one."""

CALIBRATIONS = 30
HALVINGS = (1 / 2, 3 / 4, 7 / 8)
"""Shares of the training after which the learning rate is halved."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageData:
    """Images, uint8 (N, height, width, channels), and labels (N,), to train and to test with."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What one epoch gave.

    Parameters
    ----------
    loss : float
        Mean over the samples, nats.
    train_accuracy : float
        Of the samples as they came, before their step.
    test_accuracy : float
    skipped : float
        Share of the samples.
    cycles : int
        Of the training lists, from start to interrupt; 0 on the golden model.
    counters : dict of str to int
        Of the training lists.
    """

    number: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    skipped: float
    cycles: int
    counters: dict[str, int] = field(default_factory=dict)


def memory_needed(data: ImageData, network: Network) -> int:
    """Return the bytes of memory that an `ImageTrainer` uses."""
    samples = max(len(data.train_labels), len(data.test_labels)) + network.batch
    config = network.config
    images = samples * network.image.x_image
    steps = -(-samples // network.batch)
    lists = steps * 128 * 80
    weights = config.weight_depth * config.columns * 8
    buffers = 2 * sum(
        depth * lanes * max(bits, 8) // 8
        for depth, lanes, bits in (memory_shape(config, region) for region in (
            Region.ACTIVATION, Region.GRADIENT, Region.WEIGHT, Region.STATE)))
    return -(-(images + samples * 4 + lists + weights + buffers) // PAGE) * PAGE + 64 * PAGE


class ImageTrainer:
    """Drives a machine through training.

    Parameters
    ----------
    system : System
    graph : Graph
        Of the shape of the images.
    data : ImageData
    policy : Policy
    batch : int
    seed : int
        Of weights, order and stochastic rounding.
    halves : bool
        Halve the learning rate after `HALVINGS` of the training.
    """

    def __init__(self, system: System, graph: Graph, data: ImageData, policy: Policy, *,
                 batch: int = 16, seed: int = 1, halves: bool = True):
        self.system = system
        self.data = data
        self.policy = policy
        self.network = compile_network(system.config, graph, batch)
        self._rng = np.random.default_rng(seed)
        self._free = 0
        self._lists = 0
        self._halves = halves
        system.write(Region.CONTROL, Register.SEED, [seed])
        self._weights()
        self._images = self._room(
            (max(len(data.train_labels), len(data.test_labels)) + batch)
            * self.network.image.x_image)
        self._labels = self._room(
            (max(len(data.train_labels), len(data.test_labels)) + batch) * 4)
        self._dump = self._room(1 << 20)
        self._lists = self._room(0)
        self._calibrate()

    # Memory.

    def _room(self, size: int) -> int:
        """Reserve bytes of memory from a page on; return their address."""
        address = self._free
        self._free += -(-size // PAGE) * PAGE
        return address

    def _put(self, content: np.ndarray) -> int:
        address = self._room(content.nbytes)
        self.system.store(address, content)
        return address

    def _weights(self) -> None:
        """Draw weights (He), put them in memory and load them into their buffers."""
        network, config = self.network, self.system.config
        rows = config.weight_depth
        rest = 1 << config.residue_bits >> 1
        master = np.full((rows, config.columns), rest, np.int64)
        biases = np.zeros((config.bias_depth, config.columns), np.int64)
        exponents = np.full(SCALES, FIRST_EXPONENT, np.int64)
        exponents[network.scales["input"]] = INPUT_EXPONENT
        last = len(network.graph.layers) - 1
        exponents[network.raw_scales[last]] = 1 - config.gradient_bits
        for index, placed in network.weights.items():
            dense, fan_in = self._dense(index)
            exponent = max(LEAST_WEIGHT_EXPONENT, math.ceil(math.log2(
                3 * math.sqrt(2 / fan_in) / (1 << config.operand_bits - 1))))
            exponents[placed.scale] = exponent
            unit = 2.0 ** (exponent - config.residue_bits)
            values = np.where(dense != 0, np.rint(dense / unit), 0).astype(np.int64) + rest
            limit = 1 << config.master_bits - 1
            values = np.clip(values, -limit, limit - 1)
            tiled = tile_matrix(network, index, values, fill=rest)
            master[placed.base:placed.base + len(tiled)] = tiled
            if placed.bias_base >= 0:
                exponents[placed.bias_scale] = BIAS_EXPONENT
        weight, residue = split(master, config.residue_bits)
        descriptors = []
        for region, values, kind in (
                (Region.WEIGHT, weight & 0xFF, np.uint8), (Region.STATE, residue, np.uint32),
                (Region.BIAS, biases, np.uint16)):
            address = self._put(values.astype(kind))
            descriptors.append(_load(region, 0, len(values), address))
        self._run(descriptors)
        self.system.write(Region.SCALE, 0, exponents)

    def _dense(self, index: int) -> tuple[np.ndarray, int]:
        """Return random weights (taps_y, taps_x, inputs, outputs), and the inputs of an output."""
        graph = self.network.graph
        layer, shape = graph.layers[index], graph.shapes()[index]
        given = graph.shapes()[index - 1] if index else graph.input
        if isinstance(layer, Linear):
            taps, groups = (given.height, given.width), 1
        else:
            assert isinstance(layer, Conv)
            taps, groups = layer.taps, layer.groups
        fan_in = taps[0] * taps[1] * given.channels // groups
        # The logits start small, so that the first errors are not all of full size.
        bound = math.sqrt((6 if layer.relu else 3 / 4) / fan_in)
        size = (*taps, given.channels, shape.channels)
        dense = self._rng.uniform(-bound, bound, size)
        if groups > 1:
            group_in = np.arange(given.channels) // (given.channels // groups)
            group_out = np.arange(shape.channels) // (shape.channels // groups)
            dense *= group_in[:, None] == group_out
        return dense, fan_in

    def _store_samples(self, images: np.ndarray, labels: np.ndarray) -> int:
        """Put samples in memory in the order given; return the whole batches."""
        network = self.network
        batches = len(labels) // network.batch
        count = batches * network.batch
        chunk = 4096
        for first in range(0, count, chunk):
            part = images[first:min(first + chunk, count)]
            words = network.image.words(part).astype(np.uint8)
            self.system.store(self._images + first * network.image.x_image, words)
        self.system.store(self._labels, labels[:count].astype("<u4"))
        return batches

    def _load_images(self, batch: int) -> Descriptor:
        network = self.network
        size = network.batch * network.image.x_image
        return _load(Region.IMAGE, batch % 2 * network.image_words, network.image_words,
                     self._images + batch * size)

    def _load_labels(self, batch: int) -> Descriptor:
        return _load(Region.LABEL, 0, self.network.batch,
                     self._labels + batch * self.network.batch * 4)

    # Lists.

    def _run(self, descriptors: list[Descriptor]) -> int:
        self.system.store_list(self._lists_address(), descriptors)
        return self.system.run(self._lists_address(), len(descriptors))

    def _lists_address(self) -> int:
        # The lists come last; before their place is known they lie behind everything reserved.
        return self._lists or self._free + (1 << 20)

    def _forward(self, half: int) -> list[Descriptor]:
        found: list[Descriptor] = []
        for index in range(len(self.network.graph.layers)):
            found += self.network.forward(index, image_half=half)
        found[0] = replace(found[0], wait_memory=1)
        return found

    def _backward(self, half: int, policy: Policy, *, update: bool = True) -> list[Descriptor]:
        found: list[Descriptor] = []
        for index in reversed(range(len(self.network.graph.layers))):
            found += self.network.backward(index, policy, image_half=half, update=update)
        return found

    def step(self, batch: int, batches: int, policy: Policy | None = None) -> list[Descriptor]:
        """Return the list of one training step; the next batch is loaded while it runs."""
        half = batch % 2
        policy = policy or self.policy
        forward = self._forward(half)
        backward = self._backward(half, policy)
        more = batch + 1 < batches
        found = [forward[0]]
        if more:
            found.append(self._load_images(batch + 1))
        found += forward[1:] + self.network.loss(policy)
        found.append(backward[0])
        if more:
            found.append(self._load_labels(batch + 1))
        return [*found, *backward[1:], Descriptor(opcode=Opcode.RESCALE)]

    def _first_loads(self) -> list[Descriptor]:
        return [self._load_images(0), self._load_labels(0)]

    def _calibrate(self) -> None:
        """Let the machine find its exponents on one batch, before anything is learned."""
        batch = self.network.batch
        self._store_samples(self.data.train_images[:batch], self.data.train_labels[:batch])
        once = [*self._forward(0), *self.network.loss(self.policy),
                *self._backward(0, self.policy, update=False), Descriptor(opcode=Opcode.RESCALE)]
        self._run([*self._first_loads(), *once * CALIBRATIONS])

    def epochs(self, count: int, *, samples: int | None = None,
               progress: Callable[[float], None] = lambda share: None,
               steps_a_list: int | None = None) -> Iterator[Epoch]:
        """Train; yield what each epoch gave.

        Parameters
        ----------
        samples : int, optional
            Of the training set in an epoch; all by default.
        steps_a_list : int, optional
            Steps that one start runs; a whole epoch by default.
        """
        data, batch = self.data, self.network.batch
        total = min(samples or len(data.train_labels), len(data.train_labels))
        for number in range(1, count + 1):
            order = self._rng.permutation(len(data.train_labels))[:total]
            batches = self._store_samples(data.train_images[order], data.train_labels[order])
            self.system.clear()
            cycles = 0
            share = steps_a_list or batches
            self._run(self._first_loads())
            for first in range(0, batches, share):
                last = min(first + share, batches)
                descriptors: list[Descriptor] = []
                for index in range(first, last):
                    done = (number - 1 + index / batches) / count
                    slower = sum(done >= share for share in HALVINGS) if self._halves else 0
                    policy = replace(self.policy, rate=self.policy.rate + slower)
                    descriptors += self.step(index, batches, policy)
                cycles += self._run(descriptors)
                progress((number - 1 + 0.9 * last / batches) / count)
            counters = self.system.counters()
            low, high = self.system.read(Region.CONTROL, Register.LOSS, 2)
            seen = batches * batch
            yield Epoch(
                number=number, cycles=cycles, counters=counters,
                loss=(int(low) | int(high) << 32) / 65536 * math.log(2) / seen,
                train_accuracy=counters["correct_samples"] / seen,
                skipped=counters["skipped_samples"] / seen, test_accuracy=self.evaluate())
            progress(number / count)

    def dump(self) -> list[Descriptor]:
        """Return saves of what a step leaves in the buffers, so that memory can be compared."""
        found, place = [], self._dump
        for region in (Region.WEIGHT, Region.STATE, Region.BIAS):
            depth, lanes, bits = memory_shape(self.system.config, region)
            found.append(Descriptor(
                opcode=Opcode.SAVE, function=region, steps=depth, rows=1, wait_compute=1,
                memory_low=place))
            place += depth * lanes * bits // 8
        return found

    def evaluate(self) -> float:
        """Return the accuracy on the test set, whole batches of it."""
        data = self.data
        batches = self._store_samples(data.test_images, data.test_labels)
        self.system.clear()
        found = self._first_loads()
        for index in range(batches):
            forward = self._forward(index % 2)
            loss = self.network.loss(self.policy, evaluate=True)
            found.append(forward[0])
            if index + 1 < batches:
                found.append(self._load_images(index + 1))
            found += forward[1:] + loss
            if index + 1 < batches:
                found.append(replace(self._load_labels(index + 1), wait_compute=1))
        self._run(found)
        correct = self.system.counters()["correct_samples"]
        return correct / (batches * self.network.batch)


def _load(region: Region, base: int, words: int, address: int) -> Descriptor:
    return Descriptor(
        opcode=Opcode.LOAD, function=region, out_base=base, steps=words, rows=1,
        memory_low=address & 0xFFFFFFFF, memory_high=address >> 32)

