"""Patches equal windows cut out of padded images, and lie one element a bank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.config import preset
from gradloom_golden.patch import ImageLayout, patches
from gradloom_golden.program import Descriptor, Opcode

TINY = preset("tiny").with_changes(image_depth=1024)
CONFIGS = [TINY, TINY.with_changes(columns=16), TINY.with_changes(rows=16, columns=8)]


def layout(config, **sizes):
    return ImageLayout(**sizes, rows=config.rows, lanes=config.lane_count)


def descriptor(shape):
    return Descriptor(opcode=Opcode.FORWARD, patch=1, **{
        name: getattr(shape, name) for name in ("patch_row", "patch_step", "patch_lanes")})


def filled(config, words, rng):
    """Return an image buffer that holds `words`, and noise where it holds nothing."""
    buffer = rng.integers(1, 100, (config.image_depth, config.lane_count))
    buffer[:len(words)] = words
    return buffer


def window(shape, image, y, x):
    """Return the flattened window at a place of an image, cut from it by loops."""
    values = []
    for tap_y in range(shape.kernel[0]):
        for tap_x in range(shape.kernel[1]):
            row = y * shape.stride + tap_y - shape.pad
            column = x * shape.stride + tap_x - shape.pad
            inside = 0 <= row < shape.height and 0 <= column < shape.width
            values += image[row, column].tolist() if inside else [0] * shape.channels
    return values


SHAPES = [
    {"height": 5, "width": 6, "channels": 1, "kernel": (3, 3), "pad": 1},
    {"height": 7, "width": 5, "channels": 3, "kernel": (3, 3), "stride": 2, "pad": 1},
    {"height": 6, "width": 6, "channels": 1, "kernel": (5, 5)},
    {"height": 9, "width": 8, "channels": 3, "kernel": (7, 7), "stride": 2, "pad": 3},
    {"height": 1, "width": 9, "channels": 2, "kernel": (1, 4)},
    {"height": 3, "width": 3, "channels": 2, "kernel": (3, 3)},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_tiles_side_by_side_are_the_windows(config, sizes, rng):
    shape = layout(config, **sizes)
    images = rng.integers(1, 100, (2, shape.height, shape.width, shape.channels))
    buffer = filled(config, shape.words(images), rng)
    places = [(b, y, x) for b in range(len(images)) for y in range(shape.out_height)
              for x in range(shape.out_width)]
    first = np.array([b * shape.x_image + y * shape.x_row + x * shape.x_pixel
                      for b, y, x in places])
    tiles = np.concatenate([
        patches(config, buffer, first + block * config.rows, descriptor(shape), block=block)
        for block in range(shape.k_tiles)], axis=1)
    np.testing.assert_array_equal(
        tiles[:, :shape.patch_lanes], [window(shape, images[b], y, x) for b, y, x in places])
    assert not tiles[:, shape.patch_lanes:].any()
    assert tiles.shape[1] - shape.patch_lanes < config.rows


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3),
       st.sampled_from([4, 8, 16, 64]))
def test_the_window_lies_in_consecutive_banks(width, channels, taps, pad, lanes):
    taps = min(taps, width)
    shape = ImageLayout(height=taps, width=width, channels=channels, kernel=(taps, taps), pad=pad,
                        rows=lanes, lanes=lanes)
    places = [y * shape.pitch + x for y in range(taps) for x in range(shape.patch_row)]
    assert [place % lanes for place in places] == [f % lanes for f in range(len(places))]
    assert shape.pitch == shape.patch_row + shape.patch_step * lanes
    assert shape.x_image % lanes == 0
    # One word less would leave no room for a row.
    assert 0 <= shape.pitch - (width + 2 * pad) * channels < lanes


def test_addresses_wrap_at_the_end_of_the_buffer(rng):
    buffer = rng.integers(0, 100, (TINY.image_depth, TINY.lane_count))
    d = Descriptor(opcode=Opcode.FORWARD, patch_row=2, patch_step=1, patch_lanes=4)
    seen = patches(TINY, buffer, [buffer.size - 1, 2 * buffer.size - 1], d)
    flat = buffer.ravel()
    np.testing.assert_array_equal(seen, [[flat[-1], flat[0], flat[5], flat[6]]] * 2)


@pytest.mark.parametrize(("kernel", "channels", "used"), [
    ((3, 3), 1, [(9, 16), (9, 16), (9, 32)]),
    ((5, 5), 1, [(25, 32), (25, 32), (25, 32)]),
    ((3, 3), 3, [(27, 32), (27, 32), (27, 32)]),
    ((7, 7), 3, [(147, 152), (147, 160), (147, 160)]),
])
def test_rows_of_the_array_that_work(kernel, channels, used):
    shapes = [ImageLayout(height=32, width=32, channels=channels, kernel=kernel, rows=rows,
                          lanes=rows) for rows in (8, 16, 32)]
    assert [shape.used_rows for shape in shapes] == used


@pytest.mark.parametrize(("changes", "words"), [
    ({"channels": 0}, "^channels must be at least 1, not 0$"),
    ({"kernel": (3, 0)}, "^kernel must be at least 1, not 0$"),
    ({"pad": -1}, "^pad must be at least 0, not -1$"),
    ({"lanes": 4}, "^lanes must be at least 8, not 4$"),
    ({"kernel": (11, 3)}, r"^a kernel of \(11, 3\) taps exceeds an image of 8 x 8 pixels with 1 "),
    ({"kernel": (3, 11)}, r"^a kernel of \(3, 11\) taps exceeds an image of 8 x 8 pixels with 1 "),
    ({"channels": 100}, "^patch_row is 300, but its field ends at 255: use smaller images"),
    ({"height": 1024, "width": 1024}, "^x_image is .*, but its field ends at 65535: use smaller"),
])
def test_rejects_what_does_not_fit(changes, words):
    sizes = {"height": 8, "width": 8, "channels": 1, "kernel": (3, 3), "pad": 1, "rows": 8,
             "lanes": 8}
    ImageLayout(**sizes)
    with pytest.raises(ValueError, match=words):
        ImageLayout(**sizes | changes)


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 5, 5, 2), (2, 5, 4, 1)])
def test_rejects_images_of_another_shape(shape):
    sizes = layout(TINY, height=5, width=5, channels=1, kernel=(3, 3))
    with pytest.raises(ValueError, match=r"^images must have shape \(2, 5, 5, 1\), not \(2, 5, "):
        sizes.words(np.zeros(shape))
