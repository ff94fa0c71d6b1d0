"""Schedules: which pass computes what, as a table, and what a training step costs under each."""

from dataclasses import dataclass

import numpy as np

from . import passes
from .assumptions import Assumptions
from .counts import Counts
from .work import Products, Work

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
            return "serial" if a.folds == "serial" else "chained"
        return self.folds or a.folds


SCHEDULES = {
    "ws": Schedule(title="weight-stationary only", backward="ws"),
    "os": Schedule(title="output-stationary only", forward="os", backward="os"),
    "sequential": Schedule(title="WS, then OS", backward="ws, os", folds="exposed"),
    "double-buffered": Schedule(title="WS, then OS, loads hidden", backward="ws, os",
                                folds="hidden"),
    "back-to-back": Schedule(title="WS, then OS on each tile", backward="tile"),
    "interleaved": Schedule(title="both gradients interleaved", backward="interleaved"),
    "fused": Schedule(title="+ fused update", backward="interleaved", fused=True),
    "skip": Schedule(title="+ skip", backward="interleaved", fused=True, skips=True),
    "lanes": Schedule(title="+ lanes", backward="interleaved", fused=True, skips=True, lanes=True),
}
"""By name; from "interleaved" on each adds to the one before."""

BASELINE = "sequential"
"""What ratios refer to."""


def cost(products: Products, schedule: Schedule) -> dict[str, Counts]:
    """Return the counts of each pass of a training step, arrays over layers.

    Samples kept need not be whole: the cost lies between those of the two whole numbers beside.
    """
    a = products.a
    found = {"forward": _forward(products, schedule)}
    if not schedule.skips:
        return found | _backward(products, schedule, np.asarray(a.batch))
    kept = a.batch * (1 - np.asarray(a.skip, float))
    fewer = np.floor(kept + 1e-9).astype(np.int64)
    share = np.maximum(kept - fewer, 0)
    below = _backward(products, schedule, fewer)
    if not np.any(share > 1e-9):
        return found | below
    above = _backward(products, schedule, fewer + 1)
    return found | {name: {key: below[name][key] + share * (above[name][key] - below[name][key])
                           for key in below[name]} for name in below}


def _forward(products: Products, schedule: Schedule) -> Counts:
    a, work = products.a, products.still(np.asarray(products.a.batch))
    if schedule.forward == "os":
        return passes.os_forward(work, a, schedule.rule(a))
    return passes.ws_forward(work, a, schedule.rule(a), patches=products.patches)


def _backward(products: Products, schedule: Schedule, samples) -> dict[str, Counts]:
    """Return both gradients and the update; each layer has passes of one or the other kind."""
    shape, a = products.shape, products.a
    folds, kind = schedule.rule(a), schedule.backward
    still, moving = products.still(samples), products.moving(samples)
    wants = ~shape.is_first
    if kind in ("tile", "interleaved"):
        lanes = np.asarray(a.lanes) if schedule.lanes else 1
        can_fuse = schedule.fused & ~shape.is_product
        fused = can_fuse & (moving.by_layer(moving.chunks(a.steps).count, np.maximum) <= 1)
        alone = can_fuse & (still.chunks(a.steps).count <= 1)
        found = {
            "both gradients": _layers(moving, passes.both_gradients(
                moving, a, folds, interleaved=kind == "interleaved", lanes=lanes,
                fused=fused if moving.starts is None else fused[..., shape.phase_layer]), wants),
            "weight gradient": _layers(still, passes.os_weight_gradient(
                still, a, folds, lanes=lanes, loads=True, fused=alone, limited=True,
                patches=products.patches), ~wants),
        }
        updated = np.where(wants, fused, alone)
    else:
        dx, dw = _TWO_PASSES[kind]
        found = {"input gradient": _layers(moving, dx(moving, a, folds), wants),
                 "weight gradient": dw(still, a, folds)}
        updated = np.zeros_like(wants)
    if a.update:
        found["update"] = _layers(still, passes.update(still, a), ~shape.is_product & ~updated)
    return found


def _layers(work: Work, counts: Counts, where) -> Counts:
    """Return counts by layer, zero but for some layers."""
    return {name: np.where(where, work.by_layer(value), 0) for name, value in counts.items()}


def _better_weight_gradient(work: Work, a: Assumptions, folds: str) -> Counts:
    """Return the weight-stationary weight gradient that the assumptions name."""
    if a.stationary != "best":
        return passes.ws_weight_gradient(work, a, folds, holds=a.stationary)
    x, d = (passes.ws_weight_gradient(work, a, folds, holds=holds) for holds in ("x", "d"))
    better = x["cycles"] <= d["cycles"]
    return {name: np.where(better, x[name], d[name]) for name in x}


_TWO_PASSES = {
    "ws": (passes.ws_input_gradient, _better_weight_gradient),
    "os": (passes.os_input_gradient, passes.os_weight_gradient),
    "ws, os": (passes.ws_input_gradient, passes.os_weight_gradient),
}
"""Input and weight gradient of what has a pass for each."""
