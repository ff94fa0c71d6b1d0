"""Utilization on the layer shapes of ResNet-20 for CIFAR: every pass of every one, on the RTL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common import arguments, emit, measured
from rich.console import Console
from rich.progress import track

from gradloom_golden.config import Config, preset
from gradloom_golden.cycles import (
    FETCH_CYCLES,
    PROGRAM_CYCLES,
    RESOLVE_CYCLES,
    counts,
    tile_slots,
)
from gradloom_golden.program import Descriptor, Drain, Opcode, Schedule
from gradloom_host.compiler import Network
from gradloom_host.device import Device
from gradloom_host.graph import AveragePool, Conv, Graph, Layer, Linear, Shape
from gradloom_host.placement import compile_network
from gradloom_host.tensors import CompileError, Policy

WEIGHT_DEPTH = 8192
"""A layer of 64 to 64 channels has 2,304 rows, its stored gradients as many; `base` has 2,048."""

BATCH = 128
"""Images of a step, as in the paper of the network (He et al., 2016)."""


@dataclass(frozen=True, slots=True)
class Case:
    """A layer shape: what it is given, and how often the network has it."""

    name: str
    given: Shape
    layer: Conv | Linear
    times: int

    @property
    def first(self) -> bool:
        """Whether it is the layer that reads the images."""
        return self.given.channels == 3

    @property
    def index(self) -> int:
        """Of the layer in `graph`."""
        return 0 if self.first else 1

    @property
    def graph(self) -> Graph:
        """The smallest network that has the layer as the whole one has it.

        A convolution before gives the layer its input, and wants its gradient; pooling keeps the
        logits small.
        """
        layers: list[Layer] = [] if self.first else [
            Conv(channels=self.given.channels, kernel=1, bias=False)]
        shape = self.given if self.first else Shape(1, self.given.height, self.given.width)
        layers.append(self.layer)
        if isinstance(self.layer, Conv):
            layers += [AveragePool(size=self.given.height // self.layer.stride),
                       Linear(features=10, bias=False, relu=False)]
        return Graph(shape, layers)


def _conv(channels: int, stride: int = 1) -> Conv:
    return Conv(channels=channels, kernel=3, stride=stride, padding=1, bias=False)


CASES = (
    Case("3-16, 32", Shape(3, 32, 32), _conv(16), 1),
    Case("16-16, 32", Shape(16, 32, 32), _conv(16), 6),
    Case("16-32/2, 32", Shape(16, 32, 32), _conv(32, 2), 1),
    Case("32-32, 16", Shape(32, 16, 16), _conv(32), 5),
    Case("32-64/2, 16", Shape(32, 16, 16), _conv(64, 2), 1),
    Case("64-64, 8", Shape(64, 8, 8), _conv(64), 5),
    Case("64-10, 1", Shape(64, 1, 1), Linear(features=10, bias=False, relu=False), 1),
)

NOTE = (
    "ResNet-20: how many layers of a shape, channels in and out, /stride, edge of what they are "
    "given. On the RTL in Verilator; every counter equals the golden model's. A row is one pass "
    "of as many images as one descriptor and the buffers hold: T pixels through each tile. "
    "utilization: rows streamed through tiles (each is rows x columns multiplications) over "
    "cycles. useful: multiplications of weights and pixels that exist, without the padding of "
    "tiles and of images, over cycles x cells. Cycles run from the start of a pass to that of the "
    "next. In the others no row enters: load (the first weights; those of tiles too short to hide "
    "it), drain (the last gradients), skew (the last wave), lookup (of exponents). bus: beats "
    "that X, D, Y and dX would take of the busier AXI channel, over cycles, if none stayed in the "
    "buffers; computed, not run. backward: both gradients, interleaved, 8 bit, with update; the "
    "first layer has only that of the weights. Totals are of an image, `fused` with an update in "
    "every row, `batch` with gradients added over {batch} images and one update. Not in it: loads "
    "and saves, shortcuts, batch normalization, pooling, loss.")


@dataclass(slots=True)
class Cost:
    """Cycles, those to which a name can be given, and what was gained in them."""

    cycles: float = 0
    slots: float = 0
    load: float = 0
    drain: float = 0
    skew: float = 0
    lookup: float = 0
    useful: float = 0
    bus: float = 0

    def add(self, other: "Cost", times: float) -> None:
        """Add what is done so many times."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    def columns(self, config: Config) -> dict[str, float]:
        """Return the columns of the table."""
        return {
            "cycles": round(self.cycles), "utilization": self.slots / self.cycles,
            "useful": self.useful / (self.cycles * config.rows * config.columns),
            "load": round(self.load), "drain": round(self.drain), "skew": round(self.skew),
            "lookup": round(self.lookup), "bus": self.bus / self.cycles,
        }


