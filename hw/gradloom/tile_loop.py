"""The loop nest over the tiles of a layer, and block pointers that follow it."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .layouts import DescriptorLayout

__all__ = ["TILE_BITS", "BlockPointer", "TapPointer", "TileLoop", "WeightWalk"]

TILE_BITS = 9
"""Bits of a tile count: up to 256 tiles along an edge of a layer."""


class TileLoop(wiring.Component):
    """Walks over the weight tiles: blocks of features, taps (y, x) of a kernel, output tiles n.

    Forward, n is the outer loop and the reduction over blocks, y and x the inner one. Backward, n
    is innermost. `start` returns to the first tile; `advance` goes on by one. Flags describe the
    present tile; a ``step_`` flag says that its counter moves with this `advance`, from the last
    place back to the first.

    Members
    -------
    start, advance : In(1)
    descriptor : In(DescriptorLayout)
        Stable from the cycle after `start`.
    forward : In(1)
    inner_first, inner_last, last : Out(1)
        First and last tile of what is reduced into one block of results; last tile of all.
    step_n, step_x, step_y, step_block : Out(1)
    last_n, last_x, last_y, last_block : Out(1)
    """

    LEVELS = ("n", "x", "y", "block")

    def __init__(self):
        super().__init__({
            "start": In(1), "advance": In(1), "descriptor": In(DescriptorLayout),
            "forward": In(1),
            "inner_first": Out(1), "inner_last": Out(1), "last": Out(1),
            **{f"{flag}_{level}": Out(1) for flag in ("step", "last") for level in self.LEVELS},
        })

    def elaborate(self, platform):
        m = Module()
        descriptor, forward = self.descriptor, self.forward
        counts = {
            "n": descriptor.n_tiles[:TILE_BITS],
            "x": Mux(descriptor.conv, descriptor.taps_x, 1),
            "y": Mux(descriptor.conv, descriptor.taps_y, 1),
            "block": descriptor.k_tiles[:TILE_BITS],
        }
        first, last, step = {}, {}, {}
        for level in self.LEVELS:
            counter = Signal(TILE_BITS, name=f"counter_{level}")
            last[level] = getattr(self, f"last_{level}")
            step[level] = getattr(self, f"step_{level}")
            first[level] = counter == 0
            m.d.comb += last[level].eq(counter == counts[level] - 1)
            with m.If(self.start):
                m.d.sync += counter.eq(0)
            with m.Elif(step[level]):
                m.d.sync += counter.eq(Mux(last[level], 0, counter + 1))

        taps_last = last["x"] & last["y"]
        outputs_last = forward | last["n"]
        m.d.comb += [
            step["n"].eq(self.advance & (~forward | (taps_last & last["block"]))),
            step["x"].eq(self.advance & outputs_last),
            step["y"].eq(self.advance & outputs_last & last["x"]),
            step["block"].eq(self.advance & outputs_last & taps_last),
            self.last.eq(last["n"] & taps_last & last["block"]),
        ]
        moving = descriptor.conv & descriptor.d_moves
        taps_first = first["x"] & first["y"]
        m.d.comb += [
            self.inner_first.eq(Mux(forward, taps_first & first["block"],
                                    first["n"] & (taps_first | ~moving))),
            self.inner_last.eq(Mux(forward, taps_last & last["block"],
                                   last["n"] & (taps_last | ~moving))),
        ]
        return m


class TapPointer(wiring.Component):
    """A number that grows by `row` with each tap row, and by `pixel` with each tap in it.

    Parameters
    ----------
    bits : int
        Of the number and its steps, which wrap.

    Members
    -------
    rewind : In(1)
    step_x, step_y, last_x, last_y : In(1)
        Of a `TileLoop`.
    row, pixel : In(bits)
    offset : Out(bits)
    """

    def __init__(self, bits: int):
        self.bits = bits
        super().__init__({
            "rewind": In(1), "step_x": In(1), "step_y": In(1), "last_x": In(1), "last_y": In(1),
            "row": In(bits), "pixel": In(bits), "offset": Out(bits),
        })

    def follow(self, m, loop: TileLoop, start) -> None:
        """Move with `loop`, and return at `start`."""
        m.d.comb += self.rewind.eq(start)
        for name in ("step_x", "step_y", "last_x", "last_y"):
            m.d.comb += getattr(self, name).eq(getattr(loop, name))

    def elaborate(self, platform):
        m = Module()
        row = Signal(self.bits)
        next_row = Signal(self.bits)
        m.d.comb += next_row.eq(row)
        with m.If(self.rewind):
            m.d.comb += next_row.eq(0)
        with m.Elif(self.step_y):
            m.d.comb += next_row.eq(Mux(self.last_y, 0, row + self.row))
        m.d.sync += row.eq(next_row)
        with m.If(self.rewind | self.step_y):
            m.d.sync += self.offset.eq(next_row)
        with m.Elif(self.step_x):
            m.d.sync += self.offset.eq(Mux(self.last_x, row, self.offset + self.pixel))
        return m


class WeightWalk(wiring.Component):
    """Rows of weight tiles, tile by tile, as an offset from the first.

    Members
    -------
    start : In(1)
        Return to the first row, or with `advance` to the second.
    descriptor : In(DescriptorLayout), forward : In(1)
        Right from the cycle after `start` on.
    advance : In(1)
    offset : Out(address_bits)
    tile_first : Out(1)
        This is the first row of a tile.
    step_n, last_n : Out(1)
        As of a `TileLoop`.
    """

    def __init__(self, rows: int, address_bits: int):
        self.rows = rows
        self.address_bits = address_bits
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout), "forward": In(1),
            "advance": In(1), "offset": Out(address_bits), "tile_first": Out(1),
            "step_n": Out(1), "last_n": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        descriptor = self.descriptor
        bits = self.address_bits - ceil_log2(self.rows)
        row = Signal(range(self.rows))
        m.submodules.loop = loop = TileLoop()
        m.submodules.tap = tap = TapPointer(bits)
        tap.follow(m, loop, self.start)
        tile_ends = self.advance & (row == self.rows - 1)
        block, n = Signal(bits), Signal(bits)
        m.d.comb += [
            loop.start.eq(self.start),
            loop.descriptor.eq(descriptor),
            loop.forward.eq(self.forward),
            loop.advance.eq(tile_ends),
            tap.row.eq(descriptor.w_row),
            tap.pixel.eq(descriptor.w_pixel),
            self.offset.eq(Cat(row, (block + tap.offset + n)[:bits])),
            self.tile_first.eq(row == 0),
            self.step_n.eq(loop.step_n),
            self.last_n.eq(loop.last_n),
        ]
        with m.If(self.start):
            m.d.sync += [row.eq(self.advance), block.eq(0), n.eq(0)]
        with m.Else():
            with m.If(self.advance):
                m.d.sync += row.eq(row + 1)
            with m.If(loop.step_n):
                m.d.sync += n.eq(Mux(loop.last_n, 0, n + 1))
            with m.If(loop.step_block):
                stride = Mux(descriptor.conv, descriptor.w_block, descriptor.n_tiles)
                m.d.sync += block.eq(Mux(loop.last_block, 0, block + stride))
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
