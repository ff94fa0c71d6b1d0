"""What an access of an SRAM costs, and its area, between the points of a table."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

__all__ = ["PACKAGE", "Sram", "cacti", "data_rows", "data_text", "interpolate", "technologies"]

PACKAGE = "gradloom_model"

COLUMNS = {"read": "read_pJ", "write": "write_pJ", "area": "area_mm2"}
"""Of the table of CACTI points, by quantity."""


def interpolate(at, points, values) -> np.ndarray:
    """Return values between points, straight in logarithms of both; beyond the ends the end's.

    Parameters
    ----------
    at : array
    points, values : sequences of float
        Above zero; `points` rise.
    """
    points, values = np.asarray(points, float), np.asarray(values, float)
    at = np.clip(np.asarray(at, float), points[0], points[-1])
    found = np.exp(np.interp(np.log(at), np.log(points), np.log(values)))
    # A point itself is exact: exp(log(x)) need not be.
    index = np.searchsorted(points, at)
    return np.where(points[index] == at, values[index], found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sram:
    """Points of a family of SRAMs, by width of the port and by capacity.

    Attributes
    ----------
    points : dict of int to dict of str to tuple
        By port width in bits: "capacity" in KiB, rising, then "read", "write" an access and "area"
        where known, of the same length.
    """

    points: dict[int, dict[str, tuple[float, ...]]]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of ports, in bits, rising."""
        return tuple(sorted(self.points))

    def nearest(self, bits) -> np.ndarray:
        """Return the place in `widths` of the one nearest to `bits` by ratio, the wider of two."""
        widths = np.log(np.asarray(self.widths, float))[::-1]
        distance = np.abs(np.log(np.asarray(bits, float))[..., None] - widths)
        return len(widths) - 1 - np.argmin(np.round(distance, 12), axis=-1)

    def _at(self, quantity: str, capacity, bits) -> tuple[np.ndarray, np.ndarray]:
        """Return a quantity of the nearest width, and that width."""
        index = self.nearest(bits)
        shape = np.broadcast_shapes(index.shape, np.shape(capacity))
        found = np.zeros(shape)
        for one in np.unique(index):
            points = self.points[self.widths[one]]
            value = interpolate(capacity, points["capacity"], points[quantity])
            found = np.where(index == one, value, found)
        return found, np.asarray(self.widths)[index]

    def per_byte(self, quantity: str, capacity, bits) -> np.ndarray:
        """Return the energy of a byte of an access.

        Parameters
        ----------
        quantity : str
            "read" or "write".
        capacity : array
            KiB; outside the points that of the end.
        bits : array
            Width of the port; the nearest one in the table, by ratio, serves.
        """
        energy, width = self._at(quantity, capacity, bits)
        return energy * 8 / width

    def area(self, capacity, bits) -> np.ndarray:
        """Return the area in mm2; beyond the largest capacity, that many of the largest.

        A port wider than any in the table is made of as many of the widest, side by side, of a
        share of the capacity each.
        """
        capacity, bits = np.asarray(capacity, float), np.asarray(bits, float)
        beside = np.maximum(np.ceil(bits / self.widths[-1]), 1)
        share, width = capacity / beside, bits / beside
        largest = min(self.points[one]["capacity"][-1] for one in self.widths)
        banks = np.maximum(share / largest, 1)
        found, _ = self._at("area", share / banks, width)
        return found * banks * beside

    def outside(self, capacity, bits) -> np.ndarray:
        """Return where a capacity or a width is beyond the points, bool; one point has no ends."""
        sizes = [size for one in self.points.values() for size in one["capacity"]]
        found = np.zeros((), bool)
        for value, points in ((capacity, sizes), (bits, self.widths)):
            if len(set(points)) > 1:
                found = found | (np.asarray(value) < min(points)) | (
                    np.asarray(value) > max(points))
        return found


def data_text(*path: str) -> str:
    """Return the text of a file of this package's data."""
    return resources.files(PACKAGE).joinpath("data", *path).read_text(encoding="utf-8")


def data_rows(name: str) -> Iterable[dict[str, str]]:
    """Return the rows of a CSV file of this package's data, without the lines of its header."""
    lines = [line for line in data_text(name).splitlines() if not line.startswith("#")]
    return csv.DictReader(lines)


@lru_cache(maxsize=1)
def _cacti() -> dict[float, Sram]:
    found: dict[float, dict[int, list[dict[str, str]]]] = {}
    for row in data_rows("sram_cacti.csv"):
        widths = found.setdefault(float(row["tech_nm"]), {})
        widths.setdefault(int(row["width_bits"]), []).append(row)
    return {nm: Sram(points={
        width: {"capacity": tuple(float(row["size_kb"]) for row in rows)} | {
            name: tuple(float(row[column]) for row in rows) for name, column in COLUMNS.items()}
        for width, rows in widths.items()}) for nm, widths in found.items()}


def technologies() -> tuple[float, ...]:
    """Return the technologies of the CACTI table, in nm, rising."""
    return tuple(sorted(_cacti()))


def cacti(nm: float) -> Sram:
    """Return the points of a technology.

    Raises
    ------
    ValueError
        If the table has none of it.
    """
    if nm not in _cacti():
        listed = ", ".join(f"{one:g}" for one in technologies())
        raise ValueError(f"no SRAM of {nm!r} nm is in sram_cacti.csv; choose from {listed}")
    return _cacti()[nm]
