"""A picture of a real run shows each slot and each shift where the formulas put it."""

import numpy as np
import pytest

from gradloom_golden.config import preset
from gradloom_golden.cycles import tile_slots
from gradloom_golden.program import Descriptor, Opcode
from gradloom_host import trace as module
from gradloom_host.trace import PASSES, Chain, Slot, draw, trace
from gradloom_host.vcd import read_cycles
from slots import tile

TINY = preset("tiny")
ROWS, COLUMNS = TINY.rows, TINY.columns
LOAD_CYCLES = ROWS + 1                                    # with the swap that follows


def expected_slots(name: str, steps: int, lanes: int) -> list[Slot]:
    """Return the kinds of the slots of a tile, as the documentation orders them."""
    if PASSES[name] is None:
        return [Slot.FORWARD] * steps
    return [Slot.INPUT_GRADIENT if slot.group is None else Slot.WEIGHT_GRADIENT
            for slot in tile(steps, lanes, PASSES[name])]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Build the traced machine once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(("name", "steps", "lanes"), [
    ("forward", 5, 1), ("interleaved", 6, 1), ("interleaved", 7, 2), ("interleaved", 6, 4),
    ("sequential", 5, 1), ("input-gradient", 9, 1), ("weight-gradient", 5, 1),
])
def test_every_cell_works_its_place_in_the_wavefront_later(name, steps, lanes):
    found = trace(TINY, name, steps=steps, lanes=lanes)
    slots = expected_slots(name, steps, lanes)
    backward = PASSES[name] is not None
    descriptor = Descriptor(
        opcode=Opcode.BACKWARD if backward else Opcode.FORWARD, steps=steps, k_tiles=1, n_tiles=1,
        schedule=PASSES[name] or 0, lanes_log2=lanes.bit_length() - 1)
    assert len(slots) == tile_slots(descriptor)
    for row in range(ROWS):
        for column in range(COLUMNS):
            start = LOAD_CYCLES + row + column
            expected = np.zeros(found.slots.shape[2], int)
            expected[start:start + len(slots)] = slots
            np.testing.assert_array_equal(found.slots[row, column], expected)


def test_interleaved_slots_of_step_t_are_two_cycles_apart():
    found = trace(TINY, "interleaved", steps=6)
    for row in range(ROWS):
        for column in range(COLUMNS):
            for step in range(6):
                cycle = LOAD_CYCLES + 2 * step + row + column
                assert found.slots[row, column, cycle] == Slot.INPUT_GRADIENT
                assert found.slots[row, column, cycle + 1] == Slot.WEIGHT_GRADIENT


def test_weights_enter_before_and_gradients_leave_after_the_last_wave():
    found = trace(TINY, "interleaved", steps=6)
    slots = 12
    for column in range(COLUMNS):
        expected = np.zeros(found.chains.shape[2], int)
        expected[column:column + ROWS] = Chain.LOAD
        # A shift moves whole columns, so it waits until the last row has had its last slot.
        drain = LOAD_CYCLES + slots + ROWS - 1 + column
        expected[drain:drain + ROWS] = Chain.DRAIN
        for row in range(ROWS):
            np.testing.assert_array_equal(found.chains[row, column], expected)
    assert found.utilization == slots / found.slots.shape[2]


def test_the_next_tile_loads_while_one_streams():
    found = trace(TINY, "interleaved", steps=8, tiles=3)
    streams = found.slots[0, 0] != Slot.IDLE
    assert streams.sum() == 3 * 16
    assert streams[LOAD_CYCLES:LOAD_CYCLES + 3 * 16].all()
    moves = found.chains[0, 0]
    assert (moves[streams] == Chain.LOAD).sum() == ROWS
    assert (moves[streams] == Chain.BOTH).sum() == ROWS
    assert (moves[~streams] == Chain.DRAIN).sum() == ROWS
    assert (moves[streams] == Chain.DRAIN).sum() == ROWS


def test_draws_a_picture():
    picture = draw(trace(TINY, "interleaved", steps=6), "tiny")
    assert picture.startswith(b"\x89PNG")
    assert picture == draw(trace(TINY, "interleaved", steps=6), "tiny")


def test_rejects_what_the_machine_has_not():
    with pytest.raises(ValueError, match="unknown pass 'backwards'; choose from forward, inter"):
        trace(TINY, "backwards")
    with pytest.raises(ValueError, match=r"lanes must be 1, or 2 or 4 on a machine .*, not 3"):
        trace(TINY, lanes=3)
    with pytest.raises(ValueError, match="not 2"):
        trace(TINY.with_changes(lanes=False), lanes=2)
    with pytest.raises(ValueError, match="refuses 33 steps, 1 lanes and 1 tiles with STEPS"):
        trace(TINY, steps=33)


VCD = """\
$version made by hand $end
$timescale 1ps $end
 $scope module TOP $end
  $var wire 1 a clk $end
  $scope module inner $end
   $var wire 4 b wide [3:0] $end
   $var wire 1 a alias $end
  $upscope $end
  $var wire 2 c other [1:0] $end
 $upscope $end
$enddefinitions $end


#5
0a
b0000 b
b00 c
#10
1a
b0011 b
#15
b1010 b
#40
0a
"""


def test_reads_the_last_value_of_each_cycle(tmp_path):
    file = tmp_path / "small.vcd"
    file.write_text(VCD)
    found = read_cycles(file, lambda path: path[-1] != "other")
    assert {"/".join(path): values.tolist() for path, values in found.items()} == {
        "TOP/clk": [0, 1, 1, 1, 0],
        "TOP/inner/wide": [0, 10, 10, 10, 10],
        "TOP/inner/alias": [0, 1, 1, 1, 0],
    }
    file.write_text(VCD + "x real\n")
    with pytest.raises(ValueError, match="has the line 'x real'"):
        read_cycles(file, lambda path: True)


def test_the_colours_differ():
    both = [*module.COLOURS.values(), *module.CHAIN_COLOURS.values()]
    assert len({colour for _, colour in both}) == len(both)
