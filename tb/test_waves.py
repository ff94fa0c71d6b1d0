"""Waves hold what the simulator did, and their file appears whole or not at all."""

import shutil
import subprocess

import numpy as np
import pytest

from copy_engine import copy_engine
from gradloom_host import verilated
from gradloom_host.axi_simulator import AxiSimulator
from gradloom_host.simulator import Simulator
from gradloom_host.vcd import read_cycles
from gradloom_host.verilated import BuildError, SimulationError
from gradloom_host.waves import Waves
from test_simulator import RESET_CYCLES, START, text_of

FST_HEADER = bytes([0, 0, 0, 0, 0, 0, 0, 1, 0x49])        # block of type 0, 329 bytes


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def signal(file, name):
    found = read_cycles(file, lambda path: path[1:] == ("simulated", name))
    assert len(found) == 1
    return next(iter(found.values()))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_show_every_cycle(cache, tmp_path):
    file = tmp_path / "run.vcd"
    with Simulator(text_of(), cache=cache, waves=file) as simulator:
        simulator.write(START, np.array([5], np.uint32))
        simulator.run(100)
        assert not file.exists()
    assert names_in(tmp_path) == ["run.vcd"]
    busy = [0] * (RESET_CYCLES + 1) + [1] * 5 + [0]
    assert signal(file, "busy").tolist() == busy
    assert signal(file, "request_valid").tolist() == [0, 0, 1] + [0] * 6


def test_show_the_bus_of_a_machine_that_failed(cache, tmp_path):
    file = tmp_path / "run.vcd"
    with (pytest.raises(SimulationError, match="0x20 was answered with SLVERR"),
          AxiSimulator(copy_engine(), memory_bytes=64, data_bits=64, cache=cache,
                       waves=file) as simulator):
        simulator.write(0x20, 1)
    assert names_in(tmp_path) == ["run.vcd"]
    assert signal(file, "s_axil_bresp").max() == 2


def test_replace_an_older_file_at_the_end(cache, tmp_path):
    file = tmp_path / "run.vcd"
    file.write_text("older")
    simulator = Simulator(text_of(), cache=cache, waves=file)
    assert file.read_text() == "older"
    simulator.close()
    simulator.close()
    assert file.read_text().startswith("$version")


def test_without_them_nothing_is_built_for_them(cache, tmp_path):
    before = set(cache.glob("runtime-*.o"))
    Simulator(text_of(), cache=cache).close()
    (plain,) = set(cache.glob("runtime-*.o")) - before
    assert plain.exists()


@pytest.mark.parametrize(("name", "error", "message"), [
    ("run.wav", ValueError, r"named \.fst or \.vcd, not .*run\.wav"),
    ("run", ValueError, r"named \.fst or \.vcd"),
    ("absent/run.vcd", FileNotFoundError, r"there is no folder .*absent; make it first"),
])
def test_reject_a_file_before_anything_is_built(cache, tmp_path, name, error, message):
    before = set(cache.iterdir())
    with pytest.raises(error, match=message):
        Simulator(text_of(mask=9), cache=cache, waves=tmp_path / name)
    assert set(cache.iterdir()) == before
    assert names_in(tmp_path) == []


def test_leave_nothing_when_the_build_fails(cache, tmp_path):
    with pytest.raises(BuildError):
        Simulator("module gradloom; endmodule", cache=cache, waves=tmp_path / "run.vcd")
    assert names_in(tmp_path) == []


def test_that_cannot_be_opened_leave_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(Waves, "begin", lambda self: str(tmp_path / "absent" / "run.vcd"))
    with pytest.raises(OSError, match=r"cannot be written to .*run\.vcd"):
        Simulator(text_of(), cache=cache, waves=tmp_path / "run.vcd")
    assert names_in(tmp_path) == []


def test_in_fst_say_which_libraries_they_need(cache, tmp_path, monkeypatch):
    class Failed:
        returncode = 1

    monkeypatch.setattr(verilated.subprocess, "run", lambda *_, **__: Failed)
    with pytest.raises(BuildError, match=r"apt-get install zlib1g-dev liblz4-dev, or name the"):
        Simulator(text_of(), cache=cache, waves=tmp_path / "run.fst")
    assert names_in(tmp_path) == []


def has_lz4() -> bool:
    compiler = shutil.which("g++")
    return compiler is not None and subprocess.run(
        [compiler, "-E", "-x", "c++", "-"], input="#include <lz4.h>\n#include <zlib.h>\n",
        capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.skipif(not has_lz4(), reason="zlib and lz4 are not installed")
def test_in_fst_are_small(cache, tmp_path):
    sizes = {}
    for kind in ("fst", "vcd"):
        with Simulator(text_of(), cache=cache, waves=tmp_path / f"run.{kind}") as simulator:
            simulator.write(START, np.array([10_000], np.uint32))
            simulator.run(20_000)
        sizes[kind] = (tmp_path / f"run.{kind}").stat().st_size
    assert (tmp_path / "run.fst").read_bytes()[:9] == FST_HEADER
    assert names_in(tmp_path) == ["run.fst", "run.vcd"]
    assert sizes["fst"] < sizes["vcd"] / 10
