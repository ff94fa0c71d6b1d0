"""The machine's contract as a C header, for drivers that run without Python."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from enum import IntEnum, IntFlag

from gradloom import __version__
from gradloom_golden.config import Config
from gradloom_golden.fixed import integer_range
from gradloom_golden.importance import EXTRA_PLACE, MOST
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    IDENT,
    OFFSET_BITS,
    SCALES,
    SIGNED_FIELDS,
    Drain,
    Error,
    Function,
    Opcode,
    Region,
    Register,
    Schedule,
    SkipRule,
    element_bits,
    memory_shape,
)
from gradloom_golden.shell import (
    LIST_ALIGNMENT,
    MAX_LIST,
    RESET_KEY,
    Interrupt,
    ShellRegister,
    Status,
)

from .layout import words_each

__all__ = ["CODES", "byte_offset", "c_header"]

WORD_BYTES = 4
CODES = (Opcode, Function, SkipRule, Schedule, Drain, Error, Region, Interrupt, Status)
"""Enumerations of which every entry has a name outside this package."""

HEAD = """\
/* GradLoom {version}, generated: registers, memories and descriptors of one machine.
 * C99 and C++11. Offsets are bytes on the AXI4-Lite port. */
#ifndef GRADLOOM_H
#define GRADLOOM_H

#include <stdint.h>
"""

MACROS = """\
/* Byte offset of a 32-bit word of a region. */
#define GRADLOOM_ADDRESS(region, word) \\
    ((((uint32_t)(region) << {offset_bits}) | (uint32_t)(word)) * {word_bytes}u)

/* Of what the shell's status register tells. */
#define GRADLOOM_STATUS_ERROR(status) (((uint32_t)(status) >> 8) & 0xFFu)
#define GRADLOOM_STATUS_FAILED(status) ((uint32_t)(status) >> 16)

/* Threshold of a LOSS with GRADLOOM_SKIP_RULE_IMPORTANCE; both from 0 to {most}. */
#define GRADLOOM_IMPORTANCE(cap, extra) ((uint32_t)(cap) | ((uint32_t)(extra) << {extra_place}))
"""

DESCRIPTOR = """\
/* A descriptor as it lies in memory, little-endian. All zero but for what is set. */
struct gradloom_descriptor {{
    uint32_t words[{words}];
}};

static inline uint32_t gradloom_get_bits(
    const struct gradloom_descriptor *d, unsigned word, unsigned low, unsigned width)
{{
    return (d->words[word] >> low) & (0xFFFFFFFFu >> (32u - width));
}}

static inline void gradloom_set_bits(
    struct gradloom_descriptor *d, unsigned word, unsigned low, unsigned width, uint32_t value)
{{
    const uint32_t mask = 0xFFFFFFFFu >> (32u - width);
    d->words[word] = (d->words[word] & ~(mask << low)) | ((value & mask) << low);
}}

static inline int32_t gradloom_get_signed(
    const struct gradloom_descriptor *d, unsigned word, unsigned low, unsigned width)
{{
    const uint32_t sign = 1u << (width - 1u);
    return (int32_t)(gradloom_get_bits(d, word, low, width) ^ sign) - (int32_t)sign;
}}

