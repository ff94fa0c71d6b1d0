"""Descriptors as words, and the map of the machine."""

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_golden.config import PRESETS, preset
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    OFFSET_BITS,
    SIGNED_FIELDS,
    Descriptor,
    Region,
    Register,
    element_bits,
    memory_shape,
    reserved_masks,
)

WITHOUT_WINDOW = (Region.CONTROL, Region.SHELL)
"""Regions that are registers rather than a buffer."""


def field_range(name):
    return integer_range(DESCRIPTOR_FIELDS[name][2], signed=name in SIGNED_FIELDS)


VALUES = st.fixed_dictionaries(
    {name: st.integers(*field_range(name)) for name in DESCRIPTOR_FIELDS})


@given(VALUES)
def test_decode_reads_what_encode_wrote(values):
    descriptor = Descriptor(**values)
    words = descriptor.encode()
    assert len(words) == DESCRIPTOR_WORDS
    assert all(0 <= word < 1 << 32 for word in words)
    assert not any(word & mask for word, mask in zip(words, reserved_masks(), strict=True))
    assert Descriptor.decode(words) == descriptor


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=DESCRIPTOR_WORDS,
                max_size=DESCRIPTOR_WORDS))
def test_encode_writes_all_but_reserved_bits(words):
    expected = [word & ~mask for word, mask in zip(words, reserved_masks(), strict=True)]
    assert Descriptor.decode(words).encode() == expected


@pytest.mark.parametrize("name", DESCRIPTOR_FIELDS)
def test_each_field_has_its_place_and_its_limit(name):
    word, low, width = DESCRIPTOR_FIELDS[name]
    least, most = field_range(name)
    for value in (least, -1, most):
        if value < least:
            continue
        blank = Descriptor(opcode=0).encode()
        written = Descriptor(**{"opcode": 0, name: value})
        blank[word] = value % (1 << width) << low
        assert written.encode() == blank
        assert getattr(Descriptor.decode(blank), name) == value
    for value in (least - 1, most + 1):
        message = f"descriptor field {name} lies between {least} and {most}, so not {value}"
        with pytest.raises(ValueError, match=f"^{message}$"):
            Descriptor(**{"opcode": 0, name: value})


def test_no_two_fields_share_a_bit():
    used = [0] * DESCRIPTOR_WORDS
    for word, low, width in DESCRIPTOR_FIELDS.values():
        assert low + width <= 32
        bits = (1 << width) - 1 << low
        assert not used[word] & bits
        used[word] |= bits
    assert [mask ^ (1 << 32) - 1 for mask in reserved_masks()] == used
    assert [entry.name for entry in fields(Descriptor)] == list(DESCRIPTOR_FIELDS)


def test_what_points_back_is_signed():
    assert {
        "d_offset", "n_first", "rate", "tap_dx", "tap_dy", "tap_pixel", "tap_row", "x_first",
        "x_offset", "y_first",
    } == SIGNED_FIELDS


def test_the_opcode_must_be_given():
    with pytest.raises(TypeError, match=re.escape("'opcode'")):
        Descriptor()


def test_the_counters_fit_the_control_region():
    assert len(set(COUNTERS)) == len(COUNTERS)
    assert Register.COUNTER > max(register for register in Register
                                  if register is not Register.COUNTER)


@pytest.mark.parametrize("name", PRESETS)
def test_every_region_fits_its_addresses(name):
    config = preset(name)
    for region in Region:
        if region in WITHOUT_WINDOW:
            continue
        depth, elements, bits = memory_shape(config, region)
        per_word = min(elements, 32 // bits)
        assert element_bits(config, region) <= bits
        assert elements % per_word == 0
        assert depth * elements // per_word <= 1 << OFFSET_BITS


def test_memory_shapes_follow_the_configuration():
    config = preset("tiny").with_changes(rows=8, gradient_bits=16)
    assert {region: memory_shape(config, region) for region in Region
            if region not in WITHOUT_WINDOW} == {
        Region.PROGRAM: (512, 1, 32), Region.ACTIVATION: (256, 8, 8),
        Region.GRADIENT: (128, 8, 16), Region.WEIGHT: (128, 4, 8), Region.STATE: (128, 4, 32),
        Region.SUMS: (32, 8, 32), Region.KEEP: (32, 1, 32), Region.LABEL: (32, 1, 32),
        Region.IMAGE: (128, 8, 8), Region.BIAS: (16, 4, 16), Region.SCALE: (128, 1, 32),
        Region.MASK: (256, 8, 1),
    }
