"""Passes of a convolution over an array, in chunks that the buffers of a machine hold.

The machine walks over pixels and taps by itself. What exceeds its buffers or the fields of a
descriptor is cut into chunks of images, pixels, taps and channels, whose results are added here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradloom_golden.program import Descriptor, Drain, Opcode, Region, Schedule
from gradloom_golden.program_check import MAX_TILES

from . import layout
from .device import Device

__all__ = ["LARGEST", "MOST_TAPS", "Passes"]

LARGEST = 255
"""Largest stride and padding, and most taps along an axis of one descriptor."""

MOST_TAPS = 2047
"""Most taps along an axis."""

MOST_PIXELS = (1 << 12) - 1
MOST_WORDS = (1 << 16) - 1
MOST_BACK = 1 << 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """How the steps of a pass meet the side that moves with the taps, along both axes.

    Step i and tap j meet pixel ``first + i step + j turn``, zero outside ``0 .. limit - 1``.
    """

    steps: tuple[int, ...]
    taps: tuple[int, ...]
    first: tuple[int, int]
    step: tuple[int, int]
    turn: int
    limit: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Steps and taps that one descriptor takes, and the moving pixels that these meet.

    Parameters
    ----------
    images, y, x, taps_y, taps_x : slice
    rows, columns : slice
        Of the moving side; what lies outside its image is left out.
    fields : dict of str to int
        Fields of the descriptor that say so.
    """

    images: slice
    y: slice
    x: slice
    taps_y: slice
    taps_x: slice
    rows: slice
    columns: slice
    fields: dict[str, int]

    @property
    def steps(self) -> int:
        """Pixels of all images."""
        return _length(self.images) * _length(self.y) * _length(self.x)

    @property
    def taps(self) -> int:
        """Taps of the chunk."""
        return _length(self.taps_y) * _length(self.taps_x)

    @property
    def window(self) -> int:
        """Moving pixels of all images."""
        return _length(self.images) * _length(self.rows) * _length(self.columns)

    @property
    def offset(self) -> int:
        """Word of the first step's pixel, which may lie outside."""
        return self.fields["y_first"] * _length(self.columns) + self.fields["x_first"]


