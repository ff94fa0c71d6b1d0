"""Passes over the array: what each way to run a product costs, in cycles and elements.

Every function takes the product (`Work`), the assumptions and the rule for folds, and returns
counts an entry of the work. W is K by N, T rows stream; a tile has R rows and C columns.
"""

from dataclasses import replace

import numpy as np

from .assumptions import Assumptions
from .counts import Amounts, Counts, Flags
from .timing import pass_cycles
from .work import Chunks, Work, ceil_div

__all__ = [
    "both_gradients", "os_forward", "os_input_gradient", "os_weight_gradient", "update",
    "ws_forward", "ws_input_gradient", "ws_weight_gradient",
]


HOPS = 2
"""Elements that a slot writes into the registers of a cell: an operand and a sum, or two operands.

Where a sum stays in its cell, X and D pass; the kept sum is no hop.
"""


def _k(work: Work, a: Assumptions, edge):
    """Return the elements of a row of the k side, on an edge, over all tiles and copies."""
    return work.copies * work.k_tiles(edge) * edge if a.padding == "counted" else work.all_k


def _n(work: Work, a: Assumptions, edge):
    """Return the same of the n side."""
    return work.copies * work.n_tiles(edge) * edge if a.padding == "counted" else work.all_n


def _w(work: Work, a: Assumptions):
    """Return the weights of all tiles."""
    if a.padding == "counted":
        return work.taps * _k(work, a, a.rows) * work.n_tiles(a.columns) * a.columns
    return work.all_w


def _stretch(a: Assumptions, *bits) -> Amounts:
    """Return the cycles that a slot takes at the ports: the widest word over the port."""
    if a.port is None:
        return 1
    return np.maximum.reduce([ceil_div(ceil_div(edge * width, 8), a.port) for edge, width in bits])


def _timed(work: Work, a: Assumptions, folds: str, chunks: Chunks, tiles, slots_of, *,
           loads: bool, drains: bool, stays=None, extra: Amounts = 0,
           stretch: Amounts = 1) -> dict[str, np.ndarray]:
    """Return cycles, passes and slots of all chunks.

    `slots_of` gives the slots of a tile, `stays` those of them whose sums stay in the cells.
    """
    parts = work.parts

    def cycles(steps):
        return parts * (extra + a.lookup + pass_cycles(
            folds, a.rows, a.columns, tiles // parts, slots_of(steps) * stretch, loads=loads,
            drains=drains, os_drain=a.os_drain))

    streams = work.rows > 0
    found = {
        "cycles": np.where(streams, chunks.sum(cycles), 0),
        "passes": np.where(streams, chunks.count * parts, 0),
        "slots": chunks.sum(lambda steps: tiles * slots_of(steps)),
    }
    found["hops"] = found["slots"] * HOPS * a.rows * a.columns
    return found | ({"os_slots": chunks.sum(lambda steps: tiles * stays(steps))} if stays else {})


def _sums(a: Assumptions, amount) -> dict[str, np.ndarray]:
    """Return the accesses of sums that are added to."""
    if a.partial_sums == "edge":
        return {"edge_sums": 2 * amount}
    reads = {"sum_reads": amount} if a.partial_sums == "read+write" else {}
    return reads | {"sum_writes": amount}


# Weight-stationary.


def ws_forward(work: Work, a: Assumptions, folds: str, *, patches: Flags = False) -> Counts:
    """Return the cost of Y = X W with W in the array, X from the west, sums to the south.

    Parameters
    ----------
    patches : bool array
        Which layers read patches: without hidden loads they take a cycle more.
    """
    k_tiles, n_tiles = work.k_tiles(a.rows), work.n_tiles(a.columns)
    tiles = work.copies * k_tiles * work.taps * n_tiles
    chunks = work.chunks(a.steps)
    results = work.rows * _n(work, a, a.columns)
    stretch = _stretch(a, (a.rows, 8), (a.columns, a.sum_bits))
    return _timed(
        work, a, folds, chunks, tiles, lambda steps: steps, loads=True, drains=False,
        extra=np.where(patches, 1, 0) if folds == "chained" else 0, stretch=stretch,
    ) | {
        "macs": work.macs, "products": work.macs,
        "x_reads": work.x_row * n_tiles, "w_reads": chunks.count * _w(work, a),
        "y_writes": results, **_sums(a, (k_tiles * work.taps - 1) * results),
    }


