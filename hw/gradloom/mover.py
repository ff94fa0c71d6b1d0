"""The mover: rows of words between a buffer and memory."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.fixed import HALF
from gradloom_golden.lfsr import Bank
from gradloom_golden.program import Error, Opcode, Region, element_bits, memory_shape
from gradloom_golden.transfer import REGIONS, word_bits

from .compress import CompressLane, ExpandLane
from .emit import place, place_unit
from .gearbox import Narrower, Widener
from .layouts import DescriptorLayout
from .lfsr import Lfsr
from .memory_port import ReadRequest, WriteDone, WriteRequest, read_beat, write_beat
from .row_requests import RowRequests

__all__ = ["BufferPlace", "Mover", "buffer_word", "host_word", "transfer_bits", "transfer_widths"]

NIBBLE, CRUMB = 4, 2


class BufferPlace(data.Struct):
    """A word of a buffer: a `Region` that can be moved, and which word."""

    region: 4
    address: 16


def transfer_widths(config: Config) -> tuple[int, ...]:
    """Return the bits that a buffer word can take in memory, ascending."""
    widths = {word_bits(config, region) for region in REGIONS}
    return tuple(sorted(widths | {
        word_bits(config, Region.ACTIVATION, bits) for bits in (NIBBLE, CRUMB)}))


def transfer_bits(config: Config) -> int:
    """Return the bits of the widest word, as the host sees it."""
    return transfer_widths(config)[-1]


def buffer_word(config: Config, region: Region, word: Value) -> Value:
    """Return the elements that a buffer keeps of a word as the host sees it."""
    _, elements, host_bits = memory_shape(config, region)
    bits = element_bits(config, region)
    return Cat(word[index * host_bits:][:bits] for index in range(elements))


def host_word(config: Config, region: Region, word: Value) -> Value:
    """Return a buffer's word as the host sees it, each element padded with zeros."""
    _, elements, host_bits = memory_shape(config, region)
    bits = element_bits(config, region)
    return Cat(Cat(word[index * bits:(index + 1) * bits], Const(0, host_bits - bits))
               for index in range(elements))


