"""Arrays of equal area: ours shrunk to a plain one, the baselines enlarged to ours."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .area import iso_area
from .assumptions import Assumptions
from .energy import EnergyTable, energy, prices
from .estimate import estimate
from .layers import Network

__all__ = ["ARRAYS", "OURS", "PLAIN", "EqualArea", "equal_area"]

PLAIN, OURS = "plain WS", "+ hidden load and drain"

ARRAYS = {PLAIN: ("ws",), "switchable WS/OS": ("double-buffered",), OURS: ("fused", "lanes")}
"""Kinds of arrays in `gradloom_model.area`, and the schedules that each runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualArea:
    """One schedule on the largest array of a kind that fits.

    Attributes
    ----------
    reference, kind : str
        Whose area there is, and what stands in it.
    rows, columns : int
    schedule : str
    cycles, accesses, energy : float
        Of a training step; energy in the unit of the table.
    """

    reference: str
    kind: str
    rows: int
    columns: int
    schedule: str
    cycles: float
    accesses: float
    energy: float


def equal_area(network: Network, a: Assumptions, table: EnergyTable) -> Iterator[EqualArea]:
    """Yield every array in the area of ours, then in that of a plain one, both of the given size.

    Areas are those of arrays after synthesis, with edges, without buffers and control. The plain
    array is given hidden loads, which its area does not have.
    """
    for reference in (OURS, PLAIN):
        for kind, schedules in ARRAYS.items():
            found = iso_area(reference, a.rows, a.columns, kind)
            machine = replace(a, rows=found.rows, columns=found.columns)
            each = prices(table, machine)
            for name, step in estimate(network, machine, schedules).steps.items():
                parts = energy(table, step.counts, machine, step.dram_bytes, each=each)
                yield EqualArea(
                    reference=reference, kind=kind, rows=found.rows, columns=found.columns,
                    schedule=name, cycles=float(step.cycles.sum()),
                    accesses=float(step.accesses.sum()),
                    energy=float(sum(part.sum() for part in parts.values())))
