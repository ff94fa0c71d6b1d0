"""Fetches a list of descriptors from memory, ahead of the core."""

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import DESCRIPTOR_FIELDS, DESCRIPTOR_WORDS, Error
from gradloom_golden.shell import LIST_ALIGNMENT, MAX_LIST

from .memory_port import ReadRequest, read_beat
from .select import select

__all__ = ["Fetcher"]

END_BIT = DESCRIPTOR_FIELDS["end"][1]


class Fetcher(wiring.Component):
    """Reads descriptors one after the other until one that ends the list.

    The core gets whole descriptors only, a word a cycle. Up to `prefetch` descriptors are read
    before they are known to belong to the list, though never beyond its limit; what comes of
    those is dropped.

    Parameters
    ----------
    config : Config
    prefetch : int
        Descriptors that are requested or wait for the core: at least 2.

    Members
    -------
    start : In(1), address : In(64), limit : In(32)
        Begin a list of at most `limit` descriptors, once `idle`.
    stop : In(1)
        No list runs: give and request nothing more.
    idle : Out(1)
        No beat is still to come.
    reads, read_data
        To the `AxiMaster`. Beats are always taken.
    program : Out(stream.Signature(32))
    list_fault : Out(8), failed_address : Out(64)
        Unless zero, the `gradloom_golden.program.Error` for which no more words come, and the
        address behind it: of a beat that memory refused, of the list, or of its end.

    Raises
    ------
    ValueError
        If `prefetch` is less than 2.
    """

    def __init__(self, config: Config, *, prefetch: int = 4):
        if prefetch < 2:
            raise ValueError(f"prefetch must be at least 2, not {prefetch!r}")
        self.config = config
        self.prefetch = prefetch
        super().__init__({
            "start": In(1),
            "address": In(64),
            "limit": In(32),
            "stop": In(1),
            "idle": Out(1),
            "reads": Out(stream.Signature(ReadRequest)),
            "read_data": In(stream.Signature(read_beat(config.axi_data_bits))),
            "program": Out(stream.Signature(32)),
            "list_fault": Out(8),
            "failed_address": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        bits = self.config.axi_data_bits
        self.beats = 32 * DESCRIPTOR_WORDS // bits
        # What a stopped list left is lost with the next start.
        buffer = SyncFIFOBuffered(width=bits, depth=self.prefetch * self.beats)
        m.submodules.buffer = ResetInserter(self.start)(buffer)
        self.coming = Signal(range(self.prefetch + 1))    # requested, not wholly here
        self.whole = Signal(range(self.prefetch + 1))     # here, not wholly given
        self.closed = Signal(init=1)                      # what arrives is not of the list
        self.reason = Signal(8)
        m.d.comb += [
            self.idle.eq(self.coming == 0),
            self.list_fault.eq(Mux(self.closed & (self.whole == 0), self.reason, Error.NONE)),
        ]
        requested = self._request(m)
        arrived, kept = self._arrive(m, buffer)
        given = self._give(m, buffer)
        m.d.sync += [
            self.coming.eq(self.coming + requested - arrived),
            self.whole.eq(self.whole + kept - given),
        ]
        with m.If(self.stop):
            m.d.sync += [self.closed.eq(1), self.whole.eq(0), self.reason.eq(Error.NONE)]
        self._begin(m)
        return m

    def _begin(self, m):
        """Check the list; `start` overrides what the rest does in the same cycle."""
        end = Signal(65)
        problem = Signal(8)
        m.d.comb += end.eq(self.address + self.limit * LIST_ALIGNMENT)
        with m.If((self.limit == 0) | (self.limit > MAX_LIST)):
            m.d.comb += problem.eq(Error.PROGRAM_LENGTH)
        with m.Elif(self.address[:ceil_log2(LIST_ALIGNMENT)] != 0):
            m.d.comb += problem.eq(Error.MEMORY_ALIGNMENT)
        with m.Elif(end > 1 << self.config.axi_address_bits):
            m.d.comb += problem.eq(Error.MEMORY_RANGE)
        with m.If(self.start):
            m.d.sync += [
                self.whole.eq(0),
                self.closed.eq(problem != Error.NONE),
                self.reason.eq(problem),
                self.failed_address.eq(self.address),
            ]

    def _request(self, m):
        """Ask for one descriptor at a time; return the pulse that counts it."""
        left = Signal(range(MAX_LIST + 1))
        address = Signal(64)
        ask = Signal()
        m.d.comb += [
            ask.eq(~self.closed & ~self.start & (left != 0)
                   & (self.coming + self.whole < self.prefetch)
                   & (~self.reads.valid | self.reads.ready)),
            self.reads.payload.beats.eq(self.beats),
        ]
        with m.If(self.reads.ready):
            m.d.sync += self.reads.valid.eq(0)
        with m.If(ask):
            m.d.sync += [
                self.reads.valid.eq(1),
                self.reads.payload.address.eq(address),
                address.eq(address + LIST_ALIGNMENT),
                left.eq(left - 1),
            ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.limit), address.eq(self.address)]
        return ask

    def _arrive(self, m, buffer):
        """Keep the beats of the list; return the ends of descriptors, and of those kept."""
        beat = self.read_data.payload
        address = Signal(64)
        next_address = Signal(64)
        left = Signal(range(MAX_LIST + 1))
        number = Signal(range(self.beats))
        is_end = Signal()
        takes = Signal()
        arrived = Signal()
        kept = Signal()
        m.d.comb += [
            self.read_data.ready.eq(1),
            next_address.eq(address + self.config.axi_data_bits // 8),
            takes.eq(self.read_data.valid & ~self.closed),
            arrived.eq(self.read_data.valid & beat.last),
            kept.eq(takes & ~beat.error & beat.last),
            buffer.w_en.eq(takes & ~beat.error),
            buffer.w_data.eq(beat.data),
        ]
        with m.If(takes):
            m.d.sync += [number.eq(number + 1), address.eq(next_address)]
            with m.If(number == 0):
                m.d.sync += is_end.eq(beat.data[END_BIT])
            with m.If(beat.error):
                m.d.sync += [
                    self.closed.eq(1), self.reason.eq(Error.FETCH_RESPONSE),
                    self.failed_address.eq(address),
                ]
        with m.If(kept):
            m.d.sync += left.eq(left - 1)
            with m.If(is_end):
                m.d.sync += self.closed.eq(1)
            with m.Elif(left == 1):
                m.d.sync += [
                    self.closed.eq(1), self.reason.eq(Error.LIST_END),
                    self.failed_address.eq(next_address),
                ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.limit), address.eq(self.address), number.eq(0)]
        return arrived, kept

    def _give(self, m, buffer):
        """Cut beats into words; return the pulse of a descriptor's last."""
        words = self.config.axi_data_bits // 32
        word = Signal(range(DESCRIPTOR_WORDS))
        part = word[:ceil_log2(words)]
        taken = Signal()
        given = Signal()
        m.d.comb += [
            self.program.valid.eq((self.whole != 0) & buffer.r_rdy),
            self.program.payload.eq(select(m, buffer.r_data, part, 32, name="words")),
            taken.eq(self.program.valid & self.program.ready),
            buffer.r_en.eq(taken & (part == words - 1)),
            given.eq(taken & (word == DESCRIPTOR_WORDS - 1)),
        ]
        with m.If(self.start):
            m.d.sync += word.eq(0)
        with m.Elif(taken):
            m.d.sync += word.eq(word + 1)
        return given
