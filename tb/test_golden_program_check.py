"""Every refusal, at its boundary: the last descriptor taken and the first refused."""

from dataclasses import replace

import pytest

from gradloom_golden.config import preset
from gradloom_golden.program import (
    DESCRIPTOR_WORDS,
    Descriptor,
    Error,
    Function,
    Opcode,
    Region,
    Schedule,
    SkipRule,
    reserved_masks,
)
from gradloom_golden.program_check import MAX_TILES, check

TINY = preset("tiny")
TALL = TINY.with_changes(rows=16)
BROAD = TINY.with_changes(columns=16)
PLAIN = TINY.with_changes(lanes=False)
DEEP = TINY.with_changes(weight_depth=1 << 16, activation_depth=1 << 16, gradient_depth=1 << 12,
                         bias_depth=256)
FORWARD = Descriptor(opcode=Opcode.FORWARD, steps=8, x_stride=8, k_tiles=2, n_tiles=3)
BACKWARD = Descriptor(opcode=Opcode.BACKWARD, steps=8, x_stride=8, k_tiles=2, n_tiles=3, mask=1)
ONLY_X = replace(BACKWARD, schedule=Schedule.INPUT_GRADIENT)
ONLY_W = replace(BACKWARD, schedule=Schedule.WEIGHT_GRADIENT)
PACKED = replace(BACKWARD, lanes_log2=1)
CONFIDENCE = Descriptor(opcode=Opcode.CONFIDENCE, steps=8, classes=10)
ANGLE = Descriptor(opcode=Opcode.ANGLE, rows=24)
LOSS = Descriptor(opcode=Opcode.LOSS, steps=8, classes=10, x_stride=8, out_stride=8)
UPDATE = Descriptor(opcode=Opcode.UPDATE, rows=24)
LOAD = Descriptor(opcode=Opcode.LOAD, function=Region.WEIGHT, rows=4, steps=6)
SAVE = replace(LOAD, opcode=Opcode.SAVE)
# Four pixels of two images; a kernel of 2 x 2 makes 2 x 3 x 4 tiles, of which a block has 12.
CONV = replace(FORWARD, conv=1, t_x=2, t_y=2, taps_y=2, taps_x=2, w_block=12, w_row=6, w_pixel=3,
               out_stride=8, d_stride=8)
CONV_BACK = replace(CONV, opcode=Opcode.BACKWARD, mask=1)
PATCH = replace(CONV, patch=1)
GROWN = TINY.with_changes(weight_depth=256)
# Eight windows of 2 x 2 pixels, in two blocks; the strides differ from side to side.
POOL = Descriptor(opcode=Opcode.VECTOR, function=Function.MAXIMUM, steps=8, k_tiles=2, t_x=2,
                  t_y=2, taps_y=2, taps_x=2, x_stride=32, out_stride=10)
FINDS = replace(POOL, function=Function.MAXIMUM_GRADIENT, d_stride=9, out_stride=33, w_block=11)
SPREADS = replace(FINDS, function=Function.AVERAGE_GRADIENT, mask=1)
FILL = replace(POOL, function=Function.FILL)
ADD = Descriptor(opcode=Opcode.VECTOR, function=Function.ADD, steps=8, k_tiles=2, x_stride=8,
                 d_stride=9, out_stride=10)
MASKED = replace(ADD, gradients=1, mask=1, w_block=11)
BIAS = Descriptor(opcode=Opcode.VECTOR, function=Function.BIAS_UPDATE, steps=8, k_tiles=1,
                  n_tiles=3, d_stride=9)

