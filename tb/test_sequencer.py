"""The sequencer runs what `program_check` accepts, and names the first error of the rest."""

from itertools import combinations

import numpy as np
import pytest

from gradloom.sequencer import Sequencer
from gradloom_golden.config import preset
from gradloom_golden.cycles import FETCH_CYCLES, PROGRAM_CYCLES
from gradloom_golden.program import DESCRIPTOR_FIELDS, DESCRIPTOR_WORDS, Descriptor, Error, Opcode
from gradloom_golden.program_check import check
from simulate import memory, put, simulate

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY, "plain": TINY.with_changes(lanes=False), "wide": TINY.with_changes(columns=8),
    "tall": TINY.with_changes(rows=8),
}
LIMIT = 1000

STREAM = {"steps": 4, "x_stride": 4, "k_tiles": 2, "n_tiles": 2, "x_base": 8, "d_base": 8,
          "w_base": 8, "state_base": 8, "packed_base": 64, "out_base": 32}
GOOD = [
    Descriptor(opcode=Opcode.FORWARD, **STREAM), Descriptor(opcode=Opcode.BACKWARD, **STREAM),
    Descriptor(opcode=Opcode.CONFIDENCE, steps=4, classes=10, x_base=8),
    Descriptor(opcode=Opcode.ANGLE, rows=4, state_base=8, packed_base=32),
]
BREAKS = {  # what breaks a good descriptor: the opcode, the change, and the error
    "reserved bit": (Opcode.FORWARD, {15: 1 << 31}, Error.RESERVED),
    "reserved bit between": (Opcode.ANGLE, {0: 1 << 7}, Error.RESERVED),
    "no operation": (Opcode.FORWARD, {"opcode": 0}, Error.OPCODE),
    "unknown operation": (Opcode.BACKWARD, {"opcode": 5}, Error.OPCODE),
    "forward lanes": (Opcode.FORWARD, {"lanes_log2": 1}, Error.LANES),
    "eight lanes": (Opcode.BACKWARD, {"lanes_log2": 3}, Error.LANES),
    "no steps": (Opcode.BACKWARD, {"steps": 0}, Error.STEPS),
    "many steps": (Opcode.CONFIDENCE, {"steps": 33}, Error.STEPS),
    "stride": (Opcode.FORWARD, {"x_stride": 3}, Error.STEPS),
    "no rows": (Opcode.ANGLE, {"rows": 0}, Error.STEPS),
    "no tiles": (Opcode.FORWARD, {"k_tiles": 0}, Error.TILES),
    "many tiles": (Opcode.BACKWARD, {"n_tiles": 257}, Error.TILES),
    "shift": (Opcode.BACKWARD, {"x_shift": 1}, Error.SHIFT),
    "weights": (Opcode.FORWARD, {"w_base": 9}, Error.ALIGNMENT),
    "state": (Opcode.BACKWARD, {"state_base": 9}, Error.ALIGNMENT),
    "one class": (Opcode.CONFIDENCE, {"classes": 1}, Error.CLASSES),
    "many classes": (Opcode.CONFIDENCE, {"classes": 2500}, Error.CLASSES),
    "X": (Opcode.FORWARD, {"x_base": 253}, Error.ACTIVATION_RANGE),
    "logits": (Opcode.CONFIDENCE, {"x_base": 0xFFFFFFFF}, Error.ACTIVATION_RANGE),
    "Y": (Opcode.FORWARD, {"out_base": 249}, Error.ACTIVATION_RANGE),
    "D": (Opcode.BACKWARD, {"d_base": 1 << 31}, Error.GRADIENT_RANGE),
    "dX": (Opcode.BACKWARD, {"out_base": 125}, Error.GRADIENT_RANGE),
    "W": (Opcode.FORWARD, {"w_base": 120}, Error.WEIGHT_RANGE),
    "velocity": (Opcode.BACKWARD, {"state_base": 120}, Error.STATE_RANGE),
    "g": (Opcode.ANGLE, {"state_base": 125}, Error.STATE_RANGE),
    "h": (Opcode.ANGLE, {"packed_base": 125}, Error.STATE_RANGE),
}


def broken(descriptor, *changes):
    """Return the words of a descriptor with fields replaced, or bits of whole words set."""
    words = descriptor.encode()
    for change in changes:
        for name, value in change.items():
            if isinstance(name, int):
                words[name] |= value
                continue
            word, low, width = DESCRIPTOR_FIELDS[name]
            words[word] = words[word] & ~((1 << width) - 1 << low) | value << low
    return words


