"""What one schedule saves over another on a network: cycles, accesses and energy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import accesses, total
from gradloom_model.energy import EnergyTable, energy
from gradloom_model.geometry import geometry
from gradloom_model.layers import Network
from gradloom_model.memory import traffic
from gradloom_model.schedules import SCHEDULES, Schedule, cost
from gradloom_model.sweep import stacked
from gradloom_model.work import Products

__all__ = ["Totals", "savings", "totals"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Totals:
    """Sums over a network for n machines, arrays (n,); energies by table, in its unit."""

    cycles: np.ndarray
    accesses: np.ndarray
    energies: Mapping[str, np.ndarray]


def totals(network: Network, machines: Sequence[Assumptions], schedule: str | Schedule, *,
           gradients_only: bool, tables: Sequence[EnergyTable] = (), dram: bool = False) -> Totals:
    """Return what a training step costs on machines that share words and switches.

    Parameters
    ----------
    gradients_only : bool
        Leave the forward pass out.
    tables : sequence of EnergyTable
    dram : bool
        Count the energy of DRAM.
    """
    a, shape = stacked(machines), geometry(network)
    schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    passes = cost(Products(shape, a), schedule)
    if gradients_only:
        passes = {name: counts for name, counts in passes.items() if name != "forward"}
    counts = total(passes.values())
    moved = None
    if dram:
        by_pass = traffic(shape, a, schedule)
        moved = sum(by_pass[name].total for name in passes)
    size = len(machines), len(network.layers)

    def summed(values) -> np.ndarray:
        return np.sum([np.broadcast_to(value, size).sum(axis=1) for value in values], axis=0)

    return Totals(
        cycles=summed([counts["cycles"]]),
        accesses=summed([accesses(counts)]),
        energies={table.name: summed(energy(table, counts, a, moved).values())
                  for table in tables})


def savings(ours: Totals, baseline: Totals) -> dict[str, np.ndarray]:
    """Return the shares saved: "cycles", "accesses", and the name of each table."""
    found = {name: 1 - getattr(ours, name) / getattr(baseline, name)
             for name in ("cycles", "accesses")}
    return found | {name: 1 - value / baseline.energies[name]
                    for name, value in ours.energies.items()}