# (machine, descriptor, changes that pass, changes that one step further fail, error). A word of
# TINY holds four elements: the extents below are 2 or 3 blocks of 8 rows, and 24 tile rows.
LIMITS = [
    (TINY, FORWARD, {"opcode": 4, "rows": 1}, {"opcode": 12}, Error.OPCODE),
    (TINY, FORWARD, {"opcode": 1}, {"opcode": 0}, Error.OPCODE),
    (TINY, BACKWARD, {"lanes_log2": 2}, {"lanes_log2": 3}, Error.LANES),
    (TINY, FORWARD, {"lanes_log2": 0}, {"lanes_log2": 1}, Error.LANES),
    (PLAIN, BACKWARD, {"lanes_log2": 0}, {"lanes_log2": 1}, Error.LANES),
    (TINY, FORWARD, {"steps": 1}, {"steps": 0}, Error.STEPS),
    (TINY, FORWARD, {"steps": 32, "x_stride": 32}, {"steps": 33, "x_stride": 33}, Error.STEPS),
    (TINY, FORWARD, {"x_stride": 8}, {"x_stride": 7}, Error.STEPS),
    (TINY, BACKWARD, {"x_stride": 8}, {"x_stride": 7}, Error.STEPS),
    (TINY, CONFIDENCE, {"steps": 1}, {"steps": 0}, Error.STEPS),
    (TINY, CONFIDENCE, {"steps": 32}, {"steps": 33}, Error.STEPS),
    (TINY, ANGLE, {"rows": 1}, {"rows": 0}, Error.STEPS),
    (TINY, FORWARD, {"k_tiles": 1}, {"k_tiles": 0}, Error.TILES),
    (TINY, FORWARD, {"n_tiles": 1}, {"n_tiles": 0}, Error.TILES),
    (DEEP, FORWARD, {"k_tiles": MAX_TILES}, {"k_tiles": MAX_TILES + 1}, Error.TILES),
    (DEEP, FORWARD, {"n_tiles": MAX_TILES}, {"n_tiles": MAX_TILES + 1}, Error.TILES),
    (TINY, BACKWARD, {"x_shift": 0}, {"x_shift": 1}, Error.SHIFT),
    (TINY, FORWARD, {"x_shift": 0}, {"x_shift": 1}, Error.SHIFT),
    (TINY, BACKWARD, {"lanes_log2": 1, "x_shift": 4}, {"lanes_log2": 1, "x_shift": 5},
     Error.SHIFT),
    (TINY, BACKWARD, {"lanes_log2": 2, "x_shift": 6}, {"lanes_log2": 2, "x_shift": 7},
     Error.SHIFT),
    (TINY, FORWARD, {"w_base": 4}, {"w_base": 6}, Error.ALIGNMENT),
    (TINY, BACKWARD, {"state_base": 4}, {"state_base": 5}, Error.ALIGNMENT),
    (TALL, replace(FORWARD, k_tiles=1, n_tiles=1), {"w_base": 16}, {"w_base": 8},
     Error.ALIGNMENT),
    (TINY, CONFIDENCE, {"classes": 2}, {"classes": 1}, Error.CLASSES),
    (DEEP, CONFIDENCE, {"classes": 4 * MAX_TILES}, {"classes": 4 * MAX_TILES + 1}, Error.CLASSES),
    (TINY, FORWARD, {"x_base": 240}, {"x_base": 241}, Error.ACTIVATION_RANGE),
    (TINY, FORWARD, {"x_stride": 128}, {"x_stride": 129}, Error.ACTIVATION_RANGE),
    (TINY, FORWARD, {"out_base": 232}, {"out_base": 233}, Error.ACTIVATION_RANGE),
    (TINY, BACKWARD, {"x_base": 240}, {"x_base": 241}, Error.ACTIVATION_RANGE),
    (TINY, ONLY_X, {"x_base": 240}, {"x_base": 241}, Error.ACTIVATION_RANGE),
    (TINY, PACKED, {"packed_base": 248}, {"packed_base": 249}, Error.ACTIVATION_RANGE),
    (TINY, replace(PACKED, steps=7), {"packed_base": 248}, {"packed_base": 249},
     Error.ACTIVATION_RANGE),
    (TINY, CONFIDENCE, {"x_base": 232}, {"x_base": 233}, Error.ACTIVATION_RANGE),
    (TINY, CONFIDENCE, {"x_base": 232, "classes": 12}, {"x_base": 232, "classes": 13},
     Error.ACTIVATION_RANGE),
    (TINY, BACKWARD, {"d_base": 104}, {"d_base": 105}, Error.GRADIENT_RANGE),
    (TINY, BACKWARD, {"out_base": 112}, {"out_base": 113}, Error.GRADIENT_RANGE),
    (TINY, FORWARD, {"w_base": 104}, {"w_base": 108}, Error.WEIGHT_RANGE),
    (TINY, BACKWARD, {"w_base": 104}, {"w_base": 108}, Error.WEIGHT_RANGE),
    (TINY, BACKWARD, {"state_base": 104}, {"state_base": 108}, Error.STATE_RANGE),
    (TINY, ANGLE, {"state_base": 104}, {"state_base": 105}, Error.STATE_RANGE),
    (TINY, ANGLE, {"packed_base": 104}, {"packed_base": 105}, Error.STATE_RANGE),
    (TALL, replace(FORWARD, n_tiles=4, k_tiles=2), {"out_base": 248}, {"out_base": 249},
     Error.ACTIVATION_RANGE),
    (TALL, replace(FORWARD, n_tiles=5, k_tiles=1), {"out_base": 240}, {"out_base": 241},
     Error.ACTIVATION_RANGE),
    (TINY, LOSS, {"steps": 32, "x_stride": 32}, {"steps": 33}, Error.STEPS),
    (TINY, LOSS, {"classes": 2}, {"classes": 1}, Error.CLASSES),
    (TINY, LOSS, {"x_base": 232}, {"x_base": 233}, Error.ACTIVATION_RANGE),
    (TINY, LOSS, {"out_base": 104}, {"out_base": 105}, Error.GRADIENT_RANGE),
    (TINY, LOSS, {"out_stride": 42}, {"out_stride": 43}, Error.GRADIENT_RANGE),
    (TINY, UPDATE, {"rows": 1}, {"rows": 0}, Error.STEPS),
    (TINY, UPDATE, {"w_base": 104}, {"w_base": 105}, Error.WEIGHT_RANGE),
    (TINY, UPDATE, {"state_base": 104}, {"state_base": 105}, Error.STATE_RANGE),
    (TINY, UPDATE, {"packed_base": 104}, {"packed_base": 105}, Error.STATE_RANGE),
    (GROWN, CONV, {"x_stride": 1}, {"t_x": 0}, Error.GEOMETRY),
    (GROWN, CONV, {"t_y": 1}, {"t_y": 0}, Error.GEOMETRY),
    (GROWN, CONV, {"taps_y": 1}, {"taps_y": 0}, Error.GEOMETRY),
    (GROWN, CONV_BACK, {"taps_x": 1}, {"taps_x": 0}, Error.GEOMETRY),
    (GROWN, CONV, {"w_base": 160}, {"w_base": 164}, Error.WEIGHT_RANGE),
    (GROWN, CONV, {"out_stride": 85}, {"out_stride": 86}, Error.ACTIVATION_RANGE),
    (GROWN, CONV_BACK, {"d_stride": 42}, {"d_stride": 43}, Error.GRADIENT_RANGE),
    (GROWN, CONV_BACK, {"out_stride": 64}, {"out_stride": 65}, Error.GRADIENT_RANGE),
    (GROWN, CONV_BACK, {"state_base": 160}, {"state_base": 164}, Error.STATE_RANGE),
    (GROWN, PATCH, {}, {"conv": 0}, Error.GEOMETRY),
    (GROWN, replace(PATCH, opcode=Opcode.BACKWARD, schedule=Schedule.WEIGHT_GRADIENT),
     {}, {"schedule": Schedule.INTERLEAVED}, Error.GEOMETRY),
    (GROWN, replace(PATCH, opcode=Opcode.BACKWARD, schedule=Schedule.WEIGHT_GRADIENT),
     {}, {"d_moves": 1}, Error.GEOMETRY),
    (TINY, FORWARD, {"bias": 1, "bias_base": 13}, {"bias": 1, "bias_base": 14},
     Error.BIAS_RANGE),
    (TINY, POOL, {"steps": 1}, {"steps": 0}, Error.STEPS),
    (DEEP, POOL, {"k_tiles": MAX_TILES}, {"k_tiles": MAX_TILES + 1}, Error.TILES),
    (TINY, POOL, {"taps_x": 1}, {"taps_x": 0}, Error.GEOMETRY),
    (TINY, ADD, {"t_x": 0}, {"t_x": 0, "gather": 1}, Error.GEOMETRY),
    (TINY, POOL, {"function": Function.FILL}, {"function": Function.FILL + 1}, Error.FUNCTION),
    (TINY, LOSS, {"function": max(SkipRule)}, {"function": max(SkipRule) + 1}, Error.FUNCTION),
    (TINY, BIAS, {"n_tiles": 1}, {"n_tiles": 0}, Error.TILES),
    (DEEP, BIAS, {"n_tiles": MAX_TILES}, {"n_tiles": MAX_TILES + 1}, Error.TILES),
    (TINY, ADD, {"x_stride": 8}, {"x_stride": 7}, Error.STEPS),
    (TINY, ADD, {"d_stride": 8}, {"d_stride": 7}, Error.STEPS),
    (TINY, ADD, {"out_stride": 8}, {"out_stride": 7}, Error.STEPS),
    (TINY, MASKED, {"w_block": 8}, {"w_block": 7}, Error.STEPS),
    (TINY, POOL, {"out_stride": 8}, {"out_stride": 7}, Error.STEPS),
    (TINY, replace(POOL, function=Function.AVERAGE), {"out_stride": 8}, {"out_stride": 7},
     Error.STEPS),
    (TINY, FINDS, {"d_stride": 8}, {"d_stride": 7}, Error.STEPS),
    (TINY, FINDS, {"w_block": 8}, {"w_block": 7}, Error.STEPS),
    (TINY, SPREADS, {"d_stride": 8}, {"d_stride": 7}, Error.STEPS),
    (TINY, BIAS, {"d_stride": 8}, {"d_stride": 7}, Error.STEPS),
    (TINY, ADD, {"x_base": 240}, {"x_base": 241}, Error.ACTIVATION_RANGE),
    (TINY, ADD, {"d_base": 238}, {"d_base": 239}, Error.ACTIVATION_RANGE),
    (TINY, ADD, {"out_base": 236}, {"out_base": 237}, Error.ACTIVATION_RANGE),
    (TINY, ADD, {"d_stride": 128}, {"d_stride": 129}, Error.ACTIVATION_RANGE),
    # A block of a VECTOR is a word, however many rows a tile has.
    (BROAD, ADD, {"x_base": 240}, {"x_base": 241}, Error.ACTIVATION_RANGE),
    (BROAD, FINDS, {"packed_base": 234}, {"packed_base": 235}, Error.ACTIVATION_RANGE),
    (TINY, MASKED, {"x_base": 112}, {"x_base": 113}, Error.GRADIENT_RANGE),
    (TINY, MASKED, {"d_base": 110}, {"d_base": 111}, Error.GRADIENT_RANGE),
    (TINY, MASKED, {"out_base": 108}, {"out_base": 109}, Error.GRADIENT_RANGE),
    (TINY, MASKED, {"packed_base": 234}, {"packed_base": 235}, Error.ACTIVATION_RANGE),
    (TINY, POOL, {"x_base": 192}, {"x_base": 193}, Error.ACTIVATION_RANGE),
    (TINY, POOL, {"out_base": 236}, {"out_base": 237}, Error.ACTIVATION_RANGE),
    (TINY, replace(POOL, function=Function.AVERAGE), {"x_base": 192}, {"x_base": 193},
     Error.ACTIVATION_RANGE),
    (TINY, replace(POOL, function=Function.AVERAGE), {"out_base": 236}, {"out_base": 237},
     Error.ACTIVATION_RANGE),
    (TINY, FINDS, {"x_base": 192}, {"x_base": 193}, Error.ACTIVATION_RANGE),
    (TINY, FINDS, {"packed_base": 234}, {"packed_base": 235}, Error.ACTIVATION_RANGE),
    (TINY, FINDS, {"d_base": 110}, {"d_base": 111}, Error.GRADIENT_RANGE),
    (TINY, FINDS, {"out_base": 62}, {"out_base": 63}, Error.GRADIENT_RANGE),
    (TINY, SPREADS, {"x_base": 192}, {"x_base": 193}, Error.ACTIVATION_RANGE),
    (TINY, SPREADS, {"d_base": 110}, {"d_base": 111}, Error.GRADIENT_RANGE),
    (TINY, SPREADS, {"out_base": 62}, {"out_base": 63}, Error.GRADIENT_RANGE),
    (TINY, FILL, {"out_base": 236}, {"out_base": 237}, Error.ACTIVATION_RANGE),
    (TINY, replace(FILL, gradients=1), {"out_base": 108}, {"out_base": 109}, Error.GRADIENT_RANGE),
    (TINY, BIAS, {"d_base": 101}, {"d_base": 102}, Error.GRADIENT_RANGE),
    (TINY, BIAS, {"bias_base": 13}, {"bias_base": 14}, Error.BIAS_RANGE),
    (TALL, replace(BIAS, n_tiles=4), {"d_base": 119}, {"d_base": 120}, Error.GRADIENT_RANGE),
    (TALL, replace(BIAS, n_tiles=5), {"d_base": 110}, {"d_base": 111}, Error.GRADIENT_RANGE),
    (TINY, LOAD, {"rows": 1}, {"rows": 0}, Error.STEPS),
    (TINY, SAVE, {"steps": 1}, {"steps": 0}, Error.STEPS),
    (TINY, LOAD, {"function": Region.STATE}, {"function": Region.SUMS}, Error.REGION),
    (TINY, SAVE, {"function": Region.STATE}, {"function": Region.KEEP}, Error.REGION),
    (TINY, LOAD, {"function": Region.IMAGE, "out_base": 104},
     {"function": Region.IMAGE, "out_base": 105}, Error.IMAGE_RANGE),
    (TINY, LOAD, {"function": Region.LABEL, "out_base": 8},
     {"function": Region.LABEL, "out_base": 9}, Error.STEPS),
    (TINY, SAVE, {"function": Region.MASK, "out_base": 232},
     {"function": Region.MASK, "out_base": 233}, Error.ACTIVATION_RANGE),
    (TINY, SAVE, {"function": Region.BIAS, "rows": 1, "out_base": 10},
     {"function": Region.BIAS, "rows": 1, "out_base": 11}, Error.BIAS_RANGE),
    (TINY, LOAD, {"out_base": 104}, {"out_base": 105}, Error.WEIGHT_RANGE),
]