/* The fields. Setters cut a value to the range that stands above them. */
"""

FIELD = """\
/* {low} to {high} */
static inline void gradloom_set_{name}(struct gradloom_descriptor *d, {type} value)
{{ gradloom_set_bits(d, {place}, {cast}value); }}
static inline {type} gradloom_get_{name}(const struct gradloom_descriptor *d)
{{ return gradloom_get_{kind}(d, {place}); }}
"""

ERROR_TEXT = """\
/* The name of an error code. */
static inline const char *gradloom_error_text(uint32_t error)
{{
    switch (error) {{
{cases}
    default: return "UNKNOWN";
    }}
}}
"""


def byte_offset(region: Region, word: int) -> int:
    """Return where a 32-bit word of a region lies on the AXI4-Lite port, in bytes."""
    return (region << OFFSET_BITS | word) * WORD_BYTES


def c_header(config: Config) -> str:
    """Return `gradloom.h`, the same for the same configuration.

    It has the configuration, the codes of `gradloom_golden.program`, the registers, the sizes and
    places of the memories, and ``struct gradloom_descriptor`` with a setter and a getter a field.
    """
    parts = [
        HEAD.format(version=__version__),
        _defines(_configuration(config)),
        *(_codes(kind) for kind in CODES),
        MACROS.format(offset_bits=OFFSET_BITS, word_bytes=WORD_BYTES, most=MOST,
                       extra_place=EXTRA_PLACE),
        _registers("register", Region.CONTROL, Register),
        _registers("shell", Region.SHELL, ShellRegister),
        _counters(),
        *(_memory(config, region) for region in Region
          if region not in (Region.CONTROL, Region.SHELL)),
        DESCRIPTOR.format(words=DESCRIPTOR_WORDS),
        *(_field(name) for name in DESCRIPTOR_FIELDS),
        ERROR_TEXT.format(cases="\n".join(
            f'    case {error:d}: return "{error.name}";' for error in Error)),
        "#endif\n",
    ]
    return "\n".join(parts)


def _configuration(config: Config) -> Iterator[tuple[str, int | str]]:
    for field in fields(config):
        yield field.name, int(getattr(config, field.name))
    yield "lane_count", config.lane_count
    yield "residue_bits", config.residue_bits
    yield "ident", f"0x{IDENT:08X}"
    yield "reset_key", f"0x{RESET_KEY:08X}"
    yield "scales", SCALES
    yield "list_alignment", LIST_ALIGNMENT
    yield "max_list", MAX_LIST


def _defines(values: Iterable[tuple[str, int | str]]) -> str:
    return "".join(f"#define GRADLOOM_{name.upper()} {value}u\n" for name, value in values)


def _enum(name: str, entries: Iterable[tuple[str, str]]) -> str:
    lines = [f"    GRADLOOM_{name.upper()}_{entry.upper()} = {value}" for entry, value in entries]
    return f"enum gradloom_{name} {{\n" + ",\n".join(lines) + "\n};\n"


def _codes(kind: type[IntEnum] | type[IntFlag]) -> str:
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")
    return _enum(name, ((entry.name or "", str(int(entry))) for entry in kind))


def _registers(name: str, region: Region, kind: type[IntEnum]) -> str:
    return _enum(name, (
        (entry.name, f"0x{byte_offset(region, entry):07X}") for entry in kind))


def _counters() -> str:
    """Return where the low halves of the counters lie; the high ones follow them."""
    return "/* Low halves; the high halves follow. */\n" + _enum("counter", (
        (name, f"0x{byte_offset(Region.CONTROL, Register.COUNTER + 2 * index):07X}")
        for index, name in enumerate(COUNTERS)))


def _memory(config: Config, region: Region) -> str:
    depth, elements, bits = memory_shape(config, region)
    name = region.name
    return _defines([
        (f"{name}_OFFSET", f"0x{byte_offset(region, 0):07X}"),
        (f"{name}_WORDS", depth),
        (f"{name}_ELEMENTS", elements),
        (f"{name}_ELEMENT_BITS", element_bits(config, region)),
        (f"{name}_PADDED_BITS", bits),
        (f"{name}_PORT_WORDS", words_each(config, region)),
    ])


def _field(name: str) -> str:
    word, low, width = DESCRIPTOR_FIELDS[name]
    signed = name in SIGNED_FIELDS
    least, most = integer_range(width, signed=signed)
    return FIELD.format(
        name=name, low=least, high=most, place=f"{word}, {low}, {width}",
        type="int32_t" if signed else "uint32_t", kind="signed" if signed else "bits",
        cast="(uint32_t)" if signed else "")
