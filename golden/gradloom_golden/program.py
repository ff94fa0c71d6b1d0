"""The machine's programs: descriptors, memory map, control registers and error codes.

RTL, golden machine and host all take their layout from the tables below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum

from .config import Config, ceil_log2

__all__ = [
    "COUNTERS",
    "DESCRIPTOR_FIELDS",
    "DESCRIPTOR_WORDS",
    "IDENT",
    "OFFSET_BITS",
    "Descriptor",
    "Drain",
    "Error",
    "Opcode",
    "Region",
    "Register",
    "Schedule",
    "element_bits",
    "memory_shape",
    "reserved_masks",
]

DESCRIPTOR_WORDS = 16
OFFSET_BITS = 20
IDENT = 0x474C_0001                                       # "GL", layout version 1


class Opcode(IntEnum):
    """What a descriptor does. Zero is not an operation: blank memory is no program."""

    FORWARD = 1
    BACKWARD = 2
    CONFIDENCE = 3
    ANGLE = 4


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


class Register(IntEnum):
    """Word offsets in the control region."""

    IDENT = 0
    START = 1                                             # write: run that many descriptors
    STATUS = 2                                            # bit 0 busy, 15:8 error, 31:16 which
    SEED = 3                                              # write: seed every LFSR
    KEPT = 4                                              # samples kept by the last CONFIDENCE
    BITS = 5                                              # precision picked by the last ANGLE
    CLEAR = 6                                             # write: zero the counters
    COUNTER = 32                                          # first counter; 64 bits each, low first


COUNTERS = (
    "cycles", "forward_cycles", "backward_cycles", "confidence_cycles", "angle_cycles",
    "forward_slots", "ws_slots", "os_products",
    "x_reads", "packed_reads", "d_reads", "weight_reads", "state_reads", "sum_reads", "mask_reads",
    "y_writes", "dx_writes", "packed_writes", "weight_writes", "state_writes", "sum_writes",
    "skipped_samples", "kept_samples", "descriptors",
)
"""Counters in the order of their registers.

Slots are rows streamed through one tile (each is rows x columns MACs); `os_products` counts the
activations that OS slots consumed. Reads and writes count buffer words.
"""


def _at(word: int, low: int, width: int, *, default: int | None = 0):
    place = {"place": (word, low, width)}
    return field(metadata=place) if default is None else field(default=default, metadata=place)


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """One operation. Each field names its word, low bit and width; all other bits are zero.

    Bases count words of their buffer; shifts are powers of two; `steps` is T.

    Raises
    ------
    ValueError
        If a value does not fit its field.
    """

    opcode: int = _at(0, 0, 4, default=None)
    schedule: int = _at(0, 4, 2)
    drain: int = _at(0, 6, 1)
    lanes_log2: int = _at(0, 8, 2)        # 0, 1, 2: one, two, four activations in a word
    x_unsigned: int = _at(0, 10, 1)
    relu: int = _at(0, 11, 1)             # FORWARD: clip below zero and keep the mask
    stochastic: int = _at(0, 12, 1)       # round the output stochastically, else to nearest
    gather: int = _at(0, 13, 1)           # BACKWARD: row t of X is row keep[t]
    mask: int = _at(0, 14, 1)             # BACKWARD: zero dX where the ReLU was off
    keep_sums: int = _at(0, 15, 1)        # leave the result in the sums buffer, write no output
    momentum: int = _at(0, 16, 1)
    y_unsigned: int = _at(0, 17, 1)       # FORWARD: saturate the output as unsigned
    steps: int = _at(1, 0, 16)            # rows streamed through each tile
    x_stride: int = _at(1, 16, 16)        # words from one k block of X to the next
    k_tiles: int = _at(2, 0, 16)
    n_tiles: int = _at(2, 16, 16)
    x_base: int = _at(3, 0, 32)           # CONFIDENCE: logits
    d_base: int = _at(4, 0, 32)
    w_base: int = _at(5, 0, 32)
    state_base: int = _at(6, 0, 32)       # ANGLE: 8-bit gradient
    packed_base: int = _at(7, 0, 32)      # ANGLE: tested gradient (rows of the state buffer)
    out_base: int = _at(8, 0, 32)
    out_shift: int = _at(9, 0, 5)
    x_shift: int = _at(9, 8, 3)           # low bits that packing drops
    gradient_shift: int = _at(9, 16, 5)
    rate_shift: int = _at(9, 24, 5)
    decay_shift: int = _at(9, 29, 3)      # velocity loses 2^-decay_shift of itself
    threshold: int = _at(10, 0, 16)       # CONFIDENCE: margin from which a sample is skipped
    classes: int = _at(11, 0, 16)
    bound: int = _at(12, 0, 16)           # ANGLE: least cos^2, in 2^-16
    rows: int = _at(13, 0, 16)            # ANGLE: state rows compared
    first: int = _at(14, 0, 1)            # ANGLE: clear the dot products first
    last: int = _at(14, 1, 1)             # ANGLE: decide after these rows
    fresh: int = _at(14, 2, 1)            # ANGLE: forget an earlier pick, fall back to 8 bits
    tested_bits: int = _at(14, 8, 4)      # ANGLE: width picked if the bound holds

    def __post_init__(self):
        for name, (_, _, width) in DESCRIPTOR_FIELDS.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << width:
                raise ValueError(f"descriptor field {name} has {width} bits, so not {value!r}")

    def encode(self) -> list[int]:
        """Return the `DESCRIPTOR_WORDS` 32-bit words of this descriptor."""
        words = [0] * DESCRIPTOR_WORDS
        for name, (word, low, _) in DESCRIPTOR_FIELDS.items():
            words[word] |= int(getattr(self, name)) << low
        return words

    @classmethod
    def decode(cls, words: Sequence[int]) -> "Descriptor":
        """Return the descriptor in `words`, reserved bits ignored."""
        return cls(**{
            name: int(words[word]) >> low & (1 << width) - 1
            for name, (word, low, width) in DESCRIPTOR_FIELDS.items()
        })


DESCRIPTOR_FIELDS: dict[str, tuple[int, int, int]] = {
    entry.name: entry.metadata["place"] for entry in fields(Descriptor)
}
"""Name of each field: its word, low bit and width. The rest is reserved."""


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
    }[region]
