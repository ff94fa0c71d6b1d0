"""The slots of a tile, in the order that the documentation gives them."""

from collections.abc import Iterator
from dataclasses import dataclass

from gradloom_golden.program import Schedule

__all__ = ["Slot", "tile"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One slot of a tile of T steps, in groups of q.

    Parameters
    ----------
    step : int or None
        The step whose D, or in a forward pass X, is given; it may be past the last one. None
        where what is given does not matter.
    sums : bool
        The slot gives a row of sums.
    group : int or None
        The group of activations that an output-stationary slot takes.
    counts : bool
        The D given with it belongs to the weight gradient: each step counts once a tile.
    """

    step: int | None
    sums: bool = False
    group: int | None = None
    counts: bool = False


def tile(steps: int, q: int, schedule: Schedule | None) -> Iterator[Slot]:
    """Yield the slots of a tile; no schedule is the forward pass."""
    groups = -(-steps // q)
    if schedule is None or schedule in (Schedule.INPUT_GRADIENT, Schedule.SEQUENTIAL):
        for step in range(steps):
            yield Slot(step=step, sums=True)
    if schedule == Schedule.INTERLEAVED:
        for group in range(groups):
            for step in range(group * q, group * q + q):
                yield Slot(step=step, sums=step < steps, counts=step < steps)
            # One lane takes the D that is given; packed ones take D that has passed.
            yield Slot(step=group if q == 1 else None, group=group)
    if schedule in (Schedule.WEIGHT_GRADIENT, Schedule.SEQUENTIAL):
        if q == 1:
            for step in range(steps):
                yield Slot(step=step, group=step, counts=True)
            return
        for step in range(groups * q + 1):
            due = step and step % q == 0
            yield Slot(step=step, group=step // q - 1 if due else None, counts=step < steps)
