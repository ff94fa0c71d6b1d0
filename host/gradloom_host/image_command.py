"""``gradloom train fashion-mnist``: a small convolutional network, every step on the machine."""

import argparse
import json
import time
from dataclasses import asdict

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gradloom_golden.confidence import NEVER, fraction
from gradloom_golden.config import Config
from gradloom_golden.importance import field
from gradloom_golden.program import Schedule, SkipRule

from .cnn import Epoch, ImageData, ImageTrainer, memory_needed, plan_network
from .files import write_file
from .graph import Conv, Graph, Linear, Shape
from .idx import load_idx
from .streaming import Streamed
from .system import System
from .tensors import Policy

__all__ = ["NETWORK", "attribution", "train_images"]

NETWORK = Graph(Shape(1, 28, 28), [
    Conv(channels=16, kernel=3, stride=2, padding=1, bias=False),
    Conv(channels=16, kernel=2, stride=2),
    Linear(features=10, relu=False),
])
"""86,240 multiply-accumulates a sample."""

BATCH = 16
RATE = 5
MOMENTUM = 3
SAMPLES = 60_000
STEPS_A_LIST = 20


def attribution(counters: dict[str, int], cycles: int, slots: int) -> dict[str, int]:
    """Return to what each cycle of a run went; the values add up to `cycles`.

    Parameters
    ----------
    cycles : int
        From start to interrupt.
    slots : int
        Cycles in which a row entered the array.
    """
    streaming = counters["forward_cycles"] + counters["backward_cycles"]
    named = {
        "computing": slots,
        "load, drain and skew of tiles": streaming - slots,
        "post-processing": (counters["loss_cycles"] + counters["vector_cycles"]
                            + counters["update_cycles"]),
        "waiting for memory": counters["wait_cycles"],
    }
    return named | {"descriptors and start": cycles - sum(named.values())}


def train_images(options: argparse.Namespace, config: Config) -> int:
    """Train as the options of the command line say, and print what came of it."""
    raw = load_idx(options.data)
    data = ImageData(
        train_images=raw.train_images[..., None], train_labels=raw.train_labels.astype(np.int64),
        test_images=raw.test_images[..., None], test_labels=raw.test_labels.astype(np.int64))
    samples = min(options.samples or SAMPLES, len(data.train_labels))
    threshold = NEVER if options.skip is None else fraction(options.skip)
    rule = {"skip_rule": SkipRule.PROBABILITY, "threshold": threshold}
    if options.budget is not None:
        rule = {"skip_rule": SkipRule.BUDGET, "budget": fraction(options.budget)}
    if options.importance is not None:
        rule = {"skip_rule": SkipRule.IMPORTANCE, "threshold": field(options.importance)}
    policy = Policy(
        rate=RATE, momentum=MOMENTUM, **rule,
        lanes=(8 // (options.lanes or 8),), schedule=Schedule[options.schedule.upper()])
    plan = plan_network(config, NETWORK, BATCH, policy.lanes)
    if options.report is not None:
        options.report.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling the machine", total=None)
        system = System(config, options.backend, memory_bytes=memory_needed(data, plan),
                        check=options.check, waves=options.waves)
        trainer = ImageTrainer(system, plan, data, policy, seed=options.seed)
        progress.update(task, description="training", total=1.0, completed=0.0)
        started = time.monotonic()
        epochs = list(trainer.epochs(
            options.epochs or 1, samples=samples, steps_a_list=STEPS_A_LIST,
            progress=lambda done: progress.update(task, completed=done)))
        seconds = time.monotonic() - started
    system.close()
    console.print(_epochs_table(epochs))
    if options.backend == "rtl":
        console.print(_cycles_table(epochs))
    if isinstance(plan, Streamed):
        console.print(f"tensors stay in memory: {plan.kept_bytes:,} bytes of a batch from forward "
                      "to backward pass", highlight=False)
    console.print(f"{config.rows}x{config.columns} machine, {options.backend} backend"
                  f"{', checked' if options.check else ''}: {seconds:.0f} s", highlight=False)
    if options.report is not None:
        path = options.report / "run.json"
        write_file(path, json.dumps({
            "config": asdict(config), "policy": asdict(policy), "batch": BATCH,
            "samples": samples, "seed": options.seed, "backend": options.backend,
            "checked": options.check, "seconds": seconds,
            "epochs": [asdict(epoch) for epoch in epochs]}, indent=2, default=str) + "\n")
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def _epochs_table(epochs: list[Epoch]) -> Table:
    table = Table(title="Training")
    for name in ("epoch", "loss (nats)", "train %", "test %", "skipped %", "cycles"):
        table.add_column(name, justify="right")
    for epoch in epochs:
        table.add_row(
            str(epoch.number), f"{epoch.loss:.3f}", f"{100 * epoch.train_accuracy:.2f}",
            f"{100 * epoch.test_accuracy:.2f}", f"{100 * epoch.skipped:.1f}",
            f"{epoch.cycles:,}")
    return table


def _cycles_table(epochs: list[Epoch]) -> Table:
    counters = {name: sum(epoch.counters[name] for epoch in epochs)
                for name in epochs[0].counters}
    cycles = sum(epoch.cycles for epoch in epochs)
    found = attribution(counters, cycles, counters["slots"])
    table = Table(title=f"{cycles:,} cycles from start to interrupt")
    table.add_column("went to")
    table.add_column("cycles", justify="right")
    table.add_column("share", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,}", f"{100 * value / cycles:.1f} %")
    return table

