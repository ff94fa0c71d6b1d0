"""The bench harness passes what is right, and fails what is wrong, empty or does not build."""

import multiprocessing
import time

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb_tools.runner import Icarus

import rtl_bench
from rtl_bench import BenchError, run_bench, seed

LIMIT = 11


class Counter(wiring.Component):
    """Counts enabled cycles up to a limit."""

    en: In(1)
    count: Out(8)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.en & (self.count != LIMIT)):
            m.d.sync += self.count.eq(self.count + 1)
        return m


@pytest.fixture(scope="module")
def counter():
    return verilog.convert(Counter(), name="counter", emit_src=False, strip_internal_attrs=True)


def run_counter(text, sim, **params):
    params = {"limit": LIMIT, "seed": seed(), **params}
    return run_bench(text, top="counter", bench="benches.counter", sim=sim, params=params)


def test_good_counter_passes(counter, sim, capsys):
    assert run_counter(counter, sim) == 2
    assert f"GRADLOOM_SEED={seed()}" in capsys.readouterr().out


def test_seed_is_settable(counter, sim, monkeypatch):
    monkeypatch.setenv("GRADLOOM_SEED", "77")
    assert run_counter(counter, sim, seed=77) == 2


def test_failing_bench_raises_and_shows_its_log(counter, sim):
    with pytest.raises(BenchError, match=r"failed 1 of 2 tests(.|\n)*AssertionError"):
        run_counter(counter, sim, limit=LIMIT - 1)


def test_empty_bench_raises(counter, sim):
    with pytest.raises(BenchError, match=r"No tests were discovered in module: benches\.empty"):
        run_bench(counter, top="counter", bench="benches.empty", sim=sim)


def test_selection_of_no_test_raises(counter, sim, monkeypatch):
    monkeypatch.setenv("COCOTB_TEST_FILTER", "no_such_test")
    with pytest.raises(BenchError, match=r"benches\.counter ran no test"):
        run_counter(counter, sim)


def test_absent_bench_raises(counter, sim):
    with pytest.raises(BenchError, match=r"No module named 'benches\.no_such_bench'"):
        run_bench(counter, top="counter", bench="benches.no_such_bench", sim=sim)


def test_what_does_not_build_shows_its_log(sim):
    with pytest.raises(BenchError, match=rf"{sim} did not build wrong(.|\n)*syntax error"):
        run_bench("module wrong(; endmodule", top="wrong", bench="benches.counter", sim=sim)


@pytest.mark.icarus
def test_processes_share_one_build(counter, tmp_path, monkeypatch):
    rtl_bench.need_icarus()
    build = Icarus.build

    def slow_build(self, **settings):
        with open(tmp_path / "builds", "a") as builds:
            builds.write("one\n")
        time.sleep(0.5)  # long enough for the others to arrive
        build(self, **settings)

    monkeypatch.setattr(Icarus, "build", slow_build)
    monkeypatch.setattr(rtl_bench, "BUILD_ROOT", tmp_path)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        runs = [pool.apply_async(run_counter, (counter, "icarus")) for _ in range(3)]
        assert [run.get() for run in runs] == [2, 2, 2]
    assert run_counter(counter, "icarus") == 2
    assert (tmp_path / "builds").read_text() == "one\n"
    (folder,) = (tmp_path / "icarus").iterdir()
    assert not list(folder.glob("run-*"))


@pytest.mark.icarus
def test_interrupted_build_is_done_again(counter, tmp_path, monkeypatch):
    rtl_bench.need_icarus()
    monkeypatch.setattr(rtl_bench, "BUILD_ROOT", tmp_path)
    run_counter(counter, "icarus")
    (build,) = (tmp_path / "icarus").iterdir()
    (build / "built").unlink()
    (build / "sim.vvp").unlink()
    assert run_counter(counter, "icarus") == 2


def test_bad_arguments_are_named(counter, monkeypatch):
    with pytest.raises(ValueError, match=r"one of \['icarus', 'verilator'\], not 'ghdl'"):
        run_counter(counter, "ghdl")
    monkeypatch.setenv("GRADLOOM_SEED", "-3")
    with pytest.raises(ValueError, match="GRADLOOM_SEED must be a number from 0 up, not '-3'"):
        seed()


def test_absent_icarus_skips_unless_it_is_required(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("GRADLOOM_REQUIRE_ICARUS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install Icarus Verilog"):
        rtl_bench.need_icarus()
    monkeypatch.setenv("GRADLOOM_REQUIRE_ICARUS", "1")
    with pytest.raises(pytest.fail.Exception, match="GRADLOOM_REQUIRE_ICARUS=1 demands it"):
        rtl_bench.need_icarus()
