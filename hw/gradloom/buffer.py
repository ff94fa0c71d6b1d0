"""On-chip memories: one wide read port, one wide write port, and the host's 32-bit window."""

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .ram import Ram
from .select import select

__all__ = ["Buffer"]

HOST_BITS = 32


class Buffer(wiring.Component):
    """A memory of `depth` words of `lanes` elements.

    Data of a read stand at `read_data` from the next cycle until the next read. A write is seen by
    reads of later cycles. The host shares both ports and may use them only while the machine
    is idle; it sees elements padded to `host_bits`, several a 32-bit word.

    Parameters
    ----------
    depth, lanes, bits : int
        Words, elements a word, bits an element.
    host_bits : int
        8, 16 or 32.
    write_lanes : int
        Elements that can be written alone, a divisor of `lanes`. Default all.

    Members
    -------
    read_en, read_address, read_data
    write_address, write_data
    write_parts : In(lanes // write_lanes)
        A bit for each `write_lanes` elements of the word: write them. Zero writes nothing.
    host_read, host_write : In(1)
    host_address : In
        Of a 32-bit word.
    host_data_i, host_data_o : In(32), Out(32)
        What the host reads stands there in the cycle after `host_read`.
    """

    def __init__(self, depth: int, lanes: int, bits: int, *, host_bits: int,
                 write_lanes: int | None = None):
        self.depth = depth
        self.lanes = lanes
        self.bits = bits
        self.host_bits = host_bits
        self.write_lanes = lanes if write_lanes is None else write_lanes
        self.chunk = min(lanes, HOST_BITS // host_bits)
        if lanes % self.write_lanes or self.write_lanes % self.chunk:
            raise ValueError(
                f"A buffer of {lanes} lanes cannot be written {self.write_lanes} lanes at a time, "
                f"with {self.chunk} in a host word")
        address = ceil_log2(depth)
        chunks = lanes // self.chunk
        super().__init__({
            "read_en": In(1),
            "read_address": In(address),
            "read_data": Out(data.ArrayLayout(unsigned(bits), lanes)),
            "write_parts": In(lanes // self.write_lanes),
            "write_address": In(address),
            "write_data": In(data.ArrayLayout(unsigned(bits), lanes)),
            "host_read": In(1),
            "host_write": In(1),
            "host_address": In(address + ceil_log2(chunks)),
            "host_data_i": In(HOST_BITS),
            "host_data_o": Out(HOST_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        chunks = self.lanes // self.chunk
        chunk_bits = self.chunk * self.bits
        m.submodules.ram = ram = Ram(self.depth, chunks, chunk_bits)

        select_bits = ceil_log2(chunks)
        host_row = self.host_address[select_bits:]
        host_chunk = self.host_address[:select_bits] if select_bits else 0
        m.d.comb += [
            ram.read_en.eq(self.read_en | self.host_read),
            ram.read_address.eq(Mux(self.host_read, host_row, self.read_address)),
            self.read_data.as_value().eq(ram.read_data),
        ]

        host_value = data.View(data.ArrayLayout(unsigned(self.bits), self.chunk),
                               Signal(chunk_bits, name="host_value"))
        for index in range(self.chunk):
            m.d.comb += host_value[index].eq(
                self.host_data_i[index * self.host_bits:][:self.bits])
        part_chunks = self.write_lanes // self.chunk
        for chunk in range(chunks):
            source = self.write_data.as_value().word_select(chunk, chunk_bits)
            m.d.comb += [
                ram.write_en[chunk].eq(Mux(
                    self.host_write, host_chunk == chunk, self.write_parts[chunk // part_chunks])),
                ram.write_data.word_select(chunk, chunk_bits).eq(
                    Mux(self.host_write, host_value.as_value(), source)),
            ]
        m.d.comb += ram.write_address.eq(Mux(self.host_write, host_row, self.write_address))

        host_chunk_read = Signal(max(1, select_bits))
        with m.If(self.host_read):
            m.d.sync += host_chunk_read.eq(host_chunk)
        shown = data.View(data.ArrayLayout(unsigned(self.bits), self.chunk),
                          Signal(chunk_bits, name="shown"))
        m.d.comb += shown.as_value().eq(
            select(m, ram.read_data, host_chunk_read, chunk_bits, name="host_chunk"))
        for index in range(self.chunk):
            m.d.comb += self.host_data_o[index * self.host_bits:][:self.bits].eq(shown[index])
        return m
