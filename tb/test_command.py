"""`gradloom area`: what is compared, ratios within one run, and the file."""

import json
from dataclasses import asdict, replace

import pytest

from gradloom.baseline import PlainElement, SwitchableElement
from gradloom.pe import ProcessingElement
from gradloom_golden.config import PRESETS
from gradloom_synth import command
from gradloom_synth.area import AreaReport, ModuleArea
from gradloom_synth.command import NOTE, area_command, compare, variants

TINY = PRESETS["tiny"]


def module(name, area, instances=1, total=None):
    return ModuleArea(name=name, instances=instances, cells=3, area=area, sequential_area=0.0,
                      memory_bits=8, total_cells=7, total_area=area if total is None else total)


@pytest.fixture
def measured(monkeypatch):
    """Measure cells of 10, 20, ... gate equivalents in arrays of 100, 200, ... without Yosys."""
    seen = []
    monkeypatch.setattr(command, "to_verilog", lambda array, name: array)
    monkeypatch.setattr(command, "Array", lambda config, cell: (config, cell))
    monkeypatch.setattr(command, "machine_verilog", lambda config: (config, PlainElement))

    def measure(verilog, top, liberty):
        config, cell = verilog
        seen.append((config, cell, top, liberty))
        place = sum(entry[2] == "array" for entry in seen)
        return AreaReport(
            top=top, library="cells", nand2_area=2.0, yosys="Yosys 0", is_estimate=not liberty,
            modules=(module(top, 5.0, total=200.0 * max(place, 1)),
                     module(cell.MODULE, 20.0 * max(place, 1), instances=16)))

    monkeypatch.setattr(command, "measure", measure)
    return seen


def test_each_variant_adds_one_idea():
    found = variants(TINY)
    assert [(v.name, v.cell, v.config.lanes, v.config.overlap) for v in found] == [
        ("plain WS", PlainElement, False, False),
        ("switchable WS/OS", SwitchableElement, False, False),
        ("interleaved", ProcessingElement, False, False),
        ("+ lanes", ProcessingElement, True, False),
        ("+ hidden load and drain", ProcessingElement, True, True),
    ]
    for variant in found:
        assert replace(variant.config, lanes=True, overlap=True) == TINY


def test_a_machine_without_lanes_is_compared_without_them():
    found = variants(TINY.with_changes(operand_bits=4, lanes=False, master_bits=12))
    assert [v.name for v in found] == [
        "plain WS", "switchable WS/OS", "interleaved", "+ hidden load and drain"]
    assert not any(v.config.lanes for v in found)


def test_ratios_are_to_the_plain_array_of_the_same_run(measured):
    told = []
    found = compare(TINY, None, told.append)
    assert told == [array.name for array in found] == [v.name for v in variants(TINY)]
    assert [array.cell for array in found] == [10, 20, 30, 40, 50]
    assert [array.array for array in found] == [100, 200, 300, 400, 500]
    assert [array.cell_ratio for array in found] == [1, 2, 3, 4, 5]
    assert [array.array_ratio for array in found] == [1, 2, 3, 4, 5]
    assert [entry[:2] for entry in measured] == [(v.config, v.cell) for v in variants(TINY)]


def test_tables_and_file_show_the_run(measured, tmp_path, capsys):
    library = tmp_path / "cells.lib"
    assert area_command(TINY, "tiny", library, tmp_path / "new") == 0
    assert {entry[3] for entry in measured} == {library}
    assert len(measured) == 1 + len(variants(TINY))
    shown = " ".join(capsys.readouterr().out.split())
    assert "tiny: 100 gate equivalents, 7 cells" in shown
    assert "4 x 4 arrays from the same generator" in shown
    assert "5.00x" in shown
    assert NOTE in shown
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "area.json"
    content = json.loads(path.read_text())
    assert content["note"] == NOTE
    assert content["config"] == asdict(TINY)
    assert (content["library"], content["yosys"]) == ("cells", "Yosys 0")
    assert content["gate_equivalents"] == 100
    assert [entry["cell_ratio"] for entry in content["arrays"]] == [1, 2, 3, 4, 5]
    assert [entry["name"] for entry in content["modules"]] == ["gradloom", PlainElement.MODULE]


def test_an_estimate_is_called_one_and_writes_no_file_unasked(measured, tmp_path, capsys,
                                                              monkeypatch):
    monkeypatch.chdir(tmp_path)
    area_command(TINY, "tiny", None, None)
    assert "generic cells weighed by transistors" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ideas_cost_area_in_the_order_they_are_added():
    found = compare(TINY, None)
    cells = [array.cell for array in found]
    assert cells == sorted(cells)
    assert found[0].cell_ratio == found[0].array_ratio == 1
    assert all(array.array > 16 * array.cell for array in found)
