"""Draws the results of a study: the trade-off, and skip rate and bits by epoch and layer."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from gradloom_host.files import write_file
from gradloom_host.missing import require

from .summary import summarise

__all__ = ["draw"]

DPI = 120

MARKERS = "osD^vP*X<>phd8H"
"""Points lie on each other where policies save the same: a shape tells what a colour hides."""


def draw(content: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the results of a study into a folder; return the paths of the pictures.

    Parameters
    ----------
    content : dict
        Of `load_results`.
    folder : path
    """
    figure = require("matplotlib.figure", "study")
    found = []
    for name, paint in (("tradeoff", _tradeoff), ("epochs", _epochs), ("bits", _bits)):
        picture = figure.Figure(figsize=(8, 4.5), layout="constrained")
        if paint(picture, content):
            target = Path(folder) / f"{name}.png"
            raw = io.BytesIO()
            picture.savefig(raw, format="png", dpi=DPI, metadata={"Software": None})
            write_file(target, raw.getvalue())
            found.append(target)
    return found


def _title(content: dict[str, Any]) -> str:
    settings = content["settings"]
    return f"{settings['data']}, {settings['epochs']} epochs"


def _tradeoff(picture, content) -> bool:
    """Accuracy against the backward work saved; a point is a policy, its bar the spread."""
    rows = summarise(content)
    if not rows:
        return False
    axes = picture.add_subplot()
    networks = list(dict.fromkeys(row.network for row in rows))
    colours = require("matplotlib", "study").colormaps["tab20"]
    for number, row in enumerate(rows):
        label = row.policy if len(networks) == 1 else f"{row.network}: {row.policy}"
        axes.errorbar(100 * row.skipped, 100 * row.accuracy, yerr=100 * row.spread, label=label,
                      fmt=MARKERS[number % len(MARKERS)], alpha=0.8, capsize=2,
                      color=colours(number % 20))
    picture.legend(loc="outside right center", fontsize=7)
    axes.set_xlabel("gradient computations saved, % of training every sample in every epoch")
    axes.set_ylabel("test accuracy, %")
    seeds = len({run["seed"] for run in content["runs"]})
    axes.set_title(f"{_title(content)}, {seeds} {'seed' if seeds == 1 else 'seeds'}")
    axes.grid(alpha=0.3)
    return True


def _epochs(picture, content) -> bool:
    """Skip rate and test accuracy by epoch, of the first seed."""
    runs = _first_seed(content)
    skips, accuracies = picture.subplots(1, 2, sharex=True)
    for run in runs:
        epochs = [record["epoch"] for record in run["records"]]
        skips.plot(epochs, [100 * (1 - record["kept"] / record["full"])
                            for record in run["records"]])
        tested = [record for record in run["records"] if record["test_accuracy"] is not None]
        accuracies.plot([record["epoch"] for record in tested],
                        [100 * record["test_accuracy"] for record in tested],
                        marker=".", label=_label(run, runs))
    for axes, name in ((skips, "samples without gradient, %"), (accuracies, "test accuracy, %")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    accuracies.legend(fontsize=6)
    picture.suptitle(f"{_title(content)}, seed {runs[0]['seed']}")
    return bool(runs)


def _bits(picture, content) -> bool:
    """Activation bits of the weight gradient by epoch and layer, where they were chosen."""
    runs = [run for run in _first_seed(content)
            if len({width for record in run["records"] for width in record["bits"].values()}) > 1]
    if not runs:
        return False
    all_axes = np.atleast_1d(picture.subplots(1, len(runs), sharey=True))
    for axes, run in zip(all_axes, runs):
        grid = np.array([[np.log2(width) for width in record["bits"].values()]
                         for record in run["records"]]).T
        axes.imshow(grid, aspect="auto", vmin=1, vmax=3, cmap="viridis", origin="lower",
                    extent=(0.5, grid.shape[1] + 0.5, -0.5, grid.shape[0] - 0.5))
        axes.set_title(_label(run, runs), fontsize=8)
        axes.set_xlabel("epoch")
    all_axes[0].set_ylabel("layer with weights")
    all_axes[0].yaxis.get_major_locator().set_params(integer=True)
    picture.suptitle("2 (dark), 4 and 8 (light) activation bits of the weight gradient")
    return True


def _first_seed(content) -> list[dict[str, Any]]:
    seed = content["runs"][0]["seed"]
    return [run for run in content["runs"] if run["seed"] == seed]


def _label(run, runs) -> str:
    several = len({other["network"] for other in runs}) > 1
    return f"{run['network']}: {run['policy']}" if several else run["policy"]
