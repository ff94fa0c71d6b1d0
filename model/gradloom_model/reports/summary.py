"""What every output shows of an estimate: totals, energies, words about them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ..assumptions import Assumptions
from ..counts import ACCESSES, Counts
from ..energy import COMPONENTS, EnergyTable, energy, notes, prices
from ..estimate import BEST, Estimate, StepCost
from ..layers import Network
from ..memory import RESIDENT
from ..schedules import BASELINE, SCHEDULES

__all__ = [
    "COMPONENT_TITLES", "MOVED_TITLES", "NOTES", "OPERANDS", "SHORT_REASONS", "Report",
    "Summary", "again", "amount", "assumption_texts", "energy_unit", "joules", "operator_lines",
    "short_reason", "titles", "versions",
]

OPERANDS = {
    "x": "X and Y", "d": "D and dX", "w": "W", "dw": "dW", "state": "optimizer state",
    "sum": "partial sums", "mask": "ReLU masks",
}
"""Classes of buffer accesses, those of `counts.ACCESSES`, for people."""

MOVED_TITLES = {"x": "X", "y": "Y", "d": "D", "dx": "dX", "w": "W", "dw": "dW",
                "state": "optimizer state"}
"""Operands that DRAM moves."""

COMPONENT_TITLES = {"mac": "multipliers", "registers": "registers of the array"} | {
    name: f"buffer: {title}" for name, title in OPERANDS.items()} | {"dram": "DRAM"}
"""Parts of the energy."""

SHORT_REASONS = ("", "rows", "weights", "dW", "none")
"""Words for `memory.REASONS` where there is little room."""

_UNITS = {"forward": "Y", "input gradient": "dX", "weight gradient": "dW",
          "both gradients": "dX+dW", "update": "update"}

NOTES = (
    "Only matrix products and the update of weights are counted. Pooling, normalization, "
    "activation functions, additions, loss and rounding are not in the model.",
    "All schedules run on an array of the same size, not of the same area (see --iso-area).",
    "What skipping and narrow activations do to accuracy is not in the model: the share of "
    "samples skipped is taken as given.",
    "DRAM is a bandwidth: no latency, no bursts, no refresh. What a pass moves overlaps with its "
    "own computing, an update's with the gradients that it uses, and with no other pass.",
    "Cycles have no length: no placement, wiring or clock frequency stands behind them. Energy is "
    "dynamic only: no leakage, no clock tree, no control.",
)
"""What the numbers are not."""

JOULES = ((1e12, "J"), (1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ"))
"""Units of energy in pJ."""

STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float, unit: str = "") -> str:
    """Return a number with three digits or more and a prefix for thousands."""
    for size, prefix in STEPS:
        if abs(value) >= 0.99995 * size:
            return f"{_three(value / size)} {prefix}{unit}".rstrip()
    return f"{_three(value)} {unit}".rstrip()


def _three(value: float) -> str:
    size = abs(value)
    digits = 0 if size >= 999.5 or float(value).is_integer() else 1 if size >= 99.95 else 2
    return f"{value:,.{digits}f}"


def joules(value: float, unit: str) -> str:
    """Return an energy that is given in pJ, or in units of one operation."""
    if unit != "pJ":
        return f"{amount(value)} {unit}"
    for size, name in JOULES:
        if abs(value) >= 0.99995 * size:
            return f"{_three(value / size)} {name}"
    return f"{_three(value)} pJ"


def energy_unit(report: "Report") -> tuple[float, str]:
    """Return the unit for the energies of an estimate, in that of the table, and its name."""
    highest = max(sum(one.energy.values()) for one in report.summaries.values())
    if report.table.unit != "pJ":
        return 1, report.table.unit
    return next(((size, name) for size, name in JOULES if highest >= size), (1, "pJ"))


def versions() -> dict[str, str]:
    """Return the versions of what computes an estimate, of those installed."""
    found = {}
    for name in ("gradloom", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def assumption_texts(a: Assumptions) -> dict[str, str]:
    """Return all assumptions, as `--set` takes them."""
    return {field.name: _text(getattr(a, field.name)) for field in fields(a)}


def _text(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else f"{value:g}" if value < 1e6 else str(value)


def operator_lines(network: Network) -> list[str]:
    """Return what the network does beside the layers: counted by operator, unknown ones named."""
    known = Counter(one.operator for one in network.others if one.known)
    found = []
    if known:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(known.items()))
        found.append(f"Operators without multiplications on the array, at no cost: {listed}.")
    unknown = [f"{one.name} ({one.operator})" for one in network.others if not one.known]
    if unknown:
        found.append(f"UNKNOWN operators, at no cost, so that all totals may be too low: "
                     f"{', '.join(unknown)}.")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A training step under one schedule, all layers.

    Attributes
    ----------
    schedule, title : str
    cycles, stalls : float
        All, and those of them that wait for DRAM.
    ratio : float
        Cycles of the baseline over these.
    macs : float
        Products of operands that exist.
    utilization : float
        Those over cycles x cells; a packed word counts all its products, so that lanes may pass 1.
    accesses : dict of str to float
        Elements read and written, by operand.
    hops : float
        Elements that moved from cell to cell.
    dram : dict of str to float
        Bytes, by operand.
    energy : dict of str to float
        By component, in the unit of the table.
    """

    schedule: str
    title: str
    cycles: float
    stalls: float
    ratio: float
    macs: float
    utilization: float
    accesses: Mapping[str, float]
    hops: float
    dram: Mapping[str, float]
    energy: Mapping[str, float]


