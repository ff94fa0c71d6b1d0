"""The memory and the host around an AXI design: data, timing, answers, and the rules of the bus."""

import numpy as np
import pytest

from copy_engine import (
    BEATS,
    BURSTS,
    DATA,
    FAULT,
    FAULTS,
    FROM,
    RESPONSES,
    START,
    TO,
    copy_engine,
)
from gradloom_host.axi_simulator import AxiSimulator
from gradloom_host.verilated import BuildError, SimulationError

SIZE = 1 << 14
SLVERR, DECERR = 2, 3
WIDE = 1 << 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(cache):
    """Construct a copy engine, its memory filled with random bytes."""

    def construct(*, data_bits: int = 64, memory_bytes: int = SIZE, **options) -> AxiSimulator:
        simulator = AxiSimulator(
            copy_engine(data_bits=data_bits), memory_bytes=memory_bytes, data_bits=data_bits,
            cache=cache, **options)
        rng = np.random.default_rng(memory_bytes)
        simulator.memory[:] = rng.integers(0, 256, memory_bytes, np.uint8)
        return simulator

    return construct


def copy(simulator, *, source=0, target=8192, beats=16, bursts=3, limit=100_000) -> int:
    """Copy `beats` times `bursts` beats; return the cycles until the interrupt."""
    for register, value in ((FROM, source), (TO, target), (BEATS, beats), (BURSTS, bursts),
                            (START, 1)):
        simulator.write(register, value)
    return simulator.run_until_interrupt(limit)


@pytest.mark.parametrize("data_bits", [64, 128, 256])
def test_copies_what_python_put_into_memory(make, data_bits):
    with make(data_bits=data_bits) as simulator:
        before = simulator.memory.copy()
        copy(simulator, source=1024, target=8192, beats=16, bursts=3)
        length = 48 * data_bits // 8
        np.testing.assert_array_equal(simulator.memory[8192:8192 + length],
                                      before[1024:1024 + length])
        before[8192:8192 + length] = before[1024:1024 + length]
        np.testing.assert_array_equal(simulator.memory, before)
        assert simulator.read(RESPONSES) == 0


def test_sees_what_python_writes_between_runs(make):
    with make() as simulator:
        for value in (1, 2):
            simulator.memory[:8] = value
            copy(simulator, beats=1, bursts=1)
            assert (simulator.memory[8192:8200] == value).all()


def test_registers_keep_32_bits(make):
    with make() as simulator:
        for value in (0, 0xFFFFFFFF, 0x12345678):
            simulator.write(DATA, value)
            assert simulator.read(DATA) == value


@pytest.mark.parametrize("latency", [1, 7, 20])
def test_a_burst_comes_late_by_the_latency_then_a_beat_a_cycle(make, latency):
    def cycles(beats, bursts):
        with make(latency=latency) as simulator:
            return copy(simulator, beats=beats, bursts=bursts)

    one = cycles(1, 1)
    assert cycles(65, 1) - one == 2 * 64                  # 64 beats more in, and out
    # Reads are asked for at once; a write is its address, data, the answer and a turn.
    assert cycles(32, 2) - cycles(32, 1) == 32 + (1 + 32 + latency + 1)
    with make(latency=latency + 5) as simulator:
        assert copy(simulator, beats=1, bursts=1) - one == 2 * 5


def test_takes_no_more_bursts_than_it_may(make):
    def cycles(outstanding):
        with make(latency=100, outstanding=outstanding) as simulator:
            return copy(simulator, beats=1, bursts=4)

    assert cycles(1) - cycles(4) == 3 * 100
    assert cycles(4) == cycles(8)


@pytest.mark.parametrize("seed", range(4))
def test_copies_through_pauses(make, seed):
    with make(stall_probability=0.5, seed=seed, latency=3) as simulator:
        cycles = copy(simulator, beats=40, bursts=6)
        np.testing.assert_array_equal(simulator.memory[8192:8192 + 1920], simulator.memory[:1920])
    with make(latency=3) as simulator:
        assert cycles > 1.5 * copy(simulator, beats=40, bursts=6)


def test_pauses_follow_from_the_seed(make):
    def cycles(seed):
        with make(stall_probability=0.3, seed=seed) as simulator:
            return copy(simulator), simulator.cycles

    assert cycles(1) == cycles(1)
    assert len({cycles(seed) for seed in range(4)}) > 1


def test_answers_decerr_beyond_the_memory(make):
    with make(memory_bytes=4096) as simulator:
        before = simulator.memory.copy()
        copy(simulator, source=4096, target=0, beats=1, bursts=1)
        assert simulator.read(RESPONSES) == DECERR
        assert (simulator.memory[:8] == 0xAA).all()
        copy(simulator, source=0, target=4096 - 8, beats=1, bursts=2)
        assert simulator.read(RESPONSES) == DECERR << 2
        np.testing.assert_array_equal(simulator.memory[8:-8], before[8:-8])


def test_a_beat_that_leaves_the_memory_in_part_leaves_it(make):
    with make(memory_bytes=4100) as simulator:
        copy(simulator, source=4096, target=0, beats=1, bursts=1)
        assert simulator.read(RESPONSES) == DECERR


