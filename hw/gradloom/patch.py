"""The image buffer, from which a first layer reads a window of several taps at once."""

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2

from .buffer import HOST_BITS
from .emit import place
from .layouts import DescriptorLayout
from .ram import Ram
from .select import select

__all__ = ["PatchBank", "PatchReader"]

HOST_ELEMENT_BITS = 8


class PatchBank(wiring.Component):
    """One element of every word, and the adder that finds it.

    Read data stand from the cycle after `read_en` until the next read.

    Members
    -------
    read_en : In(1)
    word : In
        Where element 0 of the tile lies, or what is read of all banks.
    patch : In(1)
        Add what follows.
    carry : In(1)
        The bank lies before that of element 0: its lane is in the next word.
    jump : In
        Words that the rows of the window above its lane skip.
    read_data : Out
    write_en : In(1), write_address, write_data
    """

    def __init__(self, depth: int, bits: int):
        self.depth = depth
        self.bits = bits
        address = ceil_log2(depth)
        super().__init__({
            "read_en": In(1), "word": In(address), "patch": In(1), "carry": In(1),
            "jump": In(address), "read_data": Out(bits),
            "write_en": In(1), "write_address": In(address), "write_data": In(bits),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = Ram(self.depth, 1, self.bits)
        m.d.comb += [
            ram.read_en.eq(self.read_en),
            ram.read_address.eq(self.word + Mux(self.patch, self.jump + self.carry, 0)),
            self.read_data.eq(ram.read_data),
            ram.write_en.eq(self.write_en),
            ram.write_address.eq(self.write_address),
            ram.write_data.eq(self.write_data),
        ]
        return m


class PatchReader(wiring.Component):
    """A buffer of images that is read by tiles of a window, as `gradloom_golden.patch` says.

    The first read may come `rows` + 1 cycles after `start`. Reads see the next tile of the window
    from the cycle after `advance`; after the last tile comes the first. The first `advance` may
    come 2 `rows` + 1 cycles after `start`, and another `rows` + 1 cycles after the one before; one
    that comes earlier does no harm if nothing is read until the next `start`.

    Words are written and read as in a `Buffer`; one read a cycle, of whichever kind, and the host
    only while the machine is idle.

    Members
    -------
    start : In(1)
        `descriptor` is new: `patch`, `patch_row`, `patch_step`, `patch_lanes`.
    descriptor : In(DescriptorLayout)
    advance : In(1)
        On to the next tile; may come in the cycle of the last read of a tile.
    read_en : In(1)
    element : In
        Where the first lane of the tile would lie if the window were one row, as
        `gradloom_golden.patch.patches` takes it.
    row : Out(ArrayLayout(operand_bits, rows))
        From the cycle after `read_en` until the next read; zeros beyond the window.
    word_read_en, word_read_address, word_read_data
        A word; its data stand until the next read of either kind.
    write_en : In(1), write_address, write_data
        A word.
    host_read, host_write : In(1)
    host_address : In
        Of a 32-bit word.
    host_data_i, host_data_o : In(32), Out(32)
        What the host reads stands there in the cycle after `host_read`.
    """

    def __init__(self, config: Config):
        self.config = config
        lanes = config.lane_count
        address = ceil_log2(config.image_depth)
        self.chunk = min(lanes, HOST_BITS // HOST_ELEMENT_BITS)
        word = data.ArrayLayout(unsigned(config.operand_bits), lanes)
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "advance": In(1),
            "read_en": In(1),
            "element": In(address + ceil_log2(lanes)),
            "row": Out(data.ArrayLayout(unsigned(config.operand_bits), config.rows)),
            "word_read_en": In(1),
            "word_read_address": In(address),
            "word_read_data": Out(word),
            "write_en": In(1),
            "write_address": In(address),
            "write_data": In(word),
            "host_read": In(1),
            "host_write": In(1),
            "host_address": In(address + ceil_log2(lanes // self.chunk)),
            "host_data_i": In(HOST_BITS),
            "host_data_o": Out(HOST_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self.config.rows + 1))
        last = Signal()
        m.d.comb += last.eq(left == 1)
        jumps, present = self._tile(m, left, last, *self._lane(m, left, last))
        self._banks(m, platform, jumps)
        self._row(m, present)
        self._host_data(m)
        return m

    def _lane(self, m, left, last):
        """Count through the window, a lane a cycle: its words to skip, and if it is one."""
        descriptor = self.descriptor
        flat = Signal(len(descriptor.patch_lanes) + 1)
        column = Signal(len(descriptor.patch_row))
        jump = Signal(ceil_log2(self.config.image_depth))
        with m.If(left != 0):
            m.d.sync += [flat.eq(flat + 1), column.eq(column + 1)]
            with m.If(column + 1 == descriptor.patch_row):
                m.d.sync += [column.eq(0), jump.eq(jump + descriptor.patch_step)]
        with m.If(self.start | (last & (flat + 1 >= descriptor.patch_lanes))):
            m.d.sync += [flat.eq(0), column.eq(0), jump.eq(0)]
        return jump, flat < descriptor.patch_lanes

    def _tile(self, m, left, last, jump, is_present):
        """Shift the lanes of the next tile in while this one is read; return this one's."""
        config = self.config
        first = Signal()
        lanes = []
        for name, new in (("jump", jump), ("present", is_present)):
            width = len(new)
            coming = Signal(config.rows * width, name=f"coming_{name}s")
            shifted = Signal.like(coming, name=f"shifted_{name}s")
            here = Signal.like(coming, name=f"{name}s")
            m.d.comb += shifted.eq(Cat(coming[width:], new))
            with m.If(left != 0):
                m.d.sync += coming.eq(shifted)
            with m.If(first & last):
                m.d.sync += here.eq(shifted)
            with m.Elif(self.advance):
                m.d.sync += here.eq(coming)
            lanes.append(here)

        with m.If(self.start):
            m.d.sync += [first.eq(1), left.eq(Mux(self.descriptor.patch, config.rows, 0))]
        with m.Elif(first & last):
            m.d.sync += [first.eq(0), left.eq(config.rows)]
        with m.Elif(self.advance):
            m.d.sync += left.eq(config.rows)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        return lanes

    def _banks(self, m, platform, jumps):
        """Address every bank: lane i is read from bank ``element + i`` modulo lanes."""
        config = self.config
        lanes, bits = config.lane_count, config.operand_bits
        address = ceil_log2(config.image_depth)
        lane_bits = ceil_log2(lanes)
        chunk_bits = ceil_log2(lanes // self.chunk)
        bank = self.element[:lane_bits]
        back = Signal(lane_bits)
        word = Signal(address)
        m.d.comb += [
            back.eq(-bank),
            word.eq(Mux(self.host_read, self.host_address[chunk_bits:],
                        Mux(self.word_read_en, self.word_read_address,
                            self.element[lane_bits:]))),
        ]
        padded = Cat(jumps, Const(0, (lanes - config.rows) * address))
        at_bank = _rotate(m, padded, back, address, name="jumps_back")
        host_chunk = self.host_address[:chunk_bits] if chunk_bits else Const(0, 1)
        for index in range(lanes):
            chunk, byte = divmod(index, self.chunk)
            source = self.host_data_i[byte * HOST_ELEMENT_BITS:][:bits]
            place(m, platform, f"bank_{index}", "patch_bank",
                  partial(PatchBank, config.image_depth, bits),
                  inputs={
                      "read_en": self.read_en | self.word_read_en | self.host_read,
                      "word": word,
                      "patch": self.read_en,
                      "carry": bank > index if index < lanes - 1 else Const(0, 1),
                      "jump": at_bank[index * address:][:address],
                      "write_en": Mux(self.host_write, host_chunk == chunk, self.write_en),
                      "write_address": Mux(self.host_write, self.host_address[chunk_bits:],
                                           self.write_address),
                      "write_data": Mux(self.host_write, source, self.write_data[index]),
                  },
                  outputs={"read_data": self.word_read_data[index]})

    def _row(self, m, present):
        """Turn what the banks show back into lanes."""
        config = self.config
        bits = config.operand_bits
        bank = Signal(ceil_log2(config.lane_count))
        shown = Signal(config.rows)
        with m.If(self.read_en):
            m.d.sync += [bank.eq(self.element), shown.eq(present)]
        turned = _rotate(m, self.word_read_data.as_value(), bank, bits, name="words_turned")
        for lane in range(config.rows):
            m.d.comb += self.row[lane].eq(Mux(shown[lane], turned[lane * bits:][:bits], 0))

    def _host_data(self, m):
        """Show the host the part of the word that it asked for, elements padded to bytes."""
        bits = self.config.operand_bits
        chunk_bits = ceil_log2(self.config.lane_count // self.chunk)
        host_chunk = Signal(max(1, chunk_bits))
        with m.If(self.host_read):
            m.d.sync += host_chunk.eq(self.host_address[:chunk_bits])
        shown = select(m, self.word_read_data.as_value(), host_chunk, self.chunk * bits,
                       name="host_shown")
        for index in range(self.chunk):
            m.d.comb += self.host_data_o[index * HOST_ELEMENT_BITS:][:bits].eq(
                shown[index * bits:][:bits])


def _rotate(m: Module, word: Value, amount: Value, width: int, *, name: str) -> Value:
    """Return `word` with part ``i + amount`` of `width` bits, modulo its parts, as part i."""
    for stage in range(len(amount)):
        turned = Signal(len(word), name=f"{name}_{stage}")
        cut = (1 << stage) * width
        m.d.comb += turned.eq(Mux(amount[stage], Cat(word[cut:], word[:cut]), word))
        word = turned
    return word
