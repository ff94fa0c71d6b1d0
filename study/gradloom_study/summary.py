"""What the runs of a study add up to: accuracy against work, policy by policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "Row", "by_network", "difference", "is_complete", "summarise"]

BASELINE = "int8"
"""The policy that others are held against, unless another is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A policy on a network, over its seeds.

    Parameters
    ----------
    network, policy : str
    accuracies : dict of int to float
        The last epoch's test accuracy, by seed.
    change : Difference or None
        To the baseline.
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
    accuracies: dict[int, float]
    change: "Difference | None"
    skipped: float
    forward: float
    bits: float | None
    narrow: float | None
    epochs: float

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 with one."""
        return _deviation(list(self.accuracies.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of two accuracies, over pairs of the same seed.

    Parameters
    ----------
    mean, error : float
        The mean and its standard error (0 of one pair).
    """

    mean: float
    error: float


def difference(these: dict[int, float], those: dict[int, float]) -> Difference | None:
    """Return how much higher accuracies by seed are than others; None without a common seed."""
    found = [accuracy - those[seed] for seed, accuracy in these.items() if seed in those]
    if not found:
        return None
    return Difference(mean=float(np.mean(found)), error=_deviation(found) / len(found) ** 0.5)


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
    epochs = content["settings"]["epochs"]
    return [_row(network, policy, some, _accuracies(groups.get((network, baseline), [])), epochs)
            for (network, policy), some in groups.items()]


def by_network(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each network, both in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.network, []).append(row)
    return found


def _accuracies(runs: Sequence[dict[str, Any]]) -> dict[int, float]:
    return {run["seed"]: run["records"][-1]["test_accuracy"] for run in runs}


def _row(network: str, policy: str, runs: Sequence[dict[str, Any]], base: dict[int, float],
         epochs: int) -> Row:
    found = _accuracies(runs)
    bits = [width for run in runs for record in run["records"]
            for width in record["bits"].values()]
    return Row(
        network=network, policy=policy, accuracies=found, change=difference(found, base),
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
