"""The loop nest and its pointers walk as `gradloom_golden.geometry` does."""

import numpy as np
import pytest

from gradloom.tile_loop import BlockPointer, TapPointer, TileLoop, WeightWalk
from gradloom_golden.geometry import tiles, weight_tile
from gradloom_golden.program import DESCRIPTOR_FIELDS, Descriptor, Opcode
from simulate import play, stalled

FORWARD = ("x", "y", "block", "n")
BACKWARD = ("n", "x", "y", "block")
LOOPS = [  # k_tiles, taps_y, taps_x, n_tiles
    (1, 1, 1, 1), (1, 1, 1, 4), (3, 1, 1, 1), (2, 3, 2, 3), (4, 1, 3, 2), (1, 2, 1, 2),
    (256, 1, 1, 1), (1, 1, 1, 256), (1, 255, 1, 1), (1, 1, 255, 1),
]
PASSES = {
    "forward": {"opcode": Opcode.FORWARD, "conv": 1},
    "X moves": {"opcode": Opcode.BACKWARD, "conv": 1},
    "D moves": {"opcode": Opcode.BACKWARD, "conv": 1, "d_moves": 1},
    "plain forward": {"opcode": Opcode.FORWARD},
    "plain backward": {"opcode": Opcode.BACKWARD},
    # Without `conv` the geometry must not matter.
    "plain, D moves": {"opcode": Opcode.BACKWARD, "d_moves": 1},
}


def fields(d):
    return {name: getattr(d, name) for name in DESCRIPTOR_FIELDS}


def noise(rng):
    """Return a descriptor of which nothing may matter."""
    return {name: int(rng.integers(1 << width - 1))
            for name, (_, _, width) in DESCRIPTOR_FIELDS.items()}


def loops(kind, loop, **more):
    k_tiles, taps_y, taps_x, n_tiles = loop
    return Descriptor(**PASSES[kind], k_tiles=k_tiles, taps_y=taps_y, taps_x=taps_x,
                      n_tiles=n_tiles, **more)


def flags(d):
    """Return what a loop shows at each tile if it advances, by its members' names."""
    ordered = list(tiles(d))
    forward = d.opcode == Opcode.FORWARD
    of = {"block": d.k_tiles, "n": d.n_tiles,
          "y": d.taps_y if d.conv else 1, "x": d.taps_x if d.conv else 1}
    shown = []
    for index, tile in enumerate(ordered):
        place = {"block": tile.block, "y": tile.tap_y, "x": tile.tap_x, "n": tile.n}
        row = {f"last_{level}": place[level] == of[level] - 1 for level in of}
        moves = True
        for level in FORWARD if forward else BACKWARD:
            row[f"step_{level}"] = moves
            moves &= row[f"last_{level}"]

        def group(other):
            """Name what is reduced into one block of results."""
            if forward:
                return other.n
            if d.conv and d.d_moves:
                return other.block
            return other.block, other.tap_y, other.tap_x

        row["inner_first"] = index == 0 or group(ordered[index - 1]) != group(tile)
        row["last"] = index == len(ordered) - 1
        row["inner_last"] = row["last"] or group(ordered[index + 1]) != group(tile)
        shown.append(row)
    return shown


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", PASSES)
def test_flags_follow_the_nest(kind, loop, rng):
    d = loops(kind, loop)
    cycles = [{"start": 1, "advance": 1, "descriptor": noise(rng), "forward": 0}]
    settled = {"start": 0, "descriptor": fields(d), "forward": d.opcode == Opcode.FORWARD}
    expected = flags(d)
    names = list(expected[0])
    # After the last tile comes the first.
    pattern = "1" if len(expected) > 100 else "0110"
    wanted, stands = [], []
    for row in stalled([*expected, expected[0]], pattern):
        stands.append(row is None)
        wanted.append(row)
        cycles.append({**settled, "advance": row is not None})
    for index in reversed(range(len(wanted) - 1)):
        wanted[index] = wanted[index] or wanted[index + 1]
    seen = play(TileLoop(), cycles, *names)
    for name in names:
        right = [row[name] and not (name.startswith("step_") and stall)
                 for row, stall in zip(wanted, stands, strict=True)]
        np.testing.assert_array_equal(seen[name][1:], right, name)


