"""What training a network costs: all schedules, for one machine or for many."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .assumptions import Assumptions
from .counts import Counts, accesses, total
from .geometry import geometry
from .layers import Network
from .memory import Traffic, merged, traffic
from .schedules import BASELINE, PASSES, SCHEDULES, Schedule, cost
from .work import Products

__all__ = ["BEST", "Estimate", "StepCost", "estimate", "step_cost"]

BEST = "best"
"""Name of the schedule that takes for each layer whichever needs the fewest cycles."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepCost:
    """One training step under one schedule; arrays over layers.

    Attributes
    ----------
    schedule : str
    title : str
    passes : dict of str to counts
        Elements and cycles by pass.
    traffic : dict of str to Traffic
        DRAM, by pass.
    stalls : dict of str to array
        Cycles that each pass waits for DRAM.
    forward, backward : str array or None
        Of "best": the schedule of each layer's passes.
    """

    schedule: str
    title: str
    passes: Mapping[str, Counts]
    traffic: Mapping[str, Traffic]
    stalls: Mapping[str, np.ndarray]
    forward: np.ndarray | None = None
    backward: np.ndarray | None = None

    @property
    def counts(self) -> Counts:
        """Counts of all passes."""
        return total(self.passes.values())

    @property
    def compute_cycles(self) -> np.ndarray:
        """Cycles of each layer without waiting for DRAM."""
        return self.counts["cycles"]

    @property
    def stall_cycles(self) -> np.ndarray:
        """Cycles of each layer that wait for DRAM."""
        return np.sum([np.asarray(one, float) for one in self.stalls.values()], axis=0)

    @property
    def cycles(self) -> np.ndarray:
        """Cycles of each layer."""
        return self.compute_cycles + self.stall_cycles

    @property
    def accesses(self) -> np.ndarray:
        """Elements read from and written to the buffers, of each layer."""
        return accesses(self.counts)

    @property
    def dram_bytes(self) -> np.ndarray:
        """Bytes from and to DRAM, of each layer."""
        return np.sum([one.total for one in self.traffic.values()], axis=0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimate:
    """All schedules of one network on one machine.

    Attributes
    ----------
    network : Network
    assumptions : Assumptions
    steps : dict of str to StepCost
        By name of the schedule.
    """

    network: Network
    assumptions: Assumptions
    steps: Mapping[str, StepCost]

    def ratio(self, schedule: str, to: str = BASELINE) -> float:
        """Return the cycles of the baseline over those of a schedule."""
        return float(self.steps[to].cycles.sum() / self.steps[schedule].cycles.sum())


def estimate(network: Network, assumptions: Assumptions | None = None,
             schedules: Iterable[str] | None = None) -> Estimate:
    """Return what a training step of `network` costs.

    Parameters
    ----------
    network : Network
    assumptions : Assumptions, optional
    schedules : names, optional
        Of `SCHEDULES`, or "best"; all if left out.

    Raises
    ------
    ValueError
        If there is no such schedule.
    """
    assumptions = assumptions or Assumptions()
    wanted = list(schedules) if schedules is not None else [*SCHEDULES, BEST]
    for name in wanted:
        if name != BEST and name not in SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}, "
                             f"{BEST}")
    products = Products(geometry(network), assumptions)
    steps: dict[str, StepCost] = {}
    for name in sorted(wanted, key=lambda name: name == BEST):
        steps[name] = step_cost(name, products, steps)
    return Estimate(network=network, assumptions=assumptions, steps=steps)


def step_cost(schedule: str, products: Products,
              known: Mapping[str, StepCost] | None = None) -> StepCost:
    """Return the cost of one schedule; `known` may hold some that "best" then need not compute."""
    if schedule == BEST:
        return _best(products, known or {})
    return _step(schedule, SCHEDULES[schedule], products)


def _step(name: str, schedule: Schedule, products: Products) -> StepCost:
    a = products.a
    passes, moved = cost(products, schedule), traffic(products.shape, a, schedule)
    return StepCost(schedule=name, title=schedule.title, passes=passes, traffic=moved,
                    stalls=_stalls(passes, moved, a.bandwidth))


def _stalls(passes: Mapping[str, Counts], moved: Mapping[str, Traffic],
            bandwidth) -> dict[str, np.ndarray]:
    """Return the cycles that passes wait for DRAM.

    Weights are updated as soon as the gradients of a group are complete, beside the gradients of
    the next: what both move hides behind what both compute.
    """
    found = {name: moved[name].stalls(counts["cycles"], bandwidth)
             for name, counts in passes.items()}
    if "update" not in passes or bandwidth is None:
        return found
    gradients = [name for name in ("both gradients", "weight gradient") if name in passes]
    together = [*gradients, "update"]
    joint = np.maximum(
        sum(moved[name].total for name in together) / bandwidth
        - sum(passes[name]["cycles"] for name in together), 0)
    for name in gradients:
        found[name] = np.minimum(found[name], joint)
        joint = joint - found[name]
    return found | {"update": joint}


def _candidates() -> dict[str, Schedule]:
    """Return every schedule with all that it can be given: skipping, lanes, fused updates."""
    found = {
        name: replace(SCHEDULES[name], skips=True) for name in ("ws", "os", "double-buffered")}
    for name in ("back-to-back", "skip", "lanes"):
        found[name] = replace(SCHEDULES[name], skips=True, fused=True)
    return found


def _best(products: Products, known: Mapping[str, StepCost]) -> StepCost:
    """Return the fastest forward pass of each layer with its fastest backward pass."""
    steps = {name: known[name] if schedule == SCHEDULES[name] and name in known
             else _step(name, schedule, products) for name, schedule in _candidates().items()}
    # Which of the steps each layer takes its forward pass from, and which all others.
    chosen = {forward: np.argmin(np.array([
        sum(step.passes[one]["cycles"] + step.stalls[one]
            for one in step.passes if (one == "forward") == forward)
        for step in steps.values()]), axis=0) for forward in (True, False)}
    passes, moved, stalls = {}, {}, {}
    for one in PASSES:
        masks = [(step, chosen[one == "forward"] == index)
                 for index, step in enumerate(steps.values()) if one in step.passes]
        if masks:
            moved[one] = merged([(step.traffic[one], mask) for step, mask in masks])
            passes[one] = total({key: np.where(mask, value, 0) for key, value
                                 in step.passes[one].items()} for step, mask in masks)
            stalls[one] = sum(np.where(mask, step.stalls[one], 0) for step, mask in masks)
    forward, backward = (np.asarray(list(steps))[index] for index in chosen.values())
    return StepCost(
        schedule=BEST, title="best for each layer", passes=passes, traffic=moved, stalls=stalls,
        forward=forward, backward=backward)
