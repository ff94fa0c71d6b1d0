"""The machine's programs: descriptors, memory map, control registers and error codes.

RTL, golden machine and host all take their layout from the tables below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum

from .config import Config, ceil_log2
from .fixed import integer_range, sign_extend

__all__ = [
    "COUNTERS",
    "DESCRIPTOR_FIELDS",
    "DESCRIPTOR_WORDS",
    "IDENT",
    "OFFSET_BITS",
    "SCALES",
    "SIGNED_FIELDS",
    "Descriptor",
    "Drain",
    "Error",
    "Function",
    "Opcode",
    "Region",
    "Register",
    "Schedule",
    "SkipRule",
    "element_bits",
    "memory_shape",
    "reserved_masks",
]

DESCRIPTOR_WORDS = 32
OFFSET_BITS = 20
IDENT = 0x474C_0002                                       # "GL", layout version 2
SCALES = 128
"""Exponents that the scale table holds."""


class Opcode(IntEnum):
    """What a descriptor does. Zero is not an operation: blank memory is no program."""

    FORWARD = 1
    BACKWARD = 2
    CONFIDENCE = 3
    ANGLE = 4
    LOSS = 5
    THRESHOLD = 6
    VECTOR = 7
    RESCALE = 8
    UPDATE = 9
    LOAD = 10
    SAVE = 11


class Function(IntEnum):
    """What a VECTOR descriptor computes, a buffer word at a time."""

    ADD = 0
    MAXIMUM = 1
    AVERAGE = 2
    MAXIMUM_GRADIENT = 3
    AVERAGE_GRADIENT = 4
    BIAS_UPDATE = 5
    FILL = 6


class SkipRule(IntEnum):
    """How LOSS decides which samples keep their gradient."""

    PROBABILITY = 0                                       # p_y below `threshold`, in 2^-16
    MARGIN = 1                                            # margin of logits below `threshold`
    BUDGET = 2                                            # p_y below what THRESHOLD chose
    IMPORTANCE = 3                                        # by chance, `threshold`: cap + 16 extra


class Schedule(IntEnum):
    """How a backward pass uses the array (design: baselines are modes of the same machine)."""

    INTERLEAVED = 0
    INPUT_GRADIENT = 1                                    # WS slots only
    WEIGHT_GRADIENT = 2                                   # OS slots only
    SEQUENTIAL = 3                                        # WS slots, then OS slots, tile by tile


class Drain(IntEnum):
    """What becomes of a finished weight-gradient tile at the drain edge."""

    UPDATE = 0
    STORE = 1
    ACCUMULATE = 2                                        # add to what an earlier chunk stored


class Error(IntEnum):
    """Why a program stopped."""

    NONE = 0
    PROGRAM_LENGTH = 1
    OPCODE = 2
    RESERVED = 3
    LANES = 4
    STEPS = 5
    TILES = 6
    SHIFT = 7
    ALIGNMENT = 8
    ACTIVATION_RANGE = 9
    GRADIENT_RANGE = 10
    WEIGHT_RANGE = 11
    STATE_RANGE = 12
    CLASSES = 13
    GEOMETRY = 14
    IMAGE_RANGE = 15
    BIAS_RANGE = 16
    FUNCTION = 17
    REGION = 18
    MEMORY_ALIGNMENT = 19
    MEMORY_RANGE = 20
    READ_RESPONSE = 21
    WRITE_RESPONSE = 22
    FETCH_RESPONSE = 23
    LIST_END = 24
    WATCHDOG = 25


class Region(IntEnum):
    """Top four bits of a host address; the low `OFFSET_BITS` count 32-bit words."""

    CONTROL = 0
    PROGRAM = 1
    ACTIVATION = 2
    GRADIENT = 3
    WEIGHT = 4
    STATE = 5
    SUMS = 6
    KEEP = 7
    LABEL = 8
    IMAGE = 9
    BIAS = 10
    SCALE = 11
    MASK = 12
    SHELL = 15                                            # registers of the AXI shell


class Register(IntEnum):
    """Word offsets in the control region."""

    IDENT = 0
    START = 1                                             # write: run that many descriptors
    STATUS = 2                                            # bit 0 busy, 15:8 error, 31:16 which
    SEED = 3                                              # write: seed every LFSR
    KEPT = 4                                              # samples kept by the last CONFIDENCE
    BITS = 5                                              # precision picked by the last ANGLE
    CLEAR = 6                                             # write: zero the counters
    LOSS = 7                                              # sum of -log2 p_y in 2^-16, 64 bits
    THRESHOLD = 9                                         # what the last THRESHOLD chose
    COUNTER = 32                                          # first counter; 64 bits each, low first


COUNTERS = (
    "cycles", "forward_cycles", "backward_cycles", "confidence_cycles", "angle_cycles",
    "forward_slots", "ws_slots", "os_products",
    "x_reads", "packed_reads", "d_reads", "weight_reads", "state_reads", "sum_reads", "mask_reads",
    "y_writes", "dx_writes", "packed_writes", "weight_writes", "state_writes", "sum_writes",
    "skipped_samples", "kept_samples", "correct_samples", "descriptors",
    "loss_cycles", "vector_cycles", "update_cycles", "wait_cycles",
    "load_words", "save_words", "image_reads", "slots",
)
"""Counters in the order of their registers.

