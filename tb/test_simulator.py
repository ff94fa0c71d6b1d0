# amaranth: UnusedElaboratable=no
"""The compiled simulator against a memory whose contents and timing Python predicts."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from amaranth import Module, Mux, Signal
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from gradloom.memory_port import core_members
from gradloom_golden.config import preset
from gradloom_host import simulator as module
from gradloom_host.missing import MissingExtraError
from gradloom_host.simulator import BuildError, SimulationError, Simulator

DEPTH = 64
START = 1 << 20
RESET_CYCLES = 2


class Echo(wiring.Component):
    """A memory of `DEPTH` words; writing n to `START` makes it busy for n cycles.

    Parameters
    ----------
    mask : int
        What every answer is exclusive-ored with, to tell designs apart.
    period : int
        Requests are accepted, and answers given, in one of so many cycles.
    spurious : bool
        Answer writes too.
    """

    def __init__(self, *, mask: int = 0, period: int = 1, spurious: bool = False):
        self.mask = mask
        self.period = period
        self.spurious = spurious
        super().__init__(core_members(preset("tiny")))

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=32, depth=DEPTH, init=[])
        writer, reader = memory.write_port(), memory.read_port()

        left = Signal(32)
        phase = Signal(range(self.period + 1))
        held = Signal()
        request = self.requests.payload
        taken = Signal()
        turn = Signal()
        m.d.sync += phase.eq(Mux(phase == self.period - 1, 0, phase + 1))
        m.d.comb += [
            turn.eq(~phase.any()),
            self.busy.eq(left != 0),
            self.responses.valid.eq(held & turn),
            self.responses.payload.eq(reader.data ^ self.mask),
            self.requests.ready.eq(
                turn & ~self.busy & (~held | (self.responses.valid & self.responses.ready))
            ),
            taken.eq(self.requests.valid & self.requests.ready),
            writer.addr.eq(request.address),
            writer.data.eq(request.data),
            writer.en.eq(taken & request.write & ~request.address[20]),
            reader.addr.eq(request.address),
            reader.en.eq(taken),
        ]
        answered = taken if self.spurious else taken & ~request.write
        with m.If(answered):
            m.d.sync += held.eq(1)
        with m.Elif(self.responses.valid & self.responses.ready):
            m.d.sync += held.eq(0)

        with m.If(self.busy):
            m.d.sync += left.eq(left - 1)
        with m.Elif(taken & request.write & request.address[20]):
            m.d.sync += left.eq(request.data)
        return m


def text_of(**options) -> str:
    return verilog.convert(Echo(**options), name="gradloom", emit_src=False)


def uint32(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def contents(seed: int, count: int = DEPTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, count, np.uint32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def echo(cache):
    with Simulator(text_of(), cache=cache) as simulator:
        yield simulator


@pytest.fixture
def forbid_building(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a build tool was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def test_reads_what_was_written(echo):
    words = contents(1)
    echo.write(0, words)
    np.testing.assert_array_equal(echo.read(0, DEPTH), words)
    echo.write(10, uint32(1, 2, 0xFFFFFFFF))
    words[10:13] = 1, 2, 0xFFFFFFFF
    np.testing.assert_array_equal(echo.read(9, 7), words[9:16])
    assert echo.read(9, 7).dtype == np.uint32


def test_moves_one_word_a_cycle(echo):
    start = echo.cycles
    echo.write(0, contents(1, 40))
    assert echo.cycles - start == 40
    echo.read(0, 40)
    assert echo.cycles - start == 40 + 41                 # the last answer comes a cycle later


def test_writes_a_strided_array(echo):
    words = contents(2)
    echo.write(0, words[::-2])
    np.testing.assert_array_equal(echo.read(0, DEPTH // 2), words[::-2])


def test_moves_nothing_in_no_time(echo):
    echo.write(5, uint32())
    assert echo.read(5, 0).shape == (0,)
    assert echo.cycles == RESET_CYCLES


def test_waits_for_a_slow_machine(cache):
    words = contents(3)
    with Simulator(text_of(period=3), cache=cache) as simulator:
        start = simulator.cycles
        simulator.write(0, words)
        assert simulator.cycles - start > 3 * (DEPTH - 1)
        np.testing.assert_array_equal(simulator.read(0, DEPTH), words)


def test_waits_until_a_busy_machine_accepts(echo):
    start = echo.cycles
    echo.write(START, uint32(20))
    echo.write(3, uint32(77))
    assert echo.cycles - start == 1 + 20 + 1
    assert echo.read(3, 1) == 77


@pytest.mark.parametrize("cycles", [1, 2, 1000, 3 * module.CYCLES_PER_CALL])
def test_runs_until_idle(echo, cycles):
    echo.write(START, uint32(cycles))
    start = echo.cycles
    assert echo.run(cycles) == cycles
    assert echo.cycles - start == cycles


def test_runs_an_idle_machine_for_one_cycle(echo):
    assert echo.run(1000) == 1


def test_stops_at_the_limit_and_goes_on(echo):
    echo.write(START, uint32(1000))
    with pytest.raises(SimulationError, match="still busy after the limit of 999 cycles"):
        echo.run(999)
    assert echo.run(1000) == 1


def test_reset_ends_a_run(echo):
    echo.write(7, uint32(123))
    echo.write(START, uint32(1000))
    start = echo.cycles
    echo.reset()
    assert echo.cycles - start == RESET_CYCLES
    assert echo.run(1000) == 1
    assert echo.read(7, 1) == 123


def test_gives_up_on_a_machine_that_accepts_nothing(echo, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 100)
    echo.write(START, uint32(10_000))
    with pytest.raises(SimulationError, match="write of 4 words to 0x2 stopped after 0: nothing"):
        echo.write(2, contents(4, 4))
    with pytest.raises(SimulationError, match="read of 4 words from 0x2 stopped after 0: nothing"):
        echo.read(2, 4)
    assert echo.run(10_000) == 10_000 - 200


def test_reports_a_response_that_was_not_asked_for(cache):
    with Simulator(text_of(spurious=True), cache=cache) as simulator:
        simulator.write(0, uint32(1))
        with pytest.raises(SimulationError, match="a response that no read had asked for"):
            simulator.read(0, 1)
        simulator.reset()
        assert simulator.read(0, 1) == 1


def test_rejects_arguments(echo):
    with pytest.raises(TypeError, match="array of one axis, not int64 of shape"):
        echo.write(0, np.arange(3))
    with pytest.raises(TypeError, match=r"not uint32 of shape \(2, 2\)"):
        echo.write(0, np.zeros((2, 2), np.uint32))
    with pytest.raises(TypeError, match="not list"):
        echo.write(0, [1, 2])
    with pytest.raises(ValueError, match="2 words from address 16777215 leave"):
        echo.write((1 << 24) - 1, uint32(1, 2))
    with pytest.raises(ValueError, match="1 words from address -1 leave"):
        echo.read(-1, 1)
    with pytest.raises(ValueError, match="-3 words from address 0 leave"):
        echo.read(0, -3)
    with pytest.raises(ValueError, match="at least 1 cycle, not 0"):
        echo.run(0)
    with pytest.raises(ValueError, match="identifier, not 'two words'"):
        Simulator("", top="two words")
    assert echo.cycles == RESET_CYCLES


def test_closes_once_and_for_all(cache):
    simulator = Simulator(text_of(), cache=cache)
    simulator.close()
    simulator.close()
    with pytest.raises(SimulationError, match="closed"):
        simulator.run(1)


def test_instances_of_one_design_are_independent(cache):
    with Simulator(text_of(), cache=cache) as one, Simulator(text_of(), cache=cache) as other:
        one.write(0, contents(5))
        other.write(0, contents(6))
        one.write(START, uint32(500))
        assert other.run(1000) == 1
        assert one.run(1000) == 500
        np.testing.assert_array_equal(one.read(0, DEPTH), contents(5))
        one.close()
        np.testing.assert_array_equal(other.read(0, DEPTH), contents(6))


def test_instances_of_different_designs_are_independent(cache):
    masked_text = text_of(mask=0xA5A5A5A5)
    with Simulator(text_of(), cache=cache) as plain, Simulator(masked_text, cache=cache) as masked:
        plain.write(0, contents(5))
        masked.write(0, contents(6))
        np.testing.assert_array_equal(plain.read(0, DEPTH), contents(5))
        np.testing.assert_array_equal(masked.read(0, DEPTH), contents(6) ^ np.uint32(0xA5A5A5A5))


def test_builds_a_design_once(echo, cache, forbid_building):
    with Simulator(text_of(), cache=cache) as again:
        assert again.run(1) == 1
    with pytest.raises(AssertionError, match="a build tool was started"):
        Simulator(text_of(mask=1), cache=cache)


def test_builds_the_runtime_once(cache, echo):
    (runtime,) = cache.glob("runtime-*.o")
    built = runtime.stat().st_mtime_ns
    Simulator(text_of(mask=2), cache=cache).close()
    assert [(path, path.stat().st_mtime_ns) for path in cache.glob("runtime-*.o")] == [
        (runtime, built)
    ]


def test_builders_of_one_design_do_not_disturb_each_other(cache, echo):
    text = text_of(mask=3)
    before = set(cache.iterdir())

    def answer(_) -> int:
        with Simulator(text, cache=cache) as simulator:
            simulator.write(0, uint32(8))
            return int(simulator.read(0, 1)[0])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(answer, range(2))) == [8 ^ 3] * 2
    (added,) = set(cache.iterdir()) - before
    assert added.suffix == ".so"


def test_an_interrupted_build_leaves_nothing(cache, echo, monkeypatch):
    before = set(cache.iterdir())
    whole = subprocess.run

    def interrupt(command, **options):
        done = whole(command, **options)
        if "-shared" in command:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Simulator(text_of(mask=4), cache=cache)
    assert set(cache.iterdir()) == before


def test_caches_in_the_home_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.default_cache() == tmp_path / "gradloom"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.default_cache() == tmp_path / ".cache" / "gradloom"


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"output busy;", "output busy; wire w = 2'd1;", r"WIDTHTRUNC: machine\.v:\d+:\d+: "),
        (r"\bbusy\b", "occupied", "missing pin: 'occupied'"),
        (r"\[56:0\]", "[57:0]", "WIDTHEXPAND: simulated.sv"),
        (r"module gradloom\b", "module other", "module.*'gradloom'"),
    ],
    ids=["width", "port", "port-width", "top"],
)
def test_reports_what_verilator_rejects(cache, pattern, replacement, message):
    text = re.sub(pattern, replacement, text_of())
    assert text != text_of()
    before = set(cache.iterdir())
    with pytest.raises(BuildError, match=message) as caught:
        Simulator(text, cache=cache)
    assert str(caught.value).startswith("verilator_bin rejects the machine: %")
    assert set(cache.iterdir()) == before


def test_names_a_missing_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"g\+\+ is not on PATH; run: apt-get install g\+\+"):
        Simulator("", cache=tmp_path)


def test_names_a_missing_verilator(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "verilator", None)
    with pytest.raises(MissingExtraError, match=r"'verilator' is not .* 'gradloom\[train\]'"):
        Simulator("", cache=tmp_path)


def test_ends_after_a_later_one(cache, tmp_path):
    # Only what is visible from outside is registered, as inputs of shared cells are.
    text = text_of().replace("input rst;", "input rst /* verilator public_flat_rd */;", 1)
    assert text != text_of()
    (tmp_path / "echo.v").write_text(text)
    script = ("import pathlib, sys\n"
              "from gradloom_host.simulator import Simulator\n"
              "text, cache = pathlib.Path(sys.argv[1]).read_text(), pathlib.Path(sys.argv[2])\n"
              "first = Simulator(text, cache=cache)\n"
              "Simulator(text, cache=cache).close()\n"
              "first.close()\n")
    # What is freed must not be used: fill it with what no pointer or lock holds.
    subprocess.run([sys.executable, "-c", script, tmp_path / "echo.v", cache], check=True,
                   env=os.environ | {"MALLOC_PERTURB_": "165"}, timeout=120)
