"""Charts of an estimate, as data and layout for plotly.js; text and ground are the page's.

A schedule has the same colour, dash and symbol in every chart, an operand the same colour.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..estimate import BEST
from ..memory import REASONS, RESIDENT
from ..schedules import BASELINE
from ..sweep import Result, grid, sweep
from .summary import (
    COMPONENT_TITLES,
    MOVED_TITLES,
    OPERANDS,
    Report,
    Summary,
    again,
    amount,
    energy_unit,
    joules,
)

__all__ = ["Chart", "by_layer", "cycles_by_layer", "dram_by_layer", "roofline", "savings",
           "sensitivity", "totals"]

STYLES = {
    "ws": ("#E69F00", "dot", "square"),
    "os": ("#56B4E9", "dot", "diamond"),
    "sequential": ("#808080", "solid", "circle"),
    "double-buffered": ("#A6662F", "dash", "triangle-up"),
    "back-to-back": ("#B59F3B", "dashdot", "triangle-down"),
    "interleaved": ("#3581C4", "solid", "square"),
    "fused": ("#009E73", "dash", "diamond"),
    "skip": ("#CC79A7", "solid", "triangle-up"),
    "lanes": ("#D55E00", "solid", "pentagon"),
    "best": ("#8467D7", "dot", "star"),
}
"""Colour, dash and symbol of each schedule; after Okabe and Ito, on light and on dark ground."""

OPERAND_COLOURS = {"x": "#4477AA", "d": "#EE6677", "w": "#228833", "dw": "#CCBB44",
                   "state": "#66CCEE", "sum": "#AA3377", "mask": "#999999",
                   "y": "#77AADD", "dx": "#F4A6AE",
                   "mac": "#DDCC77", "registers": "#B07A4A", "dram": "#7A7FA8"}
"""Colours of operands and of other parts of the energy, after Tol."""

SHOWN = (BASELINE, "interleaved", "fused", "skip", "lanes")
"""Schedules that a chart shows at first, if it does not show all."""

BATCHES = tuple(1 << power for power in range(9))
EDGES = tuple(1 << power for power in range(2, 9))
"""Of the sensitivity charts."""

MINUS = "\N{MINUS SIGN}"

LAYER_WIDTH = 7
"""Least pixels of a layer: more layers are scrolled."""

NAMED_TICKS = 24
"""Layers up to which an axis names each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One chart.

    Attributes
    ----------
    name : str
        Identifies it in the page.
    title, text : str
        Above it.
    data, layout
        For plotly.js.
    height, width : int
        Pixels; the least width, 0 if any will do.
    choices : dict of str to str
        What a list above it offers: schedules by title, of which one is shown; empty for none.
    """

    name: str
    title: str
    text: str
    data: Sequence[Mapping]
    layout: Mapping
    height: int = 420
    width: int = 0
    choices: Mapping[str, str] = field(default_factory=dict)


def _rounded(values, digits: int = 5) -> list:
    return [None if not np.isfinite(value) else float(f"{value:.{digits}g}")
            for value in np.asarray(values, float)]


def _axis(title: str, **more) -> dict:
    return {"title": {"text": title}, "automargin": True} | more


def _log_axis(title: str, values: Iterable[float], unit: str = "", **more) -> dict:
    """Return a logarithmic axis with ticks at 1, 2 and 5 of every decade, or at 1 of many."""
    found = np.asarray([value for value in values if value and np.isfinite(value)], float)
    low, high = (found.min(), found.max()) if len(found) else (1.0, 10.0)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [step * 10.0 ** decade for decade in decades for step in steps]
    return _axis(title, type="log", tickmode="array", tickvals=ticks,
                 ticktext=[amount(tick, unit) if tick >= 1 else f"{tick:g}" for tick in ticks],
                 range=[float(np.log10(low / 1.3)), float(np.log10(high * 1.3))], **more)


def _line(name: str, *, shown: bool = True, **more) -> dict:
    colour, dash, symbol = STYLES[name]
    return {"name": name, "legendgroup": name, "type": "scatter", "mode": "lines",
            "line": {"color": colour, "dash": dash, "width": 2},
            "marker": {"color": colour, "symbol": symbol, "size": 8},
            "visible": True if shown else "legendonly"} | more


def _layer_axis(report: Report) -> dict:
    """Return the axis along layers: by name where there are few, else by number."""
    names = [layer.name for layer in report.network.layers]
    if len(names) <= NAMED_TICKS:
        return _axis("layer", tickmode="array", tickvals=list(range(1, len(names) + 1)),
                     ticktext=[_short(name) for name in names], tickangle=-60)
    return _axis("layer, in forward order", nticks=12)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[:10]}…{name[-(most - 11):]}"


def _numbers(report: Report) -> list[int]:
    return list(range(1, report.layers + 1))


def _names(report: Report) -> list[str]:
    return [layer.name for layer in report.network.layers]


# Layers.


def cycles_by_layer(report: Report) -> Chart:
    """Return cycles of every layer, and the gain over the baseline below."""
    base = np.asarray(report.step(BASELINE).cycles, float)
    data = []
    few = report.layers <= NAMED_TICKS
    for name in report.estimate.steps:
        step = report.step(name)
        cycles = np.asarray(step.cycles, float)
        shared = {"x": _numbers(report), "customdata": _names(report), "shown": name in SHOWN,
                  "mode": "lines+markers" if few else "lines"}
        shape = {} if few else {"shape": "hvh"}
        for axis, values, title, show in (("y", cycles, "%{y:.4s} cycles", True),
                                          ("y2", base / cycles, "%{y:.2f}x", False)):
            trace = _line(name, **shared, y=_rounded(values), yaxis=axis, showlegend=show,
                          hovertemplate=f"%{{x}} %{{customdata}}<br>{name}: {title}<extra></extra>")
            trace["line"] = trace["line"] | shape
            data.append(trace)
    layout = {
        "xaxis": _layer_axis(report) | {"anchor": "y2"},
        "yaxis": _log_axis("cycles", np.concatenate(
            [report.step(name).cycles for name in report.estimate.steps]), domain=[0.45, 1]),
        "yaxis2": _axis(f"gain over {BASELINE}", domain=[0, 0.38]),
    }
    return Chart(
        name="cycles-by-layer", title="Cycles of each layer", height=620,
        width=LAYER_WIDTH * report.layers, data=data, layout=layout,
        text="All passes of a training step, waiting for DRAM included; below, the cycles of the "
             f"{BASELINE} schedule over those of the others. Drag across layers to see "
             "fewer, double-click to see all; click a name to show or hide it.")


def _stacked(report: Report, values: Callable[[str], Mapping[str, np.ndarray]],
             titles: Mapping[str, str], unit: str, more: Callable[[str], Mapping]) -> list[dict]:
    """Return stacked bars over layers for each schedule, of which one is shown."""
    data = []
    for name in report.estimate.steps:
        for part, value in values(name).items():
            if not np.any(value):
                continue
            trace = {
                "type": "bar", "name": titles[part], "meta": name, "x": _numbers(report),
                "y": _rounded(value), "customdata": _names(report),
                "marker": {"color": OPERAND_COLOURS[part], "line": {"width": 0}},
                "visible": name == "interleaved",
                "hovertemplate": f"%{{x}} %{{customdata}}<br>{titles[part]}: %{{y:.4s}}{unit}"
                                 "<extra></extra>"}
            for key, extra in more(name).items():
                trace[key] = trace.get(key, {}) | extra if isinstance(extra, dict) else extra
            data.append(trace)
    return data


def _highest(report: Report, values: Callable[[str], Mapping[str, np.ndarray]]) -> float:
    return max(float(np.max(sum(values(name).values()))) for name in report.estimate.steps)


def by_layer(report: Report) -> Chart:
    """Return buffer accesses of every layer by operand."""

    def values(name: str) -> Mapping[str, np.ndarray]:
        return report.accesses(report.step(name).counts)

    return Chart(
        name="accesses-by-layer", title="Buffer accesses of each layer, by operand",
        text="Elements read from and written to the buffers around the array. The scale stays "
             "when the schedule changes.",
        data=_stacked(report, values, OPERANDS, "", lambda _: {}),
        layout={"barmode": "stack", "bargap": 0.1 if report.layers < 80 else 0,
                "xaxis": _layer_axis(report),
                "yaxis": _axis("elements read and written", tickformat="~s",
                               range=[0, 1.03 * _highest(report, values)])},
        choices=_choices(report), width=LAYER_WIDTH * report.layers)


def dram_by_layer(report: Report) -> Chart:
    """Return what DRAM moves for every layer, and where something comes again."""

    def more(name: str) -> Mapping:
        step = report.step(name)
        texts, shapes = [], []
        for index, layer in enumerate(report.network.layers):
            found = [(one, times, reason) for one, times, reason in again(step, index)]
            texts.append("<br>".join([layer.name, *(
                f"{one}: {REASONS[reason].partition(':')[0]}"
                + (f", x{times:g}" if reason != RESIDENT else "")
                for one, times, reason in found)]))
            shapes.append("/" if any(reason != RESIDENT for *_, reason in found) else "")
        return {"customdata": texts, "marker": {"pattern": {
            "shape": shapes, "fillmode": "overlay", "size": 5, "solidity": 0.3}}}

    return Chart(
        name="dram-by-layer", title="DRAM traffic of each layer, by operand",
        text="Bytes from and to DRAM in a training step. Hatched: something moves more than once, "
             "since it does not fit the buffers; point at a bar to read why.",
        data=_stacked(report, report.dram, MOVED_TITLES, "B", more),
        layout={"barmode": "stack", "bargap": 0.1 if report.layers < 80 else 0,
                "xaxis": _layer_axis(report),
                "yaxis": _axis("bytes", tickformat="~s",
                               range=[0, 1.03 * max(_highest(report, report.dram), 1)])},
        choices=_choices(report), width=LAYER_WIDTH * report.layers)


def _choices(report: Report) -> dict[str, str]:
    return {name: name for name in report.estimate.steps}


# Totals.


def totals(report: Report, name: str) -> Chart:
    """Return a bar a schedule of "accesses", "dram" or "energy", by part."""
    size, unit = energy_unit(report)
    title, text, axis, parts, titles, suffix = {
        "accesses": ("Buffer accesses of a step, by operand", "", "elements read and written",
                     lambda one: one.accesses, OPERANDS, ""),
        "dram": ("DRAM traffic of a step, by operand", "", "bytes", lambda one: one.dram,
                 MOVED_TITLES, "B"),
        "energy": ("Energy of a step, by where it goes",
                   f"With the table {report.table.name}.", unit,
                   lambda one: {part: value / size for part, value in one.energy.items()},
                   COMPONENT_TITLES, f" {unit}"),
    }[name]
    schedules = list(report.summaries)[::-1]
    values = [parts(report.summaries[one]) for one in schedules]
    data = [{
        "type": "bar", "orientation": "h", "name": titles[part], "y": schedules,
        "x": _rounded([value[part] for value in values]),
        "marker": {"color": OPERAND_COLOURS[part]},
        "hovertemplate": f"%{{y}}<br>{titles[part]}: %{{x:.4s}}{suffix}<extra></extra>",
    } for part in titles if any(value[part] for value in values)]
    return Chart(name=f"{name}-total", title=title, text=text, data=data, height=440, layout={
        "barmode": "stack", "bargap": 0.25, "xaxis": _axis(axis, tickformat="~s", nticks=6),
        "yaxis": {"automargin": True}})


def savings(report: Report) -> list[Chart]:
    """Return what each idea saves, in cycles, accesses and energy."""
    a = report.assumptions
    steps = {BASELINE: BASELINE}
    if a.folds in ("hidden", "ideal"):
        steps["double-buffered"] = "hide loads"
    steps |= {"back-to-back": "one load a tile", "interleaved": "share D",
              "fused": "fused update", "skip": f"skip {a.skip:.0%}",
              "lanes": f"{8 // a.lanes}-bit lanes"}
    size, energy_name = energy_unit(report)
    measures: dict[str, tuple[str, str, Callable[[Summary], float], Callable[[float], str]]] = {
        "cycles": ("Cycles", "cycles", lambda one: one.cycles, amount),
        "accesses": ("Buffer accesses", "elements", lambda one: sum(one.accesses.values()), amount),
        "energy": ("Energy", energy_name, lambda one: sum(one.energy.values()),
                   lambda value: joules(value, report.table.unit).removesuffix(
                       f" {report.table.unit}")),
    }
    found = []
    for name, (title, unit, measure, text) in measures.items():
        values = [measure(report.summaries[one]) for one in steps]
        changes = [after - before for before, after in pairwise(values)]
        shares = [change / values[0] for change in changes]
        scale = 1 / size if name == "energy" else 1
        data = [{
            "type": "waterfall", "x": [*steps.values(), "all"],
            "measure": ["absolute", *["relative"] * len(changes), "total"],
            "y": [*_rounded([scale * value for value in (values[0], *changes)]), 0],
            "text": [text(values[0]), *(_percent(share) for share in shares), text(values[-1])],
            "customdata": [text(value) for value in (*values, values[-1])],
            "textposition": "outside", "textfont": {"size": 10}, "constraintext": "none",
            "cliponaxis": False, "showlegend": False,
            "hovertemplate": "%{x}: %{text}<br>then %{customdata}<extra></extra>",
            "decreasing": {"marker": {"color": STYLES["interleaved"][0]}},
            "increasing": {"marker": {"color": STYLES["lanes"][0]}},
            "totals": {"marker": {"color": STYLES[BASELINE][0]}}, "connector": {"line": {
                "width": 1, "color": STYLES[BASELINE][0]}}}]
        found.append(Chart(
            name=f"savings-{name}", title=f"{title}: {text(values[0])} to {text(values[-1])}",
            text="", data=data, height=380, layout={
                "xaxis": {"automargin": True, "tickangle": -40},
                "yaxis": _axis(unit, tickformat="~s",
                               range=[0, 1.15 * scale * max(values)])}))
    return found


def _percent(share: float) -> str:
    if abs(share) < 0.0005:
        return "0%"
    return f"{100 * share:+.1f}%".replace("-", MINUS)


# Roofline.


def roofline(report: Report) -> Chart:
    """Return products a cycle against products a byte of DRAM, a point a layer."""
    a = report.assumptions
    data, slowest, lowest, highest, resident = [], [], np.inf, -np.inf, False
    for name in report.estimate.steps:
        step = report.step(name)
        macs, moved = report.per_layer(step.counts["macs"]), report.per_layer(step.dram_bytes)
        resident |= bool(np.any(moved == 0))
        slowest.append(float(np.min(macs / step.cycles)))
        intensity = np.divide(macs, moved, out=np.full(report.layers, np.nan), where=moved > 0)
        if np.any(moved > 0):
            lowest = min(lowest, float(np.nanmin(intensity)))
            highest = max(highest, float(np.nanmax(intensity)))
        data.append(_line(
            name, mode="markers", x=_rounded(intensity), y=_rounded(macs / step.cycles),
            shown=name in (BASELINE, "interleaved", "lanes"), customdata=_names(report),
            hovertemplate=f"%{{customdata}}<br>{name}: %{{y:.4s}} MACs a cycle, %{{x:.4s}} MACs a "
                          "byte<extra></extra>"))
    if not np.isfinite(lowest):
        lowest, highest = 1.0, 1000.0
    ends = np.geomspace(lowest / 2, highest * 2, 60)
    peaks = {"peak": float(report.cells)}
    if a.lanes > 1:
        peaks["lanes peak"] = report.cells * 2 / (1 + 1 / a.lanes)
    for name, peak in peaks.items():
        roof = np.minimum(peak, ends * a.bandwidth) if a.bandwidth else np.full(60, float(peak))
        data.append({
            "type": "scatter", "mode": "lines", "name": name, "x": _rounded(ends),
            "y": _rounded(roof), "hoverinfo": "skip",
            "line": {"color": "#808080", "width": 1.5,
                     "dash": "solid" if name == "peak" else "dash"}})
    band = (f"DRAM gives {a.bandwidth:g} bytes a cycle: left of the bend it is the limit."
            if a.bandwidth else "DRAM is never waited for.")
    text = (f"A point is a layer in a whole training step. The array has {report.cells:,} "
            f"multipliers, which is the level roof. {band} ")
    if a.lanes > 1:
        text += (" A word of lanes holds several activations, which raises the roof to the dashed "
                 "line for both gradients.")
    if resident:
        text += " Layers that never use DRAM have no place here."
    return Chart(name="roofline", title="Roofline: what limits each layer", text=text, data=data,
                 height=480, layout={
                     "hovermode": "closest",
                     "xaxis": _log_axis("MACs a byte of DRAM traffic", (lowest, highest)),
                     "yaxis": _log_axis("MACs a cycle", (*slowest, *peaks.values()))})


# Sensitivity.


def sensitivity(report: Report) -> list[Chart]:
    """Return gains and cycles over the batch and over the edge of a square array."""
    names = list(report.estimate.steps)
    found = []
    for kind, values, title in (("batch", BATCHES, "samples of a step"),
                                ("array", EDGES, "edge of a square array")):
        choices = values if kind == "batch" else [(edge, edge) for edge in values]
        results = sweep(grid([report.network], names, report.assumptions, **{kind: choices}))
        rows = {name: results[index * len(values):(index + 1) * len(values)]
                for index, name in enumerate(names)}
        found += _sensitivity(kind, values, title, rows)
    return found


def _sensitivity(kind: str, values: Sequence[int], title: str,
                 rows: Mapping[str, Sequence[Result]]) -> list[Chart]:
    base = [one.cycles for one in rows[BASELINE]]

    def chart(name: str, heading: str, axis: Mapping, measure: Callable[[str], Sequence[float]],
              form: str) -> Chart:
        return Chart(
            name=f"{name}-by-{kind}", title=heading, text="", height=400,
            data=[_line(one, mode="lines+markers", x=list(values), y=_rounded(measure(one)),
                        shown=one in (*SHOWN, "ws", BEST),
                        hovertemplate=f"%{{x}}: %{{y:{form}}}<br>{one}<extra></extra>")
                  for one in rows],
            layout={"xaxis": _axis(title, type="log", tickmode="array", tickvals=list(values)),
                    "yaxis": axis})

    def each(name: str) -> list[float]:
        return [one.cycles / one.point.assumptions.batch for one in rows[name]]

    by = "batch" if kind == "batch" else "array size"
    return [
        chart("gain", f"Gain in cycles, by {by}", _axis(f"gain over {BASELINE}"),
              lambda name: [first / one.cycles for first, one in zip(base, rows[name])], ".2f"),
        chart("cycles", f"Cycles of a sample, by {by}", _log_axis("cycles of a sample", [
                  value for name in rows for value in each(name)]), each,
              ".4s"),
    ]