def compiled(config: Config, case: Case) -> Network:
    """Return the network of the most images that one descriptor and the buffers hold."""
    graph = case.graph
    pixels = graph.shapes()[case.index].pixels
    images = BATCH
    while images * pixels > config.steps_depth:
        images //= 2
    while images:
        try:
            return compile_network(config, graph, images)
        except CompileError:
            images //= 2
    raise ValueError(f"the buffers hold no image of {case.name}: make them larger")


def meetings(case: Case) -> int:
    """Return the pairs of pixels, in and out, that the taps of the kernel bring together."""
    if isinstance(case.layer, Linear):
        return 1
    pairs = 1
    for size, taps in zip((case.given.height, case.given.width), case.layer.taps):
        stride, pad = case.layer.stride, case.layer.padding
        pairs *= sum(0 <= out * stride + tap - pad < size
                     for out in range(size // stride) for tap in range(taps))
    return pairs


def cost(device: Device, program: Sequence[Descriptor]) -> Cost:
    """Run the descriptors of a pass and return where their cycles went."""
    config = device.config
    # No loss runs before, so nothing tells which samples are kept: all are.
    program = [replace(d, kept=0, gather=0) for d in program]
    counters = measured(device, program)
    found = Cost(cycles=counters["cycles"] - PROGRAM_CYCLES - FETCH_CYCLES,
                 slots=counters["slots"])
    streaming = [d for d in program if d.opcode in (Opcode.FORWARD, Opcode.BACKWARD)]
    for d in streaming:
        drains = d.opcode == Opcode.BACKWARD and d.schedule != Schedule.INPUT_GRADIENT
        tiles = counts(config, d)["slots"] // tile_slots(d)
        hiding = tiles if drains and tiles > 1 else tiles - 1
        found.load += config.rows + 1 + hiding * max(0, 2 * config.rows - tile_slots(d))
        found.drain += config.rows * drains
        found.skew += config.rows + config.columns - drains
        found.lookup += RESOLVE_CYCLES * d.scaled
    named = found.slots + found.load + found.drain + found.skew + found.lookup
    if streaming and named != found.cycles:
        raise RuntimeError(f"{found.cycles} cycles were counted, {named} have a name")
    return found


def passes(device: Device, case: Case, network: Network) -> tuple[dict[str, Cost], Cost]:
    """Return what the passes of one chunk of images cost, and the rest of a batch without fusing.

    That is an update of its own. Storing and adding gradients costs as much as updating with them,
    which is held to the golden counts like all else.
    """
    index, images = case.index, network.batch
    y = network.activations[index]
    x_words = (images * network.image.x_image // device.config.lane_count if case.first
               else network.activations[index - 1].blocks * network.activations[index - 1].stride)
    y_words = y.blocks * y.stride
    multiplications = meetings(case) * case.given.channels * y.shape.channels * images

    forward = cost(device, network.forward(index))
    backward = cost(device, network.backward(index, Policy()))
    forward.bus, backward.bus = max(x_words, y_words), x_words + y_words
    forward.useful = multiplications
    backward.useful = multiplications if case.first else 2 * multiplications
    if images == BATCH:
        return {"forward": forward, "backward": backward}, Cost()
    *stored, update = network.backward(index, Policy(fused=False))
    for program in (stored, [replace(d, drain=Drain.ACCUMULATE) for d in stored]):
        if cost(device, program).cycles != backward.cycles:
            raise RuntimeError(f"{case.name}: storing gradients costs other cycles than an update")
    return {"forward": forward, "backward": backward}, cost(device, [update])


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    config = preset("base").with_changes(weight_depth=WEIGHT_DEPTH)
    device = Device(config)
    rows = []
    total, updates = Cost(), Cost()
    cases = track(CASES, "layers", transient=True, console=Console(stderr=True))
    for case in cases:
        network = compiled(config, case)
        found, update = passes(device, case, network)
        for name, spent in found.items():
            steps = network.batch * network.activations[case.index].shape.pixels
            rows.append({"layers": f"{case.times}x {case.name}", "pass": name, "T": steps,
                         **spent.columns(config)})
            total.add(spent, case.times / network.batch)
        updates.add(update, case.times / BATCH)
    device.close()
    for name, more in (("fused", Cost()), ("batch", updates)):
        total.add(more, 1)
        rows.append({"layers": "all, an image", "pass": name, "T": None, **total.columns(config)})
    emit("resnet20", NOTE.format(batch=BATCH), {"base": config}, rows, options.json)


if __name__ == "__main__":
    main()
