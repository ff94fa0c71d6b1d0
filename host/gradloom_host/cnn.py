"""Trains a convolutional network: every step on the machine, from lists in its memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.optimizer import split
from gradloom_golden.program import (
    SCALES,
    Descriptor,
    Opcode,
    Region,
    Register,
    SkipRule,
    memory_shape,
)
from gradloom_golden.transfer import row_bytes

from .graph import Conv, Graph, Linear
from .pieces import MOST_WORDS, Step, load
from .placement import tile_matrix
from .resident import Resident
from .streaming import Streamed
from .system import System
from .tensors import CompileError, Policy

__all__ = ["Epoch", "ImageData", "ImageTrainer", "Plan", "memory_needed", "plan_network"]

Plan = Resident | Streamed

PAGE = 4096
INPUT_EXPONENT = -8
BIAS_EXPONENT = -12
FIRST_EXPONENT = -5
LEAST_WEIGHT_EXPONENT = -7
"""With 8 bits, weights may grow to one."""

SAVED = (Region.WEIGHT, Region.STATE, Region.BIAS)
"""Buffers that a check compares after an epoch."""

CALIBRATIONS = 30
SOME = 16
"""Descriptors by which the lists of steps differ, at most."""

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


def plan_network(config: Config, graph: Graph, batch: int, lanes: tuple[int, ...] = (1,), *,
                 streamed: bool | None = None) -> Plan:
    """Lay a network out for a machine: in its buffers, or in memory if they are too small.

    Parameters
    ----------
    lanes : tuple of int
        As of `Policy`.
    streamed : bool, optional
        Keep tensors in memory, or in the buffers, whatever their size.

    Raises
    ------
    CompileError
        If it can be done in neither way, or not in that asked for.
    """
    if not streamed:
        try:
            return Resident(config, graph, batch)
        except CompileError:
            if streamed is not None:
                raise
    return Streamed(config, graph, batch, lanes)


def memory_needed(data: ImageData, plan: Plan) -> int:
    """Return the bytes of memory that an `ImageTrainer` uses."""
    network = plan.network
    samples = max(len(data.train_labels), len(data.test_labels)) + network.batch
    steps = max(-(-samples // network.batch), CALIBRATIONS)
    step = Step(batch=0, policy=Policy(lanes=plan.lanes))
    lists = steps * 128 * (len(plan.descriptors([step])) + SOME)
    weights = (2 * network.weight_rows + network.config.weight_depth) * network.config.columns * 8
    used = samples * (plan.image_pitch + 4) + lists + weights + plan.memory_bytes
    return -(-used // PAGE) * PAGE + 256 * PAGE


class ImageTrainer:
    """Drives a machine through training.

    Parameters
    ----------
    system : System
    plan : Resident or Streamed
        Of a network for images of that shape.
    data : ImageData
    policy : Policy
    seed : int
        Of weights, order and stochastic rounding.
    halves : bool
        Halve the learning rate after `HALVINGS` of the training.
    calibrations : int
        Passes over the first batch in which exponents settle before anything is learned.
    """

    def __init__(self, system: System, plan: Plan, data: ImageData, policy: Policy, *,
                 seed: int = 1, halves: bool = True, calibrations: int = CALIBRATIONS):
        self.system = system
        self.data = data
        self.policy = policy
        self.plan = plan
        self.network = plan.network
        self._rng = np.random.default_rng(seed)
        self._free = 0
        self._halves = halves
        system.write(Region.CONTROL, Register.SEED, [seed])
        biases, weights, state = self._draw_weights()
        samples = max(len(data.train_labels), len(data.test_labels)) + self.network.batch
        self._images = self._room(samples * plan.image_pitch)
        self._labels = self._room(samples * 4)
        self.weights, self.state = self._put(weights), self._put(state)
        plan.place_data(images=self._images, labels=self._labels, weights=self.weights,
                        state=self.state)
        plan.reserve(self._room)
        biases_at = self._put(biases)
        self._saved = [self._room(words * row_bytes(system.config, region, 1))
                       for region, words in zip(SAVED, self._saved_words())]
        self._lists = self._room(0)
        loads = [load(Region.BIAS, 0, len(biases), biases_at)]
        if plan.resident_weights:
            loads += [load(Region.WEIGHT, 0, len(weights), self.weights),
                      load(Region.STATE, 0, len(state), self.state)]
        self._run(loads)
        self._calibrate(calibrations)

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

    def _draw_weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw weights (He) and set the exponents; return rows of biases, weights and state."""
        network, config = self.network, self.system.config
        rows = network.weight_rows
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
        self.system.write(Region.SCALE, 0, exponents)
        return (biases.astype(np.uint16), (weight & 0xFF).astype(np.uint8),
                residue.astype(np.uint32))

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
            rows = network.image.words(part).astype(np.uint8).reshape(len(part), -1)
            rows = np.pad(rows, ((0, 0), (0, self.plan.image_pitch - rows.shape[1])))
            self.system.store(self._images + first * self.plan.image_pitch, rows)
        self.system.store(self._labels, labels[:count].astype("<u4"))
        return batches

    # Lists.

    def _run(self, descriptors: list[Descriptor]) -> int:
        self.system.store_list(self._lists, descriptors)
        return self.system.run(self._lists, len(descriptors))

    def _calibrate(self, passes: int) -> None:
        """Let the machine find its exponents on one batch, before anything is learned."""
        batch = self.network.batch
        self._store_samples(self.data.train_images[:batch], self.data.train_labels[:batch])
        step = Step(batch=0, policy=self.policy, update=False)
        self._run(self.plan.descriptors([replace(step) for _ in range(passes)]))

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
            for first in range(0, batches, share):
                last = min(first + share, batches)
                steps = []
                for index in range(first, last):
                    done = (number - 1 + index / batches) / count
                    slower = sum(done >= share for share in HALVINGS) if self._halves else 0
                    policy = replace(self.policy, rate=self.policy.rate + slower)
                    steps.append(Step(batch=index, policy=policy))
                cycles += self._run(self.plan.descriptors(steps))
                progress((number - 1 + 0.9 * last / batches) / count)
            if self.policy.skip_rule == SkipRule.BUDGET:
                self._run([Descriptor(opcode=Opcode.THRESHOLD, bound=self.policy.budget)])
            counters = self.system.counters()
            if self.system.checking:
                self._save_buffers()
            low, high = self.system.read(Region.CONTROL, Register.LOSS, 2)
            seen = batches * batch
            yield Epoch(
                number=number, cycles=cycles, counters=counters,
                loss=(int(low) | int(high) << 32) / 65536 * math.log(2) / seen,
                train_accuracy=counters["correct_samples"] / seen,
                skipped=counters["skipped_samples"] / seen, test_accuracy=self.evaluate())
            progress(number / count)

    def _save_buffers(self) -> None:
        """Save what was learned to memory, and read the rest, where a check compares it."""
        config = self.system.config
        self._run([Descriptor(
            opcode=Opcode.SAVE, function=region, steps=words, rows=1, memory_low=address)
            for region, words, address in zip(SAVED, self._saved_words(), self._saved)])
        for region in (Region.SCALE, Region.KEEP):
            self.system.read(region, 0, memory_shape(config, region)[0])

    def _saved_words(self) -> list[int]:
        """Return the words to save of each buffer in `SAVED`."""
        config = self.system.config
        rows = self.network.weight_rows if self.plan.resident_weights else config.weight_depth
        return [min(rows, memory_shape(config, region)[0], MOST_WORDS) for region in SAVED]

    def evaluate(self) -> float:
        """Return the accuracy on the test set, whole batches of it."""
        data = self.data
        batches = self._store_samples(data.test_images, data.test_labels)
        self.system.clear()
        self._run(self.plan.descriptors([
            Step(batch=index, policy=self.policy, evaluate=True) for index in range(batches)]))
        correct = self.system.counters()["correct_samples"]
        return correct / (batches * self.network.batch)
