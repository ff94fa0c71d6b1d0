"""The golden machine from the host's side: windows, registers, errors, and each operation."""

from collections import Counter

import numpy as np
import pytest

from gradloom_golden.confidence import keep_list
from gradloom_golden.config import preset
from gradloom_golden.cycles import counts, program_cycles
from gradloom_golden.lanes import pack, quantize
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.machine import GoldenMachine, run_program
from gradloom_golden.program import (
    COUNTERS,
    IDENT,
    OFFSET_BITS,
    Descriptor,
    Drain,
    Error,
    Opcode,
    Region,
    Register,
    Schedule,
    memory_shape,
)

TINY = preset("tiny")
CONFIGS = {
    "square": TINY,
    "tall": TINY.with_changes(rows=16, gradient_bits=16),
    "wide": TINY.with_changes(columns=8),
    "narrow": TINY.with_changes(operand_bits=4, lanes=False, accumulator_bits=27, master_bits=12),
}
BUFFERS = [region for region in Region if region not in (Region.CONTROL, Region.SHELL)]
FORWARD = Descriptor(opcode=Opcode.FORWARD, steps=3, x_stride=3, k_tiles=1, n_tiles=1)


def element_bits(config, region):
    """Return the bits of an element that a buffer keeps."""
    return {
        Region.PROGRAM: 32, Region.ACTIVATION: config.operand_bits,
        Region.GRADIENT: config.gradient_bits, Region.WEIGHT: config.operand_bits,
        Region.STATE: config.state_bits, Region.SUMS: config.accumulator_bits,
        Region.KEEP: 5, Region.LABEL: 16, Region.IMAGE: config.operand_bits, Region.BIAS: 16,
        Region.SCALE: 8, Region.MASK: 1,
    }[region]


def register(machine, offset):
    return int(machine.read(offset, 1)[0])


def status(machine):
    """Return busy, error and index of the failed descriptor."""
    word = register(machine, Register.STATUS)
    return word & 1, Error(word >> 8 & 0xFF), word >> 16