def _input_gradient(work: Work, a: Assumptions) -> dict[str, np.ndarray]:
    """Return what dX costs beside D and W, which the weight gradient may share.

    Where rows are patches, every sum is added to the pixels of its patch (col2im).
    """
    streamed = np.where(work.overlapped > 0, work.x_row, work.rows * _k(work, a, a.rows))
    finished = np.where(work.overlapped > 0, work.overlapped, streamed)
    partial = np.maximum(work.n_tiles(a.columns) * work.taps * streamed - finished, 0)
    found = {"dx_writes": finished, **_sums(a, partial)}
    return found | ({"mask_reads": finished} if a.masks else {})


def ws_input_gradient(work: Work, a: Assumptions, folds: str) -> Counts:
    """Return the cost of dX = D W' with W in the array, D from the north, sums to the east."""
    k_tiles, n_tiles = work.k_tiles(a.rows), work.n_tiles(a.columns)
    chunks = work.chunks(a.steps)
    stretch = _stretch(a, (a.columns, a.gradient_bits), (a.rows, a.sum_bits))
    return _timed(
        work, a, folds, chunks, work.copies * k_tiles * work.taps * n_tiles, lambda steps: steps,
        loads=True, drains=False, stretch=stretch,
    ) | {
        "macs": work.macs, "products": work.macs,
        "d_reads": work.meetings * _n(work, a, a.columns) * k_tiles,
        "w_reads": chunks.count * _w(work, a),
        **_input_gradient(work, a),
    }


def ws_weight_gradient(work: Work, a: Assumptions, folds: str, *, holds: str) -> Counts:
    """Return the cost of dW = X' D with X ("x") or D ("d") in the array, T along its rows.

    The other operand streams feature by feature, and sums of dW leave for every R rows of T.
    """
    counted = a.padding == "counted"
    t_tiles = ceil_div(work.rows, a.rows)
    held, streamed = (work.k, work.n) if holds == "x" else (work.n, work.k)
    held_tiles = ceil_div(held, a.columns)
    # A tap has tiles of its own; with D in the array it has rows of its own.
    taps, streams = (work.taps, streamed) if holds == "x" else (1, streamed * work.taps)
    tiles = work.copies * t_tiles * held_tiles * taps
    chunks = Chunks.of(streams, streams, a.steps)
    # Rows beyond the last fill tiles; those of X that are padding of the image are not loaded.
    fill = t_tiles * a.rows - work.rows
    if holds == "x":
        loaded = (work.meetings + fill * taps) * _k(work, a, a.columns) if counted else work.x_row
        passed = work.rows * work.all_n * taps
    else:
        loaded = t_tiles * a.rows * _n(work, a, a.columns) if counted else work.rows * work.all_n
        passed = work.x_row
    if counted:
        passed = work.copies * t_tiles * a.rows * streams * taps
        results = work.copies * held_tiles * a.columns * streams * taps
    else:
        results = work.all_w
    loaded, passed = chunks.count * loaded, held_tiles * passed
    wide = a.gradient_bits if holds == "x" else 8
    found = _timed(work, a, folds, chunks, tiles, lambda steps: steps, loads=True, drains=False,
                   stretch=_stretch(a, (a.rows, wide), (a.columns, a.sum_bits)))
    x, d = (loaded, passed) if holds == "x" else (passed, loaded)
    return found | {
        "macs": work.macs, "products": work.macs, "x_reads": x, "d_reads": d,
        "dw_writes": np.where(t_tiles > 0, results, 0),
        **_sums(a, np.maximum(t_tiles - 1, 0) * results),
    }


# Output-stationary.


