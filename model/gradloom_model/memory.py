"""DRAM traffic of a training step: what each pass fetches, what it fetches again, and why.

Activations and gradients of a layer come from DRAM and go there; weights, too. A pass works on half
of each buffer while the other half is filled or emptied. If its weights fit a half, or its rows do,
every operand moves once. If neither does, either the rows pass in windows and weights come again
for each, or the weights pass in groups and rows come again for each: what moves less is chosen.
A network that fits the buffers as a whole fetches its images only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .assumptions import Assumptions
from .geometry import Geometry
from .schedules import Schedule

__all__ = ["REASONS", "RESIDENT", "Traffic", "merged", "traffic"]

REASONS = (
    "every operand moves once",
    "rows come again for each group of weights: a half of the weight buffer holds one group",
    "weights come again for each window of rows: a half of the other buffers holds one window",
    "weight gradients leave and come back for each window: neither they nor the rows fit",
    "nothing moves: the network stays in the buffers",
)
"""What `Traffic.reason` counts from 0."""

ONCE, ROWS_AGAIN, WEIGHTS_AGAIN, GRADIENTS_AGAIN, RESIDENT = range(len(REASONS))

KIB = 1024
STATE_BYTES = 4
GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Traffic:
    """What one pass moves, arrays over layers.

    Attributes
    ----------
    bytes : dict of str to array
        By operand: x, w, d, y, dx, dw, state.
    again : array
        How often what is fetched again comes; 1 if nothing is.
    reason : int array
        Index in `REASONS`.
    """

    bytes: Mapping[str, np.ndarray]
    again: np.ndarray
    reason: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Bytes of all operands."""
        return np.sum(np.broadcast_arrays(*self.bytes.values()), axis=0)

    def stalls(self, cycles, bandwidth) -> np.ndarray:
        """Return the cycles that a pass of `cycles` waits, with so many bytes a cycle."""
        if bandwidth is None:
            return np.zeros(np.broadcast_shapes(np.shape(cycles), self.total.shape))
        return np.maximum(self.total / bandwidth - cycles, 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sizes:
    """Bytes of the operands of each layer, the products they share, and halves of the buffers.

    Groups of a convolution, heads and samples of attention never meet: each is a product that
    passes by itself.
    """

    x: np.ndarray
    y: np.ndarray
    d: np.ndarray
    dx: np.ndarray
    w: np.ndarray
    products: np.ndarray
    activations: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """Groups in which the weights of one product pass."""
        return self.pieces(self.w, self.weights)

    def pieces(self, amount, room) -> np.ndarray:
        """Return the pieces in which an operand of one product passes through a half."""
        return np.maximum(np.ceil(amount / self.products / room), 1)


def _sizes(shape: Geometry, a: Assumptions, samples) -> _Sizes:
    samples = np.asarray(samples)
    wide = np.asarray(a.gradient_bits) / 8
    x = samples * shape.image * shape.groups * shape.inputs
    y = samples * shape.pixels * shape.groups * shape.outputs
    halves = (np.asarray(kb, float) * KIB / 2
              for kb in (a.activation_kb, a.gradient_kb, a.weight_kb))
    activations, gradients, weights = halves
    return _Sizes(
        x=x, y=y, d=y * wide, dx=np.where(shape.is_first, 0, x * wide),
        # Without a sample nothing happens, below one on the average it does so often.
        w=shape.weights * np.where(shape.is_product, samples, np.minimum(samples, 1)),
        products=shape.groups * np.where(shape.is_product, np.maximum(samples, 1), 1),
        activations=activations, gradients=gradients, weights=weights)


def traffic(shape: Geometry, a: Assumptions, schedule: Schedule) -> dict[str, Traffic]:
    """Return what each pass of a training step moves from and to DRAM."""
    samples = np.asarray(a.batch)
    forward = _sizes(shape, a, samples)
    kept = samples * (1 - np.asarray(a.skip, float)) if schedule.skips else samples
    backward = _sizes(shape, a, kept)
    lanes = np.asarray(a.lanes) if schedule.lanes else 1
    # A narrow copy of X for the weight gradient pays unless few samples are kept.
    narrow = (forward.x + backward.x) / lanes < backward.x
    found = {"forward": _forward(forward, np.where(narrow, forward.x / lanes, 0))}
    backward = replace(backward, x=np.where(narrow, backward.x / lanes, backward.x))
    together = schedule.backward in ("tile", "interleaved")
    if together:
        found["both gradients"] = _only(_both(backward), ~shape.is_first)
        found["weight gradient"] = _only(_weight_gradient(backward, again=True), shape.is_first)
    else:
        found["input gradient"] = _only(_input_gradient(backward), ~shape.is_first)
        found["weight gradient"] = _weight_gradient(
            backward, again=(backward.d > backward.gradients) | shape.is_first)
    if a.update:
        found["update"] = _only(_update(backward, a, together=together), ~shape.is_product)
    else:
        # Gradients go to DRAM for an update elsewhere.
        found = {name: _with_gradients(one, backward, ~shape.is_first if name == "both gradients"
                                       else shape.is_first | (not together))
                 if name in ("both gradients", "weight gradient") else one
                 for name, one in found.items()}
    return _resident(shape, a, forward, found)


def _forward(s: _Sizes, kept) -> Traffic:
    """Return what Y needs; `kept` bytes of X are written once more, narrow."""
    windows = s.pieces(s.x + s.y, s.activations)
    again = _again(s.groups, windows, rows=s.x, weights=(windows - 1) * s.w)
    return again.traffic(WEIGHTS_AGAIN, {
        "x": s.x * again.rows + kept, "w": s.w * again.windows, "y": s.y})


def _input_gradient(s: _Sizes) -> Traffic:
    windows = s.pieces(s.d + s.dx, s.gradients)
    again = _again(s.groups, windows, rows=s.d, weights=(windows - 1) * s.w)
    return again.traffic(WEIGHTS_AGAIN, {
        "d": s.d * again.rows, "w": s.w * again.windows, "dx": s.dx})


def _weight_gradient(s: _Sizes, *, again) -> Traffic:
    """Return what dW needs; `again` tells where D is no longer there from the input gradient."""
    windows = np.maximum(s.pieces(s.x, s.activations), s.pieces(s.d, s.gradients))
    spilled = _spilled(s, windows)
    found = _again(s.groups, windows, rows=np.minimum(s.x, s.d), weights=spilled)
    smaller = s.x <= s.d
    fetched = np.asarray(again) | found.by_rows
    return found.traffic(GRADIENTS_AGAIN, {
        "x": s.x * np.where(smaller, found.rows, 1),
        "d": np.where(fetched, s.d * np.where(smaller, 1, found.rows), 0),
        "dw": np.where(found.by_windows, spilled, 0)})


def _both(s: _Sizes) -> Traffic:
    """Return what both gradients need together; groups of weights are blocks of inputs."""
    windows = np.maximum(s.pieces(s.x, s.activations), s.pieces(s.d + s.dx, s.gradients))
    spilled = _spilled(s, windows)
    again = _again(s.groups, windows, rows=s.d, weights=(windows - 1) * s.w + spilled)
    return again.traffic(GRADIENTS_AGAIN, {
        "x": s.x, "d": s.d * again.rows, "dx": s.dx, "w": s.w * again.windows,
        "dw": np.where(again.by_windows, spilled, 0)})


def _spilled(s: _Sizes, windows) -> np.ndarray:
    """Return the bytes of weight gradients that leave and come back between windows."""
    return 2 * (windows - 1) * s.w * GRADIENT_BYTES


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Again:
    """What comes again where neither the weights nor the rows fit: one of both, never both.

    Attributes
    ----------
    by_rows, by_windows : bool array
        Rows come for each group of weights, or weights for each window of rows.
    rows, windows : array
        How often rows and weights come.
    """

    by_rows: np.ndarray
    by_windows: np.ndarray
    rows: np.ndarray
    windows: np.ndarray

    def traffic(self, reason: int, sizes: Mapping[str, np.ndarray]) -> Traffic:
        """Return the bytes with how often and why; `reason` is that of `by_windows`."""
        return Traffic(
            bytes=sizes, again=np.maximum(self.rows, self.windows),
            reason=np.where(self.by_rows, ROWS_AGAIN, np.where(self.by_windows, reason, ONCE)))


def _again(groups, windows, *, rows, weights) -> _Again:
    """Return what comes again: the rows, of so many bytes, or else `weights` more bytes."""
    both = (groups > 1) & (windows > 1)
    by_rows = both & ((groups - 1) * rows <= weights)
    by_windows = both & ~by_rows
    return _Again(by_rows=by_rows, by_windows=by_windows, rows=np.where(by_rows, groups, 1),
                  windows=np.where(by_windows, windows, 1))


def _update(s: _Sizes, a: Assumptions, *, together: bool) -> Traffic:
    """Return weights written, state read and written.

    Weights are updated group by group, as soon as their gradients are complete in the buffer. They
    are still there if they were needed for the gradient, or if all fit.
    """
    fetched = 0 if together else np.where(s.groups > 1, s.w, 0)
    state = 2 * STATE_BYTES if a.optimizer == "momentum" else 0
    return Traffic(bytes={"w": s.w + fetched, "state": s.w * state},
                   again=np.ones_like(s.w), reason=np.zeros_like(s.w))


def _with_gradients(found: Traffic, s: _Sizes, where) -> Traffic:
    """Add the weight gradients of some layers to what a pass moves."""
    leaves = np.where(where, s.w * GRADIENT_BYTES, 0)
    return replace(found, bytes={**found.bytes, "dw": found.bytes["dw"] + leaves})


def _only(found: Traffic, where) -> Traffic:
    return merged([(found, where)])


def _resident(shape: Geometry, a: Assumptions, s: _Sizes,
              found: dict[str, Traffic]) -> dict[str, Traffic]:
    """Leave out what never moves where the network stays in the buffers."""
    stays = ((_all(s.y) + _all(np.where(shape.is_first, s.x, 0)) <= 2 * s.activations)
             & (_all(s.d) <= 2 * s.gradients) & (_all(s.w) <= 2 * s.weights))
    images = np.where(shape.is_first, s.x, 0)
    moved = {}
    for name, one in found.items():
        bytes_ = {operand: np.where(stays, images if (name, operand) == ("forward", "x") else 0,
                                    value) for operand, value in one.bytes.items()}
        moved[name] = Traffic(bytes=bytes_, again=np.where(stays, 1, one.again),
                              reason=np.where(stays, RESIDENT, one.reason))
    return moved


def merged(parts: Iterable[tuple[Traffic, np.ndarray]]) -> Traffic:
    """Return what moves if each layer takes the part whose flag is set."""
    bytes_, again, reason = {}, 1, ONCE
    for one, where in parts:
        for name, value in one.bytes.items():
            bytes_[name] = bytes_.get(name, 0) + np.where(where, value, 0)
        again, reason = np.where(where, one.again, again), np.where(where, one.reason, reason)
    return Traffic(bytes=bytes_, again=np.asarray(again), reason=np.asarray(reason))


def _all(value) -> np.ndarray:
    return np.sum(value, axis=-1, keepdims=True)
