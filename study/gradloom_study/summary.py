"""What the runs of a study add up to: accuracy against work, policy by policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Row", "by_network", "is_complete", "summarise"]

BASELINE = "int8"
"""The policy that others are held against, unless another is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A policy on a network, over its seeds.

    Parameters
    ----------
    network, policy : str
    seeds : tuple of int
    accuracy, spread : float
        Mean and standard deviation over the seeds (0 with one) of the last epoch's accuracy.
    change : float or None
        Mean over the seeds of the accuracy less the baseline's of the same seed.
    doubt : float
        Standard error of that mean (0 with one seed).
    skipped : float
        Share of the gradient computations of the baseline that were not done.
    forward : float
        Share of the forward passes of the baseline that were not done.
    bits : float
        Mean activation bits of the weight gradient, over layers and epochs.
    narrow : float
        Share of layers and epochs at 2 bits.
    epochs : float
        Mean over the seeds: a run of the same work as another may be shorter with one of them.
    """

    network: str
    policy: str
    seeds: tuple[int, ...]
    accuracy: float
    spread: float
    change: float | None
    doubt: float
    skipped: float
    forward: float
    bits: float | None
    narrow: float | None
    epochs: float


def is_complete(run: dict[str, Any]) -> bool:
    """Return whether all epochs of a run are finished."""
    return len(run["records"]) >= run["epochs"]


def summarise(content: dict[str, Any], baseline: str = BASELINE) -> list[Row]:
    """Return a row for each network and policy, of complete runs only, in the order of the study.

    Parameters
    ----------
    content : dict
        Of `load_results`.
    baseline : str
        Name of the policy to compare with.
    """
    runs = [run for run in content["runs"] if is_complete(run)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["network"], run["policy"]), []).append(run)
    bases = {(run["network"], run["seed"]): run for run in runs if run["policy"] == baseline}
    epochs = content["settings"]["epochs"]
    return [_row(network, policy, some, bases, epochs)
            for (network, policy), some in groups.items()]


def by_network(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each network, both in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.network, []).append(row)
    return found


def accuracy(run: dict[str, Any]) -> float:
    """Return the test accuracy after the last epoch."""
    return run["records"][-1]["test_accuracy"]


def _row(network: str, policy: str, runs: Sequence[dict[str, Any]], bases, epochs: int) -> Row:
    changes = [accuracy(run) - accuracy(bases[network, run["seed"]]) for run in runs
               if (network, run["seed"]) in bases]
    found = [accuracy(run) for run in runs]
    bits = [width for run in runs for record in run["records"]
            for width in record["bits"].values()]
    return Row(
        network=network, policy=policy, seeds=tuple(run["seed"] for run in runs),
        accuracy=float(np.mean(found)), spread=_deviation(found),
        change=float(np.mean(changes)) if changes else None,
        doubt=_deviation(changes) / max(1, len(changes)) ** 0.5,
        skipped=float(np.mean([_saved(run, "kept", epochs) for run in runs])),
        forward=float(np.mean([_saved(run, "samples", epochs) for run in runs])),
        bits=float(np.mean(bits)) if bits else None,
        narrow=float(np.mean(np.equal(bits, 2))) if bits else None,
        epochs=float(np.mean([run["epochs"] for run in runs])))


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _saved(run: dict[str, Any], name: str, epochs: int) -> float:
    full = run["records"][0]["full"] * epochs
    return 1 - sum(record[name] for record in run["records"]) / full