def test_answers_slverr_where_told_to(make):
    with make() as simulator:
        simulator.fault(16, 17)
        before = simulator.memory.copy()
        copy(simulator, source=0, target=8192, beats=2, bursts=1)
        assert simulator.read(RESPONSES) == 0
        copy(simulator, source=0, target=8192, beats=3, bursts=1)
        assert simulator.read(RESPONSES) == SLVERR
        copy(simulator, source=1024, target=0, beats=4, bursts=1)
        assert simulator.read(RESPONSES) == SLVERR << 2
        before[:16], before[24:32] = before[1024:1040], before[1048:1056]
        np.testing.assert_array_equal(simulator.memory[:1024], before[:1024])
        simulator.fault(0, 0)
        copy(simulator, source=0, target=8192, beats=4, bursts=1)
        assert simulator.read(RESPONSES) == 0


BROKEN = {
    "ar-falls": "ARVALID fell before ARREADY",
    "ar-changes": "AR changed before ARREADY",
    "aw-falls": "AWVALID fell before AWREADY",
    "aw-changes": "AW changed before AWREADY",
    "w-falls": "WVALID fell before WREADY",
    "w-changes": "W changed before WREADY",
    "type": "a burst is not of type INCR",
    "size": "the beats of a burst are not those of the bus",
    "last-early": "WLAST is not at the last beat of its burst",
    "last-late": "WLAST is not at the last beat of its burst",
    "b-falls": "BVALID of the AXI4-Lite port fell before BREADY",
    "b-changes": "B of the AXI4-Lite port changed before BREADY",
    "r-falls": "RVALID of the AXI4-Lite port fell before RREADY",
    "r-changes": "R of the AXI4-Lite port changed before RREADY",
    "reset": "a VALID is high in reset",
    "answer-early": "BVALID of the AXI4-Lite port came before address and data",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_names_the_rule_that_is_broken(make, fault):
    def provoke(simulator):
        simulator.write(FAULT, FAULTS.index(fault))
        if fault == "reset":
            simulator.reset()
        for _ in range(20):
            simulator.read(RESPONSES)
            copy(simulator, beats=4, bursts=2)

    with make(stall_probability=0.5, seed=3) as simulator:
        if fault == "none":
            provoke(simulator)
            return
        with pytest.raises(SimulationError, match=r"breaks a rule of its bus in cycle \d+: ") as at:
            provoke(simulator)
        assert str(at.value).endswith(f": {BROKEN[fault]}.")


@pytest.mark.parametrize(("source", "beats", "message"), [
    (4096 - 8, 2, "a burst crosses a boundary of 4 KiB"),
    (4, 1, "a burst does not begin at a multiple of a beat"),
])
def test_names_a_burst_that_may_not_be(make, source, beats, message):
    with make() as simulator, pytest.raises(SimulationError, match=message):
        copy(simulator, source=source, beats=beats, bursts=1)


def test_a_burst_may_end_at_a_boundary(make):
    with make() as simulator:
        copy(simulator, source=4096 - 16, beats=2, bursts=1)
        assert simulator.read(RESPONSES) == 0


def test_a_refused_register_says_so(make):
    with make() as simulator:
        with pytest.raises(SimulationError, match="write at 0x20 was answered with SLVERR"):
            simulator.write(0x20, 1)
        with pytest.raises(SimulationError, match="read at 0x20 was answered with SLVERR"):
            simulator.read(0x20)


def test_stops_at_the_limit_and_goes_on(make):
    with make() as simulator:
        with pytest.raises(SimulationError, match="within the limit of 10 cycles"):
            copy(simulator, limit=10)
        left = simulator.run_until_interrupt(1000)
        assert simulator.run_until_interrupt(1000) == 0
    with make() as simulator:
        assert copy(simulator) == 10 + left


def test_reset_forgets_what_was_running(make):
    with make(latency=50) as simulator:
        with pytest.raises(SimulationError, match="limit"):
            copy(simulator, limit=20)
        simulator.reset()
        with pytest.raises(SimulationError, match="limit"):
            simulator.run_until_interrupt(500)
        copy(simulator, beats=5, bursts=5)
        np.testing.assert_array_equal(simulator.memory[8192:8392], simulator.memory[:200])


def test_rejects_arguments(make):
    for options, message in (
        ({"latency": 0}, "Latency must be at least 1, not 0"),
        ({"outstanding": 0}, "Outstanding must be at least 1, not 0"),
        ({"stall_probability": 1.0}, "from 0 to below 1, not 1.0"),
        ({"top": "two words"}, "identifier, not 'two words'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with make() as simulator:
        with pytest.raises(ValueError, match=r"below 0x4000000, so not at 0x4000000\."):
            simulator.read(1 << 26)
        with pytest.raises(ValueError, match="takes 32 bits, not 0x100000000"):
            simulator.write(DATA, WIDE)


def test_ports_of_another_width_are_no_machine(cache):
    with pytest.raises(BuildError, match=r"verilator_bin rejects the machine: %.*WIDTH"):
        AxiSimulator(copy_engine(), memory_bytes=64, data_bits=128, cache=cache)


def test_closes_once_and_for_all(make):
    simulator = make()
    memory = simulator.memory
    simulator.close()
    simulator.close()
    memory[:] = 0
    with pytest.raises(SimulationError, match="closed"):
        simulator.read(DATA)
