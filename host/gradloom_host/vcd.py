"""The signals of a VCD file, cycle by cycle."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

__all__ = ["CYCLE", "read_cycles"]

CYCLE = 10
"""Time units of a cycle in the simulator's waves, which settles half-way."""


def read_cycles(path: Path, wanted: Callable[[tuple[str, ...]], bool]
                ) -> dict[tuple[str, ...], np.ndarray]:
    """Return signals of a file that `Simulator` wrote, as they stand when a cycle ends.

    Parameters
    ----------
    path : Path
    wanted : callable
        Told the path of a signal, scopes first, whether to read it.

    Returns
    -------
    dict of path to int64 array (cycles,)
        Signals of up to 63 bits, unsigned.

    Raises
    ------
    ValueError
        If a line is not as Verilator writes it.
    """
    with Path(path).open() as lines:
        names = _header(lines, wanted)
        changes: dict[str, list[tuple[int, int]]] = {code: [] for code in names.values()}
        cycle = 0
        for line in lines:
            kind = line[0]
            if kind == "#":
                # What changes at an edge, or settles after it, belongs to the cycle that it begins.
                cycle = int(line[1:]) // CYCLE
            elif kind in "01":
                value, code = line[0], line[1:].strip()
                if code in changes:
                    changes[code].append((cycle, int(value)))
            elif kind == "b":
                value, code = line[1:].split()
                if code in changes:
                    changes[code].append((cycle, int(value, 2)))
            elif line.strip():
                raise ValueError(f"{path} has the line {line.strip()!r}: read files of `Simulator`")
    sampled = {code: _sample(found, cycle + 1) for code, found in changes.items()}
    return {name: sampled[code] for name, code in names.items()}


def _header(lines: Iterable[str], wanted: Callable[[tuple[str, ...]], bool]
            ) -> dict[tuple[str, ...], str]:
    """Return the code of each signal that is wanted, with the declarations read."""
    names = {}
    scopes: list[str] = []
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] == "$scope":
            scopes.append(words[2])
        elif words[0] == "$upscope":
            scopes.pop()
        elif words[0] == "$var":
            name = (*scopes, words[4])
            if wanted(name):
                names[name] = words[3]
        elif words[0] == "$enddefinitions":
            break
    return names


def _sample(changes: list[tuple[int, int]], cycles: int) -> np.ndarray:
    """Return the last value of each cycle."""
    values = np.zeros(cycles, np.int64)
    for (start, value), (end, _) in zip(changes, [*changes[1:], (cycles, 0)]):
        values[start:end] = value
    return values
