"""What an estimate shows: tables, JSON, CSV and the page say the same, and say it every time."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import ACCESSES
from gradloom_model.energy import load as load_table
from gradloom_model.estimate import BEST, estimate
from gradloom_model.layers import Layer, Network, Operator
from gradloom_model.memory import REASONS
from gradloom_model.readers.csv_reader import load as load_network
from gradloom_model.reports import charts
from gradloom_model.reports.export import to_csv, to_json
from gradloom_model.reports.html import OTHERS, SECTIONS, to_html
from gradloom_model.reports.summary import (
    COMPONENT_TITLES,
    MOVED_TITLES,
    NOTES,
    OPERANDS,
    Report,
    amount,
    assumption_texts,
    joules,
    operator_lines,
    short_reason,
    titles,
)
from gradloom_model.reports.table import print_report, shape_of
from gradloom_model.schedules import BASELINE, SCHEDULES

ALL = [*SCHEDULES, BEST]

HOSTILE = "</script><b>&"
"""A name that would break a page that does not escape it."""


def _network(name: str = HOSTILE) -> Network:
    layers = [
        Layer(name="in", outputs=8, inputs=3, kernel=(3, 3), padding=(1, 1, 1, 1), size=(12, 12),
              input_gradient=False),
        Layer(name="grouped", outputs=16, inputs=8, kernel=(3, 3), stride=(2, 2), groups=4,
              size=(12, 12)),
        Layer(name="heads", kind="matmul", outputs=5, inputs=6, size=(7, 1), copies=3),
        Layer(name=HOSTILE, kind="linear", outputs=40, inputs=400),
    ]
    others = [Operator(name="r1", operator="Relu"), Operator(name="r2", operator="Relu"),
              Operator(name="odd<node>", operator="Magic", known=False)]
    return Network(name, layers, others)


SMALL = Assumptions(rows=8, columns=4, batch=6, skip=0.4, steps=100, activation_kb=1,
                    gradient_kb=1, weight_kb=1, bandwidth=4)


def _report(network: Network | None = None, a: Assumptions = SMALL,
            table: str = "horowitz45") -> Report:
    return Report(estimate(network or _network(), a), load_table(table))


@pytest.fixture(scope="module")
def report() -> Report:
    return _report()


@pytest.fixture(scope="module")
def page(report) -> str:
    return to_html(report)


# Numbers as words.


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0, "", "0"), (7, "", "7"), (12.345, "", "12.35"), (999.4, "", "999.4"), (999.96, "", "1.00 k"),
    (1000, "", "1 k"), (1234, "", "1.23 k"), (12345, "", "12.35 k"), (123456, "B", "123.5 kB"),
    (999_960_000, "", "1.00 G"), (1.5e12, "B", "1.50 TB"), (-2500, "", "-2.50 k"),
])
def test_amounts_have_three_digits_or_more(value, unit, text):
    assert amount(value, unit) == text


@pytest.mark.parametrize(("value", "unit", "text"), [
    (5.25, "pJ", "5.25 pJ"), (5_250, "pJ", "5.25 nJ"), (5.25e6, "pJ", "5.25 uJ"),
    (749.06e9, "pJ", "749.1 mJ"), (3.2e12, "pJ", "3.20 J"), (2.5e9, "MAC", "2.50 G MAC"),
])
def test_energies_have_a_fitting_unit(value, unit, text):
    assert joules(value, unit) == text


def test_assumptions_are_written_as_they_are_set():
    texts = assumption_texts(Assumptions(steps=None, os_drain=False, skip=0.25, weight_kb=1 << 21))
    assert texts["steps"] == "none"
    assert texts["os_drain"] == "off"
    assert texts["masks"] == "on"
    assert texts["skip"] == "0.25"
    assert texts["weight_kb"] == "2097152"
    assert texts["folds"] == "hidden"


def test_operators_are_counted_and_unknown_ones_named():
    assert operator_lines(_network()) == [
        "Operators without multiplications on the array, at no cost: 2 Relu.",
        "UNKNOWN operators, at no cost, so that all totals may be too low: odd<node> (Magic).",
    ]


def test_every_schedule_has_words_of_its_own():
    found = titles()
    assert list(found) == ALL
    assert len(set(found.values())) == len(ALL)
    assert found["lanes"] == f"{SCHEDULES['interleaved'].title} + fused update + skip + lanes"


@pytest.mark.parametrize(("index", "text"), [
    (0, "3>8 3x3 12x12"), (1, "8>16 3x3/4 5x5"), (2, "3 of 6>5 7 rows"), (3, "400>40")])
def test_shapes_fit_a_column(index, text):
    assert shape_of(_network().layers[index]) == text


# Totals.


def test_totals_are_those_of_the_estimate(report):
    for name, summary in report.summaries.items():
        step = report.estimate.steps[name]
        assert summary.cycles == step.cycles.sum()
        assert summary.stalls == step.stall_cycles.sum()
        assert summary.ratio == pytest.approx(report.estimate.ratio(name))
        assert sum(summary.accesses.values()) == pytest.approx(step.accesses.sum())
        assert sum(summary.dram.values()) == pytest.approx(step.dram_bytes.sum())
        assert summary.utilization == pytest.approx(
            step.counts["macs"].sum() / (step.cycles.sum() * 32))


@pytest.mark.parametrize("table", ["horowitz45", "eyeriss65", "aladdin65"])
def test_energies_of_passes_add_up(table):
    report = _report(table=table)
    for name in ALL:
        passes = [report.energy(name, one) for one in report.step(name).passes]
        for part, value in report.energy(name).items():
            np.testing.assert_allclose(sum(one[part] for one in passes), value, rtol=1e-12)
        assert set(passes[0]) == set(COMPONENT_TITLES)


def test_titles_cover_what_is_counted(report):
    assert set(OPERANDS) == set(ACCESSES.values())
    moved = {name for step in report.estimate.steps.values() for one in step.traffic.values()
             for name in one.bytes}
    assert moved <= set(MOVED_TITLES)


def test_use_does_not_pass_one_without_lanes(report):
    for name, summary in report.summaries.items():
        if name not in ("lanes", BEST):
            assert 0 < summary.utilization <= 1, name


def test_reasons_are_short_and_those_of_the_traffic(report):
    step = report.step("interleaved")
    forward, both = (step.traffic[one] for one in ("forward", "both gradients"))
    assert REASONS[forward.reason[3]].startswith("rows come again for each group of weights")
    assert forward.again[3] == both.again[3] == 32         # 16,000 bytes in halves of 512
    assert short_reason(step, 3) == "Y/dX+dW: rows x32"
    assert short_reason(step, 0) == ""
    huge = _report(a=SMALL.with_changes(activation_kb=4096, gradient_kb=4096, weight_kb=4096))
    assert {short_reason(huge.step("ws"), layer) for layer in range(4)} == {"none"}


# The terminal.


def _printed(report: Report, width: int = 200, **options) -> str:
    console = Console(width=width, file=io.StringIO())
    print_report(console, report, ALL, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_head_schedules_assumptions_and_limits(report):
    text = _printed(report)
    assert text.splitlines()[0].strip() == (
        f"{HOSTILE}, 4 layers, 54.93 kMACs a sample forward, 16.50 k weights, 8 x 4 array, batch 6")
    for name, summary in report.summaries.items():
        row = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert row.split()[1:3] == [f"{summary.cycles:,.0f}", f"{summary.ratio:.2f}"]
    for name, value in assumption_texts(SMALL).items():
        assert f"{name}={value}" in text
    for note in NOTES:
        assert note in text
    assert "odd<node> (Magic)" in text
    assert "Energy table horowitz45 (quoted, 45 nm" in text
    assert "Layers under" not in text


def test_no_number_is_cut_in_a_terminal_of_80_columns():
    big = _report(load_network("densenet264"), Assumptions(batch=2))
    text = _printed(big, width=80)
    rows = [line for line in text.splitlines() if re.match(f"({'|'.join(ALL)}) +[0-9]", line)]
    assert len(rows) == 2 * len(ALL)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_layers_are_listed_with_what_best_takes(report):
    text = _printed(report, layers=[BEST, "lanes"])
    best = report.step(BEST)
    assert text.count("Layers under") == 2
    row = next(line for line in text.splitlines() if line.startswith("grouped "))
    assert f"{best.forward[1]} / {best.backward[1]}" in row
    assert f" {best.cycles[1]:,.0f} " in row
    for reason in REASONS[1:]:
        assert f"{reason}." in text


# JSON and CSV.


def test_json_has_the_totals_and_the_layers_of_the_estimate(report):
    content = json.loads(to_json(report, ALL))
    assert content["network"]["macs"] == report.network.macs
    assert [layer["name"] for layer in content["network"]["layers"]] == [
        layer.name for layer in report.network.layers]
    assert content["network"]["others"][2] == {
        "name": "odd<node>", "operator": "Magic", "known": False}
    assert Assumptions(**content["assumptions"]) == SMALL
    assert content["energy_table"]["name"] == "horowitz45"
    assert content["versions"]["numpy"] == np.__version__
    assert list(content["schedules"]) == ALL
    for name, found in content["schedules"].items():
        step = report.step(name)
        totals = found["totals"]
        assert totals["cycles"] == step.cycles.sum()
        assert totals["dram_bytes"] == pytest.approx(step.dram_bytes.sum(), rel=1e-15)
        assert totals["accesses"] == pytest.approx(step.accesses.sum(), rel=1e-15)
        assert found["layers"]["cycles"] == step.cycles.tolist()
        counted = sum(np.array(one["counts"]["cycles"]) + one["stall_cycles"]
                      for one in found["passes"].values())
        np.testing.assert_allclose(counted, step.cycles)
        assert sum(sum(sum(part) for part in one["energy"].values())
                   for one in found["passes"].values()) == pytest.approx(totals["energy"])
        assert ("chosen" in found) == (name == BEST)


def test_json_holds_what_was_asked_for(report):
    assert list(json.loads(to_json(report, ["skip"]))["schedules"]) == ["skip"]


def test_csv_has_a_row_a_layer_schedule_and_pass(report):
    lines = to_csv(report, ALL).splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert any("energy in pJ, table horowitz45" in line for line in comments)
    assert any("assumptions: rows=8 columns=4 batch=6" in line for line in comments)
    assert "# no cost: odd<node> (Magic, UNKNOWN)" in comments
    rows = list(csv.DictReader(lines[len(comments):]))
    assert len(rows) == sum(4 * len(report.step(name).passes) for name in ALL)
    for name in ALL:
        mine = [row for row in rows if row["schedule"] == name]
        step = report.step(name)
        assert sum(float(row["cycles"]) + float(row["stall_cycles"]) for row in mine
                   ) == pytest.approx(step.cycles.sum())
        assert sum(float(row[one]) for row in mine for one in ACCESSES) == pytest.approx(
            step.accesses.sum())
        assert sum(float(row[f"dram_{one}_bytes"]) for row in mine for one in MOVED_TITLES
                   ) == pytest.approx(step.dram_bytes.sum())
        assert sum(float(row[f"energy_{one}"]) for row in mine for one in COMPONENT_TITLES
                   ) == pytest.approx(sum(report.summaries[name].energy.values()))
    best = [row for row in rows if row["schedule"] == BEST and row["layer"] == "grouped"]
    step = report.step(BEST)
    assert {row["chosen"] for row in best if row["pass"] == "forward"} == {step.forward[1]}
    assert {row["chosen"] for row in best if row["pass"] != "forward"} == {step.backward[1]}


@pytest.mark.parametrize("write", [lambda one: to_json(one, ALL), lambda one: to_csv(one, ALL),
                                   to_html], ids=["json", "csv", "html"])
def test_files_are_the_same_every_time(write):
    first, second = write(_report()), write(_report())
    assert first == second
    own = first.partition("plotly.js")[0]
    assert not re.search(r"20\d\d-\d\d-\d\d", own)
    assert str(Path(charts.__file__).parents[2]) not in own


# The page.


class _Page(HTMLParser):
    """Elements of a page, with what they hold."""

    VOID = ("meta", "br", "link", "img", "path", "rect", "polygon")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def named(self, name: str, attribute: str = "id") -> list[str]:
        return [found for tag, attributes in self.elements if tag == name
                and (found := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def parsed(page) -> _Page:
    return _Page(page)


@pytest.fixture(scope="module")
def specs(parsed) -> dict[str, dict]:
    found = next(text for text in parsed.texts["script"] if text.startswith("[{"))
    return {one["name"]: one for one in json.loads(found)}


def test_the_page_is_well_formed_and_loads_nothing(page, parsed):
    assert parsed.open == []
    assert page.startswith("<!DOCTYPE html>")
    assert "charset" in parsed.elements[2][1]
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "data", "action"} & set(attributes)
        for name, value in attributes.items():
            assert name == "href" or not re.search(r"https?:|//", value or ""), (tag, name)
            assert name != "href" or value in {f"#{one}" for one in SECTIONS}
    style, = parsed.texts["style"]
    assert "@import" not in style
    assert "url(" not in style
    own = parsed.texts["script"][-1]
    assert "http" not in own
    assert "fetch" not in own


def test_the_page_has_every_schedule_section_and_assumption(report, parsed):
    text = " ".join(parsed.texts["section"])
    for name, summary in report.summaries.items():
        assert f"{summary.cycles:,.0f}" in text, name
        assert titles()[name] in text
    assert parsed.named("section") == list(SECTIONS)
    assert [one.strip() for one in parsed.texts["h2"]] == list(SECTIONS.values())
    for name, value in assumption_texts(SMALL).items():
        assert f"{name}{value}" in text
    for note in (*NOTES, *operator_lines(report.network), load_table("horowitz45").limits):
        assert note in text
    for layer in report.network.layers:
        assert layer.name in text


def test_cards_show_gains_over_the_baseline_and_over_the_best_of_others(report, page):
    for name in ("fused", "lanes"):
        mine = report.summaries[name]
        for measure in (lambda one: one.cycles, lambda one: sum(one.accesses.values()),
                        lambda one: sum(one.energy.values())):
            best = min(OTHERS, key=lambda one: measure(report.summaries[one]))
            first, second = (measure(report.summaries[one]) / measure(mine)
                             for one in (BASELINE, best))
            assert re.search(
                f"<b>{first:.2f}x</b>[a-z ]+<br>{second:.2f}x to {best}</span>", page)


def test_a_hostile_name_stays_text(parsed):
    assert parsed.texts["h1"] == [f"Training {HOSTILE} on a 8 x 4 array"]
    assert len(parsed.texts["script"]) == 3


def test_every_chart_has_its_place_title_and_units(parsed, specs):
    places = [name.removeprefix("chart-") for name in parsed.named("div")]
    assert places == list(specs)
    assert len(parsed.named("select")) == 2
    for name, one in specs.items():
        axes = [axis for key, axis in one["layout"].items() if re.match("[xy]axis", key)]
        named = [axis for axis in axes if axis.get("title", {}).get("text")]
        assert len(named) >= (2 if "-by-" in name or name == "roofline" else 1), name
        for trace in one["data"]:
            assert trace.get("hovertemplate") or trace.get("hoverinfo") == "skip"


def test_a_schedule_has_one_colour_everywhere(specs):
    found: dict[str, set[str]] = {}
    for one in specs.values():
        for trace in one["data"]:
            if trace["name" if "name" in trace else "type"] in ALL:
                found.setdefault(trace["name"], set()).add(trace["line"]["color"])
                assert trace["marker"]["color"] == trace["line"]["color"]
    assert set(found) == set(ALL)
    assert all(len(colours) == 1 for colours in found.values())
    assert len({colour for colours in found.values() for colour in colours}) == len(ALL)
    assert len({(dash, symbol) for _, dash, symbol in charts.STYLES.values()}) == len(ALL)


def test_charts_show_the_numbers_of_the_estimate(report, specs):
    def traces(chart, **wanted):
        return [one for one in specs[chart]["data"]
                if all(one.get(key) == value for key, value in wanted.items())]

    for name in ALL:
        step = report.step(name)
        line = traces("cycles-by-layer", name=name, yaxis="y")[0]
        np.testing.assert_allclose(line["y"], step.cycles, rtol=1e-4)
        for chart, whole in (("accesses-by-layer", step.accesses),
                             ("dram-by-layer", step.dram_bytes)):
            stack = traces(chart, meta=name)
            np.testing.assert_allclose(sum(np.array(one["y"]) for one in stack), whole, rtol=1e-4)
            assert all(one["visible"] == (name == "interleaved") for one in stack)
        points = traces("roofline", name=name)[0]
        macs = report.per_layer(step.counts["macs"])
        np.testing.assert_allclose(points["y"], macs / step.cycles, rtol=1e-4)
        np.testing.assert_allclose(points["x"], macs / step.dram_bytes, rtol=1e-4)
        for part in ("accesses", "dram", "energy"):
            bars = specs[f"{part}-total"]["data"]
            index = bars[0]["y"].index(name)
            whole = sum(getattr(report.summaries[name], part).values())
            scale = 1e6 if part == "energy" else 1         # the page shows uJ of the small network
            assert scale * sum(one["x"][index] for one in bars) == pytest.approx(whole, rel=1e-4)


def test_what_ideas_save_leads_from_the_baseline_to_lanes(report, specs):
    for name, measure, scale in (
            ("cycles", lambda one: one.cycles, 1),
            ("accesses", lambda one: sum(one.accesses.values()), 1),
            ("energy", lambda one: sum(one.energy.values()), 1e6)):
        bars, = specs[f"savings-{name}"]["data"]
        assert bars["measure"] == ["absolute", *["relative"] * 6, "total"]
        assert bars["x"][1] == "hide loads"
        assert scale * bars["y"][0] == pytest.approx(measure(report.summaries[BASELINE]), rel=1e-4)
        assert scale * sum(bars["y"]) == pytest.approx(measure(report.summaries["lanes"]), rel=1e-3)


def test_loads_that_are_not_hidden_are_no_saving():
    exposed = charts.savings(_report(a=SMALL.with_changes(folds="serial")))
    assert "hide loads" not in exposed[0].data[0]["x"]


def test_sensitivity_meets_the_estimate_at_its_own_batch_and_array():
    network = _network("small")
    report = _report(network, Assumptions(rows=8, columns=8, batch=4))
    found = {one.name: one for one in charts.sensitivity(report)}
    for chart, place in (("cycles-by-batch", 4), ("cycles-by-array", 8)):
        for trace in found[chart].data:
            at = trace["y"][trace["x"].index(place)]
            assert at == pytest.approx(report.summaries[trace["name"]].cycles / 4, rel=1e-4)
    large = _report(network, Assumptions(rows=16, columns=16, batch=4))
    for trace in found["gain-by-array"].data:
        at = trace["y"][trace["x"].index(16)]
        assert at == pytest.approx(large.summaries[trace["name"]].ratio, rel=1e-4)
    for trace in found["gain-by-batch"].data:
        at = trace["y"][trace["x"].index(4)]
        assert at == pytest.approx(report.summaries[trace["name"]].ratio, rel=1e-4)


def test_a_network_that_stays_in_the_buffers_has_a_page():
    a = SMALL.with_changes(activation_kb=4096, gradient_kb=4096, weight_kb=4096, bandwidth=None,
                           lanes=1)
    text = to_html(_report(a=a, table="eyeriss65"))
    assert "Where the whole network fits the buffers, only its images are fetched." in text
    assert "DRAM is never waited for." in text
    assert "lanes peak" not in text


def test_many_layers_are_scrolled_and_few_are_named(specs):
    assert specs["cycles-by-layer"]["layout"]["xaxis"]["ticktext"][:2] == ["in", "grouped"]
    many = charts.cycles_by_layer(_report(load_network("densenet264"), Assumptions()))
    assert many.width == 7 * 265
    assert "ticktext" not in many.layout["xaxis"]
