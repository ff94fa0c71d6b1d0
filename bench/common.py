"""What the benchmarks share: their arguments, runs on the RTL held to the golden counts, output."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gradloom_golden.config import Config
from gradloom_golden.cycles import counts, program_cycles
from gradloom_golden.program import COUNTERS, Descriptor
from gradloom_host.device import Device
from gradloom_host.files import write_file
from gradloom_host.report import tool_versions

__all__ = ["arguments", "emit", "measured"]

WIDTH = 110


def arguments(description: str) -> argparse.Namespace:
    """Return the parsed command line: `json`, the file to write or None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser.parse_args()


def measured(device: Device, program: Sequence[Descriptor]) -> dict[str, int]:
    """Run a program and return what the machine counted.

    Raises
    ------
    RuntimeError
        If a counter differs from the golden model's.
    """
    device.clear_counters()
    device.run(program)
    found = device.counters
    expected: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    for descriptor in program:
        for name, value in counts(device.config, descriptor).items():
            expected[name] += value
    expected["cycles"] = program_cycles(device.config, program)
    for name in COUNTERS:
        if found[name] != expected[name]:
            raise RuntimeError(
                f"counter {name} is {found[name]} in the RTL, {expected[name]} in the golden "
                "model: run the tests of the machine")
    return found


def emit(name: str, note: str, configs: Mapping[str, Config], rows: Sequence[Mapping],
         path: Path | None) -> None:
    """Print rows of equal keys as a table, with note and versions; write all as JSON to `path`."""
    table = Table(title=name, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console = Console(width=WIDTH) if not Console().is_terminal else Console()
    console.print(table)
    versions = tool_versions()
    console.print(note, highlight=False)
    for label, config in configs.items():
        fields = ", ".join(f"{field} {value}" for field, value in asdict(config).items())
        console.print(f"{label}: {fields}", highlight=False)
    console.print(", ".join(f"{tool} {version}" for tool, version in versions.items()),
                  highlight=False)
    if path is None:
        return
    content = {
        "benchmark": name, "note": note, "versions": versions,
        "configs": {label: asdict(config) for label, config in configs.items()},
        "rows": [dict(row) for row in rows],
    }
    write_file(path, json.dumps(content, indent=2) + "\n")


def _shown(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
