"""The read half of the AXI4 master."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from .axi import burst_address, read_answer
from .burst import BurstSplitter
from .memory_port import ReadRequest, read_beat
from .skid import Skid

__all__ = ["AxiReader"]

CLIENTS = 2


class AxiReader(wiring.Component):
    """Reads memory for two clients, whose bursts take turns.

    Answers come in the order of the bursts, so a client that does not take its beats also stops
    the other. Beats pass one a cycle.

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
    requests : In(stream.Signature(ReadRequest)).array(2)
    beats : Out(stream.Signature(read_beat(data_bits))).array(2)
    ar, r
        Channels of the bus; every output is a register.
    drain : In(1)
        Take no request, begin no burst, and drop what answers the bursts begun.
    idle : Out(1)
        No burst waits for an answer.
    """

    def __init__(self, data_bits: int, address_bits: int, *, burst_beats: int, outstanding: int):
        self.data_bits = data_bits
        self.address_bits = address_bits
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        super().__init__({
            "requests": In(stream.Signature(ReadRequest)).array(CLIENTS),
            "beats": Out(stream.Signature(read_beat(data_bits))).array(CLIENTS),
            "ar": Out(stream.Signature(burst_address(address_bits))),
            "r": In(stream.Signature(read_answer(data_bits))),
            "drain": In(1),
            "idle": Out(1),
        })
        self.addresses = Skid(burst_address(address_bits))

    def elaborate(self, platform):
        m = Module()
        # Which client a burst is for, and whether it is the last of its request.
        m.submodules.owners = owners = SyncFIFO(width=2, depth=self.outstanding)
        m.d.comb += self.idle.eq(~owners.r_rdy)
        self._issue(m, owners)
        self._answer(m, owners)
        return m

    def _issue(self, m, owners):
        m.submodules.addresses = addresses = self.addresses
        wiring.connect(m, addresses.o, wiring.flipped(self.ar))
        splitters = []
        for client in range(CLIENTS):
            m.submodules[f"splitter_{client}"] = splitter = BurstSplitter(
                self.data_bits, self.address_bits, self.burst_beats)
            wiring.connect(m, wiring.flipped(self.requests[client]), splitter.requests)
            m.d.comb += splitter.clear.eq(self.drain)
            splitters.append(splitter)
        first, second = (splitter.bursts for splitter in splitters)
        latest = Signal()
        chosen = Signal()
        burst = Signal.like(first.payload)
        issue = Signal()
        m.d.comb += [
            chosen.eq(Mux(latest, ~first.valid, second.valid)),
            burst.eq(Mux(chosen, second.payload, first.payload)),
            issue.eq((first.valid | second.valid) & addresses.i.ready & owners.w_rdy & ~self.drain),
            first.ready.eq(issue & ~chosen),
            second.ready.eq(issue & chosen),
            addresses.i.valid.eq(issue),
            addresses.i.payload.addr.eq(burst.addr),
            addresses.i.payload.len.eq(burst.len),
            owners.w_en.eq(issue),
            owners.w_data.eq(burst.last << 1 | chosen),
        ]
        with m.If(issue):
            m.d.sync += latest.eq(chosen)

    def _answer(self, m, owners):
        m.submodules.answers = answers = Skid(read_answer(self.data_bits))
        wiring.connect(m, wiring.flipped(self.r), answers.i)
        owner, is_last = owners.r_data
        answer = answers.o
        for client, beats in enumerate(self.beats):
            m.d.comb += [
                beats.valid.eq(answer.valid & (owner == client) & ~self.drain),
                beats.payload.data.eq(answer.payload.data),
                beats.payload.error.eq(answer.payload.resp[1]),
                beats.payload.last.eq(answer.payload.last & is_last),
            ]
        m.d.comb += [
            answer.ready.eq(Mux(owner, self.beats[1].ready, self.beats[0].ready) | self.drain),
            owners.r_en.eq(answer.valid & answer.ready & answer.payload.last),
        ]
