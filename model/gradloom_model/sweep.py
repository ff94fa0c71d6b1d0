"""Many machines at once: the same equations with an axis for configurations.

Points that share their words and switches (`folds`, `taps`, ...) are stacked: their numbers become
arrays of shape (n, 1), which broadcast against the layers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np

from .assumptions import Assumptions
from .estimate import BEST, step_cost
from .geometry import geometry
from .layers import Network
from .schedules import SCHEDULES
from .work import Products

__all__ = ["Point", "Result", "grid", "stacked", "sweep"]

STACKED = 512
"""Configurations of one stack; more gain no time and take memory."""

_OPTIONAL = tuple(field.name for field in fields(Assumptions)
                  if field.type in (int | None, float | None))
_NUMBERS = _OPTIONAL + tuple(field.name for field in fields(Assumptions)
                             if field.type in (int, float))
"""Numbers that may differ within a stack; those that may be None are None in all or in none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One question of a sweep."""

    network: Network
    assumptions: Assumptions
    schedule: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Totals of a training step over all layers.

    Attributes
    ----------
    point : Point
    cycles, stall_cycles : float
        All, and those of them that wait for DRAM.
    accesses : float
        Elements read from and written to the buffers.
    dram_bytes : float
    macs : float
        Products of operands that exist; over cycles x cells it is the utilization.
    """

    point: Point
    cycles: float
    stall_cycles: float
    accesses: float
    dram_bytes: float
    macs: float

    @property
    def utilization(self) -> float:
        """Products of operands over cycles x cells; above 1 where cells do several at once."""
        a = self.point.assumptions
        return self.macs / (self.cycles * a.rows * a.columns)


def grid(networks: Iterable[Network], schedules: Iterable[str],
         base: Assumptions | None = None, **values: Sequence) -> Iterator[Point]:
    """Yield the points of a grid: every network, schedule, and combination of assumptions.

    Parameters
    ----------
    networks, schedules : iterables
    base : Assumptions, optional
    **values : sequences
        By field of `Assumptions`; `array=[(rows, columns), ...]` sets both edges.
    """
    base = base or Assumptions()
    schedules = list(schedules)
    settings: list[dict] = [{}]
    for name, choices in values.items():
        settings = [one | ({"rows": choice[0], "columns": choice[1]} if name == "array"
                           else {name: choice}) for one in settings for choice in choices]
    machines = [replace(base, **setting) for setting in settings]
    for network in networks:
        for schedule in schedules:
            for machine in machines:
                yield Point(network=network, assumptions=machine, schedule=schedule)


def sweep(points: Iterable[Point],
          progress: Callable[[int], None] = lambda done: None) -> list[Result]:
    """Return the results of all points, in their order.

    Parameters
    ----------
    points : iterable of Point
    progress : callable
        Told how many points are done.

    Raises
    ------
    ValueError
        If there is no such schedule.
    """
    points = list(points)
    stacks: dict[tuple, list[int]] = defaultdict(list)
    for index, point in enumerate(points):
        if point.schedule not in SCHEDULES and point.schedule != BEST:
            raise ValueError(f"unknown schedule {point.schedule!r}; choose from "
                             f"{', '.join(SCHEDULES)}, {BEST}")
        stacks[id(point.network), point.schedule, *_shared(point.assumptions)].append(index)
    results: list[Result | None] = [None] * len(points)
    done = 0
    for members in stacks.values():
        for start in range(0, len(members), STACKED):
            some = members[start:start + STACKED]
            for index, result in zip(some, _stack([points[index] for index in some])):
                results[index] = result
            done += len(some)
            progress(done)
    return [result for result in results if result is not None]


def _shared(a: Assumptions) -> tuple:
    """Return what members of a stack have in common."""
    return tuple(getattr(a, field.name) for field in fields(a) if field.name not in _NUMBERS
                 ) + tuple(getattr(a, name) is None for name in _OPTIONAL)


def _stack(points: Sequence[Point]) -> Iterator[Result]:
    first = points[0]
    machines = stacked([point.assumptions for point in points])
    step = step_cost(first.schedule, Products(geometry(first.network), machines))
    shape = len(points), len(first.network.layers)
    totals = {name: np.broadcast_to(value, shape).sum(axis=1) for name, value in (
        ("cycles", step.cycles), ("stall_cycles", step.stall_cycles),
        ("accesses", step.accesses), ("dram_bytes", step.dram_bytes),
        ("macs", step.counts["macs"]))}
    for index, point in enumerate(points):
        yield Result(point=point, **{name: float(value[index]) for name, value in totals.items()})


def stacked(members: Sequence[Assumptions]) -> Assumptions:
    """Return what reads like the assumptions of one machine, its numbers arrays of shape (n, 1).

    All members share words and switches, and what is None.
    """
    return cast(Assumptions, _Stacked(members))


class _Stacked:
    """Assumptions of many machines, that read like those of one."""

    def __init__(self, members: Sequence[Assumptions]):
        first = members[0]
        for field in fields(first):
            values = [getattr(member, field.name) for member in members]
            if field.name in _NUMBERS:
                value = None if values[0] is None else np.array(values)[:, None]
            else:
                value = values[0]
            setattr(self, field.name, value)
