"""Counts against a machine that is simulated event by event, from the rules alone.

A slot takes a cycle. A shift moves whole columns: it comes `rows` cycles after the last slot or
swap at the earliest, and the next slot or swap the cycle after the last of `rows` shifts. With
overlap a swap rides with the last slot of a tile, and shifts go on beside the slots that follow.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradloom_golden.config import preset
from gradloom_golden.cycles import (
    FETCH_CYCLES,
    PROGRAM_CYCLES,
    counts,
    descriptor_cycles,
    program_cycles,
    tile_slots,
)
from gradloom_golden.program import COUNTERS, Descriptor, Drain, Opcode, Schedule

TINY = preset("tiny")
CONFIGS = [
    TINY.with_changes(rows=rows, columns=columns, overlap=overlap)
    for rows, columns in ((4, 4), (8, 4), (4, 16)) for overlap in (False, True)
]
STREAMS = st.builds(
    Descriptor, opcode=st.sampled_from([Opcode.FORWARD, Opcode.BACKWARD]),
    schedule=st.sampled_from(Schedule), drain=st.sampled_from(Drain),
    lanes_log2=st.integers(0, 2), steps=st.integers(1, 32), x_stride=st.just(32),
    k_tiles=st.integers(1, 4), n_tiles=st.integers(1, 4), mask=st.integers(0, 1),
    keep_sums=st.integers(0, 1),
).map(lambda d: replace(d, lanes_log2=0) if d.opcode == Opcode.FORWARD else d)


def kinds(d):
    """Return whether a descriptor has forward, input-gradient and weight-gradient slots."""
    forward = d.opcode == Opcode.FORWARD
    return (forward, not forward and d.schedule != Schedule.WEIGHT_GRADIENT,
            not forward and d.schedule != Schedule.INPUT_GRADIENT)


def slots_of_tile(d):
    """Return the slots of a tile: each a list of what happens in it, and for which steps."""
    forward, has_ws, has_os = kinds(d)
    q = 1 << d.lanes_log2
    steps = range(d.steps)
    if forward:
        return [[("y", [t])] for t in steps]
    groups = [[t for t in range(start, start + q) if t < d.steps]
              for start in range(0, d.steps, q)]
    sums, products = [[("dx", [t])] for t in steps], []
    if q == 1:
        products = [[("d", [t]), ("product", [t])] for t in steps]
    else:
        # The product of a group comes a slot after its last gradient: with the next group's
        # first one, or alone. A ragged group is filled with empty slots.
        pending = []
        for group in groups:
            for member in range(q):
                here = [("d", [group[member]])] if member < len(group) else []
                products.append(pending + here)
                pending = []
            pending = [("product", group)]
        products.append(pending)
    if d.schedule == Schedule.INTERLEAVED:
        slots = []
        for group in groups:
            slots += [[("dx", [t])] for t in group] + [[]] * (q - len(group))
            slots.append([("product", group)])
        return slots
    return (sums if has_ws else []) + (products if has_os else [])


def simulate(config, d):
    """Return the cycles of a descriptor: every event at the earliest cycle that the rules allow."""
    rows, columns = config.rows, config.columns
    drains = kinds(d)[2]
    tiles = d.k_tiles * d.n_tiles
    shift = slot = last_slot = -1                      # of the latest event of its kind

    def shifts(earliest):
        nonlocal shift
        for _ in range(rows):
            shift = max(shift + 1, earliest)

    shifts(0)
    wave = shift
    if config.overlap:
        wave = shift + 1
    for tile in range(tiles):
        swap, slot = wave, wave
        if tile and not config.overlap:
            shifts(last_slot + rows)
            slot = shift
        for _ in slots_of_tile(d):
            slot += 1
        last_slot = wave = slot
        beside = tile < tiles - 1 or (tile > 0 and drains)
        if config.overlap and beside:
            shifts(swap + rows)
            wave = max(slot, shift + 1)
    if drains:
        shifts(wave + rows)
        return shift + 1 + columns
    return wave + 1 + rows + columns


def play(config, d):
    """Return the counters of a descriptor by walking over its tiles, slots and rows."""
    forward, _, drains = kinds(d)
    total: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    total["descriptors"] = 1
    q = 1 << d.lanes_log2
    outer, inner = (d.n_tiles, d.k_tiles) if forward else (d.k_tiles, d.n_tiles)
    for _ in range(outer):
        for position in range(inner):
            first, last = position == 0, position == inner - 1
            total["weight_reads"] += config.rows
            for slot in slots_of_tile(d):
                total["slots"] += 1
                for name, involved in slot:
                    if name in {"y", "dx"}:
                        total["forward_slots" if name == "y" else "ws_slots"] += 1
                        total["x_reads" if name == "y" else "d_reads"] += 1
                        total["sum_reads"] += not first
                        finished = last and not d.keep_sums
                        total["sum_writes"] += not finished
                        total[f"{name}_writes"] += finished
                        total["mask_reads"] += finished and name == "dx" and d.mask
                    elif name == "d":
                        total["d_reads"] += 1
                    else:
                        total["os_products"] += len(involved)
                        total["x_reads"] += len(involved) if q == 1 or first else 0
                        total["packed_reads"] += q > 1 and not first
                        total["packed_writes"] += q > 1 and first and inner > 1
            if drains:
                total["state_writes"] += config.rows
                total["state_reads"] += config.rows * (d.drain != Drain.STORE)
                total["weight_writes"] += config.rows * (d.drain == Drain.UPDATE)
    total["cycles"] = simulate(config, d)
    total["forward_cycles" if forward else "backward_cycles"] = total["cycles"]
    return total


@settings(max_examples=600)
@given(st.sampled_from(CONFIGS), STREAMS)
def test_streams_cost_what_the_events_cost(config, d):
    assert tile_slots(d) == len(slots_of_tile(d))
    assert descriptor_cycles(config, d) == simulate(config, d)
    assert counts(config, d) == play(config, d)


@pytest.mark.parametrize(("schedule", "lanes_log2", "slots"), [
    (Schedule.INPUT_GRADIENT, 0, 10), (Schedule.WEIGHT_GRADIENT, 0, 10),
    (Schedule.SEQUENTIAL, 0, 20), (Schedule.INTERLEAVED, 0, 20),
    (Schedule.WEIGHT_GRADIENT, 1, 11), (Schedule.WEIGHT_GRADIENT, 2, 13),
    (Schedule.SEQUENTIAL, 2, 23), (Schedule.INTERLEAVED, 1, 15), (Schedule.INTERLEAVED, 2, 15),
])
def test_slots_of_ten_steps(schedule, lanes_log2, slots):
    d = Descriptor(opcode=Opcode.BACKWARD, schedule=schedule, lanes_log2=lanes_log2, steps=10)
    assert tile_slots(d) == slots


@pytest.mark.parametrize("overlap", [False, True])
def test_a_single_tile_costs_load_stream_and_drain(overlap):
    config = TINY.with_changes(rows=8, columns=16, overlap=overlap)
    forward = Descriptor(opcode=Opcode.FORWARD, steps=5, k_tiles=1, n_tiles=1)
    assert descriptor_cycles(config, forward) == 8 + overlap + 5 + 8 + 16
    backward = replace(forward, opcode=Opcode.BACKWARD)
    assert descriptor_cycles(config, backward) == 8 + overlap + 10 + 15 + 16


def test_overlap_hides_every_load_and_drain_behind_long_tiles():
    config = TINY.with_changes(rows=4, columns=4)
    d = Descriptor(opcode=Opcode.BACKWARD, steps=32, k_tiles=3, n_tiles=2)
    assert descriptor_cycles(config, d) == 4 + 1 + 6 * 64 + 7 + 4
    serial = config.with_changes(overlap=False)
    assert descriptor_cycles(serial, d) == 4 + 6 * 64 + 5 * 7 + 7 + 4


@pytest.mark.parametrize(("classes", "blocks"), [(2, 1), (8, 1), (9, 2), (24, 3)])
def test_confidence_reads_each_logit_word_once(classes, blocks):
    config = TINY.with_changes(rows=8)
    d = Descriptor(opcode=Opcode.CONFIDENCE, steps=7, classes=classes)
    total = counts(config, d)
    assert {name: value for name, value in total.items() if value} == {
        "cycles": 7 * blocks + 4, "confidence_cycles": 7 * blocks + 4, "x_reads": 7 * blocks,
        "descriptors": 1,
    }


@pytest.mark.parametrize("last", [0, 1])
def test_angle_reads_two_rows_at_a_time(last):
    config = TINY.with_changes(columns=8)
    total = counts(config, Descriptor(opcode=Opcode.ANGLE, rows=6, last=last))
    # Four cycles an element, and a shift of the dot products by one bit a cycle to decide.
    cycles = 3 + 6 * (4 * 8 + 3) + (config.dot_bits - 24 + 6) * last
    assert {name: value for name, value in total.items() if value} == {
        "cycles": cycles, "angle_cycles": cycles, "state_reads": 12, "descriptors": 1,
    }


@settings(max_examples=100)
@given(st.sampled_from(CONFIGS), st.lists(
    st.one_of(STREAMS, st.builds(Descriptor, opcode=st.just(Opcode.CONFIDENCE),
                                 steps=st.integers(1, 32), classes=st.just(2))),
    min_size=1, max_size=6))
def test_a_program_fetches_while_it_runs(config, program):
    now = fetched = FETCH_CYCLES + 1
    for descriptor in program:
        now = max(now, fetched)
        fetched = now + FETCH_CYCLES + 1               # and one to offer it
        now += descriptor_cycles(config, descriptor)
    assert program_cycles(config, program) == now + PROGRAM_CYCLES - 1
