"""The vector unit: pooling, residual addition, bias update and fill, a buffer word at a time.

A block is one whole buffer word at each of its places, which `geometry` tells.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .config import Config
from .fixed import HALF, round_shift, saturate, sign_extend
from .geometry import Tile, steps_of, x_rows
from .lfsr import low_half
from .program import Descriptor, Function, Region

__all__ = [
    "BIAS_BITS", "SUM_BITS", "add", "average", "execute", "maximum", "maximum_gradient",
    "update_bias", "vector_counts", "vector_cycles",
]

SUM_BITS = 32
"""Width of a bias gradient between chunks, where it saturates."""

BIAS_BITS = 16

BLOCK_CYCLES = 1
HANDOFF_CYCLES = 1
GATHER_CYCLES = 4
"""To look an image up in the keep list and find its place, besides the handoff."""
TAIL_CYCLES = 2


def add(a, b, a_shift: int, b_shift: int) -> np.ndarray:
    """Return ``a 2**a_shift + b 2**b_shift``."""
    return (np.asarray(a, np.int64) << a_shift) + (np.asarray(b, np.int64) << b_shift)


def maximum(x, valid) -> np.ndarray:
    """Return the largest valid tap of each window, 0 for a window without any.

    Parameters
    ----------
    x : int array (T, taps, lanes)
    valid : bool array (T, taps)

    Returns
    -------
    int array (T, lanes)
    """
    least = np.iinfo(np.int64).min
    largest = np.where(valid[:, :, None], x, least).max(axis=1)
    return np.where(valid.any(axis=1)[:, None], largest, 0)


def average(x, valid, factor: int) -> np.ndarray:
    """Return the sum of the valid taps of each window, times `factor`; shapes as of `maximum`."""
    return np.where(valid[:, :, None], x, 0).sum(axis=1) * factor


def maximum_gradient(gradient, y, x, valid) -> np.ndarray:
    """Hand the gradient of each window to the first tap that equals its maximum.

    Parameters
    ----------
    gradient, y : int array (T, lanes)
    x : int array (T, taps, lanes)
    valid : bool array (T, taps)

    Returns
    -------
    int array (T, taps, lanes)
    """
    equal = (x == y[:, None]) & valid[:, :, None]
    first = equal & (equal.cumsum(axis=1) == 1)
    return np.where(first, gradient[:, None], 0)


def update_bias(bias, total, shift: int, random: ArrayLike = HALF) -> np.ndarray:
    """Return the bias less its gradient divided by ``2**shift``, saturated."""
    return saturate(bias - round_shift(total, shift, random), BIAS_BITS)


def execute(config: Config, memory: dict[Region, np.ndarray], mask: np.ndarray, sums: np.ndarray,
            d: Descriptor, draw: Callable[[int], np.ndarray],
            measure: Callable[..., None] | None = None) -> None:
    """Execute a VECTOR descriptor on the buffers, in place.

    The output must not overlap the inputs, but ADD may write where it reads an input.

    Parameters
    ----------
    memory : dict of Region to int64 array (depth, lanes)
        Elements unsigned, as they lie there.
    mask : bool array (activation_depth, lane_count)
        ReLU mask.
    sums : int64 array (bias_depth, columns)
        Bias gradients of earlier chunks; zero after reset.
    d : Descriptor
        With resolved shifts and steps; with at least one block, and at least one tap and one pixel
        where they are walked.
    draw : callable
        Gives that many draws of the bank of this unit, shape (count, lane_count); called only
        with `d.stochastic`.
    measure : callable, optional
        Is given the words written, with `d.measure`: as `Scales.measure`.
    """
    buffers = _Buffers(config, memory, mask, d, draw, measure)
    if d.function == Function.BIAS_UPDATE:
        _bias_update(buffers, sums)
        return
    run = {
        Function.ADD: _add,
        Function.MAXIMUM: _pool,
        Function.AVERAGE: _pool,
        Function.MAXIMUM_GRADIENT: _pool_gradient,
        Function.AVERAGE_GRADIENT: _pool_gradient,
        Function.FILL: _fill,
    }[Function(d.function)]
    for block in range(d.k_tiles if d.steps else 0):
        run(buffers, block)


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Buffers as a descriptor reads and writes them: one row for each word address."""

    config: Config
    memory: dict[Region, np.ndarray]
    mask: np.ndarray
    d: Descriptor
    draw: Callable[[int], np.ndarray]
    measure: Callable[..., None] | None

    def _read(self, region: Region, words) -> np.ndarray:
        contents = self.memory[region]
        return contents[words % len(contents)]

    def activations(self, words, *, second: bool = False) -> np.ndarray:
        raw = self._read(Region.ACTIVATION, words)
        is_unsigned = self.d.d_unsigned if second else self.d.x_unsigned
        return raw if is_unsigned else sign_extend(raw, self.config.operand_bits)

    def gradients(self, words) -> np.ndarray:
        return sign_extend(self._read(Region.GRADIENT, words), self.config.gradient_bits)

    def masked(self, total, words) -> np.ndarray:
        return np.where(self.mask[words % len(self.mask)], total, 0) if self.d.mask else total

    def gathered(self) -> np.ndarray | None:
        """Return the samples that the images of the batch are; None: they are in order."""
        if not _gathers(self.d):
            return None
        samples = self.memory[Region.KEEP][:, 0]
        return samples[(self.d.first_sample + np.arange(_images(self.d))) % len(samples)]

    def random(self, rows: int):
        return low_half(self.draw(rows)) if self.d.stochastic else HALF

    def write(self, words, total, shift: int, *, gradients: bool) -> None:
        config, d = self.config, self.d
        value = round_shift(total, shift, self.random(len(words)))
        region, bits = Region.GRADIENT, config.gradient_bits
        if not gradients:
            region, bits = Region.ACTIVATION, config.operand_bits
            if d.relu:
                value = np.maximum(value, 0)
                self.mask[words % len(self.mask)] = value > 0
        signed = gradients or not d.y_unsigned
        narrow = saturate(value, bits, signed=signed)
        if d.measure and self.measure is not None:
            self.measure(d.out_scale, narrow, bits, signed=signed)
        contents = self.memory[region]
        contents[words % len(contents)] = narrow & (1 << bits) - 1


