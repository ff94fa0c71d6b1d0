"""The loop nest over the tiles of a layer, and block pointers that follow it."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["TILE_BITS", "BlockPointer", "TileLoop"]

TILE_BITS = 9
"""Bits of a tile count: up to 256 tiles along an edge of a layer."""


class TileLoop(wiring.Component):
    """Counts ``for outer: for inner``.

    `start` returns to the first tile; `advance` goes on by one. Flags describe the present tile.

    Members
    -------
    start, advance : In(1)
    outer_count, inner_count : In(TILE_BITS)
        At least 1; stable from the cycle after `start`.
    inner_first, inner_last, last : Out(1)
    """

    def __init__(self):
        super().__init__({
            "start": In(1), "advance": In(1),
            "outer_count": In(TILE_BITS), "inner_count": In(TILE_BITS),
            "inner_first": Out(1), "inner_last": Out(1), "last": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        outer = Signal(TILE_BITS)
        inner = Signal(TILE_BITS)
        m.d.comb += [
            self.inner_first.eq(inner == 0),
            self.inner_last.eq(inner == self.inner_count - 1),
            self.last.eq(self.inner_last & (outer == self.outer_count - 1)),
        ]
        with m.If(self.start):
            m.d.sync += [outer.eq(0), inner.eq(0)]
        with m.Elif(self.advance):
            m.d.sync += inner.eq(inner + 1)
            with m.If(self.inner_last):
                m.d.sync += [inner.eq(0), outer.eq(outer + 1)]
        return m


class BlockPointer(wiring.Component):
    """Address of a block of features, and its place in the word.

    A buffer word holds ``2**part_bits`` blocks side by side; `advance` goes to the next block: the
    next part of the word, or the first part of the word `stride` further.

    Members
    -------
    rewind, advance : In(1)
        Go to the first, to the next block; `rewind` wins.
    base, stride : In(address_bits)
        `base` must be right when `rewind` is given.
    address : Out(address_bits)
    part : Out(part_bits)
    """

    def __init__(self, address_bits: int, part_bits: int):
        self.address_bits = address_bits
        self.part_bits = part_bits
        super().__init__({
            "rewind": In(1), "advance": In(1),
            "base": In(address_bits), "stride": In(address_bits),
            "address": Out(address_bits), "part": Out(max(1, part_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        with m.If(self.rewind):
            m.d.sync += [self.address.eq(self.base), self.part.eq(0)]
        with m.Elif(self.advance):
            if self.part_bits:
                m.d.sync += self.part.eq(self.part + 1)
            with m.If(self.part == (1 << self.part_bits) - 1):
                m.d.sync += self.address.eq(self.address + self.stride)
        return m