# What a descriptor does not use is not looked at.
UNUSED = [
    (replace(FORWARD, keep_sums=1), {"out_base": 1 << 31}),
    (FORWARD, {"d_base": 1 << 31, "state_base": (1 << 31) + 1, "packed_base": 1 << 31}),
    (FORWARD, {"classes": 1, "rows": 0}),
    (replace(BACKWARD, keep_sums=1), {"out_base": 1 << 31}),
    (ONLY_W, {"out_base": 1 << 31}),
    (ONLY_X, {"state_base": (1 << 31) + 1}),
    (replace(ONLY_X, mask=0), {"x_base": 1 << 31}),
    (replace(ONLY_X, lanes_log2=1), {"packed_base": 1 << 31}),
    (replace(PACKED, n_tiles=1), {"packed_base": 1 << 31}),
    (BACKWARD, {"packed_base": 1 << 31}),
    (CONFIDENCE, {"k_tiles": 0, "w_base": 3, "x_shift": 7, "lanes_log2": 3, "out_base": 1 << 31}),
    (ANGLE, {"steps": 0, "state_base": 3, "x_shift": 7, "x_base": 1 << 31}),
    (FORWARD, {"bias_base": 255, "t_x": 0, "taps_y": 0, "out_stride": 60000}),
    (replace(LOSS, schedule=1), {"out_base": 1 << 31}),
    (PATCH, {"x_base": 1 << 31, "x_stride": 60000}),
    (POOL, {"d_base": 1 << 31, "packed_base": 1 << 31, "bias_base": 255, "n_tiles": 0}),
    (POOL, {"x_stride": 7, "d_stride": 0, "w_block": 0}),
    (ADD, {"taps_x": 0, "t_x": 0, "bias_base": 255}),
    (ADD, {"mask": 1, "packed_base": 1 << 31, "w_block": 0}),
    (replace(MASKED, mask=0), {"packed_base": 1 << 31, "w_block": 0}),
    (FINDS, {"x_stride": 7, "out_stride": 7}),
    (SPREADS, {"packed_base": 1 << 31, "w_block": 0, "x_stride": 7, "out_stride": 7}),
    (replace(SPREADS, mask=0), {"x_base": 1 << 31}),
    (FILL, {"x_base": 1 << 31, "d_base": 1 << 31, "packed_base": 1 << 31, "mask": 1}),
    (FILL, {"x_stride": 0, "d_stride": 0, "out_stride": 0, "w_block": 0}),
    (BIAS, {"x_base": 1 << 31, "out_base": 1 << 31, "packed_base": 1 << 31, "gradients": 1}),
    (BIAS, {"x_stride": 0, "out_stride": 0, "w_block": 0, "mask": 1, "taps_x": 0}),
    (LOAD, {"memory_low": 1, "k_tiles": 0, "x_shift": 7, "w_base": 1 << 31}),
    (Descriptor(opcode=Opcode.RESCALE), {"steps": 0, "rows": 0, "x_base": 1 << 31}),
    (Descriptor(opcode=Opcode.THRESHOLD), {"steps": 0, "rows": 0, "x_base": 1 << 31}),
]


