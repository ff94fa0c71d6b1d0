"""Layouts agree with the tables of `gradloom_golden.program`."""

from amaranth.hdl import Const

from gradloom.layouts import ADDRESS_BITS, DescriptorLayout, Request
from gradloom_golden.program import (
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    OFFSET_BITS,
    Descriptor,
    Region,
)


def test_a_descriptor_has_its_fields_where_the_program_puts_them(rng):
    for _ in range(50):
        words = rng.integers(0, 1 << 32, DESCRIPTOR_WORDS).tolist()
        bits = sum(word << 32 * index for index, word in enumerate(words))
        view = DescriptorLayout.from_bits(bits)
        decoded = Descriptor.decode(words)
        for name in DESCRIPTOR_FIELDS:
            assert getattr(view, name) == getattr(decoded, name), name


def test_a_descriptor_has_no_other_field_and_all_its_words():
    assert {name for name, _ in DescriptorLayout} == set(DESCRIPTOR_FIELDS)
    assert DescriptorLayout.size == 32 * DESCRIPTOR_WORDS


def test_an_address_reaches_every_word_of_every_region():
    last = max(Region) << OFFSET_BITS | (1 << OFFSET_BITS) - 1
    assert last < 1 << ADDRESS_BITS
    request = Request.const({"data": 1, "address": last, "write": 1})
    assert Const.cast(request).value == 1 | last << 32 | 1 << 32 + ADDRESS_BITS
