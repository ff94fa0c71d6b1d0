"""Which weight row enters the array next."""

from amaranth import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2

from .layouts import DescriptorLayout
from .tile_loop import WeightWalk

__all__ = ["WeightLoader"]


class WeightLoader(wiring.Component):
    """Addresses of weight rows, tile by tile, in the order of `WeightWalk`.

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
        m.submodules.walk = walk = WeightWalk(
            self.config.rows, ceil_log2(self.config.weight_depth))
        m.d.comb += [
            walk.start.eq(self.start),
            walk.descriptor.eq(self.descriptor),
            walk.forward.eq(self.forward),
            walk.advance.eq(self.next),
            self.read_en.eq(self.next),
            self.read_address.eq(Mux(self.start, self.first, self.descriptor.w_base + walk.offset)),
        ]
        return m