def verdict(config, descriptor, changes):
    return check(config, replace(descriptor, **changes).encode())


@pytest.mark.parametrize(("config", "descriptor", "taken", "refused", "error"), LIMITS)
def test_the_limit_is_exact(config, descriptor, taken, refused, error):
    assert verdict(config, descriptor, {}) == Error.NONE
    assert verdict(config, descriptor, taken) == Error.NONE
    assert verdict(config, descriptor, refused) == error


@pytest.mark.parametrize(("descriptor", "changes"), UNUSED)
def test_fields_without_meaning_are_ignored(descriptor, changes):
    assert verdict(GROWN, descriptor, changes) == Error.NONE


@pytest.mark.parametrize("word", range(DESCRIPTOR_WORDS))
def test_every_reserved_bit_is_refused(word):
    used = Descriptor.decode([(1 << 32) - 1] * DESCRIPTOR_WORDS).encode()[word]
    for bit in range(32):
        words = FORWARD.encode()
        if not used >> bit & 1:
            words[word] |= 1 << bit
            assert check(TINY, words) == Error.RESERVED


def test_every_error_is_reached():
    reached = {error for *_, error in LIMITS}
    # Reserved bits have a test of their own; the others are met while a list runs.
    outside = {
        Error.NONE, Error.PROGRAM_LENGTH, Error.RESERVED, Error.MEMORY_ALIGNMENT,
        Error.MEMORY_RANGE, Error.READ_RESPONSE, Error.WRITE_RESPONSE, Error.FETCH_RESPONSE,
        Error.LIST_END, Error.WATCHDOG,
    }
    assert reached == set(Error) - outside