def os_forward(work: Work, a: Assumptions, folds: str) -> Counts:
    """Return the cost of Y = X W with Y in the array: T along its rows, N along its columns."""
    t_tiles, n_tiles = ceil_div(work.rows, a.rows), work.n_tiles(a.columns)
    n = _n(work, a, a.columns)
    depth = work.k * work.taps
    found = _os(work, a, folds, work.copies * t_tiles * n_tiles, depth, (8, 8))
    if a.padding == "counted":
        t = t_tiles * a.rows
        return found | {"x_reads": work.copies * t * depth * n_tiles,
                        "w_reads": depth * n * t_tiles, "y_writes": t * n}
    return found | {"x_reads": work.x_row * n_tiles, "w_reads": work.all_w * t_tiles,
                    "y_writes": work.rows * n}


def os_input_gradient(work: Work, a: Assumptions, folds: str) -> Counts:
    """Return the cost of dX = D W' with dX in the array: T along its rows, K its columns."""
    t_tiles, k_tiles = ceil_div(work.rows, a.rows), work.k_tiles(a.columns)
    k = _k(work, a, a.columns)
    depth = work.n * work.taps
    patches = work.overlapped > 0
    found = _os(work, a, folds, work.copies * t_tiles * k_tiles, depth, (a.gradient_bits, 8))
    if a.padding == "counted":
        t = t_tiles * a.rows
        results = t * k
        found |= {"d_reads": work.copies * t * depth * k_tiles, "w_reads": depth * k * t_tiles}
    else:
        results = np.where(patches, work.x_row, work.rows * k)
        found |= {"d_reads": work.meetings * work.all_n * k_tiles,
                  "w_reads": work.all_w * t_tiles}
    found |= {"dx_writes": np.where(patches, work.overlapped, results),
              **_sums(a, np.where(patches, np.maximum(results - work.overlapped, 0), 0))}
    return found | ({"mask_reads": found["dx_writes"]} if a.masks else {})


def _os(work: Work, a: Assumptions, folds: str, tiles, depth, bits) -> dict[str, np.ndarray]:
    """Return what both have in common; `bits` of the operands from the west and the north."""
    work = replace(work, parts=np.ones_like(work.parts))   # nothing splits these
    depth = np.where(work.rows > 0, depth, 0)
    chunks = Chunks.of(depth, np.maximum(depth, 1), None)
    stretch = _stretch(a, (a.rows, bits[0]), (a.columns, bits[1]))
    return _timed(work, a, folds, chunks, tiles, lambda steps: steps, loads=False, drains=True,
                  stretch=stretch, stays=lambda steps: steps) | {
                      "macs": work.macs, "products": work.macs}


def os_weight_gradient(work: Work, a: Assumptions, folds: str, *, lanes: Amounts = 1,
                       loads: bool = False, fused: Flags = False, limited: bool = False,
                       patches: Flags = False) -> Counts:
    """Return the cost of dW = X' D with dW in the array, X from the west and D from the north.

    Parameters
    ----------
    lanes : int or array
        Activations in a word of X.
    loads : bool
        W is loaded too, as this machine does, so that an update can be fused.
    fused : bool array
        Update weights where their gradients leave; only right where all rows make one pass.
    limited : bool
        Rows are cut where sums would have to leave (this machine streams no more).
    patches : bool array
        As of `ws_forward`.
    """
    k_tiles, n_tiles = work.k_tiles(a.rows), work.n_tiles(a.columns)
    chunks = work.chunks(a.steps if limited else None)
    tiles = work.copies * k_tiles * work.taps * n_tiles
    stretch = _stretch(a, (a.rows, 8), (a.columns, a.gradient_bits))

    def slots(steps):
        return np.where(lanes > 1, ceil_div(steps, lanes) * lanes + 1, steps)

    found = _timed(work, a, folds, chunks, tiles, slots, loads=loads, drains=True, stays=slots,
                   extra=np.where(patches, 1, 0) if folds == "chained" else 0, stretch=stretch)
    found |= {
        "macs": work.macs, "products": work.macs // lanes,
        "d_reads": work.rows * _n(work, a, a.columns) * k_tiles * work.taps,
    }
    return found | _x_of_weight_gradient(
        work, a, chunks, lanes, once=work.x_row, again=n_tiles - 1,
        taps=work.taps) | _drain(work, a, chunks, loads=loads, fused=fused)


