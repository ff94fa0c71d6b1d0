"""Weight rows are addressed tile by tile, in the order of either pass."""

import numpy as np
import pytest

from gradloom.loader import WeightLoader
from gradloom_golden.config import preset
from gradloom_golden.geometry import tiles, weight_tile
from gradloom_golden.program import DESCRIPTOR_FIELDS, Descriptor, Opcode
from simulate import play, stalled

TINY = preset("tiny")
PLAIN = [(1, 1, 16), (3, 2, 8), (2, 3, 0), (1, 4, 32), (5, 1, 24)]


def plain(config, d):
    """Return the address of every row: forward goes down a column of tiles, backward along a row.

    Row r of tile (k, n) of the layer's weights, stored tile after tile, k first.
    """
    order = d.w_base + config.rows * np.arange(d.k_tiles * d.n_tiles).reshape(d.k_tiles, d.n_tiles)
    ordered = order.T if d.opcode == Opcode.FORWARD else order
    return (ordered.reshape(-1, 1) + np.arange(config.rows)).ravel().tolist()


def by_taps(config, d):
    """Return the address of every row of a kernel's tiles, modulo the buffer."""
    return [(d.w_base + weight_tile(d, tile) * config.rows + row) % config.weight_depth
            for tile in tiles(d) for row in range(config.rows)]


def check(config, descriptors, addresses, pattern, rng):
    """Load the weights of the descriptors one after the other; compare every read."""
    cycles, expected = [], []
    noise = {name: int(rng.integers(1 << width - 1))
             for name, (_, _, width) in DESCRIPTOR_FIELDS.items()}
    before = {"descriptor": noise, "forward": 0}
    for d in descriptors:
        rows = addresses(config, d)
        # In the cycle of `start` the descriptor of before still stands.
        cycles.append({"start": 1, "next": 1, "first": d.w_base, **before})
        expected.append(rows[0])
        before = {"descriptor": {name: getattr(d, name) for name in DESCRIPTOR_FIELDS},
                  "forward": d.opcode == Opcode.FORWARD}
        for row in stalled(rows[1:], pattern):
            cycles.append({"start": 0, "first": 0, **before, "next": row is not None})
            expected.append(row)
        cycles.append({"next": 0})
        expected.append(None)
    seen = play(WeightLoader(config), cycles, "read_en", "read_address")
    read = [row is not None for row in expected]
    np.testing.assert_array_equal(seen["read_en"], read)
    np.testing.assert_array_equal(
        seen["read_address"][read], [row for row in expected if row is not None])


@pytest.mark.parametrize("config", [TINY, TINY.with_changes(rows=8)])
@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD])
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_walks_through_the_tiles(config, opcode, pattern, rng):
    check(config, [Descriptor(opcode=opcode, k_tiles=k_tiles, n_tiles=n_tiles, w_base=base,
                              # Without `conv` the taps do not matter.
                              taps_y=2, taps_x=3, w_block=5, w_row=7, w_pixel=9)
                   for k_tiles, n_tiles, base in PLAIN], plain, pattern, rng)


@pytest.mark.parametrize("opcode", [Opcode.FORWARD, Opcode.BACKWARD])
@pytest.mark.parametrize("pattern", ["1", "1101"])
def test_walks_through_the_taps(opcode, pattern, rng):
    # A whole kernel, one of which a stride leaves every other tap, and one tap.
    shapes = [{"taps_y": 3, "taps_x": 2, "w_block": 12, "w_row": 4, "w_pixel": 2},
              {"taps_y": 1, "taps_x": 2, "w_block": 9, "w_row": 6, "w_pixel": 2},
              {"taps_y": 1, "taps_x": 1, "w_block": 2}]
    check(TINY, [Descriptor(opcode=opcode, conv=1, k_tiles=2, n_tiles=n_tiles, w_base=base, **shape)
                 for shape in shapes for n_tiles, base in ((1, 4), (2, 40))],
          by_taps, pattern, rng)
