"""The image buffer shows what `gradloom_golden.patch` says, tile after tile."""

import re

import numpy as np
import pytest

from gradloom.emit import to_rtlil
from gradloom.patch import PatchReader
from gradloom_golden.config import preset
from gradloom_golden.patch import patches
from gradloom_golden.program import Descriptor, Opcode
from simulate import join, play

TINY = preset("tiny").with_changes(image_depth=16)
CONFIGS = [
    TINY, TINY.with_changes(columns=16), TINY.with_changes(rows=8, columns=4),
    TINY.with_changes(operand_bits=4, lanes=False),
]
IDLE = {"start": 0, "advance": 0, "read_en": 0, "word_read_en": 0, "write_en": 0, "host_read": 0,
        "host_write": 0}


def window(rng, config):
    """Return a descriptor of any window, though no image has it."""
    row = int(rng.choice([1, 2, 3, 9, 21, 255]))
    rows = int(rng.integers(1, 8))
    return Descriptor(opcode=Opcode.FORWARD, patch=1, patch_row=row,
                      patch_step=int(rng.integers(0, config.image_depth)),
                      patch_lanes=min(row * rows, 5 * config.rows - 1))


def fields(d):
    return {name: getattr(d, name) for name in ("patch", "patch_row", "patch_step", "patch_lanes")}


def fill(contents):
    return [{**IDLE, "write_en": 1, "write_address": place, "write_data": word}
            for place, word in enumerate(np.array(contents))]


def random_words(config, rng):
    return rng.integers(0, 1 << config.operand_bits, (config.image_depth, config.lane_count))


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_golden_model(config, rng):
    contents = random_words(config, rng)
    cycles, expected = fill(contents), {}

    def read(d, block, **more):
        element = int(rng.integers(contents.size))
        cycles.append({**IDLE, "read_en": 1, "element": element, **more})
        expected[len(cycles)] = patches(config, contents, [element], d, block=block)[0]

    for _ in range(25):
        d = window(rng, config)
        tiles = -(-d.patch_lanes // config.rows)
        cycles.append({**IDLE, "start": 1, "descriptor": fields(d)})
        cycles += [IDLE] * config.rows
        # The earliest that another tile may come, counted as the contract does.
        ready = len(cycles) + config.rows
        for visit in range(2 * tiles + 1):
            read(d, visit % tiles)
            while len(cycles) < ready:
                read(d, visit % tiles)
            for _ in range(rng.integers(0, 3)):
                cycles.append(IDLE)
                expected[len(cycles)] = expected[len(cycles) - 1]
            read(d, visit % tiles, advance=1)
            ready = len(cycles) + config.rows
        # What stands does not change with the tile or with a descriptor.
        cycles.append(IDLE)
        expected[len(cycles)] = expected[len(cycles) - 1]
    seen = play(PatchReader(config), [*cycles, IDLE], "row")["row"]
    np.testing.assert_array_equal(seen[list(expected)], list(expected.values()))


def test_an_early_advance_harms_no_later_descriptor(rng):
    contents = random_words(TINY, rng)
    d = Descriptor(opcode=Opcode.FORWARD, patch=1, patch_row=3, patch_step=1, patch_lanes=9)
    start = {**IDLE, "start": 1, "descriptor": fields(d)}
    for wait in range(2 * TINY.rows + 2):
        cycles = [*fill(contents), start, *[IDLE] * wait, {**IDLE, "advance": 1}, start,
                  *[IDLE] * TINY.rows, {**IDLE, "read_en": 1, "element": 5}, IDLE]
        seen = play(PatchReader(TINY), cycles, "row")["row"]
        np.testing.assert_array_equal(seen[-1], patches(TINY, contents, [5], d)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_words_are_written_and_read(config, rng):
    contents = random_words(config, rng)
    flat = contents.ravel()
    chunk = min(4, config.lane_count)
    mask = (1 << config.operand_bits) - 1
    cycles, wide, narrow = fill(contents), {}, {}
    for _ in range(300):
        access = rng.choice(["word_read_en", "write_en", "host_read", "host_write"])
        address = int(rng.integers(config.image_depth))
        word = rng.integers(0, mask, config.lane_count, endpoint=True)
        host = int(rng.integers(flat.size // chunk))
        values = rng.integers(0, 256, chunk)
        here = slice(host * chunk, (host + 1) * chunk)
        cycles.append({**IDLE, access: 1, "word_read_address": address, "write_address": address,
                       "element": int(rng.integers(flat.size)), "write_data": word,
                       "host_address": host, "host_data_i": join(values, 8)})
        if access == "word_read_en":
            wide[len(cycles)] = contents[address].copy()
        elif access == "write_en":
            contents[address] = word
        elif access == "host_read":
            narrow[len(cycles)] = join(flat[here], 8)
        else:
            flat[here] = values & mask
    seen = play(PatchReader(config), [*cycles, IDLE], "word_read_data", "host_data_o")
    assert min(len(wide), len(narrow)) > 30
    np.testing.assert_array_equal(seen["word_read_data"][list(wide)], list(wide.values()))
    np.testing.assert_array_equal(seen["host_data_o"][list(narrow)], list(narrow.values()))


def test_other_descriptors_leave_the_window_alone():
    start = {**IDLE, "start": 1, "descriptor": {"patch": 0, "patch_lanes": 4, "patch_row": 2}}
    cycles = [*fill([[1, 2, 3, 4]] * 16), start, *[IDLE] * TINY.rows,
              {**IDLE, "read_en": 1, "element": 0}, IDLE]
    assert not play(PatchReader(TINY), cycles, "row")["row"][-1].any()


@pytest.mark.parametrize("config", CONFIGS)
def test_has_one_bank_a_lane(config):
    text = to_rtlil(PatchReader(config), "patch")
    assert len(re.findall(r"cell \\patch_bank ", text)) == config.lane_count
    assert len(re.findall(r"^module \\patch_bank$", text, re.MULTILINE)) == 1
