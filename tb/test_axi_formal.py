"""Rules of AXI that the master keeps whatever memory and clients do, proved."""
# pyright: reportCallIssue=false

import pytest
from amaranth.hdl import Assert, Assume, Const, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from axi_bounded import check_runs
from formal import ProofError, StreamContract, prove
from gradloom.axi_reader import AxiReader
from gradloom.axi_writer import AxiWriter
from gradloom.burst import PAGE_BYTES, BurstSplitter
from gradloom.skid import Skid

SIZES = [
    pytest.param(8, 14, 4, id="short bursts"),
    pytest.param(64, 16, 64, id="64 bits"),
    pytest.param(128, 14, 256, id="whole pages"),
]
BOUND = 13


NEVER = Const(0)


def holds(m, port, name, check, *, unless=NEVER):
    """Let a beat that is valid and stalled stay as it is."""
    payload = Value.cast(port.payload)
    stalled = Signal(name=f"{name}_stalled")
    before = Signal(len(payload), name=f"{name}_before")
    m.d.sync += [stalled.eq(port.valid & ~port.ready), before.eq(payload)]
    with m.If(stalled & ~ResetSignal() & ~unless):
        m.d.comb += [check(port.valid), check(payload == before)]


def around(m, frame, part):
    """Put a part into a frame that has its ports among others."""
    m.submodules.part = part
    for path, member, theirs in part.signature.flatten(part):
        ours = frame
        for name in path:
            ours = ours[name] if isinstance(name, int) else getattr(ours, name)
        if not isinstance(theirs, Const):
            target, source = (theirs, ours) if member.flow == In else (ours, theirs)
            m.d.comb += Value.cast(target).eq(source)


def is_legal(address, bytes_log2, burst_beats):
    """Return whether a burst is aligned, short enough and within a page."""
    size = (address.len + 1) << bytes_log2
    inside = address.addr & PAGE_BYTES - 1
    return ((address.addr & (1 << bytes_log2) - 1) == 0) & (address.len < burst_beats) & (
        inside + size <= PAGE_BYTES)


