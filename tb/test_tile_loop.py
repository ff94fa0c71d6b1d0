"""The loop nest and its pointers walk as nested Python loops do."""

import numpy as np
import pytest

from gradloom.tile_loop import BlockPointer, TileLoop
from simulate import play, stalled

COUNTS = [(1, 1), (1, 4), (3, 1), (2, 3), (4, 2), (1, 256), (256, 1)]


@pytest.mark.parametrize(("outer", "inner"), COUNTS)
@pytest.mark.parametrize("pattern", ["1", "0110"])
def test_flags_follow_the_nest(outer, inner, pattern):
    cycles = [
        {"start": 1, "advance": 1, "outer_count": 5, "inner_count": 2},
        {"start": 0, "advance": 0, "outer_count": outer, "inner_count": inner},
    ]
    tiles = [(o, i) for o in range(outer) for i in range(inner)]
    expected: list = [None, None]
    for tile in stalled(tiles, pattern):
        cycles.append({"advance": tile is not None})
        expected.append(tile)
    # A stalled cycle shows the tile that advances next.
    for index in reversed(range(1, len(expected))):
        if expected[index] is None:
            expected[index] = expected[index + 1]
    seen = play(TileLoop(), cycles, "inner_first", "inner_last", "last")
    for index, (o, i) in enumerate(expected[1:], 1):
        flags = [seen[name][index] for name in ("inner_first", "inner_last", "last")]
        assert flags == [i == 0, i == inner - 1, (o, i) == tiles[-1]], (index, o, i)


def test_start_wins_over_advance():
    counts = {"outer_count": 2, "inner_count": 2}
    cycles = [{"start": 1, **counts}, {"start": 0, "advance": 1}, {"start": 1}, {"start": 0}]
    assert play(TileLoop(), cycles, "inner_first")["inner_first"].tolist() == [1, 1, 0, 1]


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