Slots are rows streamed through one tile (each is rows x columns MACs); `os_products` counts the
activations that OS slots consumed, and `slots` the cycles in which a slot of either kind enters
the array. Reads and writes count buffer words.
"""


def _at(word: int, low: int, width: int, *, default: int | None = 0, signed: bool = False):
    place = {"place": (word, low, width), "signed": signed}
    return field(metadata=place) if default is None else field(default=default, metadata=place)


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """One operation. Each field names its word, low bit and width; all other bits are zero.

    Bases count words of their buffer; shifts are powers of two; `steps` is T.

    With `conv`, step t is pixel ``(t // t_x % t_y, t % t_x)`` of image ``t // (t_x t_y)``, and k
    tiles are ``k_tiles`` blocks of features times ``taps_y taps_x`` taps of a kernel. Pixel (y, x)
    of image b lies at ``base + b image + y row + x pixel``; the side that moves with the taps adds
    ``tap_y tap_row + tap_x tap_pixel`` and is zero wherever ``y_first + y y_step + tap_y tap_dy``
    leaves ``0 .. y_limit - 1``, or x likewise. X moves, or with `d_moves` D.

    Raises
    ------
    ValueError
        If a value does not fit its field.
    """

    opcode: int = _at(0, 0, 4, default=None)
    schedule: int = _at(0, 4, 2)
    drain: int = _at(0, 6, 2)
    lanes_log2: int = _at(0, 8, 2)        # 0, 1, 2: one, two, four activations in a word
    x_unsigned: int = _at(0, 10, 1)
    relu: int = _at(0, 11, 1)             # FORWARD: clip below zero and keep the mask
    stochastic: int = _at(0, 12, 1)       # round the output stochastically, else to nearest
    gather: int = _at(0, 13, 1)           # BACKWARD: sample b of X is sample keep[b]
    mask: int = _at(0, 14, 1)             # BACKWARD: zero dX where the ReLU was off
    keep_sums: int = _at(0, 15, 1)        # leave the result in the sums buffer, write no output
    momentum: int = _at(0, 16, 1)
    y_unsigned: int = _at(0, 17, 1)       # FORWARD: saturate the output as unsigned
    conv: int = _at(0, 18, 1)             # address X, D and weights by the geometry below
    d_moves: int = _at(0, 19, 1)          # BACKWARD: D moves with the taps, else X does
    patch: int = _at(0, 20, 1)            # X is patches of the image buffer
    kept: int = _at(0, 21, 1)             # T is what LOSS kept of `images`, times `pixels`
    scaled: int = _at(0, 22, 1)           # shifts follow from the scale table
    measure: int = _at(0, 23, 1)          # count the output's range for RESCALE
    bias: int = _at(0, 24, 1)             # FORWARD: start from the bias
    wait_memory: int = _at(0, 25, 1)      # start after all loads and saves before have ended
    wait_compute: int = _at(0, 26, 1)     # LOAD, SAVE: start after all computing before has ended
    gradients: int = _at(0, 27, 1)        # VECTOR: work on the gradient buffer
    d_unsigned: int = _at(0, 28, 1)       # VECTOR ADD: the second activation is unsigned
    end: int = _at(0, 31, 1)              # the list ends here
    steps: int = _at(1, 0, 16)            # rows streamed through each tile
    x_stride: int = _at(1, 16, 16)        # words from one k block of X to the next
    k_tiles: int = _at(2, 0, 16)
    n_tiles: int = _at(2, 16, 16)
    x_base: int = _at(3, 0, 32)           # CONFIDENCE, LOSS: logits
    d_base: int = _at(4, 0, 32)
    w_base: int = _at(5, 0, 32)
    state_base: int = _at(6, 0, 32)       # ANGLE: 8-bit gradient
    packed_base: int = _at(7, 0, 32)      # ANGLE: tested gradient; UPDATE: gradient (state rows)
    out_base: int = _at(8, 0, 32)         # LOAD, SAVE: buffer word
    out_shift: int = _at(9, 0, 5)
    x_shift: int = _at(9, 8, 3)           # low bits that packing drops
    gradient_shift: int = _at(9, 16, 5)
    rate_shift: int = _at(9, 24, 5)
    decay_shift: int = _at(9, 29, 3)      # velocity loses 2^-decay_shift of itself
    threshold: int = _at(10, 0, 16)       # CONFIDENCE, LOSS: what the skip rule says
    n_group: int = _at(10, 16, 16)        # grouped weights: outputs of a group
    classes: int = _at(11, 0, 16)
    k_first: int = _at(11, 16, 16)        # grouped weights: place of row 0 in its group
    bound: int = _at(12, 0, 16)           # ANGLE: least cos^2, THRESHOLD: budget; in 2^-16
    first_sample: int = _at(12, 16, 16)   # of the keep list
    rows: int = _at(13, 0, 16)            # ANGLE, UPDATE: state rows; LOAD, SAVE: rows of `steps`
    images: int = _at(13, 16, 16)
    first: int = _at(14, 0, 1)            # ANGLE: clear the dot products first
    last: int = _at(14, 1, 1)             # ANGLE: decide
    fresh: int = _at(14, 2, 1)            # ANGLE: forget an earlier pick, fall back to 8 bits
    tested_bits: int = _at(14, 8, 4)      # ANGLE: width picked if within; LOAD, SAVE: width
    function: int = _at(14, 16, 4)        # VECTOR: function; LOAD, SAVE: region; LOSS: skip rule
    n_first: int = _at(14, 20, 12, signed=True)  # grouped weights: first output of row 0's group
    d_stride: int = _at(15, 0, 16)
    out_stride: int = _at(15, 16, 16)
    pixels: int = _at(16, 0, 16)          # steps of an image
    patch_step: int = _at(16, 16, 16)     # words to skip from one row of a patch to the next
    t_x: int = _at(17, 0, 12)
    t_y: int = _at(17, 12, 12)
    factor: int = _at(17, 24, 8)          # VECTOR: multiplies an average
    x_pixel: int = _at(18, 0, 16)
    x_row: int = _at(18, 16, 16)
    x_image: int = _at(19, 0, 16)
    x_offset: int = _at(19, 16, 16, signed=True)
    d_row: int = _at(20, 0, 16)
    d_image: int = _at(20, 16, 16)
    d_offset: int = _at(21, 0, 16, signed=True)
    tap_row: int = _at(21, 16, 16, signed=True)
    tap_pixel: int = _at(22, 0, 16, signed=True)
    taps_y: int = _at(22, 16, 8)
    taps_x: int = _at(22, 24, 8)
    y_first: int = _at(23, 0, 12, signed=True)
    x_first: int = _at(23, 12, 12, signed=True)
    bias_base: int = _at(23, 24, 8)
    y_limit: int = _at(24, 0, 12)
    x_limit: int = _at(24, 12, 12)
    patch_row: int = _at(24, 24, 8)       # lanes that one row of a patch takes
    y_step: int = _at(25, 0, 8)
    x_step: int = _at(25, 8, 8)
    tap_dy: int = _at(25, 16, 8, signed=True)
    tap_dx: int = _at(25, 24, 8, signed=True)
    w_block: int = _at(26, 0, 16)         # tiles from one k block to the next, one tap row, one tap
    w_row: int = _at(26, 16, 16)
    w_pixel: int = _at(27, 0, 16)
    k_group: int = _at(27, 16, 16)        # grouped weights: inputs of a group; 0: one group
    x_scale: int = _at(28, 0, 7)          # places in the scale table
    w_scale: int = _at(28, 8, 7)
    d_scale: int = _at(28, 16, 7)
    out_scale: int = _at(28, 24, 7)
    rate: int = _at(29, 0, 8, signed=True)  # log2 of the learning rate's reciprocal
    bias_scale: int = _at(29, 8, 7)
    patch_lanes: int = _at(29, 16, 16)    # lanes that a patch takes
    memory_low: int = _at(30, 0, 32)      # LOAD, SAVE: byte address
    memory_high: int = _at(31, 0, 32)

    def __post_init__(self):
        for name, (_, _, width) in DESCRIPTOR_FIELDS.items():
            value = getattr(self, name)
            low, high = integer_range(width, signed=name in SIGNED_FIELDS)
            if not low <= value <= high:
                raise ValueError(
                    f"descriptor field {name} lies between {low} and {high}, so not {value!r}")

    def encode(self) -> list[int]:
        """Return the `DESCRIPTOR_WORDS` 32-bit words of this descriptor."""
        words = [0] * DESCRIPTOR_WORDS
        for name, (word, low, width) in DESCRIPTOR_FIELDS.items():
            words[word] |= (int(getattr(self, name)) & (1 << width) - 1) << low
        return words

    @classmethod
    def decode(cls, words: Sequence[int]) -> "Descriptor":
        """Return the descriptor in `words`, reserved bits ignored."""
        values = {
            name: int(words[word]) >> low & (1 << width) - 1
            for name, (word, low, width) in DESCRIPTOR_FIELDS.items()
        }
        for name in SIGNED_FIELDS:
            values[name] = int(sign_extend(values[name], DESCRIPTOR_FIELDS[name][2]))
        return cls(**values)


DESCRIPTOR_FIELDS: dict[str, tuple[int, int, int]] = {
    entry.name: entry.metadata["place"] for entry in fields(Descriptor)
}
"""Name of each field: its word, low bit and width. The rest is reserved."""

SIGNED_FIELDS = frozenset(
    entry.name for entry in fields(Descriptor) if entry.metadata["signed"])


def reserved_masks() -> list[int]:
    """Return, for each word of a descriptor, the bits that must be zero."""
    masks = [(1 << 32) - 1] * DESCRIPTOR_WORDS
    for word, low, width in DESCRIPTOR_FIELDS.values():
        masks[word] &= ~((1 << width) - 1 << low)
    return masks


def memory_shape(config: Config, region: Region) -> tuple[int, int, int]:
    """Return a buffer's depth in words, elements per word, and host bits per element.

    The host sees elements padded to 8, 16 or 32 bits, the first in the lowest bits.
    """
    lanes = config.lane_count
    gradient = config.gradient_bits
    return {
        Region.PROGRAM: (config.descriptor_depth * DESCRIPTOR_WORDS, 1, 32),
        Region.ACTIVATION: (config.activation_depth, lanes, 8),
        Region.GRADIENT: (config.gradient_depth, lanes, gradient),
        Region.WEIGHT: (config.weight_depth, config.columns, 8),
        Region.STATE: (config.weight_depth, config.columns, 32),
        Region.SUMS: (config.steps_depth, lanes, 32),
        Region.KEEP: (config.steps_depth, 1, 32),
        Region.LABEL: (config.steps_depth, 1, 32),
        Region.IMAGE: (config.image_depth, lanes, 8),
        Region.BIAS: (config.bias_depth, config.columns, 16),
        Region.SCALE: (SCALES, 1, 32),
        Region.MASK: (config.activation_depth, lanes, 1),
    }[region]


def element_bits(config: Config, region: Region) -> int:
    """Return the bits of an element that a buffer keeps; the host sees them padded."""
    return {
        Region.PROGRAM: 32,
        Region.ACTIVATION: config.operand_bits,
        Region.GRADIENT: config.gradient_bits,
        Region.WEIGHT: config.operand_bits,
        Region.STATE: config.state_bits,
        Region.SUMS: config.accumulator_bits,
        Region.KEEP: ceil_log2(config.steps_depth),
        Region.LABEL: 16,
        Region.IMAGE: config.operand_bits,
        Region.BIAS: 16,
        Region.SCALE: 8,
        Region.MASK: 1,
    }[region]