class Mover(wiring.Component):
    """Executes LOAD and SAVE as `gradloom_golden.transfer` defines them.

    A row's requests do not wait for the data of the row before. A word a cycle moves, or a beat
    of the bus if a word has more. Words pass the buffer's ports as the host sees them, see
    `buffer_word` and `host_word`. An error that the memory reports is kept, and the transfer goes
    on to its end; it wins over that of a gathered row behind it.

    Parameters
    ----------
    config : Config
    most_beats : int
        Of one request to memory.

    Members
    -------
    start : In(1)
        `descriptor` is new.
    descriptor : In(DescriptorLayout)
        A LOAD or SAVE, whose `rows` are those that move. Constant until `busy` falls.
    busy : Out(1)
        Up from the cycle after `start`, until the last word was given to the buffer or the last
        write to memory was answered.
    error, failed_address : Out(8), Out(64)
        Valid from the cycle in which `busy` falls until the next `start`.
    seed_load, seed : In
        Of the LFSRs that round saved activations; one draw a word.
    keep_address : Out, keep_index : In
        Keep list, answered a cycle later.
    buffer_write : Out(stream.Signature(struct of `place` and `data`))
    buffer_read : Out(stream.Signature(BufferPlace))
    buffer_data : In
        The word, in the cycle after its read was accepted.
    reads, read_data, writes, write_data, write_done
        The memory, see `memory_port`. `read_data` waits for `buffer_write` in the same cycle.
    """

    def __init__(self, config: Config, *, most_beats: int = 256):
        self.config = config
        self.most_beats = most_beats
        self.widths = transfer_widths(config)
        index_bits = ceil_log2(config.steps_depth)
        bits = transfer_bits(config)
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout), "busy": Out(1),
            "error": Out(8), "failed_address": Out(64),
            "seed_load": In(1), "seed": In(31),
            "keep_address": Out(index_bits), "keep_index": In(index_bits),
            "buffer_write": Out(stream.Signature(
                data.StructLayout({"place": BufferPlace, "data": bits}))),
            "buffer_read": Out(stream.Signature(BufferPlace)),
            "buffer_data": In(bits),
            "reads": Out(stream.Signature(ReadRequest)),
            "read_data": In(stream.Signature(read_beat(config.axi_data_bits))),
            "writes": Out(stream.Signature(WriteRequest)),
            "write_data": Out(stream.Signature(write_beat(config.axi_data_bits))),
            "write_done": In(stream.Signature(WriteDone)),
        })

    def elaborate(self, platform):
        m = Module()
        self.loads = Signal()
        self.compressed = Signal()
        self.two_bits = Signal()
        self.width = Signal(range(len(self.widths)))
        self.rows = place_unit(m, platform, "rows", "gradloom_row_requests", partial(
            RowRequests, self.config, self.widths, most_beats=self.most_beats))
        self.widener = place_unit(m, platform, "widener", "gradloom_widener", partial(
            Widener, self.config.axi_data_bits, self.widths))
        self.narrower = place_unit(m, platform, "narrower", "gradloom_narrower", partial(
            Narrower, self.config.axi_data_bits, self.widths))
        self._format(m)
        failed, answered = self._answers(m)
        moved = self._words(m)
        self._finish(m, failed, Mux(self.loads, moved, answered))
        self._load_path(m, platform)
        self._save_path(m, platform)
        return m

    def _format(self, m):
        """Find the width of a word in memory, and whether it may move."""
        d, config = self.descriptor, self.config
        m.d.comb += [
            self.loads.eq(d.opcode == Opcode.LOAD),
            self.two_bits.eq(d.tested_bits == CRUMB),
        ]
        with m.Switch(d.function):
            for region in sorted(REGIONS):
                with m.Case(region):
                    m.d.comb += [
                        self.width.eq(self.widths.index(word_bits(config, region))),
                        self.rows.legal.eq((d.tested_bits == 0) | (d.tested_bits == 8)),
                    ]
        with m.If(d.function == Region.ACTIVATION):
            for bits in (NIBBLE, CRUMB):
                with m.If(d.tested_bits == bits):
                    m.d.comb += [
                        self.width.eq(self.widths.index(
                            word_bits(config, Region.ACTIVATION, bits))),
                        self.compressed.eq(1),
                        self.rows.legal.eq(1),
                    ]
        for unit in (self.rows, self.widener, self.narrower):
            m.d.comb += unit.width.eq(self.width)
        m.d.comb += [
            self.rows.start.eq(self.start),
            self.rows.descriptor.eq(d),
            self.keep_address.eq(self.rows.keep_address),
            self.rows.keep_index.eq(self.keep_index),
        ]

    def _answers(self, m):
        """Count the rows that the memory has answered, and keep the place of the first error.

        A read answers each beat, a write each request.
        """
        rows = self.rows
        answer = Signal()
        wrong = Signal()
        failed = Signal()
        row = Signal.like(rows.rows)
        beat = Signal.like(rows.beats)
        after = Signal(len(beat) + 1)
        m.d.comb += [
            self.reads.valid.eq(rows.requests.valid & self.loads),
            self.writes.valid.eq(rows.requests.valid & ~self.loads),
            self.reads.payload.eq(rows.requests.payload),
            Value.cast(self.writes.payload).eq(Value.cast(rows.requests.payload)),
            rows.requests.ready.eq(Mux(self.loads, self.reads.ready, self.writes.ready)),
            self.write_done.ready.eq(1),
            answer.eq(Mux(self.loads, self.read_data.valid & self.read_data.ready,
                          self.write_done.valid)),
            wrong.eq(Mux(self.loads, self.read_data.payload.error, self.write_done.payload.error)),
            after.eq(beat + Mux(self.loads, 1, self.most_beats)),
        ]
        with m.If(answer):
            m.d.sync += beat.eq(after)
            with m.If(after >= rows.beats):
                m.d.sync += [beat.eq(0), row.eq(row + 1)]
            with m.If(wrong & ~failed):
                m.d.sync += [failed.eq(1), rows.row.eq(row), rows.beat.eq(beat)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), beat.eq(0), failed.eq(0)]
        return failed, row

    def _words(self, m):
        """Walk over the words of the buffer; return the rows done."""
        d = self.descriptor
        step = Signal(16)
        row = Signal.like(self.rows.rows)
        place = Signal(BufferPlace)
        offset = Signal(16)
        row_ends = Signal()
        moves = Signal()
        m.d.comb += [
            place.region.eq(d.function),
            place.address.eq(d.out_base + offset),
            row_ends.eq(step + 1 == d.steps),
            moves.eq(Mux(self.loads, self.buffer_write.valid & self.buffer_write.ready,
                         self.narrower.asked)),
            self.buffer_write.payload.place.eq(place),
            self.widener.row_ends.eq(row_ends),
            self.buffer_read.payload.eq(place),
            self.buffer_read.valid.eq(
                ~self.loads & self.narrower.may_ask & (row != self.rows.rows)),
            self.narrower.asked.eq(self.buffer_read.valid & self.buffer_read.ready),
            self.narrower.asked_last.eq(row_ends),
        ]
        with m.If(moves):
            m.d.sync += [offset.eq(offset + 1), step.eq(step + 1)]
            with m.If(row_ends):
                m.d.sync += [step.eq(0), row.eq(row + 1)]
        with m.If(self.start):
            m.d.sync += [offset.eq(0), step.eq(0), row.eq(0)]
        return row

    def _finish(self, m, failed, done):
        """End when every row is done, with the first error and its address."""
        rows = self.rows
        with m.FSM(name="transfer") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.error.eq(Error.NONE), self.failed_address.eq(0)]
                    m.next = "MOVE"
            with m.State("MOVE"):
                with m.If(~rows.busy & (done == rows.rows)):
                    m.d.sync += [
                        self.error.eq(rows.error), self.failed_address.eq(rows.error_address),
                    ]
                    m.next = "IDLE"
                    with m.If(failed):
                        m.d.comb += rows.locate.eq(1)
                        m.next = "LOCATE"
            with m.State("LOCATE"):
                m.d.sync += [
                    self.error.eq(Mux(self.loads, Error.READ_RESPONSE, Error.WRITE_RESPONSE)),
                    self.failed_address.eq(rows.located),
                ]
                with m.If(~rows.busy):
                    m.next = "IDLE"

    def _load_path(self, m, platform):
        """Beats become words, of which compressed ones expand."""
        widener, d = self.widener, self.descriptor
        word = widener.o.payload
        lanes = self.config.lane_count
        expanded = Signal(8 * lanes)
        for lane in range(lanes):
            place(m, platform, f"expand_{lane}", "expand_lane", partial(ExpandLane),
                  inputs={"nibble": word[NIBBLE * lane:][:NIBBLE],
                          "crumb": word[CRUMB * lane:][:CRUMB],
                          "two_bits": self.two_bits, "x_unsigned": d.x_unsigned,
                          "shift": d.x_shift},
                  outputs={"element": expanded[8 * lane:][:8]})
        m.d.comb += [
            widener.i.valid.eq(self.read_data.valid & self.loads),
            widener.i.payload.eq(self.read_data.payload.data),
            self.read_data.ready.eq(widener.i.ready & self.loads),
            self.buffer_write.valid.eq(widener.o.valid),
            self.buffer_write.payload.data.eq(Mux(self.compressed, expanded, word)),
            widener.o.ready.eq(self.buffer_write.ready),
        ]

    def _save_path(self, m, platform):
        """Words, compressed ones cut to few bits, become beats."""
        config, narrower, d = self.config, self.narrower, self.descriptor
        lanes, bits = config.lane_count, config.operand_bits
        nibbles = Signal(NIBBLE * lanes)
        crumbs = Signal(CRUMB * lanes)
        m.submodules.lfsr = lfsr = Lfsr(Bank.SAVE, lanes)
        for lane in range(lanes):
            random = Mux(d.stochastic, lfsr.state[lane][:16], HALF)
            place(m, platform, f"compress_{lane}", "compress_lane", partial(CompressLane, bits),
                  inputs={"element": narrower.held[8 * lane:][:bits], "random": random,
                          "x_unsigned": d.x_unsigned, "shift": d.x_shift},
                  outputs={"nibble": nibbles[NIBBLE * lane:][:NIBBLE],
                           "crumb": crumbs[CRUMB * lane:][:CRUMB]})
        beat_bytes = config.axi_data_bits // 8
        last_byte = Signal(range(beat_bytes))
        m.d.comb += [
            lfsr.load.eq(self.seed_load),
            lfsr.seed.eq(self.seed),
            lfsr.advance.eq(narrower.leaves & self.compressed & d.stochastic),
            narrower.answer.eq(self.buffer_data),
            narrower.word.eq(Mux(
                self.compressed, Mux(self.two_bits, crumbs, nibbles), narrower.held)),
            last_byte.eq(self.rows.last_byte),
            self.write_data.valid.eq(narrower.o.valid),
            self.write_data.payload.data.eq(narrower.o.payload.data),
            narrower.o.ready.eq(self.write_data.ready),
        ]
        for index in range(beat_bytes):
            m.d.comb += self.write_data.payload.strobe[index].eq(
                ~narrower.o.payload.row_ends | (last_byte >= index if index else 1))
