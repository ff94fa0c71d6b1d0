"""Random programs leave the compiled machine and the golden one in the same state."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from gradloom.generate import machine_verilog
from gradloom_golden.config import PRESETS, Config
from gradloom_golden.machine import GoldenMachine, run_program
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_WORDS,
    IDENT,
    Descriptor,
    Error,
    Function,
    Opcode,
    Region,
    Register,
)
from gradloom_golden.program_check import RANGE_ERROR
from gradloom_host.simulator import Simulator
from random_programs import (
    BUFFERS,
    broken_words,
    buffer_address,
    buffer_words,
    cover_program,
    program_coverage,
    random_contents,
    random_descriptor,
    random_program,
    vector_edges,
)

TINY = PRESETS["tiny"]
USUAL = {
    "tiny": TINY,
    "tall": TINY.with_changes(rows=8, gradient_depth=256, gradient_bits=16, overlap=False),
    "wide": TINY.with_changes(columns=8, operand_bits=4, lanes=False),
}
EXTRA = {
    "no_overlap": TINY.with_changes(overlap=False),
    "no_lanes": TINY.with_changes(lanes=False),
    "gradients_16": TINY.with_changes(gradient_bits=16),
    "columns_8": TINY.with_changes(columns=8),
    "rows_8": TINY.with_changes(rows=8, gradient_depth=256),
    "operands_4": TINY.with_changes(operand_bits=4, lanes=False),
    "narrow_sums": TINY.with_changes(accumulator_bits=24, master_bits=12),
    "edge": PRESETS["edge"],
}
PROGRAMS = 200
MOST_PROGRAMS = 1000
LIMIT = 1_000_000
REGISTERS = (Register.STATUS, Register.KEPT, Register.BITS)
REFUSED = [e for e in Error if Error.PROGRAM_LENGTH < e <= Error.FUNCTION
           and e != Error.IMAGE_RANGE]
"""Those that descriptors without memory meet."""



@cache
def verilog(config: Config) -> str:
    return machine_verilog(config)


class Twins:
    """The golden machine and the compiled one, given the same accesses.

    Parameters
    ----------
    config : Config
    rng : numpy.random.Generator
        Fills the buffers.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        self.config = config
        self.golden = GoldenMachine(config)
        self.rtl = Simulator(verilog(config))
        self.fill(rng)

    def write(self, address: int, words) -> None:
        for machine in (self.golden, self.rtl):
            machine.write(address, np.array(words, np.uint32))

    def fill(self, rng) -> None:
        for region in BUFFERS:
            self.write(buffer_address(region), random_contents(rng, self.config, region))

    def start(self, words) -> None:
        """Write a program and ask for it to be run, but run it only in the golden machine."""
        self.write(buffer_address(Region.PROGRAM), words)
        self.write(Register.START, [len(words) // DESCRIPTOR_WORDS])
        self.golden.run(LIMIT)

    def run(self, words) -> None:
        """Run a program from cleared counters in both, then compare."""
        self.write(Register.CLEAR, [0])
        self.start(words)
        self.rtl.run(LIMIT)
        self.compare()

    def compare(self) -> None:
        """Fail unless buffers, registers and counters are equal; all differences are named."""
        found = []
        for region in BUFFERS:
            address, count = buffer_address(region), buffer_words(self.config, region)
            expected, got = self.golden.read(address, count), self.rtl.read(address, count)
            if (expected != got).any():
                places = np.flatnonzero(expected != got)
                at = places[0]
                found.append(
                    f"{region.name}: {len(places)} words, first {at} is {got[at]:#x}, "
                    f"not {expected[at]:#x}"
                )
        places = {register.name: register for register in REGISTERS}
        places |= {name: Register.COUNTER + 2 * index for index, name in enumerate(COUNTERS)}
        for name, place in places.items():
            expected, got = self.golden.read(place, 1)[0], self.rtl.read(place, 1)[0]
            if expected != got:
                found.append(f"{name} is {got}, not {expected}")
        assert not found, "; ".join(found)


def encode(program: list[Descriptor]) -> list[int]:
    return [word for descriptor in program for word in descriptor.encode()]


@pytest.fixture(scope="module")
def tiny():
    return Twins(TINY, np.random.default_rng(0))


def configurations():
    usual = [pytest.param(config, id=name) for name, config in USUAL.items()]
    extra = [pytest.param(c, id=name, marks=pytest.mark.slow) for name, c in EXTRA.items()]
    return usual + extra


@pytest.mark.parametrize("config", configurations())
def test_random_programs_equal_the_golden_machine(config, rng):
    twins = Twins(config, rng)
    coverage = program_coverage(config)
    number = 0
    while number < PROGRAMS or (coverage.missing() and number < MOST_PROGRAMS):
        if number % 20 == 19:
            twins.fill(rng)
        if number % 7 == 0:
            twins.write(Register.SEED, rng.integers(0, 1 << 31, 1))
        program = random_program(rng, config, int(rng.integers(1, 5)))
        try:
            twins.run(encode(program))
        except AssertionError as error:
            raise AssertionError(f"program {number}, {program}: {error}") from None
        cover_program(coverage, config, program)
        number += 1
    print(coverage.report())
    assert not coverage.missing()


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error.name)
@pytest.mark.parametrize("good_before", [0, 1, 2])
def test_refused_descriptor_stops_the_program_and_the_next_one_runs(tiny, rng, error, good_before):
    before = random_program(rng, TINY, good_before)
    after = random_program(rng, TINY, 1)
    tiny.run([*encode(before), *broken_words(rng, TINY, error), *encode(after)])
    status = int(tiny.rtl.read(Register.STATUS, 1)[0])
    assert status == error << 8 | good_before << 16
    tiny.run(encode(random_program(rng, TINY, 2)))
    assert not tiny.rtl.read(Register.STATUS, 1)[0]


def test_vectors_end_where_their_buffers_do(rng):
    """The last word of each buffer is in reach of both machines; the next is refused by both."""
    rtl = Simulator(verilog(TINY))
    seen = Counter()
    for _ in range(150):
        for inside, beyond, region in vector_edges(rng, TINY):
            for d, error in ((inside, Error.NONE), (beyond, RANGE_ERROR[region])):
                for machine in (GoldenMachine(TINY), rtl):
                    run_program(machine, [d], limit=LIMIT)
                    assert machine.read(Register.STATUS, 1)[0] == error << 8, (machine, d)
            seen[Function(inside.function), region] += 1
    assert len(seen) == 13, "a function and a buffer that it reaches are missing"


def test_a_vector_beyond_its_buffer_stops_the_program_and_the_next_one_runs(tiny, rng):
    for _ in range(40):
        edges = vector_edges(rng, TINY)
        _, beyond, region = edges[rng.integers(len(edges))]
        before, after = (random_program(rng, TINY, int(rng.integers(1, 3))) for _ in range(2))
        tiny.run(encode([*before, beyond, *after]))
        status = int(tiny.rtl.read(Register.STATUS, 1)[0])
        assert status == RANGE_ERROR[region] << 8 | len(before) << 16
        tiny.run(encode(after))
        assert not tiny.rtl.read(Register.STATUS, 1)[0]


@pytest.mark.parametrize("length", [0, TINY.descriptor_depth + 1, 1 << 16, (1 << 32) - 1])
def test_refused_length_runs_nothing(tiny, rng, length):
    tiny.write(Register.CLEAR, [0])
    tiny.write(Register.START, [length])
    tiny.golden.run(LIMIT)
    assert tiny.rtl.run(LIMIT) == 1  # the one cycle that run() always clocks
    assert tiny.rtl.read(Register.STATUS, 1)[0] == Error.PROGRAM_LENGTH << 8
    tiny.compare()
    tiny.run(encode(random_program(rng, TINY, 2)))


def test_longest_program(tiny, rng):
    tiny.run(encode(random_program(rng, TINY, TINY.descriptor_depth, longest=4)))


def test_broken_fields_are_refused_alike(rng):
    """One field of a good descriptor becomes anything: both machines say the same of it."""
    rtl = Simulator(verilog(TINY))
    seen = Counter()
    for _ in range(300):
        good = random_descriptor(rng, TINY, longest=4)
        fields = {name: getattr(good, name) for name in good.__slots__}
        name = rng.choice(
            [
                "steps",
                "x_stride",
                "k_tiles",
                "n_tiles",
                "classes",
                "rows",
                "x_base",
                "d_base",
                "w_base",
                "state_base",
                "packed_base",
                "out_base",
                "bias_base",
                "d_stride",
                "out_stride",
                "w_block",
                "lanes_log2",
                "x_shift",
                "opcode",
                "function",
            ]
        )
        width = {
            "opcode": 4, "function": 4, "lanes_log2": 2, "x_shift": 3, "bias_base": 8,
        }.get(name, 9)
        fields[name] = int(rng.integers(0, 1 << width))
        words = Descriptor(**fields).encode()
        # Whatever it would do, its regions may now overlap: only the refusals are compared.
        machine = GoldenMachine(TINY)
        run_program(machine, [Descriptor.decode(words)])
        status = machine.read(Register.STATUS, 1)[0]
        run_program(rtl, [Descriptor.decode(words)], limit=LIMIT)
        assert rtl.read(Register.STATUS, 1)[0] == status, Descriptor.decode(words)
        seen[Error(int(status) >> 8 & 0xFF)] += 1
    assert len(seen) >= 8


def test_busy_machine_answers_control_reads_and_keeps_memory_waiting(tiny, rng):
    program = [random_descriptor(rng, TINY, Opcode.BACKWARD) for _ in range(4)]
    tiny.write(Register.CLEAR, [0])
    tiny.start(encode(program))
    assert tiny.rtl.read(Register.STATUS, 1)[0] & 1
    assert tiny.rtl.read(Register.IDENT, 1)[0] == IDENT
    early = tiny.rtl.read(Register.COUNTER, 1)[0]
    assert 0 < early < tiny.golden.counters["cycles"]
    tiny.rtl.read(buffer_address(Region.WEIGHT), 1)
    assert not tiny.rtl.read(Register.STATUS, 1)[0] & 1
    tiny.compare()


def test_write_to_a_busy_machine_comes_after_the_program(tiny, rng):
    tiny.write(Register.CLEAR, [0])
    tiny.start(encode(random_program(rng, TINY, 3)))
    for region in BUFFERS:
        tiny.write(buffer_address(region), random_contents(rng, TINY, region))
    tiny.compare()


def test_start_while_busy_waits_its_turn(tiny, rng):
    tiny.write(Register.CLEAR, [0])
    words = encode(random_program(rng, TINY, 2))
    tiny.start(words)
    tiny.write(Register.START, [2])
    tiny.golden.run(LIMIT)
    tiny.rtl.run(LIMIT)
    tiny.compare()


def test_same_seed_repeats_and_another_does_not(tiny, rng):
    contents = {region: random_contents(rng, TINY, region) for region in BUFFERS}
    program = [
        Descriptor(
            opcode=Opcode.FORWARD,
            steps=16,
            x_stride=16,
            k_tiles=1,
            n_tiles=1,
            out_base=64,
            out_shift=7,
            stochastic=1,
        )
    ]
    outputs = []
    for seed in (5, 5, 6):
        for region, words in contents.items():
            tiny.write(buffer_address(region), words)
        tiny.write(Register.SEED, [seed])
        tiny.run(encode(program))
        outputs.append(tiny.rtl.read(buffer_address(Region.ACTIVATION) + 64, 16).tolist())
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]
