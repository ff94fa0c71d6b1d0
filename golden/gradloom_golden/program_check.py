"""Which descriptors a machine refuses, and with which error."""

from collections.abc import Sequence

from .config import Config
from .program import Descriptor, Error, Opcode, Schedule, reserved_masks

__all__ = ["MAX_TILES", "check"]

MAX_TILES = 256
"""Most tiles along one edge of a layer."""


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
    forward, backward = d.opcode == Opcode.FORWARD, d.opcode == Opcode.BACKWARD
    streams = forward or backward
    confidence, angle = d.opcode == Opcode.CONFIDENCE, d.opcode == Opcode.ANGLE
    if not (streams or confidence or angle):
        return Error.OPCODE
    if streams and (d.lanes_log2 == 3 or (d.lanes_log2 and (forward or not config.lanes))):
        return Error.LANES
    if angle:
        if d.rows == 0:
            return Error.STEPS
    elif (not 0 < d.steps <= config.steps_depth) or (streams and d.x_stride < d.steps):
        return Error.STEPS
    if streams:
        if not (0 < d.k_tiles <= MAX_TILES and 0 < d.n_tiles <= MAX_TILES):
            return Error.TILES
        if d.x_shift > 8 - (8 >> d.lanes_log2):
            return Error.SHIFT
        has_os = backward and d.schedule != Schedule.INPUT_GRADIENT
        if d.w_base % config.rows or (has_os and d.state_base % config.rows):
            return Error.ALIGNMENT
    if confidence and not 2 <= d.classes <= MAX_TILES * config.columns:
        return Error.CLASSES
    return Error.NONE


def _range_error(config: Config, d: Descriptor) -> Error:
    forward, backward = d.opcode == Opcode.FORWARD, d.opcode == Opcode.BACKWARD
    confidence, angle = d.opcode == Opcode.CONFIDENCE, d.opcode == Opcode.ANGLE
    has_ws = d.schedule != Schedule.WEIGHT_GRADIENT
    has_os = d.schedule != Schedule.INPUT_GRADIENT
    lanes = config.lane_count
    k_blocks = _blocks(d.k_tiles * config.rows, lanes)
    n_blocks = _blocks(d.n_tiles * config.columns, lanes)
    groups = _blocks(d.steps, 1 << d.lanes_log2)
    tile_rows = d.k_tiles * d.n_tiles * config.rows
    activation, gradient, weight = (
        (config.activation_depth, Error.ACTIVATION_RANGE),
        (config.gradient_depth, Error.GRADIENT_RANGE),
        (config.weight_depth, Error.WEIGHT_RANGE))
    state = (config.weight_depth, Error.STATE_RANGE)
    extents = []
    if forward or (backward and (has_os or d.mask)):
        extents.append((d.x_base, k_blocks * d.x_stride, *activation))
    if confidence:
        extents.append((d.x_base, _blocks(d.classes, lanes) * d.steps, *activation))
    if forward and not d.keep_sums:
        extents.append((d.out_base, n_blocks * d.steps, *activation))
    if backward and has_os and d.lanes_log2 and d.n_tiles > 1:
        extents.append((d.packed_base, k_blocks * groups, *activation))
    if backward:
        extents.append((d.d_base, n_blocks * d.steps, *gradient))
        if has_ws and not d.keep_sums:
            extents.append((d.out_base, k_blocks * d.steps, *gradient))
    if forward or backward:
        extents.append((d.w_base, tile_rows, *weight))
    if backward and has_os:
        extents.append((d.state_base, tile_rows, *state))
    if angle:
        extents += [(d.state_base, d.rows, *state), (d.packed_base, d.rows, *state)]
    for base, size, depth, error in extents:
        if base + size > depth:
            return error
    return Error.NONE
