"""The sequencer runs what `program_check` accepts, and names the first error of the rest."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from gradloom.sequencer import Sequencer
from gradloom_golden.config import preset
from gradloom_golden.cycles import FETCH_CYCLES, PROGRAM_CYCLES
from gradloom_golden.program import (
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    Descriptor,
    Error,
    Function,
    Opcode,
    Region,
    Schedule,
)
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
MOVE = {"rows": 3, "steps": 2, "function": Region.WEIGHT, "out_base": 8}
GOOD = {d.opcode: d for d in (
    Descriptor(opcode=Opcode.FORWARD, **STREAM), Descriptor(opcode=Opcode.BACKWARD, **STREAM),
    Descriptor(opcode=Opcode.CONFIDENCE, steps=4, classes=10, x_base=8),
    Descriptor(opcode=Opcode.ANGLE, rows=4, state_base=8, packed_base=32),
    Descriptor(opcode=Opcode.LOSS, steps=4, classes=10, x_base=8, x_stride=4, out_base=9,
               out_stride=5),
    Descriptor(opcode=Opcode.THRESHOLD), Descriptor(opcode=Opcode.RESCALE),
    Descriptor(opcode=Opcode.VECTOR, function=Function.ADD, steps=4, k_tiles=2, x_base=8,
               x_stride=4, d_base=32, d_stride=4, out_base=64, out_stride=4),
    Descriptor(opcode=Opcode.UPDATE, rows=4, w_base=8, state_base=8, packed_base=32),
    Descriptor(opcode=Opcode.LOAD, **MOVE), Descriptor(opcode=Opcode.SAVE, **MOVE),
)}
# One of each function; the strides differ from side to side.
VECTOR = Descriptor(
    opcode=Opcode.VECTOR, steps=4, k_tiles=2, n_tiles=5, t_x=2, t_y=2, taps_y=2, taps_x=2,
    x_stride=16, d_stride=5, out_stride=6, w_block=7)
VECTORS = [
    *(replace(VECTOR, function=function) for function in Function),
    replace(VECTOR, function=Function.ADD, gradients=1, mask=1),
    replace(VECTOR, function=Function.AVERAGE_GRADIENT, mask=1),
    replace(VECTOR, function=Function.FILL, gradients=1),
]
CONV = {"conv": 1, "t_x": 2, "t_y": 2, "taps_y": 2, "taps_x": 2, "w_block": 8, "out_stride": 4,
        "d_stride": 4}
BREAKS = {  # what breaks a good descriptor: the opcode, the change, and the error
    "reserved bit": (Opcode.FORWARD, {0: 1 << 29}, Error.RESERVED),
    "reserved bit between": (Opcode.ANGLE, {28: 1 << 7}, Error.RESERVED),
    "no operation": (Opcode.FORWARD, {"opcode": 0}, Error.OPCODE),
    "unknown operation": (Opcode.BACKWARD, {"opcode": 12}, Error.OPCODE),
    "forward lanes": (Opcode.FORWARD, {"lanes_log2": 1}, Error.LANES),
    "eight lanes": (Opcode.BACKWARD, {"lanes_log2": 3}, Error.LANES),
    "no steps": (Opcode.BACKWARD, {"steps": 0}, Error.STEPS),
    "no row to load": (Opcode.LOAD, {"rows": 0}, Error.STEPS),
    "no words to save": (Opcode.SAVE, {"steps": 0}, Error.STEPS),
    "no gradient to take": (Opcode.UPDATE, {"rows": 0}, Error.STEPS),
    "many losses": (Opcode.LOSS, {"steps": 33}, Error.STEPS),
    "many steps": (Opcode.CONFIDENCE, {"steps": 33}, Error.STEPS),
    "stride": (Opcode.FORWARD, {"x_stride": 3}, Error.STEPS),
    "no rows": (Opcode.ANGLE, {"rows": 0}, Error.STEPS),
    "no tiles": (Opcode.FORWARD, {"k_tiles": 0}, Error.TILES),
    "many tiles": (Opcode.BACKWARD, {"n_tiles": 257}, Error.TILES),
    "shift": (Opcode.BACKWARD, {"x_shift": 1}, Error.SHIFT),
    "weights": (Opcode.FORWARD, {"w_base": 9}, Error.ALIGNMENT),
    "state": (Opcode.BACKWARD, {"state_base": 9}, Error.ALIGNMENT),
    "no pixels": (Opcode.FORWARD, CONV | {"t_y": 0}, Error.GEOMETRY),
    "no taps": (Opcode.BACKWARD, CONV | {"taps_x": 0}, Error.GEOMETRY),
    "plain patches": (Opcode.FORWARD, {"patch": 1}, Error.GEOMETRY),
    "gradient of patches": (Opcode.BACKWARD, CONV | {"patch": 1}, Error.GEOMETRY),
    "moved patches": (Opcode.BACKWARD, CONV | {
        "patch": 1, "d_moves": 1, "schedule": Schedule.WEIGHT_GRADIENT}, Error.GEOMETRY),
    "no window": (Opcode.VECTOR, {"function": Function.MAXIMUM}, Error.GEOMETRY),
    "gathered": (Opcode.VECTOR, {"gather": 1}, Error.GEOMETRY),
    "function": (Opcode.VECTOR, {"function": 7}, Error.FUNCTION),
    "skip rule": (Opcode.LOSS, {"function": 4}, Error.FUNCTION),
    "no tiles of words": (Opcode.VECTOR, {"k_tiles": 0}, Error.TILES),
    "no biases": (Opcode.VECTOR, {"function": Function.BIAS_UPDATE}, Error.TILES),
    "sum": (Opcode.VECTOR, {"x_base": 249}, Error.ACTIVATION_RANGE),
    "sum of gradients": (Opcode.VECTOR, {"gradients": 1, "d_base": 121}, Error.GRADIENT_RANGE),
    "mask of a sum": (Opcode.VECTOR, {
        "gradients": 1, "mask": 1, "w_block": 4, "packed_base": 249}, Error.ACTIVATION_RANGE),
    "row of a sum": (Opcode.VECTOR, {"d_stride": 3}, Error.STEPS),
    "row of a mask": (Opcode.VECTOR, {"gradients": 1, "mask": 1, "w_block": 3}, Error.STEPS),
    "biases": (Opcode.VECTOR, {
        "function": Function.BIAS_UPDATE, "n_tiles": 3, "bias_base": 14}, Error.BIAS_RANGE),
    "region": (Opcode.SAVE, {"function": Region.SUMS}, Error.REGION),
    "image": (Opcode.LOAD, {"function": Region.IMAGE, "out_base": 123}, Error.IMAGE_RANGE),
    "bias": (Opcode.FORWARD, {"bias": 1, "bias_base": 15}, Error.BIAS_RANGE),
    "taps of weights": (Opcode.FORWARD, CONV | {"w_block": 16}, Error.WEIGHT_RANGE),
    "gradient of a loss": (Opcode.LOSS, {"out_base": 120}, Error.GRADIENT_RANGE),
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
    """Return the words of a descriptor, or words, with fields replaced or bits of words set."""
    words = descriptor.encode() if isinstance(descriptor, Descriptor) else list(descriptor)
    for change in changes:
        for name, value in change.items():
            if isinstance(name, int):
                words[name] |= value
                continue
            word, low, width = DESCRIPTOR_FIELDS[name]
            words[word] = words[word] & ~((1 << width) - 1 << low) | value << low
    return words


class Worker:
    """What runs a descriptor for a while; a mover ends with an error, if it is given one."""

    def __init__(self, errors=()):
        self.left = 0
        self.error = Error.NONE
        self._errors = iter(errors)

    def start(self, cycles):
        assert not self.left
        self.left = cycles
        self._ends_with = next(self._errors, Error.NONE)
        self.error = Error.NONE

    def clocked(self):
        if self.left:
            self.left -= 1
            if not self.left:
                self.error = self._ends_with


class Bench:
    """A sequencer, its program memory, and what works for a while on each descriptor.

    Parameters
    ----------
    longest : int
        Most cycles that anything works.
    kept : int
        Samples that keep their gradient.
    """

    def __init__(self, config, rng, *, longest=60, kept=0):
        self.config, self.rng, self.longest, self.kept = config, rng, longest, kept
        self.dut = Sequencer(config)
        self.memory = np.zeros(config.descriptor_depth * DESCRIPTOR_WORDS, np.int64)
        self.results = []
        self.waited = 0

    def run(self, programs, lengths=None, *, listed=False, fault=Error.NONE, errors=()):
        """Run programs, each a list of word lists; note what was started, the error and where.

        Parameters
        ----------
        listed : bool
            Give the programs as streams of words, `fault` after the last.
        errors : iterable of Error
            How the transfers end, in their order.
        """
        dut = self.dut
        lengths = lengths or [len(program) for program in programs]

        async def testbench(ctx):
            put(ctx, dut.kept, self.kept)
            for program, length in zip(programs, lengths, strict=True):
                flat = [word for words in program for word in words]
                if not listed:
                    self.memory[:len(flat)] = flat
                assert not ctx.get(dut.busy)
                begin = dut.list_start if listed else dut.run
                put(ctx, dut.length, length)
                put(ctx, begin, 1)
                put(ctx, dut.unit_ready, 1)
                put(ctx, dut.mover_ready, 1)
                await ctx.tick()
                put(ctx, begin, 0)
                put(ctx, dut.length, 0)
                await self._watch(ctx, flat if listed else [], fault, Worker(errors))
                put(ctx, dut.list_fault, Error.NONE)

        simulate(dut, testbench,
                 processes=[memory(self.memory, dut.read_address, dut.read_data, dut.read_en)])

    async def _watch(self, ctx, words, fault, mover):
        dut, rng = self.dut, self.rng
        unit, scales = Worker(), Worker()
        started, cycles, current, offered, effective = [], 0, None, False, 0
        words = list(words)
        while ctx.get(dut.busy):
            put(ctx, dut.unit_ready, not unit.left)
            put(ctx, dut.mover_ready, not mover.left)
            put(ctx, dut.mover_error, mover.error)
            put(ctx, dut.resolved, scales.left == 1)
            offered = bool(words) and (offered or rng.integers(3) > 0)
            put(ctx, dut.list_words.valid, offered)
            put(ctx, dut.list_words.payload, words[0] if offered else 0)
            put(ctx, dut.list_fault, Error.NONE if words else fault)
            if offered and ctx.get(dut.list_words.ready):
                words.pop(0)
                offered = False
            self._look(ctx, started, unit, mover)
            current = started[-1][1] if ctx.get(dut.accept) else current
            is_asked = ctx.get(dut.resolve)
            if is_asked:
                assert not unit.left, "scales are looked up once nothing computes"
                effective = ctx.get(dut.coming.as_value()) ^ RESOLVES
            for worker in (unit, mover, scales):
                worker.clocked()
            if ctx.get(dut.accept):
                unit.start(int(rng.integers(1, self.longest + 1)))
            if ctx.get(dut.move):
                mover.start(int(rng.integers(1, self.longest + 1)))
            await ctx.tick()
            if is_asked:
                scales.start(int(rng.integers(1, 9)))
                ctx.set(dut.effective.as_value(), effective)
            if current is not None:
                assert ctx.get(dut.current.as_value()) == current
            cycles += 1
            assert cycles < LIMIT * self.config.descriptor_depth
        assert not unit.left, "a program has not ended while a unit works"
        assert not mover.left, "a program has not ended while something is moved"
        self.results.append((started, Error(ctx.get(dut.error)), ctx.get(dut.failed), cycles))

    def _look(self, ctx, started, unit, mover):
        """Note what starts in this cycle, which must not be early."""
        dut = self.dut
        coming = ctx.get(dut.coming.as_value())
        if ctx.get(dut.waits):
            self.waited += 1
            assert not unit.left
            assert mover.left
        if ctx.get(dut.accept):
            assert not unit.left
            assert not (mover.left and ctx.get(dut.coming.wait_memory))
            started.append(("computes", coming))
        if ctx.get(dut.move):
            assert not mover.left
            assert not (unit.left and ctx.get(dut.coming.wait_compute))
            started.append(("moves", coming))


def joined(words):
    return sum(word << 32 * index for index, word in enumerate(words))


RESOLVES = joined(Descriptor(opcode=0, out_shift=21, rate_shift=9).encode())
"""Bits that the scale table flips in this bench."""


def expected(config, program, *, kept=0, fault=Error.NONE):
    """Return what is started, the error, and the index of the descriptor that has it."""
    started = []
    for index, words in enumerate(program):
        error = check(config, words)
        if error:
            return started, error, index
        d = Descriptor.decode(words)
        moves = d.opcode in (Opcode.LOAD, Opcode.SAVE)
        images = min(max(kept - d.first_sample, 0), d.images)
        left = {}
        if d.kept:
            left = {"rows": images} if moves else {"steps": min(d.steps, images * d.pixels)}
        if images or not d.kept:
            flips = RESOLVES if d.scaled and not moves else 0
            bits = joined(broken(words, left)) ^ flips
            started.append(("moves" if moves else "computes", bits))
        if d.end:
            return started, Error.NONE, 0
    return started, fault, len(program) if fault else 0


def compare(config, rng, programs, *, longest=60, kept=0, listed=False, fault=Error.NONE):
    bench = Bench(config, rng, longest=longest, kept=kept)
    bench.run(programs, listed=listed, fault=fault)
    for program, (*result, _) in zip(programs, bench.results, strict=True):
        assert tuple(result) == expected(config, program, kept=kept, fault=fault)
    return bench


def chosen(rng, length, **fields):
    """Return good descriptors, each of the fields in half of them."""
    program = []
    for d in rng.choice(list(GOOD.values()), length):
        flags = {name: value for name, value in fields.items() if rng.integers(2)}
        program.append(broken(d, flags))
    return program


@pytest.mark.parametrize("name", BREAKS)
def test_table_holds(name):
    opcode, change, error = BREAKS[name]
    assert check(TINY, GOOD[opcode].encode()) == Error.NONE
    assert check(TINY, broken(GOOD[opcode], change)) == error


def test_every_error_stops_the_program_and_the_next_one_runs(rng):
    well = [descriptor.encode() for descriptor in GOOD.values()]
    programs = []
    for opcode, change, _ in BREAKS.values():
        before = [well[index] for index in rng.integers(len(well), size=rng.integers(2))]
        programs += [[*before, broken(GOOD[opcode], change), well[0]], [well[1]]]
    bench = compare(TINY, rng, programs, longest=3)
    found = {error for _, error, *_ in bench.results}
    assert found == {e for e in Error if e < Error.MEMORY_ALIGNMENT} - {Error.PROGRAM_LENGTH}


def test_of_two_errors_the_first_is_named(rng):
    programs = []
    pairs = list(combinations(BREAKS.values(), 2))
    for index in rng.choice(len(pairs), 150, replace=False):
        (opcode, one, _), (_, two, _) = pairs[index]
        programs.append([broken(GOOD[opcode], one, two)])
    compare(TINY, rng, programs, longest=3)


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_the_golden_check_on_random_descriptors(name, rng):
    config = CONFIGS[name]
    programs, errors, well = [], [], [*GOOD.values(), *VECTORS]
    for _ in range(90):
        words = well[rng.integers(len(well))].encode()
        for field in rng.choice(list(DESCRIPTOR_FIELDS), rng.integers(0, 20), replace=False):
            width = DESCRIPTOR_FIELDS[field][2]
            value = int(rng.integers(1 << width)) >> int(rng.integers(width))
            words = broken(words, {str(field): value})
        programs.append([words])
        errors.append(check(config, words))
    assert len(set(errors)) > 6
    compare(config, rng, programs, longest=3)


@pytest.mark.parametrize("name", ["tiny", "wide", "tall"])
def test_extents_are_exact(name, rng):
    """The last base that fits is taken, and the next refused; what is not used fits anywhere."""
    config = CONFIGS[name]
    programs = []
    rows = config.rows
    for descriptor in (*GOOD.values(), *VECTORS):
        for field in ("x_base", "d_base", "w_base", "state_base", "packed_base", "out_base",
                      "bias_base"):
            step = rows if field in ("w_base", "state_base") else 1
            end = min(config.activation_depth + 8, 1 << DESCRIPTOR_FIELDS[field][2])
            bases = [base for base in range(0, end, step)
                     if check(config, broken(descriptor, {field: base})) == Error.NONE]
            programs += [[broken(descriptor, {field: base})]
                         for base in (bases[-1], bases[-1] + step) if base < end]
    assert len(programs) > 180
    compare(config, rng, programs, longest=3)


@pytest.mark.parametrize("length", [0, 17, 1 << 16, (1 << 32) - 1])
def test_refuses_a_length_that_the_memory_does_not_hold(length, rng):
    bench = Bench(TINY, rng)
    program = [GOOD[Opcode.FORWARD].encode()]
    bench.run([program, program, program], lengths=[1, length, 1])
    accepted, error, failed, _ = bench.results[1]
    assert (accepted, error, failed) == ([], Error.PROGRAM_LENGTH, 0)
    assert bench.results[2][1] == Error.NONE


def test_a_full_memory_runs_in_the_time_that_it_is_said_to_take(rng):
    well = list(GOOD.values())
    program = [well[index % len(well)].encode() for index in range(TINY.descriptor_depth)]
    # A unit that works for a cycle is never waited for.
    bench = compare(TINY, rng, [program], longest=1)
    cycles = bench.results[0][3]
    fetches = FETCH_CYCLES + (len(program) - 1) * (FETCH_CYCLES + 1)
    assert cycles == PROGRAM_CYCLES + fetches + 2


def test_each_side_waits_for_the_other_where_it_is_asked_to(rng):
    programs = [chosen(rng, 10, wait_memory=1, wait_compute=1) for _ in range(5)]
    bench = compare(TINY, rng, programs, longest=200)
    assert bench.waited > 50


@pytest.mark.parametrize("listed", [False, True])
def test_a_program_ends_at_its_flag(listed, rng):
    programs = [chosen(rng, length) for length in (3, 1, 4)]
    for program, last in zip(programs, (1, 0, 3), strict=True):
        program[last] = broken(program[last], {"end": 1})
    bench = compare(TINY, rng, programs, listed=listed, longest=20)
    assert [len(started) for started, *_ in bench.results] == [2, 1, 4]


@pytest.mark.parametrize("fault", [Error.LIST_END, Error.FETCH_RESPONSE])
def test_a_list_without_an_end_stops_with_the_fault(fault, rng):
    programs = [chosen(rng, length) for length in (1, 3)]
    compare(TINY, rng, programs, listed=True, fault=fault)


def test_a_bad_descriptor_in_a_list_stops_it(rng):
    programs = [[*chosen(rng, 2), broken(GOOD[Opcode.FORWARD], {"steps": 0}), *chosen(rng, 1)]]
    compare(TINY, rng, programs, listed=True, fault=Error.FETCH_RESPONSE)


def test_scales_and_kept_samples_change_what_starts(rng):
    programs = []
    for _ in range(12):
        fields = {"kept": 1, "images": int(rng.integers(0, 5)), "pixels": int(rng.integers(1, 5)),
                  "first_sample": int(rng.integers(0, 9))}
        programs.append([broken(words, fields) if rng.integers(2) else words
                         for words in chosen(rng, 4, scaled=1, wait_memory=1)])
    compare(TINY, rng, programs, kept=6, longest=20)


@pytest.mark.parametrize("broken_later", [False, True])
def test_a_failed_transfer_ends_the_program_and_names_itself(broken_later, rng):
    load, computes = GOOD[Opcode.LOAD].encode(), GOOD[Opcode.RESCALE].encode()
    last = [broken(GOOD[Opcode.FORWARD], {"steps": 0})] if broken_later else []
    program = [computes, load, computes, load, computes, computes, *last]
    bench = Bench(TINY, rng, longest=30)
    bench.run([program, program], errors=[Error.NONE, Error.READ_RESPONSE])
    wanted, *_ = expected(TINY, program)
    for started, error, failed, _ in bench.results:
        assert (error, failed) == (Error.READ_RESPONSE, 3)
        assert started == wanted[:len(started)]
        assert len(started) >= 4
