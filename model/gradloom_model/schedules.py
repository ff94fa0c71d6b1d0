"""Schedules: which pass computes what, as a table, and what a training step costs under each."""

from dataclasses import dataclass

import numpy as np

from . import passes
from .assumptions import Assumptions
from .counts import Counts, total
from .geometry import Geometry
from .work import Work, forward_work, phase_work, shares_rows

__all__ = ["BASELINE", "PASSES", "SCHEDULES", "Schedule", "cost"]

PASSES = ("forward", "input gradient", "weight gradient", "both gradients", "update")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How a training step uses the array.

    Parameters
    ----------
    title : str
        For people.
    forward : str
        "ws" or "os": what stays in the array.
    backward : str
        "ws": both gradients weight-stationary passes of their own; "os": output-stationary ones;
        "ws, os": one after the other on two mappings; "tile": one after the other on each tile;
        "interleaved".
    folds : str or None
        Overrides the assumption: "exposed" is what shows without hidden loads.
    fused, skips, lanes : bool
        Update where gradients leave; leave samples out; pack activations.
    """

    title: str
    forward: str = "ws"
    backward: str
    folds: str | None = None
    fused: bool = False
    skips: bool = False
    lanes: bool = False

    def rule(self, a: Assumptions) -> str:
        """Return the rule for folds."""
        if self.folds == "exposed":
            return "chained" if a.folds == "hidden" else a.folds
        return self.folds or a.folds


SCHEDULES = {
    "ws": Schedule(title="weight-stationary only", backward="ws"),
    "os": Schedule(title="output-stationary only", forward="os", backward="os"),
    "sequential": Schedule(title="WS, then OS", backward="ws, os", folds="exposed"),
    "double-buffered": Schedule(title="WS, then OS, loads hidden", backward="ws, os",
                                folds="hidden"),
    "back-to-back": Schedule(title="WS, then OS on each tile", backward="tile"),
    "interleaved": Schedule(title="interleaved", backward="interleaved"),
    "fused": Schedule(title="+ fused update", backward="interleaved", fused=True),
    "skip": Schedule(title="+ skip", backward="interleaved", fused=True, skips=True),
    "lanes": Schedule(title="+ lanes", backward="interleaved", fused=True, skips=True, lanes=True),
}
"""By name; from "interleaved" on each adds to the one before."""

BASELINE = "sequential"
"""What ratios refer to."""


def cost(shape: Geometry, a: Assumptions, schedule: Schedule) -> dict[str, Counts]:
    """Return the counts of each pass of a training step, arrays over layers.

    Samples kept need not be whole: the cost lies between those of the two whole numbers beside.
    """
    found = {"forward": _forward(shape, a, schedule)}
    if not schedule.skips:
        return found | _backward(shape, a, schedule, np.asarray(a.batch))
    kept = a.batch * (1 - np.asarray(a.skip, float))
    fewer = np.floor(kept + 1e-9).astype(np.int64)
    share = np.maximum(kept - fewer, 0)
    below = _backward(shape, a, schedule, fewer)
    if not np.any(share > 1e-9):
        return found | below
    above = _backward(shape, a, schedule, fewer + 1)
    return found | {name: {key: below[name][key] + share * (above[name][key] - below[name][key])
                           for key in below[name]} for name in below}


def _forward(shape: Geometry, a: Assumptions, schedule: Schedule) -> Counts:
    work = forward_work(shape, a, np.asarray(a.batch))
    if schedule.forward == "os":
        return passes.os_forward(work, a, schedule.rule(a))
    return passes.ws_forward(work, a, schedule.rule(a), patches=shares_rows(shape, a))


def _backward(shape: Geometry, a: Assumptions, schedule: Schedule, samples) -> dict[str, Counts]:
    """Return both gradients and the update; each layer has passes of one or the other kind."""
    folds, kind = schedule.rule(a), schedule.backward
    still = forward_work(shape, a, samples)
    image_elements = None
    if a.taps == "always":
        phases, starts = still, np.arange(len(shape.taps))
        patched = np.broadcast_to(shape.taps > 1, still.rows.shape)
        image_elements = np.where(
            patched, samples * shape.image * shape.groups * shape.inputs,
            still.rows * still.copies * still.k_tiles(a.rows) * (
                a.rows if a.padding == "counted" else 1))
        if a.padding == "free":
            image_elements = np.where(
                patched, image_elements, still.rows * still.copies * still.k)
    else:
        phases, starts = phase_work(shape, a, samples), shape.phase_start
    wants = ~shape.is_first
    lanes = np.asarray(a.lanes) if schedule.lanes else 1
    together = kind in ("tile", "interleaved")

    def layers(counts: Counts, where) -> Counts:
        """Sum the phases of each layer, and keep only some layers."""
        by_layer = {}
        for name, value in counts.items():
            value = np.asarray(value)
            if value.shape[-1:] == phases.rows.shape[-1:] and phases is not still:
                value = np.add.reduceat(value, starts, axis=-1)
            by_layer[name] = np.where(where, value, 0)
        return by_layer

    if together:
        fused = schedule.fused and ~shape.is_product
        single = np.maximum.reduceat(phases.chunks(a.steps).count, starts, axis=-1) <= 1
        direct = fused & single
        alone = fused & (still.chunks(a.steps).count <= 1)
        both = layers(passes.both_gradients(
            phases, a, folds, interleaved=kind == "interleaved", lanes=lanes,
            fused=_spread(direct, shape, phases is not still), image_elements=image_elements),
            wants)
        only = _where(passes.os_weight_gradient(
            still, a, folds, lanes=lanes, loads=True, fused=alone, limited=True,
            patches=shares_rows(shape, a)), ~wants)
        found = {"both gradients": both, "weight gradient": only}
        updated = np.where(wants, direct, alone)
    else:
        dx, dw = {
            "ws": (passes.ws_input_gradient, _better_weight_gradient),
            "os": (passes.os_input_gradient, passes.os_weight_gradient),
            "ws, os": (passes.ws_input_gradient, passes.os_weight_gradient),
        }[kind]
        found = {
            "input gradient": layers(
                dx(phases, a, folds, image_elements=image_elements), wants),
            "weight gradient": dw(still, a, folds),
        }
        updated = False
    if a.update:
        left = ~shape.is_product & ~np.asarray(updated)
        found["update"] = _where(passes.update(still, a), left)
    return found


def _where(counts: Counts, where) -> Counts:
    return {name: np.where(where, value, 0) for name, value in counts.items()}


def _spread(by_layer, shape: Geometry, has_phases: bool):
    """Return a value of each layer for each of its phases."""
    return by_layer[..., shape.phase_layer] if has_phases else by_layer


def _better_weight_gradient(work: Work, a: Assumptions, folds: str) -> Counts:
    """Return the weight-stationary weight gradient that the assumptions name."""
    if a.stationary != "best":
        return passes.ws_weight_gradient(work, a, folds, holds=a.stationary)
    x, d = (passes.ws_weight_gradient(work, a, folds, holds=holds) for holds in ("x", "d"))
    better = x["cycles"] <= d["cycles"]
    return {name: np.where(better, x[name], d[name]) for name in x}


def step(counts: dict[str, Counts]) -> Counts:
    """Return the counts of a whole step."""
    return total(counts.values())
