"""The pixel walker visits the pixels of `gradloom_golden.geometry`."""

import numpy as np
import pytest

from gradloom.walk import COORDINATE_BITS, PixelWalk
from gradloom_golden.geometry import Tile, steps_of, x_rows
from gradloom_golden.program import DESCRIPTOR_FIELDS, Descriptor, Opcode
from simulate import play, stalled

BITS = 9
OUTPUTS = ("address", "valid", "row_last", "image_last")
FIELDS = {"pixel": "x_pixel", "row": "x_row", "image": "x_image"}
NO_WALK = {"rewind": 0, "advance": 0}


def geometry(rng, t_y: int, t_x: int) -> dict[str, int]:
    """Return the walker's inputs for an image whose edges the walk crosses."""
    given = {"t_y": t_y, "t_x": t_x}
    given |= {name: int(rng.integers(0, 1 << BITS)) for name in FIELDS}
    given |= {name: int(rng.integers(0, 4)) for name in ("y_step", "x_step")}
    given |= {name: int(rng.integers(1, 8)) for name in ("y_limit", "x_limit")}
    return given


def expected(given: dict[str, int], start: dict[str, int], count: int) -> np.ndarray:
    """Return the golden walk and its ends of rows and images, shape (count, 4)."""
    d = Descriptor(
        opcode=Opcode.VECTOR, conv=1, steps=count,
        y_first=start["y_start"], x_first=start["x_start"],
        **{FIELDS.get(name, name): value for name, value in given.items()})
    pixel = steps_of(d)
    places, valid = x_rows(d, Tile(block=0, tap_y=0, tap_x=0, n=0), pixel.image)
    steps = pixel.index
    row_last = steps % d.t_x == d.t_x - 1
    image_last = steps % (d.t_x * d.t_y) == d.t_x * d.t_y - 1
    return np.stack([(start["base"] + places) % (1 << BITS), valid, row_last, image_last], axis=1)


def starts(rng) -> dict[str, int]:
    base = int(rng.integers(0, 1 << BITS))
    y_start, x_start = rng.integers(-5, 3, 2).tolist()
    return {"base": base, "y_start": y_start, "x_start": x_start}


@pytest.mark.parametrize("pattern", ["1", "011010"])
@pytest.mark.parametrize(("t_y", "t_x"), [(1, 1), (1, 5), (4, 1), (3, 4), (5, 7)])
def test_walks_as_the_golden_model(t_y, t_x, pattern, rng):
    for _ in range(6):
        given = geometry(rng, t_y, t_x)
        cycles: list[dict] = []
        taken, steps = [], []
        # What is given with `rewind` alone must be kept.
        noise = {"base": 77, "y_start": -1, "x_start": 2}
        for count in (2 * t_y * t_x + 1, 5):
            start = starts(rng)
            steps.append(expected(given, start, count))
            cycles.append({**NO_WALK, **given, **start, "rewind": 1, "advance": 1})
            for step in stalled(range(count), pattern):
                if step is not None:
                    taken.append(len(cycles))
                cycles.append({**noise, "rewind": 0, "advance": step is not None})
        seen = play(PixelWalk(BITS), cycles, *OUTPUTS)
        shown = np.stack([seen[name][taken] for name in OUTPUTS], axis=1)
        np.testing.assert_array_equal(shown, np.vstack(steps))


def test_stands_still_until_it_advances(rng):
    given = geometry(rng, 2, 2)
    cycles = [{**NO_WALK, **given, **starts(rng), "rewind": 1}, NO_WALK, NO_WALK, NO_WALK]
    seen = play(PixelWalk(BITS), cycles, *OUTPUTS)
    for name in OUTPUTS:
        assert len(set(seen[name][1:].tolist())) == 1


def test_rewinds_in_the_cycle_of_the_last_step(rng):
    given = geometry(rng, 2, 3)
    first, second = starts(rng), starts(rng)
    cycles = [{**given, **first, "rewind": 1, "advance": 0}, {"rewind": 0, "advance": 1}]
    cycles += [{}] * 4 + [{**second, "rewind": 1}, {"rewind": 0}, {}]
    seen = play(PixelWalk(BITS), cycles, *OUTPUTS)
    shown = np.stack([seen[name] for name in OUTPUTS], axis=1)
    np.testing.assert_array_equal(shown[1:7], expected(given, first, 6))
    np.testing.assert_array_equal(shown[7:], expected(given, second, 2))


def test_zero_steps_count_as_4096(rng):
    given = {**geometry(rng, 1, 1), "t_x": 0, "pixel": 1}
    cycles = [{**given, "base": 3, "y_start": 0, "x_start": 0, "rewind": 1, "advance": 1}]
    cycles += [{"rewind": 0}] * 4097
    seen = play(PixelWalk(BITS), cycles, *OUTPUTS)
    assert np.flatnonzero(seen["row_last"][1:]).tolist() == [4095]
    np.testing.assert_array_equal(seen["address"][1:4097], (3 + np.arange(4096)) % (1 << BITS))


def test_no_coordinate_wraps():
    def ends(name):
        return (1 << DESCRIPTOR_FIELDS[name][2]) - 1

    # The largest first place, the last of the taps, the last of the steps.
    largest = ends("y_first") // 2 + (ends("taps_y") - 1) * (ends("tap_dy") // 2)
    largest += (ends("t_y") - 1) * ends("y_step")
    assert largest < 1 << COORDINATE_BITS - 1
    # Half of that would not do: a place far outside would seem to lie inside.
    assert largest >= 1 << COORDINATE_BITS - 2