class Report:
    """An estimate with energies.

    Parameters
    ----------
    estimate : Estimate
        That has the baseline.
    table : EnergyTable
    """

    def __init__(self, estimate: Estimate, table: EnergyTable):
        self.estimate = estimate
        self.table = table
        self._prices = prices(table, estimate.assumptions)

    @property
    def network(self) -> Network:
        """The network."""
        return self.estimate.network

    @property
    def assumptions(self) -> Assumptions:
        """The assumptions."""
        return self.estimate.assumptions

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.network.layers)

    @property
    def cells(self) -> int:
        """Cells of the array."""
        return self.assumptions.rows * self.assumptions.columns

    @property
    def table_notes(self) -> list[str]:
        """Where figures of the table stand for others."""
        return notes(self.table, self.assumptions)

    def step(self, schedule: str) -> StepCost:
        """Return the cost of a schedule."""
        return self.estimate.steps[schedule]

    def per_layer(self, value) -> np.ndarray:
        """Return a count as an array over layers."""
        return np.broadcast_to(np.asarray(value, float), self.layers)

    def accesses(self, counts: Counts) -> dict[str, np.ndarray]:
        """Return elements read and written by operand, over layers."""
        found = {name: np.zeros(self.layers) for name in OPERANDS}
        for name, operand in ACCESSES.items():
            found[operand] = found[operand] + self.per_layer(counts.get(name, 0))
        return found

    def dram(self, schedule: str) -> dict[str, np.ndarray]:
        """Return bytes from and to DRAM by operand, over layers."""
        found = {name: np.zeros(self.layers) for name in MOVED_TITLES}
        for one in self.step(schedule).traffic.values():
            for name, value in one.bytes.items():
                found[name] = found[name] + self.per_layer(value)
        return found

    def energy(self, schedule: str, one: str | None = None) -> dict[str, np.ndarray]:
        """Return energies by component, over layers, of a step or of one of its passes."""
        step = self.step(schedule)
        counts = step.counts if one is None else step.passes[one]
        moved = step.dram_bytes if one is None else step.traffic[one].total
        found = energy(self.table, counts, self.assumptions, moved, each=self._prices)
        return {name: self.per_layer(found[name]) for name in COMPONENTS}

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """All schedules, in their order."""
        return {name: self._summary(name) for name in self.estimate.steps}

    def _summary(self, name: str) -> Summary:
        step = self.step(name)
        counts, cycles = step.counts, float(step.cycles.sum())
        macs = float(counts["macs"].sum())
        return Summary(
            schedule=name, title=titles()[name], cycles=cycles,
            stalls=float(step.stall_cycles.sum()),
            ratio=float(self.step(BASELINE).cycles.sum()) / cycles, macs=macs,
            utilization=macs / (cycles * self.cells),
            accesses=_sums(self.accesses(counts)), hops=float(counts["hops"].sum()),
            dram=_sums(self.dram(name)),
            energy=_sums(self.energy(name)))


def _sums(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value.sum()) for name, value in values.items()}


def again(step: StepCost, layer: int) -> Iterator[tuple[str, float, int]]:
    """Yield pass, how often what comes again comes, and why, of a layer; index of `REASONS`."""
    for name, one in step.traffic.items():
        reason = int(np.broadcast_to(one.reason, np.shape(step.cycles))[layer])
        if reason:
            yield name, float(np.broadcast_to(one.again, np.shape(step.cycles))[layer]), reason


def short_reason(step: StepCost, layer: int) -> str:
    """Return in few words what of a layer DRAM moves again, and how often it comes."""
    found: dict[str, list[str]] = {}
    for name, times, reason in again(step, layer):
        text = SHORT_REASONS[reason] + ("" if reason == RESIDENT else f" x{times:g}")
        found.setdefault(text, []).append(_UNITS[name])
    return "; ".join(text if text == SHORT_REASONS[RESIDENT] else f"{'/'.join(names)}: {text}"
                     for text, names in found.items())


def titles() -> dict[str, str]:
    """Return what each schedule is, in words that stand alone."""
    found: dict[str, str] = {}
    before = ""
    for name, schedule in SCHEDULES.items():
        before = f"{before} {schedule.title}" if schedule.title[0] == "+" else schedule.title
        found[name] = before
    return found | {BEST: "for each layer the fastest of them, with skip and fused updates"}
