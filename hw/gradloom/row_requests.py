"""Which addresses a transfer reads or writes: checked first, then row by row."""

from collections.abc import Sequence

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import Error, Opcode

from .layouts import DescriptorLayout
from .memory_port import ReadRequest

__all__ = ["RowRequests"]

ROW_BITS = 16
STRIDE_BITS = 32


def _scaled(count: Value, numerator: int, denominator: int) -> Value:
    """Return ``count * numerator / denominator``, both powers of two, rounded up."""
    if numerator >= denominator:
        return count << ceil_log2(numerator // denominator)
    return (count + denominator // numerator - 1) >> ceil_log2(denominator // numerator)


class RowRequests(wiring.Component):
    """Asks the memory for the rows of a LOAD or SAVE, without waiting for its answers.

    The descriptor's own errors, and the place of the last row, are found before the first request.
    A gathered row is looked up and checked when it is its turn: an error ends the transfer before
    that row. Then `locate` finds an address for an error report.

    Without `gather` a row can be asked for each cycle, with it one in about
    ``log2(steps_depth) + 6``.

    Parameters
    ----------
    config : Config
    widths : sequence of int
        Bits that a word can have in memory, ascending.
    most_beats : int
        Of one request, a power of two up to 2^15.

    Members
    -------
    start : In(1)
        `descriptor` is new.
    descriptor : In(DescriptorLayout)
        `rows` are those that move.
    width : In
        Index of the bits of a word.
    legal : In(1)
        That region moves with that width.
    busy : Out(1)
        Up from the cycle after `start` or `locate`, until every request was taken or the address
        found.
    requests : Out(stream.Signature(ReadRequest))
    rows : Out(16)
        Rows that move; 0 until the checks have passed.
    beats : Out
        Beats of a row.
    last_byte : Out
        Bytes of a row less one. Right, like `beats`, in the second cycle after `start`.
    error, error_address : Out(8), Out(64)
        Of the last transfer.
    keep_address, keep_index : Out, In
        Keep list: its entry is there a cycle later.
    locate : In(1), row : In(16), beat : In
        Find the address of a beat of a row, while not `busy`; it stands in `located`.
    located : Out(64)
    """

    def __init__(self, config: Config, widths: Sequence[int], *, most_beats: int):
        if not 1 <= most_beats <= 1 << 15 or most_beats & (most_beats - 1):
            raise ValueError(
                f"A request has a power of two of beats up to 32768, not {most_beats!r}")
        self.config = config
        self.widths = tuple(widths)
        self.most_beats = most_beats
        self.beat_bytes = config.axi_data_bits // 8
        byte_bits = ROW_BITS + ceil_log2(max(1, widths[-1] // 8))
        beat_bits = ROW_BITS + ceil_log2(max(1, widths[-1] // config.axi_data_bits))
        index_bits = ceil_log2(config.steps_depth)
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout),
            "width": In(range(len(widths))), "legal": In(1),
            "busy": Out(1),
            "requests": Out(stream.Signature(ReadRequest)),
            "rows": Out(ROW_BITS), "beats": Out(beat_bits), "last_byte": Out(byte_bits),
            "error": Out(8), "error_address": Out(64),
            "keep_address": Out(index_bits), "keep_index": In(index_bits),
            "locate": In(1), "row": In(ROW_BITS), "beat": In(beat_bits),
            "located": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        # Wide enough for every base, offset and length: no sum can wrap back onto the bus.
        self.address = Signal(max(self.config.axi_address_bits, ROW_BITS + STRIDE_BITS) + 2)
        self.addend = Signal.like(self.address)
        self.twice = Signal()
        self.total = Signal.like(self.address)
        self.memory = Signal(64)
        self.base = Signal(self.config.axi_address_bits)
        self.current = Signal(ROW_BITS)
        self.target = Signal(ROW_BITS)
        self.bits_left = Signal(range(ROW_BITS))
        self.judging = Signal()
        self.locating = Signal()
        self.offers = Signal()
        self.taken = Signal()
        self._sizes(m)
        self._add(m)
        self._offer(m)
        with m.FSM(name="rows") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE") | self.requests.valid)
            self._judge(m)
            self._seek(m)
            self._check_and_offer(m)
        return m

    def _sizes(self, m):
        """Work out bytes and beats of a row; few of the widths share a shift."""
        steps, bus = self.descriptor.steps, self.config.axi_data_bits
        with m.Switch(self.width):
            for index, width in enumerate(self.widths):
                with m.Case(index):
                    m.d.sync += [
                        self.last_byte.eq(_scaled(steps, width, 8) - 1),
                        self.beats.eq(_scaled(steps, width, bus)),
                    ]

    def _add(self, m):
        """Share one adder among all states; the stride is what most of them add."""
        d = self.descriptor
        m.d.comb += [
            self.memory.eq(Cat(d.memory_low, d.memory_high)),
            self.base.eq(self.memory),
            self.addend.eq(d.packed_base),
            self.total.eq(Mux(self.twice, self.address << 1, self.address) + self.addend),
            self.keep_address.eq(d.first_sample + self.current),
            self.located.eq(self.address),
        ]

    def _offer(self, m):
        """Hold a row until its last request is taken."""
        address = Signal(self.config.axi_address_bits)
        beats_left = Signal.like(self.beats)
        is_last = Signal()
        m.d.comb += [
            is_last.eq(beats_left <= self.most_beats),
            self.requests.payload.address.eq(address),
            self.requests.payload.beats.eq(Mux(is_last, beats_left, self.most_beats)),
            self.taken.eq(
                self.offers & (~self.requests.valid | self.requests.ready & is_last)),
        ]
        with m.If(self.requests.valid & self.requests.ready):
            m.d.sync += [
                beats_left.eq(beats_left - self.most_beats),
                address.eq(address + self.most_beats * self.beat_bytes),
                self.requests.valid.eq(~is_last),
            ]
        with m.If(self.taken):
            m.d.sync += [
                beats_left.eq(self.beats), address.eq(self.address), self.requests.valid.eq(1),
            ]

    def _judge(self, m):
        """Find what is wrong with the descriptor itself, then where the first check is due."""
        d, beat_bits = self.descriptor, ceil_log2(self.beat_bytes)
        with m.State("IDLE"):
            with m.If(self.start):
                m.d.sync += [
                    self.current.eq(0), self.judging.eq(1), self.locating.eq(0), self.rows.eq(0),
                    self.error.eq(Error.NONE), self.error_address.eq(0),
                ]
                m.next = "JUDGE"
            with m.If(self.locate):
                m.d.sync += [self.current.eq(self.row), self.locating.eq(1)]
                m.next = "LOOK"
        with m.State("JUDGE"):
            with m.If(~self.legal | (d.opcode == Opcode.SAVE) & d.gather):
                self._fail(m, Error.REGION, self.memory)
            with m.Elif(self.memory[:beat_bits].any()
                        | (d.rows > 1) & d.packed_base[:beat_bits].any()):
                self._fail(m, Error.MEMORY_ALIGNMENT, self.memory)
            with m.Elif((d.rows == 0) | (d.steps == 0)):
                m.next = "IDLE"
            with m.Elif(self.memory[self.config.axi_address_bits:].any()):
                self._fail(m, Error.MEMORY_RANGE, self.memory)
            with m.Elif(d.gather):
                m.next = "LOOK"
            with m.Elif(d.rows == 1):
                m.d.sync += self.address.eq(self.base)
                m.next = "CHECK"
            with m.Else():
                self._seek_row(m, d.rows - 1, ROW_BITS)

    def _seek(self, m):
        """Multiply a row's place in memory by the stride, a bit a cycle."""
        d = self.descriptor
        with m.State("LOOK"):
            m.next = "TAKE"
        with m.State("TAKE"):
            with m.If(d.gather):
                self._seek_row(m, self.keep_index, len(self.keep_index))
            with m.Else():
                self._seek_row(m, self.current, ROW_BITS)
        with m.State("SEEK"):
            m.d.comb += [self.twice.eq(1), self.addend.eq(Mux(self.target[-1], d.packed_base, 0))]
            m.d.sync += [
                self.address.eq(self.total), self.target.eq(self.target << 1),
                self.bits_left.eq(self.bits_left - 1),
            ]
            with m.If(self.bits_left == 0):
                m.next = "SETTLE"
        with m.State("SETTLE"):
            m.d.comb += self.addend.eq(self.base)
            m.d.sync += self.address.eq(self.total)
            m.next = "CHECK"
            with m.If(self.locating):
                m.next = "LOCATE"
        with m.State("LOCATE"):
            m.d.comb += self.addend.eq(self.beat << ceil_log2(self.beat_bytes))
            m.d.sync += self.address.eq(self.total)
            m.next = "IDLE"

    def _check_and_offer(self, m):
        """Check the last row before the first is offered, or a gathered one before itself."""
        d = self.descriptor
        with m.State("CHECK"):
            m.d.comb += self.addend.eq(self.last_byte)
            m.next = "OFFER"
            with m.If(self.judging):
                m.d.sync += [self.judging.eq(0), self.rows.eq(d.rows)]
                with m.If(~d.gather):
                    m.d.sync += self.address.eq(self.base)
            with m.If(self.total[self.config.axi_address_bits:].any()):
                self._fail(m, Error.MEMORY_RANGE, Mux(d.gather, self.address, self.base))
        with m.State("OFFER"):
            m.d.comb += self.offers.eq(1)
            with m.If(self.taken):
                m.d.sync += self.current.eq(self.current + 1)
                with m.If(self.current + 1 == d.rows):
                    m.next = "IDLE"
                with m.Elif(d.gather):
                    m.next = "LOOK"
                with m.Else():
                    m.d.sync += self.address.eq(self.total)

    def _seek_row(self, m, index, bits):
        m.d.sync += [
            self.address.eq(0), self.bits_left.eq(bits - 1),
            self.target.eq(index << (ROW_BITS - bits)),
        ]
        m.next = "SEEK"

    def _fail(self, m, error, address):
        """End before the current row."""
        m.d.sync += [
            self.error.eq(error), self.error_address.eq(address), self.rows.eq(self.current),
        ]
        m.next = "IDLE"