def test_start_wins_over_advance():
    d = fields(loops("forward", (2, 1, 1, 2)))
    cycles = [{"start": 1, "descriptor": d, "forward": 1}, {"start": 0, "advance": 1},
              {"start": 1}, {"start": 0}]
    assert play(TileLoop(), cycles, "inner_first")["inner_first"].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("kind", ["forward", "X moves"])
@pytest.mark.parametrize("row", [0, 5, -3 & 0xFF])
def test_tap_pointer_multiplies_by_adding(kind, row):
    bits, pixel = 8, -1 & 0xFF
    d = loops(kind, (2, 3, 4, 2))
    steps = {"rewind": 0, "row": row, "pixel": pixel}
    names = ("step_x", "step_y", "last_x", "last_y")
    moves = [{**steps, **{name: flag[name] for name in names}} for flag in flags(d)]
    # A rewind in the middle of a kernel counts alone, whatever else moves.
    cut = len(moves) // 2 + 2
    cycles = [{**moves[0], "rewind": 1}, *moves[:cut], {**moves[cut], "rewind": 1}, *moves]
    offsets = [(tile.tap_y * row + tile.tap_x * pixel) % (1 << bits) for tile in tiles(d)]
    seen = play(TapPointer(bits), cycles, "offset")["offset"]
    np.testing.assert_array_equal(seen[1:], [*offsets[:cut + 1], *offsets])


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_weight_walk_visits_the_rows_of_the_tiles(kind, pattern, rng):
    rows, bits = 4, 9
    cycles, expected = [], []
    for loop in LOOPS[:6]:
        d = loops(kind, loop, w_block=int(rng.integers(100)), w_row=int(rng.integers(1 << 16)),
                  w_pixel=int(rng.integers(20)))
        places = [(weight_tile(d, tile) * rows + row) % (1 << bits)
                  for tile in tiles(d) for row in range(rows)]
        flag = [(row == rows - 1 and tile["step_n"], tile["last_n"])
                for tile in flags(d) for row in range(rows)]
        wanted = [(place, index % rows == 0, *flag[index])
                  for index, place in enumerate(places)]
        at_once = int(rng.integers(2))
        cycles.append({"start": 1, "advance": at_once, "descriptor": noise(rng), "forward": 0})
        expected.append(None)
        settled = {"start": 0, "descriptor": fields(d), "forward": d.opcode == Opcode.FORWARD}
        for row in stalled(wanted[at_once:], pattern):
            cycles.append({**settled, "advance": row is not None})
            expected.append(row)
    seen = play(WeightWalk(rows, bits), cycles, "offset", "tile_first", "step_n", "last_n")
    taken = [index for index, row in enumerate(expected) if row is not None]
    got = np.stack([seen[name][taken] for name in seen], axis=1)
    np.testing.assert_array_equal(got, [expected[index] for index in taken])


@pytest.mark.parametrize("part_bits", [0, 1, 2])
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_pointer_goes_through_the_parts_of_a_word_first(part_bits, pattern, rng):
    bits, blocks = 8, 11
    base, stride = rng.integers(0, 60, 2).tolist()
    cycles = [{"rewind": 1, "advance": 1, "base": base, "stride": stride}]
    taken = []
    for block in stalled(range(blocks), pattern):
        if block is not None:
            taken.append(len(cycles))
        cycles.append({"rewind": 0, "advance": block is not None})
    seen = play(BlockPointer(bits, part_bits), cycles, "address", "part")
    order = np.arange(blocks)
    np.testing.assert_array_equal(
        seen["address"][taken], (base + (order >> part_bits) * stride) % (1 << bits))
    np.testing.assert_array_equal(seen["part"][taken], order % (1 << part_bits))


def test_pointer_rewinds_from_the_middle_of_a_word():
    moving = {"rewind": 0, "advance": 1, "base": 5, "stride": 3}
    cycles = [{"rewind": 1, "base": 5, "stride": 3}, moving, moving, moving,
              {"rewind": 1, "base": 40}, {"rewind": 0, "advance": 0}]
    seen = play(BlockPointer(6, 1), cycles, "address", "part")
    assert seen["address"].tolist()[1:] == [5, 5, 8, 8, 40]
    assert seen["part"].tolist()[1:] == [0, 1, 0, 1, 0]