def _gathers(d: Descriptor) -> bool:
    return bool(d.gather) and d.function in (
        Function.ADD, Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT)


def _images(d: Descriptor) -> int:
    return -(-d.steps // (d.t_x * d.t_y))


def _walked(d: Descriptor) -> Descriptor:
    """Return a descriptor of which X moves with the taps, as it always does here."""
    return replace(d, conv=1, d_moves=0, patch=0)


def _windows(d: Descriptor, gathered=None) -> tuple[np.ndarray, np.ndarray]:
    """Return places and validity of all taps of all steps, shape (T, taps)."""
    walked = _walked(d)
    image = steps_of(walked).image
    if gathered is not None:
        image = gathered[image]
    taps = [x_rows(walked, Tile(block=0, tap_y=tap_y, tap_x=tap_x, n=0), image)
            for tap_y in range(d.taps_y) for tap_x in range(d.taps_x)]
    places, valid = (np.stack(each, axis=1) for each in zip(*taps, strict=True))
    return places, valid


def _gathered_steps(d: Descriptor, gathered) -> np.ndarray:
    """Return the steps at which the samples' own pixels lie, `pixels` words a sample."""
    if gathered is None:
        return np.arange(d.steps)
    steps = steps_of(_walked(d))
    return steps.index + (gathered[steps.image] - steps.image) * d.pixels


def _add(buffers: _Buffers, block: int) -> None:
    d = buffers.d
    step = np.arange(d.steps)
    first, second = d.x_base + block * d.x_stride + step, d.d_base + block * d.d_stride + step
    if d.gradients:
        a, b = buffers.gradients(first), buffers.gradients(second)
    else:
        a, b = buffers.activations(first), buffers.activations(second, second=True)
    total = add(a, b, d.gradient_shift, d.rate_shift)
    if d.gradients:
        places = d.packed_base + block * d.w_block + _gathered_steps(d, buffers.gathered())
        total = buffers.masked(total, places)
    buffers.write(d.out_base + block * d.out_stride + step, total, d.out_shift,
                  gradients=bool(d.gradients))


def _pool(buffers: _Buffers, block: int) -> None:
    d = buffers.d
    places, valid = _windows(d)
    x = buffers.activations(d.x_base + block * d.x_stride + places)
    words = d.out_base + block * d.out_stride + np.arange(d.steps)
    if d.function == Function.MAXIMUM:
        buffers.write(words, maximum(x, valid), 0, gradients=False)
    else:
        buffers.write(words, average(x, valid, max(d.factor, 1)), d.out_shift, gradients=False)


def _pool_gradient(buffers: _Buffers, block: int) -> None:
    d = buffers.d
    gathered = buffers.gathered()
    x_words = d.x_base + block * d.x_stride + _windows(d, gathered)[0]
    places, valid = _windows(d)
    gradient = buffers.gradients(d.d_base + block * d.d_stride + np.arange(d.steps))
    if d.function == Function.MAXIMUM_GRADIENT:
        y = buffers.activations(
            d.packed_base + block * d.w_block + _gathered_steps(d, gathered))
        total, shift = maximum_gradient(gradient, y, buffers.activations(x_words), valid), 0
    else:
        spread = gradient[:, None] * max(d.factor, 1)
        total, shift = np.broadcast_to(spread, (*valid.shape, spread.shape[-1])), d.out_shift
    total = buffers.masked(total, x_words)
    words = d.out_base + block * d.out_stride + places
    buffers.write(words[valid], total[valid], shift, gradients=True)


def _fill(buffers: _Buffers, block: int) -> None:
    d = buffers.d
    places, valid = _windows(d)
    words = d.out_base + block * d.out_stride + places[valid]
    zeros = np.zeros((len(words), buffers.config.lane_count), np.int64)
    buffers.write(words, zeros, 0, gradients=bool(d.gradients))


def _bias_update(buffers: _Buffers, sums: np.ndarray) -> None:
    """Sum the gradient of each of `n_tiles` blocks of `columns`, several side by side in a word."""
    config, d = buffers.config, buffers.d
    columns = config.columns
    parts = config.lane_count // columns
    for tile in range(d.n_tiles):
        word, part = divmod(tile, parts)
        lanes = slice(part * columns, (part + 1) * columns)
        row = (d.bias_base + tile) % config.bias_depth
        gradient = buffers.gradients(d.d_base + word * d.d_stride + np.arange(d.steps))
        total = gradient[:, lanes].sum(axis=0) + (0 if d.first else sums[row])
        if not d.last:
            sums[row] = saturate(total, SUM_BITS)
            continue
        random = low_half(buffers.draw(1))[0, lanes] if d.stochastic else HALF
        bias = sign_extend(buffers.memory[Region.BIAS][row], BIAS_BITS)
        new = update_bias(bias, total, d.gradient_shift, random)
        buffers.memory[Region.BIAS][row] = new & (1 << BIAS_BITS) - 1


def vector_cycles(config: Config, d: Descriptor) -> int:
    """Return the cycles that the vector unit is busy with a descriptor.

    A step takes a cycle a tap; ADD takes two, and MAXIMUM_GRADIENT one more to read the maximum.
    """
    if d.function == Function.BIAS_UPDATE:
        words = -(-d.n_tiles * config.columns // config.lane_count)
        streamed = HANDOFF_CYCLES + d.steps if d.steps else 0
        return words * (BLOCK_CYCLES + streamed) + 2 * d.n_tiles + TAIL_CYCLES
    if not d.steps:
        return BLOCK_CYCLES + TAIL_CYCLES
    handoffs = HANDOFF_CYCLES
    if _gathers(d):
        handoffs = _images(d) * (GATHER_CYCLES + HANDOFF_CYCLES)
    taps = 2 if d.function == Function.ADD else d.taps_y * d.taps_x
    taps += d.function == Function.MAXIMUM_GRADIENT
    return d.k_tiles * (BLOCK_CYCLES + handoffs + d.steps * taps) + TAIL_CYCLES


def vector_counts(config: Config, d: Descriptor) -> dict[str, int]:
    """Return the buffer words that a VECTOR descriptor reads and writes, by counter.

    Pixels outside the image are neither read nor written. Maxima count as activations. Biases have
    no counter.
    """
    if d.function == Function.BIAS_UPDATE:
        return {"d_reads": -(-d.n_tiles * config.columns // config.lane_count) * d.steps}
    steps = d.k_tiles * d.steps
    if d.function == Function.ADD:
        reads, writes = ("d_reads", "dx_writes") if d.gradients else ("x_reads", "y_writes")
        masks = steps if d.gradients and d.mask else 0
        return {reads: 2 * steps, writes: steps, "mask_reads": masks}
    taps = d.k_tiles * int(np.count_nonzero(_windows(d)[1]))
    if d.function == Function.FILL:
        return {"dx_writes" if d.gradients else "y_writes": taps}
    if d.function in (Function.MAXIMUM, Function.AVERAGE):
        return {"x_reads": taps, "y_writes": steps}
    maxima = steps + taps if d.function == Function.MAXIMUM_GRADIENT else 0
    return {"x_reads": maxima, "d_reads": steps, "dx_writes": taps,
            "mask_reads": taps if d.mask else 0}
