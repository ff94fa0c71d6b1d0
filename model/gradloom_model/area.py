"""Area of this repository's arrays, fitted to synthesis, and arrays of equal area.

The figures that are fitted are in data/array_area.csv, with library, tool and configuration. An
array has cells, whose sums widen with the longer edge, and edges that skew vectors: a triangle of
registers for each.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .assumptions import Assumptions
from .energy import buffers
from .sram import cacti, data_rows, data_text

__all__ = ["IsoArea", "array_area", "buffer_area", "coefficients", "fit_errors", "gate_area",
           "iso_area", "kinds", "machine_area", "provenance"]

CELL_TERMS = ("cell", "cell_bit")
EDGE_TERMS = ("west", "west_bit", "north", "north_bit", "row", "column", "constant")
"""What the fit has coefficients for, in gate equivalents: see `_terms`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsoArea:
    """The largest array that fits.

    Attributes
    ----------
    rows, columns : int
    area, target : float
        What it takes and what there was, in `unit`.
    unit : str
        "GE", or "mm2" with buffers.
    """

    rows: int
    columns: int
    area: float
    target: float
    unit: str

    @property
    def left_over(self) -> float:
        """Area that stays empty."""
        return self.target - self.area

    def __str__(self) -> str:
        """Return size and what is left over."""
        return (f"{self.rows} x {self.columns}: {self.area:,.6g} of {self.target:,.6g} "
                f"{self.unit}, {self.left_over / self.target:.1%} left over")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Measured:
    rows: np.ndarray
    columns: np.ndarray
    fitted: np.ndarray
    cell: np.ndarray
    area: np.ndarray


@lru_cache(maxsize=1)
def _measured() -> dict[str, _Measured]:
    rows = list(data_rows("array_area.csv"))
    found = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        found[kind] = _Measured(
            rows=np.array([int(row["rows"]) for row in mine]),
            columns=np.array([int(row["columns"]) for row in mine]),
            fitted=np.array([row["fitted"] == "1" for row in mine]),
            cell=np.array([float(row["cell_ge"]) for row in mine]),
            area=np.array([float(row["array_ge"]) for row in mine]))
    return found


def provenance() -> str:
    """Return command, library, tool and configuration of the measured areas."""
    lines = data_text("array_area.csv").splitlines()
    return "\n".join(line[2:] for line in lines if line.startswith("# "))


def kinds() -> tuple[str, ...]:
    """Return the kinds of arrays measured, the plain one first."""
    return tuple(_measured())


def _terms(rows, columns) -> tuple[np.ndarray, np.ndarray]:
    """Return the terms of a cell and those of the edges, along a last axis.

    Bits are what sums grow by over a product: the logarithm of the longer edge, rounded up. An edge
    of n skews its elements by 0 to n - 1 cycles: those of the rows take and give sums, those of the
    columns sums and operands.
    """
    rows, columns = np.broadcast_arrays(np.asarray(rows, float), np.asarray(columns, float))
    bits, one = np.ceil(np.log2(np.maximum(rows, columns))), np.ones_like(rows)
    west, north = rows * (rows - 1) / 2, columns * (columns - 1) / 2
    return (np.stack([one, bits], axis=-1),
            np.stack([west, west * bits, north, north * bits, rows, columns, one], axis=-1))