def _x_of_weight_gradient(work: Work, a: Assumptions, chunks: Chunks, lanes, *, once, again,
                          taps) -> dict[str, np.ndarray]:
    """Return the reads of X: `once`, then `again` times for other tiles, packed if in lanes.

    Packing has a word for each of `taps` walks over the rows.
    """
    packed = _k(work, a, a.rows) * taps * chunks.sum(lambda steps: ceil_div(steps, lanes))
    packed = np.where(work.rows > 0, packed, 0)
    return {
        "x_reads": np.where(lanes > 1, once, once * (again + 1)),
        "packed_reads": np.where(lanes > 1, packed * again, 0),
        "packed_writes": np.where((lanes > 1) & (again > 0), packed, 0),
    }


def _drain(work: Work, a: Assumptions, chunks: Chunks, *, loads: bool,
           fused) -> dict[str, np.ndarray]:
    """Return what becomes of the weight gradients of every chunk."""
    elements = _w(work, a)
    passes = np.where(work.rows > 0, chunks.count, 0)
    stored = np.where(fused, 0, passes)
    found = {
        "dw_writes": stored * elements,
        "dw_reads": np.maximum(stored - 1, 0) * elements,
        "w_writes": np.where(fused, passes * elements, 0),
    }
    if loads:
        found["w_reads"] = passes * elements
    if a.optimizer == "momentum":
        found |= {"state_reads": found["w_writes"], "state_writes": found["w_writes"]}
    return found


# Both gradients on one tile.


def both_gradients(work: Work, a: Assumptions, folds: str, *, interleaved: bool,
                   lanes: Amounts = 1, fused: Flags = False) -> Counts:
    """Return the cost of dX and dW on one load of each tile.

    Parameters
    ----------
    interleaved : bool
        D enters once for both. Otherwise dX of a tile comes first, then its dW, and D twice.
    lanes, fused
        As of the weight gradient alone.
    """
    k_tiles, n_tiles = work.k_tiles(a.rows), work.n_tiles(a.columns)
    chunks = work.chunks(a.steps)

    def products(steps):
        groups = ceil_div(steps, lanes)
        return groups if interleaved else np.where(lanes > 1, groups * lanes + 1, steps)

    def slots(steps):
        return products(steps) + (ceil_div(steps, lanes) * lanes if interleaved else steps)

    found = _timed(
        work, a, folds, chunks, work.copies * k_tiles * work.taps * n_tiles, slots,
        loads=True, drains=True, stays=products, stretch=_stretch(
            a, (a.columns, a.gradient_bits), (a.rows, 8), (a.rows, a.sum_bits)))
    d = work.meetings * _n(work, a, a.columns) * k_tiles
    found |= {
        "macs": 2 * work.macs, "products": work.macs + work.macs // lanes,
        "d_reads": d if interleaved else 2 * d,
    }
    return found | _input_gradient(work, a) | _x_of_weight_gradient(
        work, a, chunks, lanes, once=work.x_row,
        again=n_tiles * work.taps - 1, taps=1) | _drain(work, a, chunks, loads=True, fused=fused)


# Update.


def update(work: Work, a: Assumptions) -> Counts:
    """Return the cost of an update that reads stored gradients and weights and writes weights."""
    elements = _w(work, a)
    rows = work.copies * work.k_tiles(a.rows) * work.taps * work.n_tiles(a.columns) * a.rows
    found = {
        "cycles": a.update_cycles * rows + 5 + a.lookup, "passes": np.ones_like(rows),
        "dw_reads": elements, "w_reads": elements, "w_writes": elements,
    }
    if a.optimizer == "momentum":
        found |= {"state_reads": elements, "state_writes": elements}
    return found
