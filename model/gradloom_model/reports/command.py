"""``gradloom estimate``: what training a network costs, before anything is built."""

import argparse
import difflib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gradloom_golden.config import Config
from gradloom_host.files import write_file

from ..assumptions import CHOICES, Assumptions
from ..energy import drams, load, tables
from ..estimate import BEST, estimate
from ..iso import equal_area
from ..layers import Network
from ..readers.csv_reader import load as load_network
from ..readers.csv_reader import shipped
from ..readers.read import network as read_network
from ..schedules import BASELINE, SCHEDULES
from .export import to_csv, to_json
from .summary import Report, titles
from .table import print_report

__all__ = ["assumptions_of", "estimate_command"]

SUFFIXES = {"json": (".json",), "csv": (".csv",), "html": (".html", ".htm")}

PIPE_WIDTH = 120
"""Columns of what goes into a file or a pipe."""


def estimate_command(options: argparse.Namespace, config: Config | None) -> int:
    """Print an estimate and write what is asked for.

    Parameters
    ----------
    options : Namespace
        Of the command line.
    config : Config or None
        The machine of ``--preset``.

    Raises
    ------
    TypeError, ValueError, OSError
        Naming value and remedy; nothing was written then.
    """
    if options.list:
        _print_lists(_console())
        return 0
    if options.network is None:
        raise ValueError("name a network, a .csv or an .onnx file; --list prints the networks that "
                         "come with GradLoom")
    schedules = _schedules(options.schedule)
    assumptions = assumptions_of(options, config)
    table = load(options.energy, options.dram)
    writers: dict[str, Callable[[Report], str]] = {
        "json": lambda report: to_json(report, schedules),
        "csv": lambda report: to_csv(report, schedules), "html": _to_html}
    targets = {kind: path for kind in writers if (path := getattr(options, kind)) is not None}
    for kind, path in targets.items():
        check_target(kind, path)
    network = _network(options.network, options.size)
    report = Report(estimate(network, assumptions), table)
    console = _console()
    layers = (schedules if options.schedule else [BEST]) if options.layers else []
    equal = list(equal_area(network, assumptions, table)) if options.iso_area else ()
    print_report(console, report, schedules, layers=layers, equal=equal)
    for kind, path in targets.items():
        write_file(path, writers[kind](report))
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _console() -> Console:
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=PIPE_WIDTH)


def _to_html(report: Report) -> str:
    from .html import to_html  # noqa: PLC0415 - plotly is not needed otherwise

    return to_html(report)


def _network(source: str, sizes: Iterable[str]) -> Network:
    if not sizes:
        return read_network(source)
    if not source.lower().endswith(".onnx"):
        raise ValueError(f"--size is for the dimensions of an .onnx file, and {source!r} is none")
    found = {}
    for one in sizes:
        name, equals, text = one.rpartition("=")
        if not equals or not name or not text.isdecimal():
            raise ValueError(f"--size takes NAME=NUMBER, not {one!r}")
        found[name] = int(text)
    return read_network(source, sizes=found)


def _schedules(names: Iterable[str] | None) -> list[str]:
    known = [*SCHEDULES, BEST]
    if not names:
        return known
    for name in names:
        if name not in known:
            raise ValueError(f"unknown schedule {name!r}{_meant(name, known)}; choose from "
                             f"{', '.join(known)}")
    return [name for name in known if name in names]


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def assumptions_of(options: argparse.Namespace, config: Config | None) -> Assumptions:
    """Return the assumptions of a command line; `--set` wins over options, they over a preset.

    Raises
    ------
    TypeError, ValueError
        Naming field and value.
    """
    changes: dict = {}
    if options.array is not None:
        changes |= {"rows": options.array[0], "columns": options.array[1]}
    for name in ("batch", "skip"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.lanes is not None:
        changes["lanes"] = 8 // options.lanes
    kinds = {field.name: field.type for field in fields(Assumptions)}
    for change in options.changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, not {change!r}")
        if name not in kinds:
            raise ValueError(f"there is no assumption {name!r}{_meant(name, kinds)}; choose from "
                             f"{', '.join(kinds)}")
        changes[name] = _value(name, text, kinds[name])
    return Assumptions(**changes) if config is None else Assumptions.of(config, **changes)


def _value(name: str, text: str, kind):
    switches = {"true": True, "false": False, "on": True, "off": False, "1": True, "0": False}
    if kind is str:
        if text not in CHOICES[name]:
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {text!r}")
        return text
    if kind is bool:
        if text.lower() not in switches:
            raise ValueError(f"{name} is on or off, not {text!r}")
        return switches[text.lower()]
    optional = kind in (int | None, float | None)
    if optional and text.lower() == "none":
        return None
    whole = kind in (int, int | None)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is a {'whole ' * whole}number{' or none' * optional}, "
                         f"not {text!r}")
    return value


def check_target(kind: str, path: Path) -> None:
    """Raise if a file cannot be written, before anything is computed.

    Parameters
    ----------
    kind : str
        "json", "csv" or "html".
    path : Path

    Raises
    ------
    ValueError
        If it has the suffix of something else.
    OSError
        If there is no way to create it.
    """
    suffixes = SUFFIXES[kind]
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--{kind} writes a file that ends in {suffixes[0]}, not {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; name a file in it")
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(path)!r} cannot be written: {str(folder)!r} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{str(path)!r} cannot be written: no right to write in "
                              f"{str(folder)!r}")


def _print_lists(console: Console) -> None:
    networks = Table(title="Networks", title_justify="left", box=None, pad_edge=False,
                     padding=(0, 2, 0, 0))
    for name in ("name", "layers", "GMACs a sample", "M weights"):
        networks.add_column(name, justify="left" if name == "name" else "right")
    for name in shipped():
        one = load_network(name)
        networks.add_row(name, str(len(one.layers)), f"{one.macs / 1e9:.3f}",
                         f"{one.weights / 1e6:.3f}")
    energies = _pairs("Energy tables (--energy)", [
        (name, f"{one.title} ({one.status}, in {one.unit})") for name in tables()
        for one in (load(name),)])
    kinds = _pairs("DRAM in place of a table's own (--dram)", [
        (name, load(tables()[0], name).dram_source) for name in drams()])
    schedules = _pairs("Schedules (--schedule)", [
        (name, title + " (baseline)" * (name == BASELINE)) for name, title in titles().items()])
    for table in (networks, energies, kinds, schedules):
        console.print(table)
        console.print()


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False,
                  padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table