@pytest.mark.parametrize("region", BUFFERS, ids=lambda region: region.name)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_window_shows_elements_padded_to_bytes(config, region, rng):
    machine = GoldenMachine(config)
    depth, elements, host_bits = memory_shape(config, region)
    per_word, mask = min(elements, 32 // host_bits), (1 << element_bits(config, region)) - 1
    words = depth * elements // per_word
    written = rng.integers(0, 1 << 32, words, dtype=np.uint32)
    machine.write(region << OFFSET_BITS, written)
    lying = (machine.memory[region] & mask).ravel().tolist()
    assert machine.memory[region].shape == (depth, elements)
    expected = []
    for index, word in enumerate(written.tolist()):
        parts = [word >> host_bits * part & mask for part in range(per_word)]
        assert lying[index * per_word:(index + 1) * per_word] == parts
        expected.append(sum(value << host_bits * part for part, value in enumerate(parts)))
    got = machine.read(region << OFFSET_BITS, words)
    assert got.dtype == np.uint32
    assert got.tolist() == expected


@pytest.mark.parametrize("region", BUFFERS, ids=lambda region: region.name)
def test_writes_and_reads_start_anywhere(region):
    machine = GoldenMachine(TINY)
    machine.write((region << OFFSET_BITS) + 5, [1, 9, 3])
    machine.write((region << OFFSET_BITS) + 6, [7])
    assert machine.read((region << OFFSET_BITS) + 4, 5).tolist() == [0, 1, 7, 3, 0]
    for other in BUFFERS:
        if other is not region:
            assert not machine.memory[other].any()


def test_two_gradients_of_sixteen_bits_share_a_word():
    machine = GoldenMachine(CONFIGS["tall"])
    machine.write(Region.GRADIENT << OFFSET_BITS, [0x8001_7FFE])
    assert machine.memory[Region.GRADIENT][0, :3].tolist() == [0x7FFE, 0x8001, 0]


def test_registers_after_reset():
    machine = GoldenMachine(TINY)
    assert register(machine, Register.IDENT) == IDENT
    assert status(machine) == (0, Error.NONE, 0)
    assert register(machine, Register.KEPT) == 0
    assert register(machine, Register.BITS) == 8
    assert not machine.read(Register.COUNTER, 2 * len(COUNTERS) + 8).any()


def test_reset_forgets_everything(rng):
    machine = GoldenMachine(TINY)
    for region in BUFFERS:
        machine.write(region << OFFSET_BITS, rng.integers(0, 1 << 32, 32))
    machine.write(Register.SEED, [99])
    run_program(machine, [Descriptor(opcode=Opcode.CONFIDENCE, steps=4, classes=4, threshold=99)])
    machine.reset()
    fresh = GoldenMachine(TINY)
    for region in BUFFERS:
        assert not machine.memory[region].any()
    assert machine.counters == fresh.counters
    assert register(machine, Register.KEPT) == 0
    for bank, lfsr in fresh._lfsrs.items():
        np.testing.assert_array_equal(machine._lfsrs[bank].state, lfsr.state)


def test_seed_sets_every_bank_and_ignores_the_top_bit():
    machine = GoldenMachine(CONFIGS["wide"])
    machine.write(Register.SEED, [0x8000_1234])
    banks = {Bank.REQUANTIZE: 8, Bank.PACK: 4, Bank.UPDATE: 8, Bank.VECTOR: 8, Bank.SAVE: 8}
    assert set(machine._lfsrs) == set(banks)
    for bank, lanes in banks.items():
        np.testing.assert_array_equal(machine._lfsrs[bank].state, Lfsr(bank, lanes, 0x1234).state)


def test_counters_are_64_bits_and_clear():
    machine = GoldenMachine(TINY)
    machine.counters["x_reads"] = (3 << 32) + 5
    place = Register.COUNTER + 2 * COUNTERS.index("x_reads")
    assert machine.read(place, 2).tolist() == [5, 3]
    machine.write(Register.CLEAR, [1])
    assert not any(machine.counters.values())


@pytest.mark.parametrize("length", [0, TINY.descriptor_depth + 1])
def test_a_program_of_no_possible_length_is_refused(length):
    machine = GoldenMachine(TINY)
    machine.write(Register.START, [length])
    assert machine.run(1) == 0
    assert status(machine) == (0, Error.PROGRAM_LENGTH, 0)
    assert not any(machine.counters.values())


def test_the_longest_program_runs():
    machine = GoldenMachine(TINY)
    program = [FORWARD] * TINY.descriptor_depth
    assert run_program(machine, program) == program_cycles(TINY, program)
    assert machine.counters["descriptors"] == len(program)


def test_nothing_runs_unasked():
    machine = GoldenMachine(TINY)
    assert machine.run(1) == 0
    run_program(machine, [FORWARD])
    assert machine.run(1) == 0
    assert machine.counters["descriptors"] == 1


def test_a_bad_descriptor_stops_the_program_where_it_is():
    machine = GoldenMachine(TINY)
    bad = Descriptor(opcode=Opcode.FORWARD, steps=3, x_stride=2, k_tiles=1, n_tiles=1)
    run_program(machine, [FORWARD, FORWARD, bad, FORWARD])
    assert status(machine) == (0, Error.STEPS, 2)
    assert machine.counters["descriptors"] == 2
    run_program(machine, [FORWARD])
    assert status(machine) == (0, Error.NONE, 0)


def place(machine, region, base, values):
    """Write a matrix of one block a word where the array edge is as long as the word."""
    machine.memory[region][base:base + len(values), :values.shape[1]] = (
        values & (1 << element_bits(machine.config, region)) - 1)


@pytest.mark.parametrize("relu", [False, True])
def test_forward_equals_loops_in_words_of_two_blocks(relu, rng):
    config = TINY.with_changes(rows=8)                 # a word: one k block, two n blocks
    machine = GoldenMachine(config)
    x = rng.integers(-128, 128, (5, 16))
    w = rng.integers(-128, 128, (16, 12))
    for block in range(2):
        place(machine, Region.ACTIVATION, 10 + 7 * block, x[:, 8 * block:8 * block + 8])
        for n in range(3):
            place(machine, Region.WEIGHT, 8 * (3 * block + n) + 16,
                  w[8 * block:8 * block + 8, 4 * n:4 * n + 4])
    run_program(machine, [Descriptor(
        opcode=Opcode.FORWARD, steps=5, x_stride=7, k_tiles=2, n_tiles=3, x_base=10, w_base=16,
        out_base=100, out_shift=8, relu=int(relu), y_unsigned=int(relu))])
    for t in range(5):
        for n in range(12):
            total = sum(int(x[t, k]) * int(w[k, n]) for k in range(16))
            value = (total + 128) >> 8
            value = min(max(value, 0), 255) if relu else min(max(value, -128), 127) & 255
            word = 100 + n // 8 * 5 + t
            assert machine.memory[Region.ACTIVATION][word, n % 8] == value
            assert machine.memory[Region.MASK][word, n % 8] == ((total + 128) >> 8 > 0)


def test_kept_sums_stay_in_their_buffer(rng):
    machine = GoldenMachine(TINY)
    x, w = rng.integers(-128, 128, (3, 4)), rng.integers(-128, 128, (4, 4))
    place(machine, Region.ACTIVATION, 0, x)
    place(machine, Region.WEIGHT, 0, w)
    run_program(machine, [Descriptor(
        opcode=Opcode.FORWARD, steps=3, x_stride=3, k_tiles=1, n_tiles=1, out_base=50,
        keep_sums=1)])
    sums = machine.read(Region.SUMS << OFFSET_BITS, 12).view(np.int32)
    assert sums.reshape(3, 4).tolist() == (x @ w).tolist()
    assert not machine.memory[Region.ACTIVATION][50:].any()


def test_gathered_rows_meet_their_gradients(rng):
    machine = GoldenMachine(TINY)
    x, d = rng.integers(-128, 128, (6, 4)), rng.integers(-128, 128, (3, 4))
    keep = [1, 4, 5]
    place(machine, Region.ACTIVATION, 0, x)
    place(machine, Region.GRADIENT, 0, d)
    machine.write(Region.KEEP << OFFSET_BITS, keep)
    run_program(machine, [Descriptor(
        opcode=Opcode.BACKWARD, schedule=Schedule.WEIGHT_GRADIENT, drain=Drain.STORE, steps=3,
        x_stride=6, k_tiles=1, n_tiles=1, gather=1)])
    stored = machine.read(Region.STATE << OFFSET_BITS, 16).astype(np.int64).reshape(4, 4)
    expected = x[keep].T @ d & (1 << TINY.state_bits) - 1
    assert stored.tolist() == expected.tolist()


@pytest.mark.parametrize("lanes_log2", [1, 2])
def test_packed_words_are_kept_for_later_tiles(lanes_log2, rng):
    machine = GoldenMachine(TINY)
    x, q = rng.integers(-128, 128, (7, 4)), 1 << lanes_log2
    place(machine, Region.ACTIVATION, 0, x)
    machine.write(Register.SEED, [5])
    shift = 8 - 8 // q
    fields = {"opcode": Opcode.BACKWARD, "schedule": Schedule.WEIGHT_GRADIENT, "steps": 7,
              "x_stride": 7, "k_tiles": 1, "packed_base": 100, "lanes_log2": lanes_log2,
              "x_shift": shift}
    draws = low_half(Lfsr(Bank.PACK, 4, 5).draw(14))
    run_program(machine, [Descriptor(n_tiles=1, **fields)])
    assert not machine.memory[Region.ACTIVATION][100:].any()
    run_program(machine, [Descriptor(n_tiles=2, **fields)])
    words = pack(quantize(x, 8 // q, shift, unsigned=False, random=draws[7:]), q)
    assert machine.memory[Region.ACTIVATION][100:100 + len(words)].tolist() == words.tolist()
    assert not machine.memory[Region.ACTIVATION][100 + len(words):].any()


@pytest.mark.parametrize("classes", [2, 4, 5, 11])
def test_confidence_writes_the_keep_list(classes, rng):
    machine = GoldenMachine(TINY)
    logits = rng.integers(-128, 128, (20, classes))
    labels = rng.integers(0, classes, 20)
    labels[:10] = logits[:10].argmax(axis=1)
    for block in range(-(-classes // 4)):
        place(machine, Region.ACTIVATION, 30 + 20 * block, logits[:, 4 * block:4 * block + 4])
    machine.write(Region.LABEL << OFFSET_BITS, labels)
    run_program(machine, [Descriptor(
        opcode=Opcode.CONFIDENCE, steps=20, x_base=30, classes=classes, threshold=3)])
    keep = keep_list(logits, labels, 3)
    assert 0 < len(keep) < 20
    assert register(machine, Register.KEPT) == len(keep)
    assert machine.read(Region.KEEP << OFFSET_BITS, len(keep)).tolist() == keep.tolist()
    assert machine.counters["kept_samples"] == len(keep)
    assert machine.counters["skipped_samples"] == 20 - len(keep)


def test_a_label_without_a_class_counts_as_the_least_logit():
    machine = GoldenMachine(TINY)
    place(machine, Region.ACTIVATION, 0, np.array([[100, -128, 0], [-128, -128, -128]]))
    machine.write(Region.LABEL << OFFSET_BITS, [3, 9])
    run_program(machine, [Descriptor(opcode=Opcode.CONFIDENCE, steps=2, classes=3, threshold=1)])
    assert machine.read(Region.KEEP << OFFSET_BITS, 2).tolist() == [0, 1]
    assert register(machine, Register.KEPT) == 2


def angle(**fields):
    return Descriptor(opcode=Opcode.ANGLE, packed_base=64, bound=1 << 15, **fields)


def test_angle_picks_bits_over_several_descriptors():
    machine = GoldenMachine(TINY)
    state = machine.memory[Region.STATE]
    state[0:8], state[64:68], state[68:72] = 3000, 3000, 3000
    run_program(machine, [angle(rows=8, first=1, last=1, tested_bits=4)])
    assert register(machine, Register.BITS) == 4
    # Half of the tested gradient points the other way: the whole is at a right angle.
    state[64:68] = -3000 & (1 << TINY.state_bits) - 1
    parts = [angle(rows=4, first=1, tested_bits=2),
             Descriptor(opcode=Opcode.ANGLE, rows=4, state_base=4, packed_base=68, last=1,
                        bound=1 << 15, tested_bits=2)]
    run_program(machine, parts)
    assert register(machine, Register.BITS) == 4
    run_program(machine, parts[1:])
    assert register(machine, Register.BITS) == 2


def test_a_fresh_measurement_falls_back_to_eight_bits():
    machine = GoldenMachine(TINY)
    state = machine.memory[Region.STATE]
    state[0:4] = state[64:68] = 3000
    run_program(machine, [angle(rows=4, first=1, last=1, tested_bits=2)])
    state[64:68] = -3000 & (1 << TINY.state_bits) - 1
    run_program(machine, [angle(rows=4, first=1, last=1, tested_bits=4)])
    assert register(machine, Register.BITS) == 2
    run_program(machine, [angle(rows=4, first=1, last=1, tested_bits=4, fresh=1)])
    assert register(machine, Register.BITS) == 8


@pytest.mark.parametrize("config", [TINY, TINY.with_changes(overlap=False)])
def test_a_program_counts_as_its_descriptors_do(config):
    machine = GoldenMachine(config)
    program = [
        Descriptor(opcode=Opcode.FORWARD, steps=9, x_stride=9, k_tiles=2, n_tiles=3),
        Descriptor(opcode=Opcode.CONFIDENCE, steps=9, classes=3, threshold=1),
        Descriptor(opcode=Opcode.BACKWARD, steps=9, x_stride=9, k_tiles=2, n_tiles=3,
                   lanes_log2=1, mask=1),
        Descriptor(opcode=Opcode.ANGLE, rows=3, first=1, last=1),
    ]
    cycles = run_program(machine, program)
    expected = Counter()
    for descriptor in program:
        expected.update(counts(config, descriptor))
    expected.update(kept_samples=9)
    expected["cycles"] = program_cycles(config, program)
    assert cycles == expected["cycles"]
    assert machine.counters == expected
    values = machine.read(Register.COUNTER, 2 * len(COUNTERS))[::2].tolist()
    assert values == [expected[name] for name in COUNTERS]
