"""Energy of what was counted, by component, under a table of energies.

The equations are those of docs/energy.md. Everything is dynamic energy: no leakage, no clock tree
beyond what a table's figures hold, no control, no address generation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .assumptions import Assumptions
from .counts import ACCESSES, Counts
from .energy_table import EnergyTable, TableError, drams, load, tables
from .sram import interpolate

__all__ = ["BUFFERS", "COMPONENTS", "Buffer", "EnergyTable", "TableError", "buffers", "drams",
           "energy", "load", "notes", "prices", "sum_width", "tables", "wgrad_width"]

BUFFERS = ("x", "d", "w", "dw", "state", "sum", "mask")
"""Operands of which each has a buffer: those of `counts.ACCESSES`."""

COMPONENTS = ("mac", "registers", *BUFFERS, "dram")
"""Parts of the energy, "dram" only where its bytes are given."""

X_BITS = W_BITS = 8
"""Widths of activations and weights (`Assumptions`)."""

WIDE_BITS = 32
"""Width of a weight gradient on its way to an update, and of what the optimizer keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """A buffer: width of an element and of the port in bits, capacity in KiB; ints or arrays."""

    bits: int
    port: np.ndarray
    capacity: np.ndarray


def buffers(a: Assumptions) -> dict[str, Buffer]:
    """Return the buffer of each operand.

    Words hold an element for each lane of the longer edge of the array, those of weights, their
    gradients and their state one for each column. The buffer of the gradients and the one of the
    state are as deep as that of the weights, that of sums as the most rows of a pass, that of masks
    as that of activations.
    """
    lanes = np.maximum(a.rows, a.columns)
    wide = np.asarray(a.weight_kb) * WIDE_BITS / W_BITS
    if a.steps is None:
        sums = np.asarray(a.activation_kb) * a.sum_bits / X_BITS
    else:
        sums = a.steps * lanes * a.sum_bits / (8 * 1024)
    shapes = {
        "x": (X_BITS, lanes, a.activation_kb),
        "d": (a.gradient_bits, lanes, a.gradient_kb),
        "w": (W_BITS, a.columns, a.weight_kb),
        "dw": (WIDE_BITS, a.columns, wide),
        "state": (WIDE_BITS, a.columns, wide),
        "sum": (a.sum_bits, lanes, sums),
        "mask": (1, lanes, np.asarray(a.activation_kb) / X_BITS),
    }
    return {name: Buffer(bits=bits, port=_port(a, bits * np.asarray(edge)),
                         capacity=np.asarray(capacity, float))
            for name, (bits, edge, capacity) in shapes.items()}


def _port(a: Assumptions, bits) -> np.ndarray:
    """Return the width of a port: of a word of the edge, or less where ports are limited."""
    return bits if a.port is None else np.minimum(bits, 8 * np.asarray(a.port))


def _product_bits(a: Assumptions):
    return X_BITS + np.maximum(W_BITS, a.gradient_bits)


def _ceil_log2(value) -> np.ndarray:
    return np.ceil(np.log2(np.asarray(value, float)))


def sum_width(a: Assumptions) -> np.ndarray:
    """Return the bits of a sum that moves from cell to cell (`Config.sum_bits`)."""
    return _product_bits(a) + _ceil_log2(np.maximum(a.rows, a.columns))


def wgrad_width(a: Assumptions) -> np.ndarray:
    """Return the bits of a sum that stays in its cell (`Config.wgrad_bits`)."""
    stays = np.asarray(a.sum_bits) if a.steps is None else _product_bits(a) + _ceil_log2(a.steps)
    return np.maximum(stays, sum_width(a))


