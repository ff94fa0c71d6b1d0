"""An estimate as JSON and as CSV, the same every time."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from ..counts import COUNTS
from ..estimate import StepCost
from ..memory import REASONS
from ..schedules import BASELINE
from .summary import (
    COMPONENT_TITLES,
    MOVED_TITLES,
    NOTES,
    Report,
    assumption_texts,
    versions,
)

__all__ = ["to_csv", "to_json"]

WHAT = ("One training step: cycles, elements read from and written to the buffers, bytes from and "
        "to DRAM, energy. Arrays have an entry for each layer, in the order of network.layers.")


def to_json(report: Report, schedules: Sequence[str]) -> str:
    """Return everything as JSON: totals, and arrays over layers for each schedule and pass."""
    return _dump({
        "what": WHAT,
        "what_it_is_not": list(NOTES),
        "versions": versions(),
        "network": _network(report),
        "assumptions": asdict(report.assumptions),
        "energy_table": _table(report),
        "baseline": BASELINE,
        "schedules": {name: _schedule(report, name) for name in schedules},
    }) + "\n"


def _network(report: Report) -> dict:
    network = report.network
    return {
        "name": network.name, "macs": network.macs, "weights": network.weights,
        "layers": [_Row(asdict(layer)) for layer in network.layers],
        "others": [_Row(asdict(one)) for one in network.others],
    }


def _table(report: Report) -> dict:
    table = report.table
    return {
        "name": table.name, "title": table.title, "status": table.status, "unit": table.unit,
        "technology_nm": table.technology_nm, "voltage": table.voltage, "source": table.source,
        "sram_source": table.sram_source, "dram_source": table.dram_source,
        "checked": table.checked, "limits": table.limits, "notes": report.table_notes,
    }


def _schedule(report: Report, name: str) -> dict:
    summary, step = report.summaries[name], report.step(name)
    found = {
        "title": summary.title,
        "totals": {
            "cycles": summary.cycles, "stall_cycles": summary.stalls, "gain": summary.ratio,
            "macs": summary.macs, "utilization": summary.utilization,
            "accesses": sum(summary.accesses.values()), "accesses_by_operand": summary.accesses,
            "dram_bytes": sum(summary.dram.values()), "dram_bytes_by_operand": summary.dram,
            "energy": sum(summary.energy.values()), "energy_by_component": summary.energy,
        },
        "layers": {"cycles": step.cycles, "stall_cycles": step.stall_cycles,
                   "accesses": step.accesses, "dram_bytes": step.dram_bytes},
        "passes": {one: _pass(report, name, one) for one in step.passes},
    }
    if step.forward is not None and step.backward is not None:
        found["chosen"] = {"forward": step.forward.tolist(), "backward": step.backward.tolist()}
    return found


def _pass(report: Report, name: str, one: str) -> dict:
    step = report.step(name)
    moved = step.traffic[one]
    spread = report.per_layer
    return {
        "counts": {count: spread(step.passes[one][count]) for count in COUNTS
                   if count in step.passes[one]},
        "stall_cycles": spread(step.stalls[one]),
        "dram_bytes": {operand: spread(value) for operand, value in moved.bytes.items()},
        "again": spread(moved.again),
        "reason": [REASONS[int(index)] for index in spread(moved.reason)],
        "energy": report.energy(name, one),
    }


class _Row(dict):
    """An object that stays on one line."""


def _dump(value, indent: int = 0) -> str:
    """Return JSON with objects over lines, and lists of plain values on one."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    inner, outer = "\n" + "  " * (indent + 1), "\n" + "  " * indent
    if isinstance(value, dict) and value and not isinstance(value, _Row):
        parts = (f"{json.dumps(key)}: {_dump(one, indent + 1)}" for key, one in value.items())
        return "{" + inner + f",{inner}".join(parts) + outer + "}"
    if isinstance(value, list) and any(isinstance(one, _Row) for one in value):
        return "[" + inner + f",{inner}".join(_dump(one, indent + 1) for one in value) + outer + "]"
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value):
    """Return whole numbers as such."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def to_csv(report: Report, schedules: Sequence[str]) -> str:
    """Return a row for each layer, schedule and pass.

    Lines that start with # come first: versions, assumptions, table of energies.
    """
    content = io.StringIO()
    for line in _comments(report):
        content.write(f"# {' '.join(line.split())}\n")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([
        "network", "layer", "kind", "schedule", "pass", "chosen", *COUNTS, "stall_cycles",
        *(f"dram_{operand}_bytes" for operand in MOVED_TITLES), "again", "reason",
        *(f"energy_{part}" for part in COMPONENT_TITLES)])
    for name in schedules:
        writer.writerows(_rows(report, name))
    return content.getvalue()


def _comments(report: Report) -> Iterator[str]:
    yield WHAT
    yield "versions: " + ", ".join(f"{name} {text}" for name, text in versions().items())
    yield "assumptions: " + " ".join(
        f"{name}={text}" for name, text in assumption_texts(report.assumptions).items())
    yield f"energy in {report.table.unit}, table {report.table.provenance}"
    for one in report.network.others:
        yield f"no cost: {one.name} ({one.operator}{'' if one.known else ', UNKNOWN'})"
    for note in NOTES:
        yield f"not: {note}"


def _rows(report: Report, name: str) -> Iterator[list]:
    step = report.step(name)
    for one, counts in step.passes.items():
        moved, spread = step.traffic[one], report.per_layer
        numbers = [counts.get(count, 0) for count in COUNTS] + [step.stalls[one]] + [
            moved.bytes.get(operand, 0) for operand in MOVED_TITLES] + [moved.again]
        columns = [[_plain(one) for one in spread(value).tolist()] for value in numbers]
        reasons = [REASONS[int(index)] for index in spread(moved.reason)]
        energies = [value.tolist() for value in report.energy(name, one).values()]
        for index, layer in enumerate(report.network.layers):
            yield [report.network.name, layer.name, layer.kind, name, one,
                   _chosen(step, one, index), *(column[index] for column in columns),
                   reasons[index], *(column[index] for column in energies)]


def _chosen(step: StepCost, one: str, index: int) -> str:
    """Return the schedule that a layer takes in a pass."""
    if step.forward is None or step.backward is None:
        return step.schedule
    return str((step.forward if one == "forward" else step.backward)[index])
