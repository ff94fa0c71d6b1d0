"""Counted coverage: bins that are named before a test and must not stay empty after it."""

import json
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

__all__ = ["Coverage", "cross"]


def cross(*axes: Iterable[object]) -> list[str]:
    """Return the bin of every combination, ``"a/b"`` for the values a and b."""
    return ["/".join(str(value) for value in values) for values in product(*axes)]


class Coverage:
    """How often each bin was hit.

    Parameters
    ----------
    points : mapping of str to bins
        The required bins of each point. A bin is named by the text of its value.
    """

    def __init__(self, points: Mapping[str, Iterable[object]]):
        self.counts = {point: {str(b): 0 for b in bins} for point, bins in points.items()}

    def hit(self, point: str, *values: object) -> None:
        """Count one hit of a bin; several values name a bin of a `cross`.

        Raises
        ------
        ValueError
            The point or the bin was not declared.
        """
        name = "/".join(str(value) for value in values)
        if name not in self.counts.get(point, ()):
            raise ValueError(f"Bin {name!r} of point {point!r} must be declared before it is hit")
        self.counts[point][name] += 1

    def missing(self) -> list[str]:
        """Return the empty bins, as ``"point: bin"``."""
        return [f"{p}: {b}" for p, bins in self.counts.items() for b, n in bins.items() if not n]

    def report(self) -> str:
        """Return the counts of all bins, one point a line."""
        lines = []
        for point, bins in self.counts.items():
            filled = sum(count > 0 for count in bins.values())
            counts = "  ".join(f"{name} {count}" for name, count in bins.items())
            lines.append(f"{point} ({filled} of {len(bins)}): {counts}")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the counts where `load` finds them, for a bench in another process."""
        path.write_text(json.dumps(self.counts))

    @classmethod
    def load(cls, path: Path) -> "Coverage":
        """Return the coverage that `save` wrote."""
        coverage = cls({})
        coverage.counts = json.loads(path.read_text())
        return coverage