def prices(table: EnergyTable, a: Assumptions) -> dict[str, np.ndarray]:
    """Return what one of everything counted costs, by its name, in the unit of the table.

    Parameters
    ----------
    table : EnergyTable
    a : Assumptions
        Numbers may be arrays.

    Returns
    -------
    dict of str to array
        "products", "slots", "os_slots" (more than another slot costs), all of `counts.ACCESSES`,
        and "dram_bytes".
    """
    moving, staying = _slots(table, a)
    found = {"products": _product(table, a), "slots": moving, "os_slots": staying - moving,
             "dram_bytes": np.asarray(8 * table.dram_bit)}
    for operand, buffer in buffers(a).items():
        for kind in ("read", "write"):
            price = buffer.bits / 8 * table.sram.per_byte(kind, buffer.capacity, buffer.port)
            found |= {name: price for name, which in ACCESSES.items()
                      if which == operand and name.endswith(f"_{kind}s")}
    return found


def energy(table: EnergyTable, counts: Counts, a: Assumptions, dram_bytes=None, *,
           each: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Return the energy of each component, in the unit of the table.

    Parameters
    ----------
    table : EnergyTable
    counts : Counts
        Names that are missing count zero. "os_slots", of "slots", are those whose sums stay in
        their cells; without that name all slots are taken for weight-stationary ones.
    a : Assumptions
        Numbers may be arrays that broadcast against those of the counts.
    dram_bytes : array, optional
        From and to DRAM; without them the result has no "dram".
    each : mapping, optional
        `prices` of the same table and assumptions, to share among many counts.
    """
    each = prices(table, a) if each is None else each
    parts = {"mac": ("products",), "registers": ("slots", "os_slots")} | {
        operand: tuple(name for name, which in ACCESSES.items() if which == operand)
        for operand in BUFFERS}
    found = {part: sum((np.asarray(counts[name]) * each[name] for name in names if name in counts),
                       np.zeros(())) for part, names in parts.items()}
    if dram_bytes is not None:
        found["dram"] = np.asarray(dram_bytes) * each["dram_bytes"]
    shape = np.broadcast_shapes(*(value.shape for value in found.values()))
    return {part: np.broadcast_to(value, shape) for part, value in found.items()}


def _product(table: EnergyTable, a: Assumptions) -> np.ndarray:
    """Return the energy of a multiplication and its addition.

    All go through the one multiplier of a cell, as wide as D needs it.
    """
    widths = X_BITS * np.maximum(W_BITS, a.gradient_bits)
    each = interpolate(widths, table.multiply.points, table.multiply.values)
    if table.add is None:
        return each
    return each + interpolate(sum_width(a), table.add.points, table.add.values)


def _slots(table: EnergyTable, a: Assumptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy of registers in a slot where weights stay, and in one where sums stay.

    A slot passes all cells, those that hold only padding too. Where weights stay, an operand and a
    sum move on; where sums stay, X and D move on, and a sum is written in its place. The operand
    of the first is X or D: eight bits are taken.
    """
    moving = (X_BITS + sum_width(a)) * table.hop
    staying = (X_BITS + a.gradient_bits) * table.hop + wgrad_width(a) * table.hold
    cells = np.asarray(a.rows) * np.asarray(a.columns)
    return cells * moving, cells * staying


def notes(table: EnergyTable, a: Assumptions) -> list[str]:
    """Return where the figures of a table stand for others, with these machines; a line each."""
    widths = table.sram.widths
    found = []
    if len(widths) == 1:
        found.append(f"{table.name} knows SRAM of {widths[0]} bits an access only: its energy a "
                     "byte is taken for every port")
    if all(len(set(one["capacity"])) == 1 for one in table.sram.points.values()):
        found.append(f"{table.name} knows SRAM of one capacity only: it is taken for every buffer")
    for name, buffer in buffers(a).items():
        if np.any(table.sram.outside(buffer.capacity, buffer.port)):
            found.append(
                f"{name}: a buffer of {_range(buffer.capacity)} KiB with {_range(buffer.port)} "
                f"bits a word lies outside {table.name}'s SRAM; the nearest there stands for it")
    return found


def _range(value) -> str:
    low, high = np.min(value), np.max(value)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
