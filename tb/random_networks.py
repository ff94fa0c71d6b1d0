"""Random networks, random ways to train them, and the lists that do so on a machine with memory."""

from dataclasses import dataclass, replace

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.importance import MOST, field
from gradloom_golden.program import (
    SCALES,
    Descriptor,
    Opcode,
    Region,
    Schedule,
    SkipRule,
    memory_shape,
)
from gradloom_golden.transfer import row_bytes
from gradloom_host.compiler import Network
from gradloom_host.graph import (
    Add,
    AveragePool,
    Conv,
    Graph,
    Layer,
    Linear,
    MaxPool,
    Shape,
)
from gradloom_host.placement import compile_network
from gradloom_host.tensors import CompileError, Policy

__all__ = ["DUMPED", "Case", "Training", "random_case", "random_graph", "training"]

DUMPED = (Region.ACTIVATION, Region.MASK, Region.GRADIENT, Region.WEIGHT, Region.STATE, Region.BIAS)
"""Buffers that a list saves, so that memory can be compared."""

STEPS = 2
_PAGE = 4096
_EXPONENTS = (-9, -3)
_BATCHES = (1, 2, 4)
_WIDEST = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A network laid out for a machine, and how it is trained.

    Parameters
    ----------
    network : Network
    policy : Policy
    bound : int
        Of the error budget, chosen anew after each step; 0 leaves the threshold.
    """

    network: Network
    policy: Policy
    bound: int


def _flag(rng: np.random.Generator, probability: float = 0.5) -> bool:
    return bool(rng.random() < probability)


def _conv(rng, edge: int, given: Shape | None = None) -> Conv:
    """Return a convolution; with what it is given perhaps one in groups, or depthwise."""
    kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    if _flag(rng, 0.6):
        kernel = kernel[0], kernel[0]
    channels, groups = int(rng.integers(1, 2 * edge + 1)), 1
    if given is not None and _flag(rng, 0.3):
        channels = given.channels
        groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
    return Conv(
        channels=channels, kernel=kernel, groups=groups, stride=int(rng.integers(1, 4)),
        padding=int(rng.integers(0, min(kernel))), bias=_flag(rng), relu=_flag(rng))


def _more(rng, edge: int, shapes: list[Shape], layers: list[Layer]) -> list[Layer]:
    """Return the next layer, or the two of a residual block."""
    last = shapes[-1]
    kind = int(rng.integers(0, 7))
    if kind <= 2:
        return [_conv(rng, edge, last)]
    if kind == 3:
        return [MaxPool(size=int(rng.integers(2, 4)))]
    if kind == 4:
        return [AveragePool(size=int(rng.integers(2, 4)))]
    if kind == 5:
        return [Conv(channels=last.channels, kernel=3, padding=1, relu=False),
                Add(of=len(layers) - 1, relu=_flag(rng))]
    return [Linear(features=int(rng.integers(1, 2 * edge + 1)))]


def random_graph(rng: np.random.Generator, edge: int, *, flat: bool = False) -> Graph:
    """Return a network of up to ten layers on small images.

    Parameters
    ----------
    edge : int
        Rows of the array; layers have up to twice as many channels.
    flat : bool
        The first layer sees whole images.
    """
    while True:
        shape = Shape(int(rng.integers(1, 4)), *(int(n) for n in rng.integers(3, 9, 2)))
        last = Linear(features=int(rng.integers(2, 2 * edge)), relu=False, bias=_flag(rng))
        layers: list[Layer] = [_conv(rng, edge)]
        if flat:
            layers = [Linear(features=int(rng.integers(1, 2 * edge + 1)), bias=_flag(rng),
                             relu=_flag(rng))]
        try:
            for _ in range(int(rng.integers(1, 5))):
                shapes = Graph(shape, [*layers, last]).shapes()[:-1]
                layers += _more(rng, edge, shapes, layers)
            return Graph(shape, [*layers, last])
        except ValueError:
            continue


def _policy(rng, config: Config, layers: int) -> Policy:
    lanes = (1, 2, 4) if config.lanes else (1,)
    skip_rule = SkipRule(int(rng.choice(SkipRule)))
    threshold = int(rng.choice([65535, 40000, 20000, 3]))
    if skip_rule == SkipRule.IMPORTANCE:
        threshold = field(int(rng.integers(MOST + 1)), int(rng.integers(2)))
    return Policy(
        rate=int(rng.integers(0, 8)),
        momentum=None if _flag(rng, 0.3) else int(rng.integers(1, 5)),
        skip_rule=skip_rule, threshold=threshold,
        lanes=tuple(int(rng.choice(lanes)) for _ in range(layers)),
        schedule=Schedule(int(rng.choice([Schedule.INTERLEAVED, Schedule.SEQUENTIAL]))),
        fused=_flag(rng, 0.7), stochastic=_flag(rng))


def random_case(rng: np.random.Generator, config: Config, *, flat: bool = False) -> Case:
    """Return a network that fits the machine, with all its descriptors; `flat` as above."""
    while True:
        graph = random_graph(rng, config.rows, flat=flat)
        batch = int(rng.choice(_BATCHES))
        try:
            network = compile_network(config, graph, batch)
            case = Case(
                network=network, policy=_policy(rng, config, len(network.weights)),
                bound=int(rng.integers(1, 1 << 16)) if _flag(rng) else 0)
            _step(case, 0)
        except CompileError:
            continue
        return case


def _step(case: Case, half: int) -> tuple[list[Descriptor], list[Descriptor]]:
    """Return what a training step does up to the loss, and after it."""
    network, policy = case.network, case.policy
    count = len(network.graph.layers)
    before = [d for index in range(count) for d in network.forward(index, image_half=half)]
    after = [d for index in reversed(range(count))
             for d in network.backward(index, policy, image_half=half)]
    after.append(Descriptor(opcode=Opcode.RESCALE))
    if case.bound:
        after.append(Descriptor(opcode=Opcode.THRESHOLD, bound=case.bound))
    return before + network.loss(policy), after


class _Memory:
    """Reserves pages of memory from address 0 on."""

    def __init__(self):
        self.end = 0

    def room(self, size: int) -> int:
        address = self.end
        self.end += -(-size // _PAGE) * _PAGE
        return address


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """A list, and what must lie in memory before it runs.

    Parameters
    ----------
    contents : list of (int, array)
        Addresses and bytes.
    exponents : int array (SCALES,)
    descriptors : list of Descriptor
    list_address, memory_bytes : int
    """

    contents: list[tuple[int, np.ndarray]]
    exponents: np.ndarray
    descriptors: list[Descriptor]
    list_address: int
    memory_bytes: int


def _transfer(opcode: Opcode, region: Region, words: int, address: int, *, base: int = 0,
              **flags: int) -> Descriptor:
    return Descriptor(
        opcode=opcode, function=region, rows=1, steps=words, out_base=base, memory_low=address,
        **flags)


def training(rng: np.random.Generator, case: Case) -> Training:
    """Return a list that fills the buffers at random, trains `STEPS` steps and saves the buffers.

    Images and labels of a step are loaded while the step before it still computes.
    """
    network, config = case.network, case.network.config
    memory, contents = _Memory(), []
    classes = network.graph.layers[-1].features

    def put(values: np.ndarray) -> int:
        address = memory.room(values.nbytes)
        contents.append((address, values))
        return address

    def noise(region: Region, words: int) -> int:
        return put(rng.integers(0, 256, row_bytes(config, region, words), dtype=np.uint8))

    def images(step: int) -> Descriptor:
        return _transfer(
            Opcode.LOAD, Region.IMAGE, network.image_words,
            noise(Region.IMAGE, network.image_words), base=step % 2 * network.image_words)

    def labels(**flags: int) -> Descriptor:
        drawn = rng.integers(0, classes, network.batch).astype("<u4")
        return _transfer(Opcode.LOAD, Region.LABEL, network.batch, put(drawn), **flags)

    found = []
    for region in (Region.WEIGHT, Region.STATE, Region.BIAS):
        depth = memory_shape(config, region)[0]
        found.append(_transfer(Opcode.LOAD, region, depth, noise(region, depth)))
    found += [images(0), labels()]
    for step in range(STEPS):
        before, after = _step(case, step % 2)
        found.append(replace(before[0], wait_memory=1))
        if step + 1 < STEPS:
            found.append(images(step + 1))
        found += before[1:]
        if step + 1 < STEPS:
            found.append(labels(wait_compute=1))
        found += after
    for region in DUMPED:
        depth = memory_shape(config, region)[0]
        address = memory.room(row_bytes(config, region, depth))
        found.append(_transfer(Opcode.SAVE, region, depth, address, wait_compute=1))
    exponents = rng.integers(*_EXPONENTS, SCALES)
    list_address = memory.room((len(found) + 1) * 128)
    return Training(
        contents=contents, exponents=exponents, descriptors=found, list_address=list_address,
        memory_bytes=memory.end)
