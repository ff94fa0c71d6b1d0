"""Packed activations equal `gradloom_golden.lanes`, drawn at random as the golden bank draws."""

import numpy as np
import pytest

from gradloom.packer import Packer
from gradloom_golden import lanes, lfsr
from simulate import play, stalled

LANES = 4
SEED = 0x1234567
CORNERS = [0, 1, 7, 8, 127, 128, 129, 254, 255]


def packed_by(dut, rows, q, shift, unsigned, pattern):
    """Return the word after each group of q rows; the last group may be short."""
    settings = {"four": q == 4, "x_unsigned": unsigned, "shift": shift}
    cycles = [{"seed_load": 1, "seed": SEED, **settings}, {"seed_load": 0}]
    ends = []
    for entry in stalled(enumerate(rows), pattern):
        if entry is None:
            cycles.append({"valid": 0, "step": 3, "activations": [0x5A] * LANES})
            continue
        index, row = entry
        cycles.append({"valid": 1, "step": index % q, "activations": row})
        if index % q == q - 1 or index == len(rows) - 1:
            ends.append(len(cycles))
    cycles.append({"valid": 0})
    return play(dut, cycles, "packed")["packed"][ends]


@pytest.mark.parametrize("steps", [1, 7, 12, 18])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("q", "shift"), [(2, 0), (2, 3), (2, 4), (4, 1), (4, 4), (4, 6)])
def test_equals_the_golden_model(q, shift, unsigned, steps, rng):
    rows = rng.integers(0, 256, (steps, LANES))
    rows[::2, 1] = rng.choice(CORNERS, len(rows[::2]))
    x = rows if unsigned else (rows ^ 128) - 128
    random = lfsr.low_half(lfsr.Lfsr(lfsr.Bank.PACK, LANES, SEED).draw(steps))
    small = lanes.quantize(
        x, 8 // q, shift, unsigned=unsigned, random=random)  # pyright: ignore[reportArgumentType]
    got = packed_by(Packer(LANES), rows, q, shift, unsigned, "1101")
    np.testing.assert_array_equal(got, lanes.pack(small, q))
    np.testing.assert_array_equal(lanes.unpack(got, q, steps, unsigned=unsigned), small)


def test_a_row_stands_until_the_next_group():
    settings = {"valid": 1, "four": 0, "x_unsigned": 1, "step": 0, "shift": 0}
    cycles = [{**settings, "activations": [9, 3, 15, 0]}, *[{"valid": 0}] * 5,
              {"valid": 1, "step": 0, "activations": [1, 1, 1, 1]}, {"valid": 0}]
    seen = play(Packer(LANES), cycles, "packed")["packed"]
    assert (seen[1:7] == [9, 3, 15, 0]).all()
    assert (seen[7] == 1).all()


def test_padding_is_zero_after_a_full_group():
    full = [{"valid": 1, "four": 1, "x_unsigned": 1, "step": step, "shift": 0,
             "activations": [3] * LANES} for step in range(4)]
    seen = play(Packer(LANES), [*full, full[0], {"valid": 0}], "packed")["packed"]
    assert (seen[4] == 0xFF).all()
    assert (seen[5] == 0x03).all()
