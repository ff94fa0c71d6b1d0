"""Shapes that travel between components."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from amaranth import signed, unsigned
from amaranth.lib import data

from gradloom_golden.program import DESCRIPTOR_FIELDS, DESCRIPTOR_WORDS, OFFSET_BITS, SIGNED_FIELDS

__all__ = ["DescriptorLayout", "Mode", "Request", "Wave"]

ADDRESS_BITS = OFFSET_BITS + 4

DescriptorLayout = data.FlexibleLayout(32 * DESCRIPTOR_WORDS, {
    name: data.Field(signed(width) if name in SIGNED_FIELDS else unsigned(width), 32 * word + low)
    for name, (word, low, width) in DESCRIPTOR_FIELDS.items()
})
"""A descriptor as `gradloom_golden.program` lays it out."""


class Request(data.Struct):
    """One access through the host port, to a 32-bit word."""

    data: 32
    address: ADDRESS_BITS
    write: 1


class Mode(data.Struct):
    """What a whole descriptor has in common; changes only while the array is empty."""

    forward: 1
    two: 1                             # two 4-bit activations in a word
    four: 1                            # four 2-bit activations in a word


class Wave(data.Struct):
    """Commands that ripple through the array, one cell per cycle south and east.

    Without `os` a slot is weight-stationary. `swap` (overlap only) exchanges what the cell works on
    with what its shadow chain holds, at the end of the slot.
    """

    os: 1
    swap: 1
