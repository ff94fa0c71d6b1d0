"""A register in a stream that cuts its paths in both directions."""

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Skid"]


class Skid(wiring.Component):
    """Passes a beat a cycle, a cycle late; every output is a register.

    `i.ready` goes down a cycle after the output stalls, so one more beat is held.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    def __init__(self, shape: ShapeLike):
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
        })
        # Made here so that a proof can speak of them.
        self.held = Signal.like(Value.cast(self.i.payload), name="held")
        self.holds = Signal()

    def elaborate(self, platform):
        m = Module()
        incoming, outgoing = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.d.comb += self.i.ready.eq(~self.holds)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(self.holds | self.i.valid),
                outgoing.eq(Mux(self.holds, self.held, incoming)),
                self.holds.eq(0),
            ]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [self.held.eq(incoming), self.holds.eq(1)]
        return m
