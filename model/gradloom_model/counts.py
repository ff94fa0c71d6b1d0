"""What a pass costs: clock cycles, and elements read and written, each an array over layers."""

from collections.abc import Iterable, Mapping

import numpy as np

__all__ = ["ACCESSES", "COUNTS", "Amounts", "Counts", "Flags", "accesses", "total"]

ACCESSES = {
    "x_reads": "x", "x_writes": "x", "packed_reads": "x", "packed_writes": "x",
    "d_reads": "d", "w_reads": "w", "w_writes": "w",
    "dw_reads": "dw", "dw_writes": "dw", "state_reads": "state", "state_writes": "state",
    "sum_reads": "sum", "sum_writes": "sum", "y_writes": "x", "dx_writes": "d",
    "mask_reads": "mask",
}
"""Accesses of the buffers, in elements, and the operand whose width an element has.

An element of packed activations is a word of one row, whatever it holds. `dw` are weight gradients
on their way to an update of their own, `state` is what the optimizer keeps.
"""

COUNTS = ("cycles", "passes", "slots", "os_slots", "hops", "macs", "products", "edge_sums",
          *ACCESSES)
"""Everything counted.

`slots`: cycles in which a row enters a tile; in `os_slots` of them sums stay in their cells.
`hops`: elements that slots move into the registers of the next cells, two a cell and slot.
`macs`: products of operands that exist. `products`: multiplications that the cells do for them, one
for a packed word. `edge_sums`: sums of unfinished tiles that never leave the edge of the array.
"""

Amounts = np.ndarray | int
"""One for all layers, or one each."""

Flags = np.ndarray | bool
"""The same of yes and no."""

Counts = Mapping[str, np.ndarray]
"""By name; what is missing is zero."""


def accesses(counts: Counts) -> np.ndarray:
    """Return the elements read from and written to all buffers."""
    return sum((counts[name] for name in ACCESSES if name in counts), np.zeros(()))


def total(parts: Iterable[Counts]) -> dict[str, np.ndarray]:
    """Return the sum of counts, over the same layers."""
    found: dict[str, np.ndarray] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = found[name] + value if name in found else value
    return found
