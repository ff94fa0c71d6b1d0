"""Which descriptors a machine refuses, and with which error."""

from collections.abc import Sequence

from .config import Config
from .program import (
    Descriptor,
    Error,
    Function,
    Opcode,
    Region,
    Schedule,
    SkipRule,
    memory_shape,
    reserved_masks,
)

__all__ = [
    "IN_ORDER", "MAX_TILES", "MOVABLE", "RANGE_ERROR", "WINDOW_FUNCTIONS", "check", "extents",
]

MAX_TILES = 256
"""Most tiles along one edge of a layer."""

WINDOW_FUNCTIONS = (Function.MAXIMUM, Function.AVERAGE, Function.MAXIMUM_GRADIENT,
                    Function.AVERAGE_GRADIENT, Function.FILL)
"""Functions of VECTOR that walk over pixels and taps."""

IN_ORDER = {
    "x_stride": (Function.ADD,),
    "d_stride": (Function.ADD, Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT,
                 Function.BIAS_UPDATE),
    "out_stride": (Function.ADD, Function.MAXIMUM, Function.AVERAGE),
    "w_block": (Function.MAXIMUM_GRADIENT,),
}
"""Functions of VECTOR that take the words of a block one after the other, by the block's stride.

Words that they walk over instead lie where the geometry says. ADD takes its mask in order.
"""

RANGE_ERROR = {
    Region.ACTIVATION: Error.ACTIVATION_RANGE,
    Region.GRADIENT: Error.GRADIENT_RANGE,
    Region.WEIGHT: Error.WEIGHT_RANGE,
    Region.STATE: Error.STATE_RANGE,
    Region.LABEL: Error.STEPS,
    Region.IMAGE: Error.IMAGE_RANGE,
    Region.BIAS: Error.BIAS_RANGE,
    Region.MASK: Error.ACTIVATION_RANGE,
}
"""What a transfer beyond the end of a buffer is called."""

MOVABLE = tuple(RANGE_ERROR)
"""Buffers that LOAD and SAVE reach."""


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def check(config: Config, words: Sequence[int]) -> Error:
    """Return the first error of the descriptor in `words`, or `Error.NONE`.

    Fields are checked first, then the regions of the buffers that it would touch, in the order of
    the code: the machine reports the same one.
    """
    if any(int(word) & mask for word, mask in zip(words, reserved_masks())):
        return Error.RESERVED
    descriptor = Descriptor.decode(words)
    return _field_error(config, descriptor) or _range_error(config, descriptor)


def _field_error(config: Config, d: Descriptor) -> Error:
    """Return the error of the fields alone; the first listed wins."""
    op = d.opcode
    forward, backward = op == Opcode.FORWARD, op == Opcode.BACKWARD
    streams, vector = forward or backward, op == Opcode.VECTOR
    samples = op in (Opcode.CONFIDENCE, Opcode.LOSS)
    moves = op in (Opcode.LOAD, Opcode.SAVE)
    by_rows = op in (Opcode.ANGLE, Opcode.UPDATE)
    has_os = backward and d.schedule != Schedule.INPUT_GRADIENT
    has_ws = backward and d.schedule != Schedule.WEIGHT_GRADIENT
    no_pixels = 0 in (d.t_x, d.t_y)
    empty = no_pixels or 0 in (d.taps_y, d.taps_x)
    walks = (streams and d.conv) or (vector and d.function in WINDOW_FUNCTIONS)
    gathered = vector and d.function == Function.ADD and d.gather
    masks_sum = vector and _masks_sum(d)
    short = vector and any(
        getattr(d, stride) < d.steps for stride, functions in IN_ORDER.items()
        if d.function in functions or (stride == "w_block" and masks_sum))
    counts_n = streams or (vector and d.function == Function.BIAS_UPDATE)
    bad_patch = d.patch and (not d.conv or has_ws or (backward and d.d_moves))
    checks = (
        (Error.OPCODE, op not in tuple(Opcode)),
        (Error.LANES, streams and (
            d.lanes_log2 == 3 or (d.lanes_log2 and (forward or not config.lanes)))),
        (Error.STEPS, ((by_rows or moves) and d.rows == 0)
         or ((moves or vector or streams or samples) and d.steps == 0)
         or ((streams or samples) and d.steps > config.steps_depth)
         or (streams and not d.conv and d.x_stride < d.steps) or short),
        (Error.TILES, ((streams or vector) and not 0 < d.k_tiles <= MAX_TILES)
         or (counts_n and not 0 < d.n_tiles <= MAX_TILES)),
        (Error.SHIFT, streams and d.x_shift > 8 - (8 >> d.lanes_log2)),
        (Error.ALIGNMENT, streams and (
            d.w_base % config.rows or (has_os and d.state_base % config.rows))),
        (Error.CLASSES, samples and not 2 <= d.classes <= MAX_TILES * config.columns),
        (Error.GEOMETRY, (walks and empty) or (gathered and no_pixels)
         or (streams and bad_patch)),
        (Error.FUNCTION, (vector and d.function > max(Function))
         or (op == Opcode.LOSS and d.function > max(SkipRule))),
        (Error.REGION, moves and d.function not in MOVABLE),
    )
    return next((error for error, wrong in checks if wrong), Error.NONE)


