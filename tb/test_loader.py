"""Weight rows are addressed tile by tile, in the order of either pass."""

import numpy as np
import pytest

from gradloom.loader import WeightLoader
from gradloom_golden.config import preset
from gradloom_golden.program import Descriptor, Opcode
from simulate import play, stalled

TINY = preset("tiny")


def addresses(config, d):
    """Return the address of every row: forward goes down a column of tiles, backward along a row.

    Row r of tile (k, n) of the layer's weights, stored tile after tile, k first.
    """
    tiles = d.w_base + config.rows * np.arange(d.k_tiles * d.n_tiles).reshape(d.k_tiles, d.n_tiles)
    ordered = tiles.T if d.opcode == Opcode.FORWARD else tiles
    return (ordered.reshape(-1, 1) + np.arange(config.rows)).ravel()


def packed(d):
    return {name: getattr(d, name) for name in ("k_tiles", "n_tiles")}


@pytest.mark.parametrize("config", [TINY, TINY.with_changes(rows=8)])
@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD])
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_walks_through_the_tiles(config, opcode, pattern):
    cycles, expected = [], []
    for k_tiles, n_tiles, base in ((1, 1, 16), (3, 2, 8), (2, 3, 0), (1, 4, 32), (5, 1, 24)):
        d = Descriptor(opcode=opcode, k_tiles=k_tiles, n_tiles=n_tiles, w_base=base)
        rows = addresses(config, d)
        # In the cycle of `start` the descriptor of before still stands.
        cycles.append({"start": 1, "next": 1, "first": base,
                       "forward": opcode == Opcode.FORWARD})
        expected.append(rows[0])
        settled = {"start": 0, "first": 0, "descriptor": packed(d)}
        for row in stalled(rows[1:].tolist(), pattern):
            cycles.append({**settled, "next": row is not None})
            expected.append(row)
        cycles.append({"next": 0})
        expected.append(None)
    seen = play(WeightLoader(config), cycles, "read_en", "read_address")
    read = [row is not None for row in expected]
    np.testing.assert_array_equal(seen["read_en"], read)
    np.testing.assert_array_equal(
        seen["read_address"][read], [row for row in expected if row is not None])
