"""Which weight row enters the array next."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2

from .layouts import DescriptorLayout
from .tile_loop import TileLoop

__all__ = ["WeightLoader"]


class WeightLoader(wiring.Component):
    """Addresses of weight rows, tile by tile.

    Tile (k, n) of a layer with N column tiles starts at ``w_base + (k N + n) rows``. The forward
    pass takes k in the inner loop, the backward pass n.

    Members
    -------
    start : In(1), first : In
        Read the first row, at `first`; `descriptor` is right from the next cycle on.
    descriptor : In(DescriptorLayout)
    forward : In(1)
    next : In(1)
        Read a row in this cycle; given with `start`, too.
    read_en : Out(1), read_address : Out
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1),
            "first": In(ceil_log2(config.weight_depth)),
            "descriptor": In(DescriptorLayout),
            "forward": In(1),
            "next": In(1),
            "read_en": Out(1),
            "read_address": Out(ceil_log2(config.weight_depth)),
        })

    def elaborate(self, platform):
        m = Module()
        rows = self.config.rows
        descriptor = self.descriptor
        address = Signal(ceil_log2(self.config.weight_depth))
        outer_base = Signal.like(address)
        row = Signal(range(rows))
        m.submodules.loop = loop = TileLoop()
        m.d.comb += [
            loop.start.eq(self.start),
            loop.outer_count.eq(Mux(self.forward, descriptor.n_tiles, descriptor.k_tiles)),
            loop.inner_count.eq(Mux(self.forward, descriptor.k_tiles, descriptor.n_tiles)),
            loop.advance.eq(self.next & (row == rows - 1)),
            self.read_en.eq(self.next),
            self.read_address.eq(Mux(self.start, self.first, address + row)),
        ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.first), outer_base.eq(self.first), row.eq(1)]
        with m.Elif(self.next):
            m.d.sync += row.eq(row + 1)
            with m.If(loop.advance):
                with m.If(~self.forward):
                    m.d.sync += address.eq(address + rows)
                with m.Elif(loop.inner_last):
                    m.d.sync += [
                        address.eq(outer_base + rows), outer_base.eq(outer_base + rows),
                    ]
                with m.Else():
                    m.d.sync += address.eq(address + descriptor.n_tiles * rows)
        return m