def extents(config: Config, d: Descriptor) -> list[tuple[int, int, int, Error]]:
    """Return base, size and depth of every region of a buffer that a descriptor would touch."""
    op = d.opcode
    if op in (Opcode.LOAD, Opcode.SAVE):
        region = Region(d.function)
        return [(d.out_base, d.rows * d.steps, memory_shape(config, region)[0],
                 RANGE_ERROR[region])]
    if op == Opcode.VECTOR:
        return _vector_extents(config, d)
    forward, backward = op == Opcode.FORWARD, op == Opcode.BACKWARD
    streams, loss = forward or backward, op == Opcode.LOSS
    has_ws = backward and d.schedule != Schedule.WEIGHT_GRADIENT
    has_os = backward and d.schedule != Schedule.INPUT_GRADIENT
    by_rows = op in (Opcode.ANGLE, Opcode.UPDATE)
    lanes = config.lane_count
    k_blocks = _blocks(d.k_tiles * config.rows, lanes)
    n_blocks = _blocks(d.n_tiles * config.columns, lanes)
    words = _blocks(d.classes, lanes)
    groups = _blocks(d.steps, 1 << d.lanes_log2)
    tile_rows = d.k_tiles * (d.w_block if d.conv else d.n_tiles) * config.rows
    out_stride = d.out_stride if d.conv else d.steps
    d_stride = d.d_stride if d.conv else d.steps
    reads_x = (forward or has_os or (backward and d.mask)) and not d.patch
    packs = has_os and d.lanes_log2 and (d.n_tiles > 1 or d.conv)
    activation, gradient, weight, state = (
        (config.activation_depth, Error.ACTIVATION_RANGE),
        (config.gradient_depth, Error.GRADIENT_RANGE),
        (config.weight_depth, Error.WEIGHT_RANGE),
        (config.weight_depth, Error.STATE_RANGE))
    table = (
        (reads_x, d.x_base, k_blocks * d.x_stride, activation),
        (op == Opcode.CONFIDENCE, d.x_base, words * d.steps, activation),
        (loss, d.x_base, words * d.x_stride, activation),
        (forward and not d.keep_sums, d.out_base, n_blocks * out_stride, activation),
        (packs, d.packed_base, k_blocks * groups, activation),
        (backward, d.d_base, n_blocks * d_stride, gradient),
        (has_ws and not d.keep_sums, d.out_base, k_blocks * out_stride, gradient),
        (loss and not d.schedule, d.out_base, words * d.out_stride, gradient),
        (streams, d.w_base, tile_rows, weight),
        (op == Opcode.UPDATE, d.w_base, d.rows, weight),
        (has_os, d.state_base, tile_rows, state),
        (by_rows, d.state_base, d.rows, state),
        (by_rows, d.packed_base, d.rows, state),
        (forward and d.bias, d.bias_base, d.n_tiles, (config.bias_depth, Error.BIAS_RANGE)),
    )
    return [(base, size, *limit) for applies, base, size, limit in table if applies]


def _masks_sum(d: Descriptor) -> bool:
    return d.function == Function.ADD and bool(d.gradients and d.mask)


def _vector_extents(config: Config, d: Descriptor) -> list[tuple[int, int, int, Error]]:
    """Return the same for VECTOR, whose blocks are whole words. Masks lie as activations do."""
    activation = (config.activation_depth, Error.ACTIVATION_RANGE)
    gradient = (config.gradient_depth, Error.GRADIENT_RANGE)
    if d.function == Function.BIAS_UPDATE:
        words = _blocks(d.n_tiles * config.columns, config.lane_count)
        return [(d.d_base, words * d.d_stride, *gradient),
                (d.bias_base, d.n_tiles, config.bias_depth, Error.BIAS_RANGE)]
    adds = d.function == Function.ADD
    finds = d.function == Function.MAXIMUM_GRADIENT
    spreads = d.function == Function.AVERAGE_GRADIENT
    reads_x = d.function != Function.FILL and (d.mask or not spreads)
    takes = gradient if adds and d.gradients else activation
    gives = activation
    if finds or spreads or (d.gradients and d.function in (Function.ADD, Function.FILL)):
        gives = gradient
    table = (
        (reads_x, d.x_base, d.x_stride, takes),
        (finds or _masks_sum(d), d.packed_base, d.w_block, activation),
        (adds or finds or spreads, d.d_base, d.d_stride, gives),
        (True, d.out_base, d.out_stride, gives),
    )
    return [(base, d.k_tiles * stride, depth, error)
            for applies, base, stride, (depth, error) in table if applies]


def _range_error(config: Config, d: Descriptor) -> Error:
    for base, size, depth, error in extents(config, d):
        if base + size > depth:
            return error
    return Error.NONE
