"""The host's side of the machine: requests in, answers out, in order."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradloom_golden.program import OFFSET_BITS, Region

from .layouts import ADDRESS_BITS, Request

__all__ = ["HostPort"]


class HostPort(wiring.Component):
    """Turns the request stream into accesses, one a cycle, and answers reads.

    While `busy`, only reads of the control region pass; everything else waits. An access is a
    pulse of `read` or `write`; what was read is taken from `answer` a cycle later.

    Members
    -------
    requests : In(stream.Signature(Request))
    responses : Out(stream.Signature(32))
        One for every read, in order.
    busy : In(1)
    read, write : Out(1)
    region : Out(4), offset : Out(OFFSET_BITS)
    data : Out(32)
    answer : In(32)
    """

    DEPTH = 4

    def __init__(self):
        super().__init__({
            "requests": In(stream.Signature(Request)),
            "responses": Out(stream.Signature(32)),
            "busy": In(1),
            "read": Out(1),
            "write": Out(1),
            "region": Out(ADDRESS_BITS - OFFSET_BITS),
            "offset": Out(OFFSET_BITS),
            "data": Out(32),
            "answer": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        request = self.requests.payload
        m.submodules.answers = answers = SyncFIFOBuffered(width=32, depth=self.DEPTH)

        pending = Signal()
        passes = ~self.busy | (~request.write & (self.region == Region.CONTROL))
        room = answers.level + pending < self.DEPTH
        taken = Signal()
        m.d.comb += [
            self.region.eq(request.address[OFFSET_BITS:]),
            self.offset.eq(request.address[:OFFSET_BITS]),
            self.data.eq(request.data),
            self.requests.ready.eq(passes & room),
            taken.eq(self.requests.valid & self.requests.ready),
            self.read.eq(taken & ~request.write),
            self.write.eq(taken & request.write),
            self.responses.valid.eq(answers.r_rdy),
            self.responses.payload.eq(answers.r_data),
            answers.r_en.eq(self.responses.ready),
            answers.w_en.eq(pending),
            answers.w_data.eq(self.answer),
        ]
        m.d.sync += pending.eq(self.read)
        return m
