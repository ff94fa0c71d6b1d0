"""On-chip memories: wide ports for the machine and the mover, and the host's 32-bit window."""

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .ram import Ram
from .select import select

__all__ = ["Buffer"]

HOST_BITS = 32


class Buffer(wiring.Component):
    """A memory of `depth` words of `lanes` elements, in `banks` that halve the addresses.

    Data of a read stand at `read_data` from the next cycle until the next read. A write is seen by
    reads of later cycles. The machine's own accesses always succeed; the mover's wait where they
    would disturb them: in the same bank, and, for reads, while what the machine last read there
    still stands for it. The host shares the machine's ports and may use them only while the
    machine is idle; it sees elements padded to `host_bits`, several a 32-bit word.

    Parameters
    ----------
    depth, lanes, bits : int
        Words, elements a word, bits an element.
    host_bits : int
        1, 8, 16 or 32.
    write_lanes : int
        Elements that can be written alone, a divisor of `lanes`. Default all.
    banks : int
        Power of two.

    Members
    -------
    active : In(1)
        The machine computes: what it read last must stand.
    read_en, read_address, read_data
    write_address, write_data
    write_parts : In(lanes // write_lanes)
        A bit for each `write_lanes` elements of the word: write them. Zero writes nothing.
    mover_read, mover_write : In(1), mover_address : In, mover_data_i, mover_ready : Out(1)
        The mover's access happens in the cycles in which it is ready. `mover_ready` does not
        depend on the request but for its address.
    mover_data_o : Out
        What a read of the cycle before gave.
    host_read, host_write : In(1)
    host_address : In
        Of a 32-bit word.
    host_data_i, host_data_o : In(32), Out(32)
        What the host reads stands there in the cycle after `host_read`.
    """

    def __init__(self, depth: int, lanes: int, bits: int, *, host_bits: int,
                 write_lanes: int | None = None, banks: int = 1):
        self.depth = depth
        self.lanes = lanes
        self.bits = bits
        self.banks = banks
        self.host_bits = host_bits
        self.write_lanes = lanes if write_lanes is None else write_lanes
        self.chunk = min(lanes, HOST_BITS // host_bits)
        self.part = min(self.chunk, self.write_lanes)
        if lanes % self.write_lanes or lanes % self.chunk or (
                max(self.chunk, self.write_lanes) % self.part):
            raise ValueError(
                f"A buffer of {lanes} lanes cannot be written {self.write_lanes} lanes at a time, "
                f"with {self.chunk} in a host word")
        address = ceil_log2(depth)
        chunks = lanes // self.chunk
        word = data.ArrayLayout(unsigned(bits), lanes)
        super().__init__({
            "active": In(1),
            "read_en": In(1),
            "read_address": In(address),
            "read_data": Out(word),
            "write_parts": In(lanes // self.write_lanes),
            "write_address": In(address),
            "write_data": In(word),
            "mover_read": In(1),
            "mover_write": In(1),
            "mover_address": In(address),
            "mover_data_i": In(word),
            "mover_data_o": Out(word),
            "mover_ready": Out(1),
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
        word_bits = self.lanes * self.bits
        bank_bits = ceil_log2(self.banks)
        inner = ceil_log2(self.depth) - bank_bits

        def bank_of(address):
            return address[inner:] if bank_bits else Const(0, 1)

        select_bits = ceil_log2(chunks)
        host_row = self.host_address[select_bits:]
        host_chunk = self.host_address[:select_bits] if select_bits else 0
        reads = Signal()
        read_address = Signal.like(self.read_address)
        write_address = Signal.like(self.write_address)
        parts = self.lanes // self.part
        part_bits = self.part * self.bits
        write_en = Signal(parts)
        write_word = Signal(word_bits)
        m.d.comb += [
            reads.eq(self.read_en | self.host_read),
            read_address.eq(Mux(self.host_read, host_row, self.read_address)),
            write_address.eq(Mux(self.host_write, host_row, self.write_address)),
        ]
        host_value = data.View(data.ArrayLayout(unsigned(self.bits), self.chunk),
                               Signal(chunk_bits, name="host_value"))
        for index in range(self.chunk):
            m.d.comb += host_value[index].eq(
                self.host_data_i[index * self.host_bits:][:self.bits])
        host_parts = self.chunk // self.part
        for part in range(parts):
            first = part % host_parts * part_bits
            m.d.comb += [
                write_en[part].eq(Mux(
                    self.host_write, host_chunk == part // host_parts,
                    self.write_parts[part * self.part // self.write_lanes])),
                write_word.word_select(part, part_bits).eq(Mux(
                    self.host_write, host_value.as_value()[first:first + part_bits],
                    self.write_data.as_value().word_select(part, part_bits))),
            ]

        last_bank = Signal(max(1, bank_bits))
        claimed = Signal()
        mover_bank = Signal(max(1, bank_bits))
        read_free, write_free = Signal(), Signal()
        with m.If(reads):
            m.d.sync += last_bank.eq(bank_of(read_address))
        m.d.sync += claimed.eq(self.active & (reads | claimed))
        with m.If(self.mover_read):
            m.d.sync += mover_bank.eq(bank_of(self.mover_address))
        here = bank_of(self.mover_address)
        m.d.comb += [
            read_free.eq(~(claimed & (last_bank == here))
                         & ~(reads & (bank_of(read_address) == here))),
            write_free.eq(~(write_en.any() & (bank_of(write_address) == here))),
            self.mover_ready.eq(Mux(self.mover_write, write_free, read_free)),
        ]
        words = []
        for bank in range(self.banks):
            m.submodules[f"bank_{bank}"] = ram = Ram(self.depth // self.banks, parts, part_bits)
            machine_reads = reads & (bank_of(read_address) == bank)
            machine_writes = write_en.any() & (bank_of(write_address) == bank)
            mover = here == bank
            m.d.comb += [
                ram.read_en.eq(machine_reads | (self.mover_read & read_free & mover)),
                ram.read_address.eq(Mux(machine_reads, read_address, self.mover_address)),
                ram.write_address.eq(Mux(machine_writes, write_address, self.mover_address)),
                ram.write_data.eq(Mux(machine_writes, write_word, self.mover_data_i)),
            ]
            with m.If(machine_writes):
                m.d.comb += ram.write_en.eq(write_en)
            with m.Elif(self.mover_write & mover):
                m.d.comb += ram.write_en.eq(~0)
            words.append(ram.read_data)
        all_words = Cat(*words)
        m.d.comb += [
            self.read_data.as_value().eq(
                select(m, all_words, last_bank, word_bits, name="machine_word")),
            self.mover_data_o.as_value().eq(
                select(m, all_words, mover_bank, word_bits, name="mover_word")),
        ]

        host_chunk_read = Signal(max(1, select_bits))
        with m.If(self.host_read):
            m.d.sync += host_chunk_read.eq(host_chunk)
        shown = data.View(data.ArrayLayout(unsigned(self.bits), self.chunk),
                          Signal(chunk_bits, name="shown"))
        m.d.comb += shown.as_value().eq(
            select(m, self.read_data.as_value(), host_chunk_read, chunk_bits, name="host_chunk"))
        for index in range(self.chunk):
            m.d.comb += self.host_data_o[index * self.host_bits:][:self.bits].eq(shown[index])
        return m