class Bench:
    """A sequencer, its program memory, and a unit that works for a while on each descriptor."""

    def __init__(self, config, rng, *, longest=60):
        self.config, self.rng, self.longest = config, rng, longest
        self.dut = Sequencer(config)
        self.memory = np.zeros(config.descriptor_depth * DESCRIPTOR_WORDS, np.int64)
        self.results = []

    def run(self, programs, lengths=None):
        """Run programs, each a list of word lists; note what was accepted, the error and where."""
        dut = self.dut
        lengths = lengths or [len(program) for program in programs]

        async def testbench(ctx):
            for program, length in zip(programs, lengths, strict=True):
                flat = [word for words in program for word in words]
                self.memory[:len(flat)] = flat
                assert not ctx.get(dut.busy)
                put(ctx, dut.length, length)
                put(ctx, dut.run, 1)
                put(ctx, dut.unit_ready, 1)
                await ctx.tick()
                put(ctx, dut.run, 0)
                put(ctx, dut.length, 0)
                await self._watch(ctx)

        simulate(dut, testbench,
                 processes=[memory(self.memory, dut.read_address, dut.read_data, dut.read_en)])

    async def _watch(self, ctx):
        dut = self.dut
        accepted, working, cycles, since_ready = [], 0, 0, 0
        while ctx.get(dut.busy):
            put(ctx, dut.unit_ready, not working)
            since_ready = 0 if working else since_ready + 1
            if ctx.get(dut.accept):
                assert not working
                accepted.append(ctx.get(dut.coming.as_value()))
                working = int(self.rng.integers(1, self.longest + 1))
            else:
                working = max(0, working - 1)
            await ctx.tick()
            if accepted:
                assert ctx.get(dut.current.as_value()) == accepted[-1]
            cycles += 1
            assert cycles < LIMIT * self.config.descriptor_depth
        assert not working, "a program has not ended while a unit works"
        self.results.append((accepted, Error(ctx.get(dut.error)), ctx.get(dut.failed), cycles))


def joined(words):
    return sum(word << 32 * index for index, word in enumerate(words))


def expected(config, program):
    """Return what is accepted, the error, and the index of the descriptor that has it."""
    for index, words in enumerate(program):
        error = check(config, words)
        if error:
            return [joined(words) for words in program[:index]], error, index
    return [joined(words) for words in program], Error.NONE, 0


def compare(config, rng, programs, **options):
    bench = Bench(config, rng, **options)
    bench.run(programs)
    for program, (*result, _) in zip(programs, bench.results, strict=True):
        assert tuple(result) == expected(config, program)
    return bench


def good(opcode):
    return GOOD[opcode - 1]


@pytest.mark.parametrize("name", BREAKS)
def test_table_holds(name):
    opcode, change, error = BREAKS[name]
    assert check(TINY, good(opcode).encode()) == Error.NONE
    assert check(TINY, broken(good(opcode), change)) == error


def test_every_error_stops_the_program_and_the_next_one_runs(rng):
    well = [descriptor.encode() for descriptor in GOOD]
    programs = []
    for opcode, change, _ in BREAKS.values():
        before = [well[index] for index in rng.integers(0, 4, rng.integers(0, 3))]
        programs += [[*before, broken(good(opcode), change), well[0]], [well[1]]]
    bench = compare(TINY, rng, programs, longest=3)
    found = {error for _, error, *_ in bench.results}
    assert found == set(Error) - {Error.PROGRAM_LENGTH}


def test_of_two_errors_the_first_is_named(rng):
    programs = []
    for (opcode, one, _), (_, two, _) in combinations(BREAKS.values(), 2):
        programs.append([broken(good(opcode), one, two)])
    compare(TINY, rng, programs)


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_the_golden_check_on_random_descriptors(name, rng):
    config = CONFIGS[name]
    programs, errors = [], []
    for _ in range(150):
        words = GOOD[rng.integers(4)].encode()
        for field in rng.choice(list(DESCRIPTOR_FIELDS), rng.integers(0, 6), replace=False):
            width = DESCRIPTOR_FIELDS[field][2]
            value = int(rng.integers(1 << width)) >> int(rng.integers(width))
            words = broken(Descriptor.decode(words), {str(field): value})
        programs.append([words])
        errors.append(check(config, words))
    assert len(set(errors)) > 7
    compare(config, rng, programs)


@pytest.mark.parametrize("name", CONFIGS)
def test_extents_are_exact(name, rng):
    """The last base that fits is taken, and the next refused."""
    config = CONFIGS[name]
    programs = []
    for descriptor in GOOD:
        for field in (field for field in DESCRIPTOR_FIELDS if field.endswith("_base")):
            bases = [base for base in range(0, config.activation_depth + 8)
                     if check(config, broken(descriptor, {field: base})) == Error.NONE]
            programs += [[broken(descriptor, {field: bases[-1] + step})] for step in (0, 1)]
    compare(config, rng, programs)


@pytest.mark.parametrize("length", [0, 17, 1 << 16, (1 << 32) - 1])
def test_refuses_a_length_that_the_memory_does_not_hold(length, rng):
    bench = Bench(TINY, rng)
    program = [GOOD[0].encode()]
    bench.run([program, program, program], lengths=[1, length, 1])
    accepted, error, failed, _ = bench.results[1]
    assert (accepted, error, failed) == ([], Error.PROGRAM_LENGTH, 0)
    assert bench.results[2][1] == Error.NONE


def test_a_full_memory_runs_in_the_time_that_it_is_said_to_take(rng):
    program = [GOOD[index % 4].encode() for index in range(TINY.descriptor_depth)]
    # A unit that works for a cycle is never waited for.
    bench = compare(TINY, rng, [program], longest=1)
    cycles = bench.results[0][3]
    fetches = FETCH_CYCLES + (len(program) - 1) * (FETCH_CYCLES + 1)
    assert cycles == PROGRAM_CYCLES + fetches + 2
