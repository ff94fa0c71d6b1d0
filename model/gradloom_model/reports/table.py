"""An estimate in the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..iso import OURS, EqualArea
from ..layers import Layer
from ..memory import REASONS
from ..schedules import BASELINE
from .summary import (
    NOTES,
    SHORT_REASONS,
    Report,
    amount,
    assumption_texts,
    joules,
    operator_lines,
    short_reason,
    titles,
)

__all__ = ["print_report", "shape_of"]

WIDE = 100
"""Columns of a terminal from which on tables have air."""

SHORT_OPERANDS = ("X, Y", "D, dX", "W", "dW", "state", "sums", "masks")
"""`summary.OPERANDS` where there is little room."""


def print_report(console: Console, report: Report, schedules: Sequence[str], *,
                 layers: Sequence[str] = (), equal: Sequence[EqualArea] = ()) -> None:
    """Print head, schedules, accesses, layers where asked for, assumptions and notes.

    Parameters
    ----------
    console : Console
    report : Report
    schedules : names
        What to show.
    layers : names
        Schedules to show layer by layer.
    equal : sequence of EqualArea
        Arrays of equal area to show.
    """
    _lines(console, _head(report))
    for table in (_schedules(console, report, schedules), _accesses(console, report, schedules),
                  *(_equal_area(console, report, equal) for _ in equal[:1]),
                  *(_layers(console, report, name) for name in layers)):
        console.print()
        console.print(table)
    if equal:
        _lines(console, ["Equal area: arrays after synthesis, edges included, buffers and control "
                         "left out; the baselines are given hidden loads that their area lacks."])
    console.print()
    if layers:
        _lines(console, ["Moved again:"])
        _lines(console, [f"{short}: {long}." for short, long in zip(SHORT_REASONS, REASONS)
                         if short], indent=2)
    _lines(console, ["Schedules: " + "; ".join(
        f"{name}: {titles()[name]}" for name in schedules) + "."])
    _lines(console, ["use: products over cycles x cells; those of a packed word count each. "
                     "Accesses: elements of any width."])
    console.print()
    _lines(console, ["Assumptions, each changed by --set:"])
    _lines(console, [" ".join(f"{name}={text}" for name, text
                              in assumption_texts(report.assumptions).items())], indent=2)
    _lines(console, [f"Energy table {report.table.provenance}"])
    _lines(console, [f"{note}." for note in report.table_notes], indent=2)
    console.print()
    _lines(console, ["What the numbers are not:"])
    _lines(console, [f"- {note}" for note in NOTES], indent=2)


def _lines(console: Console, lines: Iterable[str], indent: int = 0) -> None:
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, indent), expand=False))


def _head(report: Report) -> list[str]:
    network, a = report.network, report.assumptions
    parts = (network.name, f"{report.layers} layers",
             f"{amount(network.macs, 'MACs')} a sample forward",
             f"{amount(network.weights)} weights",
             f"{a.rows} x {a.columns} array", f"batch {a.batch}")
    return [", ".join(parts), *operator_lines(network)]


def _table(console: Console, title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="italic",
                  box=None, padding=(0, 2 if console.width >= WIDE else 1, 0, 0), pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _schedules(console: Console, report: Report, schedules: Sequence[str]) -> Table:
    table = _table(
        console, f"A training step of {report.assumptions.batch} samples, gains over {BASELINE}, "
        f"energy by {report.table.name}", "schedule", "cycles", "gain", "stalls", "use",
        "accesses", "gain", "DRAM", "energy")
    base = report.summaries[BASELINE]
    for name in schedules:
        one = report.summaries[name]
        accesses = sum(one.accesses.values())
        table.add_row(
            name, f"{one.cycles:,.0f}", f"{one.ratio:.2f}", f"{one.stalls / one.cycles:.0%}",
            f"{one.utilization:.0%}", amount(accesses),
            f"{sum(base.accesses.values()) / accesses:.2f}",
            amount(sum(one.dram.values()), "B"),
            joules(sum(one.energy.values()), report.table.unit))
    return table


def _accesses(console: Console, report: Report, schedules: Sequence[str]) -> Table:
    table = _table(console, "Buffer accesses and hops from cell to cell, elements", "schedule",
                   *SHORT_OPERANDS, "hops")
    for name in schedules:
        one = report.summaries[name]
        table.add_row(name, *(amount(value) for value in (*one.accesses.values(), one.hops)))
    return table


def _equal_area(console: Console, report: Report, equal: Sequence[EqualArea]) -> Table:
    a = report.assumptions
    table = _table(console, "Equal area, gains over the first of each", "array", "size", "schedule",
                   "cycles", "gain", "accesses", "gain", "energy", "gain")
    table.columns[2].justify = "left"
    base = None
    for one in equal:
        if base is None or one.reference != base.reference:
            base = one
            whose = "ours" if one.reference == OURS else "plain"
            table.add_row(f"area of {whose}", f"{a.rows} x {a.columns}", style="italic")
        table.add_row(
            f"  {one.kind}", f"{one.rows} x {one.columns}", one.schedule, f"{one.cycles:,.0f}",
            f"{base.cycles / one.cycles:.2f}", amount(one.accesses),
            f"{base.accesses / one.accesses:.2f}", joules(one.energy, report.table.unit),
            f"{base.energy / one.energy:.2f}")
    return table


def _layers(console: Console, report: Report, name: str) -> Table:
    step = report.step(name)
    wide = console.width >= WIDE
    table = _table(console, f"Layers under {name}, gains over {BASELINE}", "layer",
                   *["shape"] * wide, "cycles", "gain", "stalls", "use", "accesses", "DRAM")
    if step.forward is not None:
        table.add_column("forward / backward", overflow="fold")
    table.add_column("moved again", overflow="fold")
    base, macs = report.step(BASELINE), report.per_layer(step.counts["macs"])
    for index, layer in enumerate(report.network.layers):
        cycles = float(step.cycles[index])
        row = [layer.name, *[shape_of(layer)] * wide, f"{cycles:,.0f}",
               f"{base.cycles[index] / cycles:.2f}",
               f"{step.stall_cycles[index] / cycles:.0%}",
               f"{macs[index] / (cycles * report.cells):.0%}",
               amount(float(step.accesses[index])), amount(float(step.dram_bytes[index]), "B")]
        if step.forward is not None and step.backward is not None:
            row.append(f"{step.forward[index]} / {step.backward[index]}")
        table.add_row(*row, short_reason(step, index))
    return table


def shape_of(layer: Layer) -> str:
    """Return what a layer multiplies, in few words: features, kernel, rows."""
    height, width = layer.out_size
    found = f"{layer.inputs}>{layer.outputs}"
    if layer.kind == "conv":
        found += f" {layer.kernel[0]}x{layer.kernel[1]}"
        if layer.groups > 1:
            found += f"/{layer.groups}"
        return f"{found} {height}x{width}"
    if layer.copies > 1:
        found = f"{layer.copies} of {found}"
    return found if height * width == 1 else f"{found} {height * width} rows"
