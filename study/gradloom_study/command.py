"""``gradloom study``: run a grid, draw it, and write the page about it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gradloom_host.missing import require

from .summary import Row, by_network, summarise

__all__ = ["study_command"]

DONE = 0

OF_RUNS = ("data", "processes", "threads", "device", "scheduler", "only")
"""Options that say nothing about results that are there."""


def study_command(options: argparse.Namespace) -> int:
    """Do what the command line says: run a study, ``plot`` results, or write their ``page``."""
    require("torch", "study")
    require("matplotlib", "study")
    first, *rest = options.words
    if first in ("plot", "page"):
        if not rest or (first == "plot" and len(rest) > 1):
            raise ValueError(
                f"study {first} takes the results of a study, a folder or its results.json")
        idle = [f"--{name}" for name in OF_RUNS if getattr(options, name)]
        if idle:
            raise ValueError(f"study {first} takes no {', '.join(idle)}: runs do")
        return _plot(Path(rest[0]), options.output) if first == "plot" else _page(
            rest, options.output)
    if options.scheduler and options.processes:
        raise ValueError("--processes is not for --scheduler: the threads of the cluster say how "
                         "many runs go at once")
    if rest:
        raise ValueError(f"study takes one CONFIG.toml, or plot RESULTS, not {options.words}")
    return _run(Path(first), options)


def _run(config: Path, options: argparse.Namespace) -> int:
    from .config import read_study  # noqa: PLC0415 - imports torch, which the page does not need
    from .runner import run_study  # noqa: PLC0415

    study = read_study(config)
    output = options.output or Path("build") / "study" / study.name
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(),
               TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def tell(name: str, done: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0)
            progress.update(tasks[name], completed=done)
            if done >= 1:
                progress.update(tasks[name], visible=False)

        path = run_study(
            study, output, options.data, processes=options.processes or 1,
            devices=options.device or ("cpu",), threads=options.threads or 1,
            scheduler=options.scheduler, only=options.only, progress=tell)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return _plot(output, None)


def _plot(results: Path, output: Path | None) -> int:
    from .plot import draw  # noqa: PLC0415 - needs Matplotlib
    from .results import load_results  # noqa: PLC0415

    content = load_results(results)
    console = Console()
    for network, rows in by_network(summarise(content)).items():
        console.print(_table(network, rows))
    folder = output or (results if results.is_dir() else results.parent)
    for path in draw(content, folder):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return DONE


def _page(results: Sequence[str], output: Path | None) -> int:
    from .page import write_page  # noqa: PLC0415 - imports torch
    from .results import load_results  # noqa: PLC0415

    target = output or Path("docs") / "accuracy.md"
    for path in map(Path, results):
        if target.resolve() in (path.resolve(), path.with_suffix(".md").resolve()):
            raise ValueError(f"{target} is what the page is made from: choose another file with -o")
    write_page(target, [(load_results(Path(path)), _comment(Path(path))) for path in results])
    print(target)
    return DONE


def _comment(results: Path) -> str:
    """Return what somebody wrote about results: NAME.md beside NAME.json, if there is one."""
    written = results.with_suffix(".md")
    return written.read_text() if results.is_file() and written.is_file() else ""


def _table(network: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{network}: accuracy against backward work")
    table.add_column("policy", no_wrap=True)
    for name in ("seeds", "test %", "±", "to int8", "skipped %", "not seen %", "bits"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.policy, str(len(row.accuracies)),
            f"{100 * row.accuracy:.2f}",
            f"{100 * row.spread:.2f}" if len(row.accuracies) > 1 else "",
            "" if row.change is None else f"{100 * row.change.mean:+.2f}",
            f"{100 * row.skipped:.1f}", f"{100 * row.forward:.1f}",
            "" if row.bits is None else f"{row.bits:.1f}")
    return table