@lru_cache(maxsize=16)
def _fit(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of cells, then of what is left, over the sizes that are fitted.

    Edges are fitted for the least error relative to the whole array.
    """
    if kind not in _measured():
        raise ValueError(f"unknown kind of array {kind!r}; choose from {', '.join(kinds())}")
    one = _measured()[kind]
    rows, columns, cell, area = (value[one.fitted] for value in (
        one.rows, one.columns, one.cell, one.area))
    cells, edges = _terms(rows, columns)
    edge = (area - rows * columns * cell) / area
    return (np.linalg.lstsq(cells, cell, rcond=None)[0],
            np.linalg.lstsq(edges / area[:, None], edge, rcond=None)[0])


def array_area(kind: str, rows, columns) -> np.ndarray:
    """Return the gate equivalents of arrays with their edges, without buffers and control.

    Parameters
    ----------
    kind : str
        One of `kinds`.
    rows, columns : int or array
        Any; only powers of two from 4 to 64 were ever measured.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    (cells, edges), (of_cell, of_edges) = _terms(rows, columns), _fit(kind)
    return np.asarray(rows) * np.asarray(columns) * (cells @ of_cell) + edges @ of_edges


def coefficients(kind: str) -> dict[str, float]:
    """Return the coefficients of the fit, in gate equivalents."""
    return dict(zip(CELL_TERMS + EDGE_TERMS, np.concatenate(_fit(kind)).tolist()))


def fit_errors(kind: str, *, fitted: bool) -> dict[tuple[int, int], float]:
    """Return the relative errors at sizes measured, by rows and columns.

    Parameters
    ----------
    kind : str
    fitted : bool
        At the sizes that the fit uses, or at the larger ones that it does not.
    """
    _fit(kind)
    one = _measured()[kind]
    error = array_area(kind, one.rows, one.columns) / one.area - 1
    return {(int(rows), int(columns)): float(value) for rows, columns, value, used in zip(
        one.rows, one.columns, error, one.fitted) if used == fitted}


@lru_cache(maxsize=8)
def gate_area(nm: int) -> float:
    """Return the area of one gate equivalent in um2.

    Raises
    ------
    ValueError
        If data/gate.toml has none of that technology.
    """
    gates = tomllib.loads(data_text("gate.toml"))
    if str(nm) not in gates:
        raise ValueError(f"no gate of {nm!r} nm is known; choose from {', '.join(gates)}")
    return gates[str(nm)]["area_um2"]


def buffer_area(a: Assumptions, nm: int) -> dict[str, np.ndarray]:
    """Return the area in mm2 of each buffer, from CACTI.

    Parameters
    ----------
    a : Assumptions
        Numbers may be arrays.
    nm : int
        Technology, one of `gradloom_model.sram.technologies`.
    """
    sram = cacti(nm)
    return {name: sram.area(one.capacity, one.port) for name, one in buffers(a).items()}


def machine_area(kind: str, a: Assumptions, nm: int) -> float:
    """Return the area in mm2 of an array and the buffers around it, of nothing else."""
    logic = array_area(kind, a.rows, a.columns) * gate_area(nm) * 1e-6
    return float(logic + sum(buffer_area(a, nm).values()))


def iso_area(kind_from: str, rows: int, columns: int, kind_to: str, *, square: bool = False,
             a: Assumptions | None = None, nm: int = 65) -> IsoArea:
    """Return the largest array of one kind in the area of another.

    With buffers, whose area jumps with the width of a word, it is one that fits while the next
    larger one does not.

    Parameters
    ----------
    kind_from : str
    rows, columns : int
        Of the array whose area there is.
    kind_to : str
        Of the array to fit in.
    square : bool
        As many rows as columns; otherwise their ratio is kept, the shorter edge rounded.
    a : Assumptions, optional
        With it, buffers count too, in `nm`: those whose words and depths follow the array change.
    nm : int

    Raises
    ------
    ValueError
        If there is no such kind or technology, or no array fits.
    """
    long, short = max(rows, columns), min(rows, columns)

    def shape(edge: int) -> tuple[int, int]:
        other = edge if square else max(1, (2 * edge * short + long) // (2 * long))
        return (edge, other) if rows >= columns else (other, edge)

    def area(kind: str, height: int, width: int) -> float:
        if a is None:
            return float(array_area(kind, height, width))
        return machine_area(kind, a.with_changes(rows=height, columns=width), nm)

    target = area(kind_from, rows, columns)
    edge = _largest(lambda edge: area(kind_to, *shape(edge)) <= target)
    if not edge:
        raise ValueError(f"no {kind_to!r} array fits in the area of {rows} x {columns} of "
                         f"{kind_from!r}: start from a larger one")
    height, width = shape(edge)
    return IsoArea(rows=height, columns=width, area=area(kind_to, height, width), target=target,
                   unit="GE" if a is None else "mm2")


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the last of 1, 2, ... that fits, 0 if none does; whatever fits, less does too."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
