"""What it costs to keep tensors in memory, and what narrow activations save there."""

import argparse
from pathlib import Path

import numpy as np
from common import emit
from rich.console import Console
from rich.progress import Progress

from gradloom_golden.config import Config, preset
from gradloom_host.cnn import ImageData, ImageTrainer, Plan, memory_needed
from gradloom_host.graph import Add, AveragePool, Conv, Graph, Layer, Linear, Shape
from gradloom_host.image_command import NETWORK
from gradloom_host.resident import Resident
from gradloom_host.streaming import Streamed
from gradloom_host.system import System
from gradloom_host.tensors import Policy

SMALL = preset("base")
LARGE = SMALL.with_changes(activation_depth=16384, gradient_depth=16384, weight_depth=8192)
NOTE = (
    "One step of training on the RTL behind AXI, all samples kept, after exponents have settled; "
    "random images. bytes kept: of a sample's activations and ReLU masks from forward to backward "
    "pass, in memory; loads, saves: buffer words a sample; utilization: rows streamed "
    "over all cycles from start to interrupt; useful: MACs over cycles x cells, above one where "
    "lanes do several at once; waiting: nothing computes because of a load or save. "
    "Memory: 20 cycles latency, a beat of 128 bits a cycle. resnet20 is its convolutions, identity "
    "shortcuts only, without batch normalization.")


def resnet20() -> Graph:
    """Return ResNet-20 as this machine can train it."""
    layers: list[Layer] = [Conv(channels=16, padding=1, bias=False)]
    for channels in (16, 32, 64):
        for block in range(3):
            stride = 2 if channels > 16 and block == 0 else 1
            before = len(layers) - 1
            layers.append(Conv(channels=channels, padding=1, stride=stride, bias=False))
            if stride == 1:
                layers += [Conv(channels=channels, padding=1, bias=False, relu=False),
                           Add(of=before)]
            else:
                layers.append(Conv(channels=channels, padding=1, bias=False))
    layers += [AveragePool(size=8), Linear(features=10, relu=False)]
    return Graph(Shape(3, 32, 32), layers)


def plans() -> dict[str, tuple[str, Config, Plan, tuple[int, ...]]]:
    """Return what is measured: title, configuration, plan and lanes."""
    found: dict[str, tuple[str, Config, Plan, tuple[int, ...]]] = {
        "fashion-mnist in the buffers": ("base", SMALL, Resident(SMALL, NETWORK, 16), (1,))}
    for lanes in (1, 2, 4):
        found[f"fashion-mnist streamed, {8 // lanes} bit"] = (
            "base", SMALL, Streamed(SMALL, NETWORK, 16, (lanes,)), (lanes,))
    for lanes in (1, 4):
        found[f"resnet20 streamed, {8 // lanes} bit"] = (
            "large", LARGE, Streamed(LARGE, resnet20(), 8, (lanes,)), (lanes,))
    return found


def measured(config: Config, plan: Plan, lanes: tuple[int, ...], *,
             check: bool) -> dict[str, float]:
    """Return what one step took, by the column of the table."""
    network = plan.network
    shape, batch = network.graph.input, network.batch
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (batch, shape.height, shape.width, shape.channels))
    labels = rng.integers(0, 10, batch)
    data = ImageData(train_images=images, train_labels=labels, test_images=images,
                     test_labels=labels)
    policy = Policy(rate=8, lanes=lanes)
    system = System(config, check=check, memory_bytes=memory_needed(data, plan))
    trainer = ImageTrainer(system, plan, data, policy, calibrations=2)
    [epoch] = trainer.epochs(1)
    system.close()
    counters, cycles = epoch.counters, epoch.cycles
    useful = sum(network.graph.macs()) * 3 - network.graph.macs()[0]
    return {
        "bytes kept a sample": plan.kept_bytes // batch,
        "loads": counters["load_words"] // batch, "saves": counters["save_words"] // batch,
        "cycles a sample": cycles // batch, "utilization": counters["slots"] / cycles,
        "useful": useful * batch / (cycles * config.rows * config.columns),
        "waiting": counters["wait_cycles"] / cycles,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--check", action="store_true", help="run the golden model beside the RTL")
    options = parser.parse_args()
    rows, configs = [], {}
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        found = plans()
        task = progress.add_task("training steps", total=len(found))
        for title, (name, config, plan, lanes) in found.items():
            configs[name] = config
            progress.update(task, description=title)
            rows.append({"network": title, **measured(config, plan, lanes, check=options.check)})
            progress.advance(task)
    emit("streaming", NOTE, configs, rows, options.json)


if __name__ == "__main__":
    main()