class AddressRules(wiring.Component):
    """A half of the master whose addresses are asserted to be legal and to stay.

    `cut` shortens what counts as a page, to see the proof fail.
    """

    def __init__(self, part, channel: str, data_bits: int, burst_beats: int, *, cut: int = 0):
        self.part = part
        self.channel = channel
        self.bytes_log2 = (data_bits // 8).bit_length() - 1
        self.burst_beats = burst_beats - cut
        super().__init__(dict(part.signature.members.items()))

    def elaborate(self, platform):
        m = Module()
        around(m, self, self.part)
        address = getattr(self, self.channel)
        skid = self.part.addresses
        wide = Signal(address.payload.shape())
        m.d.comb += Value.cast(wide).eq(skid.held)
        with m.If(~ResetSignal()):
            for valid, payload in ((address.valid, address.payload), (skid.holds, wide)):
                with m.If(valid):
                    m.d.comb += Assert(is_legal(payload, self.bytes_log2, self.burst_beats))
        holds(m, address, self.channel, Assert)
        if self.channel == "aw":
            holds(m, self.w, "w", Assert)
        return m


class ReadBooks(wiring.Component):
    """A reader before a memory that answers only what was asked, with bursts of any length."""

    def __init__(self, *, allowed: int = 2):
        self.part = AxiReader(8, 14, burst_beats=4, outstanding=2)
        self.allowed = allowed
        super().__init__({**dict(self.part.signature.members.items()), "full": Out(1),
                          "rests": Out(1)})

    def elaborate(self, platform):
        m = Module()
        around(m, self, self.part)
        waiting = Signal(4)
        begins = self.ar.valid & self.ar.ready
        ends = self.r.valid & self.r.ready & self.r.payload.last
        worked = Signal()
        m.d.sync += [waiting.eq(waiting + begins - ends), worked.eq(worked | begins)]
        m.d.comb += [self.full.eq(waiting == 2), self.rests.eq(worked & self.idle)]
        with m.If(~ResetSignal()):
            m.d.comb += [
                Assume(~self.r.valid | (waiting != 0)),
                Assert(waiting <= self.allowed),
                Assert(~self.idle | ((waiting == 0) & ~self.ar.valid)),
            ]
        holds(m, self.r, "r", Assume)
        for client, (request, beats) in enumerate(zip(self.requests, self.beats, strict=True)):
            holds(m, request, f"request_{client}", Assume, unless=self.drain)
            holds(m, beats, f"beats_{client}", Assert, unless=self.drain)
        return m


class WriteBooks(wiring.Component):
    """A writer before a memory that answers each burst once, when it has come.

    Whatever number `which` is: that burst has as many beats as its address said.
    """

    def __init__(self, *, longer: int = 0):
        self.part = AxiWriter(8, 14, burst_beats=4, outstanding=2)
        self.longer = longer
        super().__init__({**dict(self.part.signature.members.items()), "which": In(2),
                          "compared": Out(1), "rests": Out(1)})

    def elaborate(self, platform):
        m = Module()
        around(m, self, self.part)
        begins = self.aw.valid & self.aw.ready
        passes = self.w.valid & self.w.ready
        ends = passes & self.w.payload.last
        answers = self.b.valid & self.b.ready
        begun, ended, answered = Signal(4), Signal(4), Signal(4)
        beats = Signal(4)
        said, counted = Signal(4), Signal(4)
        m.d.sync += [
            begun.eq(begun + begins), ended.eq(ended + ends), answered.eq(answered + answers)]
        with m.If(begins & (begun == self.which)):
            m.d.sync += said.eq(self.aw.payload.len + 1 + self.longer)
        with m.If(passes):
            m.d.sync += beats.eq(beats + 1)
        with m.If(ends):
            m.d.sync += beats.eq(0)
            with m.If(ended == self.which):
                m.d.sync += counted.eq(beats + 1)
        running, which = Signal(), Signal.like(self.which)
        m.d.sync += [running.eq(1), which.eq(self.which)]
        m.d.comb += [
            self.compared.eq((said == 4) & (counted == 4)),
            self.rests.eq((begun == 2) & self.idle),
        ]
        with m.If(~ResetSignal()):
            m.d.comb += [
                Assume(~running | (which == self.which)),
                Assume(~self.b.valid | ((answered < begun) & (answered < ended))),
                Assert((said == 0) | (counted == 0) | (said == counted)),
                Assert(begun - answered <= 2),
                Assert(~self.idle | ((begun == ended) & (begun == answered) & ~self.aw.valid
                                     & ~self.w.valid)),
            ]
        holds(m, self.b, "b", Assume)
        holds(m, self.requests, "requests", Assume, unless=self.drain)
        holds(m, self.beats, "beats", Assume, unless=self.drain)
        holds(m, self.done, "done", Assert, unless=self.drain)
        return m


def test_skid_keeps_the_stream_rule():
    prove(StreamContract(Skid(4)), depth=5)


def test_splitter_keeps_the_stream_rule():
    prove(StreamContract(BurstSplitter(64, 14, 4), held=("clear",)), depth=5)


@pytest.mark.parametrize(("data_bits", "address_bits", "beats"), SIZES)
@pytest.mark.parametrize(("part", "channel"), [(AxiReader, "ar"), (AxiWriter, "aw")])
def test_no_burst_is_illegal_or_changes(part, channel, data_bits, address_bits, beats):
    half = part(data_bits, address_bits, burst_beats=beats, outstanding=2)
    prove(AddressRules(half, channel, data_bits, beats), depth=4)


def test_a_rule_too_narrow_is_refuted():
    half = AxiReader(8, 14, burst_beats=4, outstanding=2)
    with pytest.raises(ProofError):
        prove(AddressRules(half, "ar", 8, 4, cut=1), depth=4)


def test_reads_are_counted():
    check_runs(ReadBooks(), depth=BOUND, reachable=("full", "rests"))


def test_writes_are_counted():
    check_runs(WriteBooks(), depth=BOUND, reachable=("compared", "rests"))


def test_books_too_narrow_are_refuted():
    with pytest.raises(ProofError):
        check_runs(ReadBooks(allowed=1), depth=BOUND)
    with pytest.raises(ProofError):
        check_runs(WriteBooks(longer=1), depth=BOUND)


