"""An estimate as one HTML page: it loads nothing, and opens offline."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

import numpy as np
from plotly.offline import get_plotlyjs

from ..estimate import BEST
from ..memory import REASONS, RESIDENT
from ..schedules import BASELINE
from . import charts
from .charts import STYLES, Chart
from .drawings import drawings
from .summary import (
    NOTES,
    Report,
    amount,
    assumption_texts,
    joules,
    operator_lines,
    titles,
    versions,
)
from .table import shape_of

__all__ = ["to_html"]

PAGE = "gradloom_model.reports"

OTHERS = ("ws", "os", "double-buffered")
"""Schedules that need no array of ours, beside the baseline; the best of them is the fairest."""

SECTIONS = {
    "ideas": "What is compared", "schedules": "Schedules", "savings": "What each idea saves",
    "limits": "What limits the layers", "layers": "Layer by layer", "dram": "Memory traffic",
    "energy": "Energy", "sensitivity": "Other batches and arrays",
    "assumptions": "Assumptions", "not": "What the numbers are not",
}
"""Headings by their anchors."""


def to_html(report: Report) -> str:
    """Return the page."""
    drawn: list[Chart] = []
    body = "\n".join([
        _top(report), _ideas(), _schedules(report), _savings(report, drawn),
        _limits(report, drawn), _layers(report, drawn), _dram(report, drawn),
        _energy(report, drawn), _sensitivity(report, drawn), _assumptions(report), _not(report)])
    specs = [{"name": one.name, "height": one.height, "width": one.width, "data": one.data,
              "layout": one.layout} for one in drawn]
    # "</" would end the element that holds the data.
    data = json.dumps(specs, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    title = f"Training {report.network.name}: GradLoom estimate"
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>\n{_file('style.css')}</style>", "</head>",
        f"<body>\n{body}",
        f'<script type="application/json" id="charts">{data}</script>',
        f"<script>{get_plotlyjs()}</script>", f"<script>\n{_file('script.js')}</script>",
        "</body>", "</html>", ""])


def _file(name: str) -> str:
    return resources.files(PAGE).joinpath("page", name).read_text(encoding="utf-8")


def _section(name: str, *parts: str) -> str:
    return "\n".join([f'<section id="{name}">', f"<h2>{SECTIONS[name]}</h2>", *parts, "</section>"])


def _p(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{text}</p>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _figure(chart: Chart, drawn: list[Chart]) -> str:
    drawn.append(chart)
    choice = ""
    if chart.choices:
        options = "".join(
            f'<option value="{escape(value)}"{" selected" * (value == "interleaved")}>'
            f"{escape(text)}</option>" for value, text in chart.choices.items())
        choice = (f'<label class="soft">schedule <select id="choice-{chart.name}">{options}'
                  "</select></label>")
    text = f"<figcaption>{escape(chart.text)}</figcaption>" if chart.text else ""
    return (f"<figure><h3>{escape(chart.title)}</h3>{text}{choice}"
            f'<div class="scroll"><div class="chart" id="chart-{chart.name}" role="img" '
            f'aria-label="{escape(chart.title)}" style="height:{chart.height}px"></div></div>'
            "</figure>")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kinds: Mapping[int, str],
           kind: str = "scroll", base: str | None = None) -> str:
    """Return a table of cells that are HTML already; `kinds` has the columns that are no numbers.

    A column is "" for plain text, "wide" for sentences, "code" for what stays on a line.
    """

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(f"<{tag}{_class(kinds.get(index, 'n'))}>{value}</{tag}>"
                       for index, value in enumerate(values))

    lines = [f"<tr{_class('base' if row[0] == base else '')}>{cells('td', row)}</tr>"
             for row in rows]
    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    return (f'<div class="{kind}"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>')


def _named(schedule: str) -> str:
    return (f'<span class="named"><span class="swatch" style="background:{STYLES[schedule][0]}">'
            f"</span>{escape(schedule)}</span>")


def _top(report: Report) -> str:
    network, a = report.network, report.assumptions
    installed = ", ".join(f"{name} {text}" for name, text in versions().items())
    bits = f", {8 // a.lanes}-bit lanes" if a.lanes > 1 else ""
    shown = "".join(_card(report, name, text) for name, text in (
        ("fused", "Interleaved, updates fused, all samples kept"),
        ("lanes", f"The same, {a.skip:.0%} of the samples skipped{bits}")))
    operators = "".join(_p(escape(line), "warn" if line.startswith("UNKNOWN") else "soft")
                        for line in operator_lines(network))
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in SECTIONS.items())
    return "\n".join([
        f"<h1>Training {escape(network.name)} on a {a.rows} x {a.columns} array</h1>",
        _p(f"{report.layers} layers, {amount(network.macs, 'MACs')} a sample forward, "
           f"{amount(network.weights)} weights; batches of {a.batch}. An estimate of one "
           "training step: forward pass, both gradients, update of the weights."),
        _p(f"Made by <code>gradloom estimate</code> ({escape(installed)}).", "soft"),
        operators, f'<div class="cards">{shown}</div>', f"<nav>{links}</nav>"])


def _card(report: Report, name: str, text: str) -> str:
    """Return gains over the baseline, and over whichever other schedule without these ideas."""
    measures = {"cycles": lambda one: one.cycles,
                "buffer accesses": lambda one: sum(one.accesses.values()),
                "energy": lambda one: sum(one.energy.values())}
    shown = ""
    for what, measure in measures.items():
        values = {one: measure(report.summaries[one]) / measure(report.summaries[name])
                  for one in (BASELINE, *OTHERS)}
        best = min(OTHERS, key=lambda one: values[one])
        shown += (f"<span><b>{values[BASELINE]:.2f}x</b>{'less' if what == 'energy' else 'fewer'} "
                  f"{what}<br>{values[best]:.2f}x to {best}</span>")
    return (f'<div class="card"><p>{escape(text)}: gains over {BASELINE}, and below over the best '
            f"of {', '.join(OTHERS)}</p><div>{shown}</div></div>")


def _ideas() -> str:
    figures = "".join(f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>"
                      for title, svg in drawings().items())
    return _section("ideas", _file("ideas.html").replace("{drawings}", figures))


def _schedules(report: Report) -> str:
    base = report.summaries[BASELINE]
    names = titles()
    rows = []
    for name, one in report.summaries.items():
        accesses, moved = sum(one.accesses.values()), sum(one.dram.values())
        energy = sum(one.energy.values())
        rows.append([
            _named(name), f"{one.cycles:,.0f}", f"{one.ratio:.2f}x",
            f"{one.stalls / one.cycles:.1%}", f"{one.utilization:.1%}", amount(accesses),
            f"{sum(base.accesses.values()) / accesses:.2f}x", amount(moved, "B"),
            joules(energy, report.table.unit), f"{sum(base.energy.values()) / energy:.2f}x",
            escape(names[name])])
    return _section(
        "schedules",
        _p(f"Gains are the baseline's, <i>{BASELINE}</i>, over those of the schedule: above 1 is "
           "better. Use is products over cycles times cells, with all products of a packed word "
           "counted, so that lanes may pass 100 %. Stalls wait for DRAM. Accesses are elements of "
           "any width; energies weigh them, by the table "
           f"{escape(report.table.name)}."),
        _table(["schedule", "cycles", "gain", "stalls", "use", "accesses", "gain", "DRAM",
                "energy", "gain", "what it is"], rows,
               kinds={0: "", 10: "wide"}, base=_named(BASELINE)))


def _savings(report: Report, drawn: list[Chart]) -> str:
    figures = "".join(_figure(one, drawn) for one in charts.savings(report))
    return _section(
        "savings",
        _p(f"From <i>{BASELINE}</i>, one idea after the other, in shares of the first bar. What "
           "an idea saves depends on those before it."),
        f'<div class="three">{figures}</div>')


def _limits(report: Report, drawn: list[Chart]) -> str:
    return _section("limits", _figure(charts.roofline(report), drawn))


def _layers(report: Report, drawn: list[Chart]) -> str:
    return _section(
        "layers", _figure(charts.cycles_by_layer(report), drawn),
        _figure(charts.by_layer(report), drawn),
        "<h3>All layers</h3>", _p("Cycles under each schedule; the last column is what "
                                  f"<i>{BEST}</i> takes, forward / backward.", "soft"),
        _layer_table(report))


def _layer_table(report: Report) -> str:
    names = list(report.estimate.steps)
    best = report.step(BEST)
    rows = []
    for index, layer in enumerate(report.network.layers):
        chosen = ("" if best.forward is None or best.backward is None
                  else f"{best.forward[index]} / {best.backward[index]}")
        rows.append([str(index + 1), escape(layer.name), escape(shape_of(layer)),
                     amount(layer.macs), amount(layer.weights),
                     *(amount(float(report.step(name).cycles[index])) for name in names), chosen])
    return _table(
        ["#", "layer", "shape", "MACs", "weights", *(_named(name) for name in names),
         f"{BEST} takes"],
        rows, kinds={1: "", 2: "code", 5 + len(names): "code"}, kind="scroll tall")


def _dram(report: Report, drawn: list[Chart]) -> str:
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in report.estimate.steps:
        for one, moved in report.step(name).traffic.items():
            reasons, times = report.per_layer(moved.reason), report.per_layer(moved.again)
            total = report.per_layer(moved.total)
            for reason in sorted({*reasons.astype(int).tolist()} - {0, RESIDENT}):
                where = reasons == reason
                low, high = times[where].min(), times[where].max()
                often = f"{low:g}x" if low == high else f"{low:g} to {high:g}x"
                row = (one, str(int(where.sum())), often, amount(float(total[where].sum()), "B"),
                       escape(REASONS[reason]))
                rows.setdefault(row, []).append(_named(name))
    text = ("Each pass works on half of the buffers, while the other half is filled or emptied. "
            "An operand comes from DRAM once if either the weights or the rows of the pass fit a "
            "half; if neither does, one of them comes again and again, whichever costs less.")
    table = (_table(["pass", "layers", "times", "bytes of these", "why", "schedules"],
                    [(*row, ", ".join(names)) for row, names in rows.items()],
                    kinds={0: "code", 4: "wide", 5: "wide"}) if rows
             else _p("No operand of any layer is fetched twice."))
    if any(np.any(np.equal(moved.reason, RESIDENT)) for name in report.estimate.steps
           for moved in report.step(name).traffic.values()):
        table += _p("Where the whole network fits the buffers, only its images are fetched.")
    return _section(
        "dram", _p(text),
        f'<div class="pair">{_figure(charts.totals(report, "accesses"), drawn)}'
        f"{_figure(charts.totals(report, 'dram'), drawn)}</div>",
        _figure(charts.dram_by_layer(report), drawn), "<h3>What is fetched again, and why</h3>",
        table)


def _energy(report: Report, drawn: list[Chart]) -> str:
    table = report.table
    where = [("table", table.name), ("what", table.title), ("status", table.status),
             ("unit", table.unit), ("technology", f"{table.technology_nm:g} nm"),
             ("voltage", "" if table.voltage is None else f"{table.voltage:g} V"),
             ("source", table.source), ("buffers", table.sram_source),
             ("DRAM", table.dram_source), ("checked", table.checked), ("limits", table.limits),
             *(("note", note) for note in report.table_notes)]
    return _section(
        "energy", _figure(charts.totals(report, "energy"), drawn),
        "<h3>Where the energies are from</h3>",
        _table([], [[name, escape(text)] for name, text in where if text],
               kinds={0: "", 1: "wide"}))


def _sensitivity(report: Report, drawn: list[Chart]) -> str:
    figures = "".join(_figure(one, drawn) for one in charts.sensitivity(report))
    a = report.assumptions
    bandwidth = "no limit" if a.bandwidth is None else f"{a.bandwidth:g} bytes a cycle"
    return _section(
        "sensitivity",
        _p("The same network with all other assumptions as they are: buffers of "
           f"{a.activation_kb:g}, {a.gradient_kb:g} and {a.weight_kb:g} KiB, DRAM with "
           f"{bandwidth}. Gains refer to the baseline at the same batch or array."),
        f'<div class="pair">{figures}</div>')


def _assumptions(report: Report) -> str:
    fields = "".join(f"<div><code>{escape(name)}</code><span>{escape(text)}</span></div>"
                     for name, text in assumption_texts(report.assumptions).items())
    return _section(
        "assumptions", _p("Every number above depends on these; "
                          "<code>--set NAME=VALUE</code> changes any of them."),
        f'<div class="fields">{fields}</div>')


def _not(report: Report) -> str:
    notes = [*NOTES, *(line for line in operator_lines(report.network))]
    return _section("not", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>")
