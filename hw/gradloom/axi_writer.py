"""The write half of the AXI4 master."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from .axi import WriteAnswer, burst_address
from .axi import write_beat as axi_write_beat
from .burst import BurstSplitter
from .memory_port import WriteDone, WriteRequest, write_beat
from .skid import Skid

__all__ = ["AxiWriter"]


class AxiWriter(wiring.Component):
    """Writes memory, a beat a cycle, and tells when each request has been answered.

    Parameters
    ----------
    data_bits, address_bits : int
        Widths of the bus.
    burst_beats : int
        As of `gradloom.burst.BurstSplitter`.
    outstanding : int
        Most bursts that wait for their answers.

    Members
    -------
    requests : In(stream.Signature(WriteRequest))
    beats : In(stream.Signature(write_beat(data_bits)))
        Those of all requests, in order; none is taken before its burst has begun.
    done : Out(stream.Signature(WriteDone))
        One for each request, in order.
    aw, w, b
        Channels of the bus; every output is a register.
    drain : In(1)
        Take no request, begin no burst, and end those begun with beats that write nothing.
    idle : Out(1)
        No burst waits for beats or its answer.
    """

    def __init__(self, data_bits: int, address_bits: int, *, burst_beats: int, outstanding: int):
        self.data_bits = data_bits
        self.address_bits = address_bits
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        super().__init__({
            "requests": In(stream.Signature(WriteRequest)),
            "beats": In(stream.Signature(write_beat(data_bits))),
            "done": Out(stream.Signature(WriteDone)),
            "aw": Out(stream.Signature(burst_address(address_bits))),
            "w": Out(stream.Signature(axi_write_beat(data_bits))),
            "b": In(stream.Signature(WriteAnswer)),
            "drain": In(1),
            "idle": Out(1),
        })
        self.addresses = Skid(burst_address(address_bits))

    def elaborate(self, platform):
        m = Module()
        m.submodules.lengths = lengths = SyncFIFO(width=8, depth=self.outstanding)
        # Whether a burst is the last of its request.
        m.submodules.ends = ends = SyncFIFO(width=1, depth=self.outstanding)
        m.d.comb += self.idle.eq(~lengths.r_rdy & ~ends.r_rdy)
        self._issue(m, lengths, ends)
        self._beats(m, lengths)
        self._answer(m, ends)
        return m

    def _issue(self, m, lengths, ends):
        m.submodules.addresses = addresses = self.addresses
        wiring.connect(m, addresses.o, wiring.flipped(self.aw))
        m.submodules.splitter = splitter = BurstSplitter(
            self.data_bits, self.address_bits, self.burst_beats)
        burst = splitter.bursts.payload
        issue = Signal()
        m.d.comb += [
            splitter.requests.valid.eq(self.requests.valid),
            splitter.requests.payload.address.eq(self.requests.payload.address),
            splitter.requests.payload.beats.eq(self.requests.payload.beats),
            self.requests.ready.eq(splitter.requests.ready),
            splitter.clear.eq(self.drain),
            issue.eq(splitter.bursts.valid & addresses.i.ready & lengths.w_rdy & ends.w_rdy
                     & ~self.drain),
            splitter.bursts.ready.eq(issue),
            addresses.i.valid.eq(issue),
            addresses.i.payload.addr.eq(burst.addr),
            addresses.i.payload.len.eq(burst.len),
            lengths.w_en.eq(issue),
            lengths.w_data.eq(burst.len),
            ends.w_en.eq(issue),
            ends.w_data.eq(burst.last),
        ]

    def _beats(self, m, lengths):
        m.submodules.beats = beats = Skid(axi_write_beat(self.data_bits))
        wiring.connect(m, beats.o, wiring.flipped(self.w))
        number = Signal(8)
        beat = beats.i.payload
        given = self.beats.payload
        m.d.comb += [
            beats.i.valid.eq(lengths.r_rdy & (self.beats.valid | self.drain)),
            beat.data.eq(given.data),
            beat.strb.eq(Mux(self.drain, 0, given.strobe)),
            beat.last.eq(number == lengths.r_data),
            self.beats.ready.eq(lengths.r_rdy & beats.i.ready & ~self.drain),
        ]
        with m.If(beats.i.valid & beats.i.ready):
            m.d.sync += number.eq(Mux(beat.last, 0, number + 1))
            m.d.comb += lengths.r_en.eq(beat.last)

    def _answer(self, m, ends):
        m.submodules.answers = answers = Skid(WriteAnswer)
        wiring.connect(m, wiring.flipped(self.b), answers.i)
        answer = answers.o
        refused = Signal()
        refused_before = Signal()
        m.d.comb += [
            refused.eq(refused_before | answer.payload.resp[1]),
            self.done.valid.eq(answer.valid & ends.r_data & ~self.drain),
            self.done.payload.error.eq(refused),
            answer.ready.eq(self.done.ready | ~ends.r_data | self.drain),
            ends.r_en.eq(answer.valid & answer.ready),
        ]
        with m.If(ends.r_en):
            m.d.sync += refused_before.eq(refused & ~ends.r_data & ~self.drain)