def chunks(walk: Walk, images: int, *, steps: int, depth: int, tiles: int) -> Iterator[Chunk]:
    """Yield chunks of at most so many steps, words of the moving side and tiles of weights.

    Those that meet nothing but padding are left out.
    """
    depth = min(depth, MOST_WORDS)
    (all_y, all_x), (step_y, step_x) = walk.taps, walk.step
    # A step may stand this far outside the window; in words that must fit an offset.
    reach_y, reach_x = (max(-first, taps) for first, taps in zip(walk.first, walk.taps))
    widest = min(MOST_PIXELS, MOST_WORDS // step_y, (MOST_BACK - reach_x) // reach_y)
    taps_x = min(all_x, tiles, depth, widest, LARGEST)
    taps_y = min(all_y, tiles // taps_x, depth // taps_x, LARGEST)
    room = min(widest, depth // taps_y)
    width = min(walk.steps[1], steps, (room - taps_x) // step_x + 1)
    across = min((width - 1) * step_x + taps_x, walk.limit[1])
    room = min(MOST_PIXELS, depth // across)
    height = min(walk.steps[0], steps // width, (room - taps_y) // step_y + 1)
    down = min((height - 1) * step_y + taps_y, walk.limit[0])
    together = min(images, steps // (width * height), depth // (across * down))
    for chunk in _slices(images, together):
        for y in _slices(walk.steps[0], height):
            for x in _slices(walk.steps[1], width):
                for tap_y in _slices(all_y, taps_y):
                    for tap_x in _slices(all_x, taps_x):
                        found = _chunk(walk, chunk, (y, x), (tap_y, tap_x))
                        if found.window:
                            yield found


def _chunk(walk: Walk, images: slice, steps: tuple[slice, slice],
           taps: tuple[slice, slice]) -> Chunk:
    parts, firsts = [], []
    for axis in range(2):
        first = (walk.first[axis] + steps[axis].start * walk.step[axis]
                 + taps[axis].start * walk.turn)
        last_step = (_length(steps[axis]) - 1) * walk.step[axis]
        last_tap = (_length(taps[axis]) - 1) * walk.turn
        low = max(first + min(last_tap, 0), 0)
        high = min(first + last_step + max(last_tap, 0) + 1, walk.limit[axis])
        parts.append(slice(low, max(low, high)))
        firsts.append(first - low)
    rows, columns = parts
    fields = {
        "conv": 1, "t_y": _length(steps[0]), "t_x": _length(steps[1]),
        "taps_y": _length(taps[0]), "taps_x": _length(taps[1]),
        "y_first": firsts[0], "x_first": firsts[1], "y_step": walk.step[0],
        "x_step": walk.step[1], "tap_dy": walk.turn, "tap_dx": walk.turn,
        "y_limit": _length(rows), "x_limit": _length(columns),
        "tap_row": walk.turn * _length(columns), "tap_pixel": walk.turn,
    }
    return Chunk(images=images, y=steps[0], x=steps[1], taps_y=taps[0], taps_x=taps[1],
                 rows=rows, columns=columns, fields=fields)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Passes:
    """The three passes of a convolution without groups.

    Parameters
    ----------
    device : Device
    weights : int64 array (taps_y, taps_x, inputs, outputs)
    stride, padding : (int, int)
    unsigned : bool
        X is.
    """

    device: Device
    weights: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    unsigned: bool

    def forward(self, x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """Return Y of `size` (height, width), int64 (images, outputs, height, width)."""
        config = self.device.config
        inputs, outputs = self.weights.shape[2:]
        y = np.zeros((len(x), outputs, *size), np.int64)
        tiles = self._tiles(config.rows)
        for chunk in chunks(self._forward_walk(x, size), len(x), steps=config.steps_depth,
                            depth=config.activation_depth, tiles=tiles):
            room = self._features(config.rows, chunk.window, config.activation_depth)
            for inner in _slices(inputs, min(room, tiles // chunk.taps * config.rows)):
                part = x[chunk.images, inner, chunk.rows, chunk.columns]
                self._load(Region.ACTIVATION, part, config.rows)
                for outer in _slices(outputs, config.columns):
                    self._load_weights(self.weights[chunk.taps_y, chunk.taps_x, inner, outer])
                    self.device.run([Descriptor(
                        opcode=Opcode.FORWARD, keep_sums=1, **self._moving_x(chunk),
                        **self._tile_fields(chunk, inner, outer))])
                    y[chunk.images, outer, chunk.y, chunk.x] += self._sums(chunk, outer)
        return y

    def weight_gradient(self, x: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Return dW, int64 like the weights; X moves with the taps."""
        config = self.device.config
        inputs, outputs = self.weights.shape[2:]
        dw = np.zeros(self.weights.shape, np.int64)
        tiles = self._tiles(config.columns)
        for chunk in chunks(self._forward_walk(x, d.shape[2:]), len(x),
                            steps=min(config.steps_depth, config.gradient_depth),
                            depth=config.activation_depth, tiles=tiles):
            room = self._features(config.columns, chunk.steps, config.gradient_depth)
            for outer in _slices(outputs, min(room, tiles // chunk.taps * config.columns)):
                self._load(Region.GRADIENT, d[chunk.images, outer, chunk.y, chunk.x],
                           config.columns)
                n_tiles = layout.tiles_of(_length(outer), config.columns)
                room = self._features(config.rows, chunk.window, config.activation_depth)
                for inner in _slices(
                        inputs, min(room, tiles // (chunk.taps * n_tiles) * config.rows)):
                    part = x[chunk.images, inner, chunk.rows, chunk.columns]
                    self._load(Region.ACTIVATION, part, config.rows)
                    self.device.run([Descriptor(
                        opcode=Opcode.BACKWARD, schedule=Schedule.WEIGHT_GRADIENT,
                        drain=Drain.STORE, d_stride=chunk.steps, **self._moving_x(chunk),
                        **self._tile_fields(chunk, inner, outer))])
                    place = dw[chunk.taps_y, chunk.taps_x, inner, outer]
                    place += self._stored(place.shape)
        return dw

    def input_gradient(self, x: np.ndarray, d: np.ndarray, *, both: bool
                       ) -> tuple[np.ndarray, np.ndarray]:
        """Return dX like x and dW like the weights, int64; dW is zero unless `both`.

        D moves with the taps. Pixels of X that differ by a multiple of the stride meet the same
        taps, so there is a pass for each phase of the stride.
        """
        dx, dw = np.zeros(x.shape, np.int64), np.zeros(self.weights.shape, np.int64)
        (step_y, step_x), (pad_y, pad_x) = self.stride, self.padding
        for y in range(min(step_y, x.shape[2])):
            for x_phase in range(min(step_x, x.shape[3])):
                pixels = np.s_[:, :, y::step_y, x_phase::step_x]
                taps = np.s_[(y + pad_y) % step_y::step_y, (x_phase + pad_x) % step_x::step_x]
                if self.weights[taps].size:
                    self._phase(x[pixels], d, self.weights[taps], dx[pixels], dw[taps],
                                first=((y + pad_y) // step_y, (x_phase + pad_x) // step_x),
                                both=both)
        return dx, dw

    def _phase(self, x, d, weights, dx, dw, *, first: tuple[int, int], both: bool) -> None:
        """Add the gradients of one phase to `dx` and `dw`."""
        config = self.device.config
        taps_y, taps_x, inputs, outputs = weights.shape
        walk = Walk(steps=x.shape[2:], taps=(taps_y, taps_x), first=first, step=(1, 1), turn=-1,
                    limit=d.shape[2:])
        tiles = self._tiles(config.columns)
        schedule = Schedule.INTERLEAVED if both else Schedule.INPUT_GRADIENT
        for chunk in chunks(walk, len(x), steps=min(config.steps_depth, config.activation_depth),
                            depth=config.gradient_depth, tiles=tiles):
            room = self._features(config.columns, chunk.window, config.gradient_depth)
            for outer in _slices(outputs, min(room, tiles // chunk.taps * config.columns)):
                self._load(Region.GRADIENT, d[chunk.images, outer, chunk.rows, chunk.columns],
                           config.columns)
                for inner in _slices(inputs, config.rows):
                    if both:
                        self._load(Region.ACTIVATION, x[chunk.images, inner, chunk.y, chunk.x],
                                   config.rows)
                    self._load_weights(weights[chunk.taps_y, chunk.taps_x, inner, outer])
                    self.device.run([Descriptor(
                        opcode=Opcode.BACKWARD, schedule=schedule, drain=Drain.STORE, keep_sums=1,
                        **self._moving_d(chunk), **self._tile_fields(chunk, inner, outer))])
                    dx[chunk.images, inner, chunk.y, chunk.x] += self._sums(chunk, inner)
                    if both:
                        place = dw[chunk.taps_y, chunk.taps_x, inner, outer]
                        place += self._stored(place.shape)

    def _forward_walk(self, x: np.ndarray, size: tuple[int, ...]) -> Walk:
        pad_y, pad_x = self.padding
        return Walk(steps=size, taps=self.weights.shape[:2], first=(-pad_y, -pad_x),
                    step=self.stride, turn=1, limit=x.shape[2:])

    def _tiles(self, edge: int) -> int:
        """Return the tiles that the weight buffer holds, and whose sums cannot saturate."""
        config = self.device.config
        exact = 1 << config.accumulator_bits - config.product_bits
        return min(config.weight_depth // config.rows, exact // edge, MAX_TILES)

    def _features(self, edge: int, words: int, depth: int) -> int:
        """Return the features, in whole tiles, of which a buffer holds `words` words each."""
        return depth // words * self.device.config.lane_count // edge * edge

    def _tile_fields(self, chunk: Chunk, inner: slice, outer: slice) -> dict[str, int]:
        config = self.device.config
        n_tiles = layout.tiles_of(_length(outer), config.columns)
        along = chunk.fields["taps_x"] * n_tiles
        return {
            "steps": chunk.steps, "k_tiles": layout.tiles_of(_length(inner), config.rows),
            "n_tiles": n_tiles, "w_block": chunk.fields["taps_y"] * along, "w_row": along,
            "w_pixel": n_tiles, "x_unsigned": int(self.unsigned),
        }

    def _moving_x(self, chunk: Chunk) -> dict[str, int]:
        """Return the fields where X moves with the taps; D has a word for each step."""
        width = _length(chunk.columns)
        step_y, step_x = self.stride
        return chunk.fields | {
            "x_stride": chunk.window, "x_image": _length(chunk.rows) * width,
            "x_row": step_y * width, "x_pixel": step_x, "x_offset": chunk.offset,
        }

    def _moving_d(self, chunk: Chunk) -> dict[str, int]:
        """Return the fields where D moves with the taps; X has a word for each step."""
        height, width = _length(chunk.y), _length(chunk.x)
        rows, columns = _length(chunk.rows), _length(chunk.columns)
        return chunk.fields | {
            "d_moves": 1, "d_stride": chunk.window, "d_image": rows * columns, "d_row": columns,
            "d_offset": chunk.offset, "x_stride": chunk.steps, "x_image": height * width,
            "x_row": width, "x_pixel": 1,
        }

    def _load(self, region: Region, pixels: np.ndarray, edge: int) -> None:
        """Write (images, channels, height, width) with a word for each pixel of a block."""
        matrix = pixels.transpose(0, 2, 3, 1).reshape(-1, pixels.shape[1])
        self.device.write(
            region, 0, layout.matrix_words(self.device.config, region, matrix, edge))

    def _load_weights(self, weights: np.ndarray) -> None:
        """Write (taps_y, taps_x, inputs, outputs) as tiles [input block][tap][output block]."""
        config = self.device.config
        taps_y, taps_x, inputs, outputs = weights.shape
        k_tiles, n_tiles = (layout.tiles_of(inputs, config.rows),
                            layout.tiles_of(outputs, config.columns))
        padded = np.zeros(
            (taps_y, taps_x, k_tiles * config.rows, n_tiles * config.columns), np.int64)
        padded[:, :, :inputs, :outputs] = weights
        tiles = padded.reshape(
            taps_y, taps_x, k_tiles, config.rows, n_tiles, config.columns
        ).transpose(2, 0, 1, 4, 3, 5).reshape(-1, config.columns)
        self.device.write(Region.WEIGHT, 0, layout.to_words(config, Region.WEIGHT, tiles))

    def _stored(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the stored gradients of weights of that shape."""
        config = self.device.config
        taps_y, taps_x, inputs, outputs = shape
        k_tiles, n_tiles = (layout.tiles_of(inputs, config.rows),
                            layout.tiles_of(outputs, config.columns))
        count = k_tiles * taps_y * taps_x * n_tiles * config.rows
        rows = layout.from_words(
            config, Region.STATE, self.device.read(Region.STATE, 0, count))
        tiles = rows.reshape(k_tiles, taps_y, taps_x, n_tiles, config.rows, config.columns)
        padded = tiles.transpose(1, 2, 0, 4, 3, 5).reshape(
            taps_y, taps_x, k_tiles * config.rows, n_tiles * config.columns)
        return padded[:, :, :inputs, :outputs]

    def _sums(self, chunk: Chunk, features: slice) -> np.ndarray:
        """Return the sums of a block, (images, features, height, width)."""
        words = self.device.read(Region.SUMS, 0, chunk.steps)
        rows = layout.from_words(self.device.config, Region.SUMS, words)
        rows = rows[:, :_length(features)].reshape(
            _length(chunk.images), _length(chunk.y), _length(chunk.x), -1)
        return rows.transpose(0, 3, 1, 2)


def _length(part: slice) -> int:
    return part.stop - part.start


def _slices(length: int, size: int) -> Iterator[slice]:
    for first in range(0, length, size):
        yield slice(first, min(first + size, length))