@pytest.mark.parametrize(("descriptor", "bases", "error"), [
    (MASKED, ("d_base", "out_base"), Error.GRADIENT_RANGE),
    (MASKED, ("packed_base", "d_base"), Error.ACTIVATION_RANGE),
    (MASKED, ("x_base", "packed_base"), Error.GRADIENT_RANGE),
    (FINDS, ("x_base", "d_base"), Error.ACTIVATION_RANGE),
    (FINDS, ("packed_base", "out_base"), Error.ACTIVATION_RANGE),
    (BIAS, ("d_base", "bias_base"), Error.GRADIENT_RANGE),
])
def test_the_first_region_of_a_vector_wins(descriptor, bases, error):
    assert verdict(TINY, descriptor, dict.fromkeys(bases, 255)) == error


def test_the_first_error_wins():
    changes, seen = {}, []
    for name, value in (
        ("state_base", 1 << 10), ("w_base", 1 << 10), ("d_base", 1 << 10), ("x_base", 1 << 10),
        ("w_base", 1), ("x_shift", 1), ("k_tiles", 0), ("steps", 0), ("lanes_log2", 3),
        ("opcode", 15),
    ):
        changes[name] = value
        seen.append(verdict(TINY, BACKWARD, changes))
    assert seen == [
        Error.STATE_RANGE, Error.WEIGHT_RANGE, Error.GRADIENT_RANGE, Error.ACTIVATION_RANGE,
        Error.ALIGNMENT, Error.SHIFT, Error.TILES, Error.STEPS, Error.LANES, Error.OPCODE,
    ]
    words = replace(BACKWARD, **changes).encode()
    word = next(word for word, mask in enumerate(reserved_masks()) if mask)
    words[word] |= reserved_masks()[word]
    assert check(TINY, words) == Error.RESERVED
