"""A core without an array, small enough to test the shell around it."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from gradloom.host_port import HostPort
from gradloom.memory_port import core_members
from gradloom_golden.config import Config
from gradloom_golden.program import DESCRIPTOR_WORDS, IDENT, Error, Opcode, Region, Register

__all__ = ["CHECKSUM", "DONE_COUNT", "HANGS", "SCRATCH_WORDS", "StubCore"]

CHECKSUM = 16
"""Control register: sum of the 32-bit words that LOAD has read."""

DONE_COUNT = 17
"""Control register: descriptors that have ended."""

HANGS = Opcode.CONFIDENCE
"""The operation that never ends."""

SCRATCH_WORDS = 16
"""Words that every other region shows."""

FIRST_WORDS = 2
LAST_WORDS = 30


class StubCore(wiring.Component):
    """Knows three operations of lists, in `steps`: wait cycles (FORWARD), LOAD and SAVE beats.

    SAVE writes 32-bit words that count from zero. A write to the start register makes it busy for
    that many cycles.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(core_members(config))

    def elaborate(self, platform):
        m = Module()
        self.left = Signal(32)
        self.sum = Signal(32)
        self.ended = Signal(32)
        self._host(m)
        self._program(m)
        return m

    def _host(self, m):
        m.submodules.port = port = HostPort()
        wiring.connect(m, wiring.flipped(self.requests), port.requests)
        wiring.connect(m, port.responses, wiring.flipped(self.responses))
        m.submodules.scratch = scratch = Memory(shape=32, depth=SCRATCH_WORDS, init=[])
        write, read = scratch.write_port(), scratch.read_port()
        control = Signal(32)
        is_control = port.region == Region.CONTROL
        was_control = Signal()
        self.local_start = Signal()
        m.d.comb += [
            port.busy.eq(self.busy),
            write.addr.eq(port.offset), write.data.eq(port.data),
            write.en.eq(port.write & ~is_control),
            read.addr.eq(port.offset), read.en.eq(port.read),
            port.answer.eq(read.data),
            self.local_start.eq(port.write & is_control & (port.offset == Register.START)),
        ]
        with m.If(self.local_start):
            m.d.sync += self.left.eq(port.data)
        with m.If(was_control):
            m.d.comb += port.answer.eq(control)
        with m.If(port.read):
            m.d.sync += was_control.eq(is_control)
            with m.Switch(port.offset):
                for place, value in (
                    (Register.IDENT, IDENT), (Register.STATUS, self.busy),
                    (CHECKSUM, self.sum), (DONE_COUNT, self.ended),
                ):
                    with m.Case(place):
                        m.d.sync += control.eq(value)
                with m.Default():
                    m.d.sync += control.eq(0)

    def _program(self, m):
        bits = self.config.axi_data_bits
        words = Signal(32 * FIRST_WORDS)
        address = Signal(64)
        number = Signal(range(DESCRIPTOR_WORDS))
        end = words[31]
        opcode = words[:4]
        steps = words[32:48]
        index = Signal.like(self.failed)
        beat = Signal(16)
        refused = Signal()
        m.d.comb += self.busy.eq(1)
        m.d.comb += [
            self.reads.payload.address.eq(address), self.reads.payload.beats.eq(steps),
            self.writes.payload.address.eq(address), self.writes.payload.beats.eq(steps),
            self.write_data.payload.strobe.eq(-1),
        ]
        for part in range(bits // 32):
            m.d.comb += self.write_data.payload.data[32 * part:32 * part + 32].eq(
                beat * (bits // 32) + part)
        with m.FSM(name="run"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.list_start):
                    m.d.sync += [self.error.eq(0), self.failed.eq(0), index.eq(0), number.eq(0)]
                    m.next = "words"
                with m.Elif(self.local_start):
                    m.next = "local"
            with m.State("local"):
                m.d.sync += self.left.eq(self.left - 1)
                with m.If(self.left == 0):
                    m.next = "idle"
            with m.State("words"):
                m.d.comb += self.program.ready.eq(1)
                with m.If(self.program.valid):
                    m.d.sync += number.eq(number + 1)
                    with m.If(number < FIRST_WORDS):
                        m.d.sync += words.eq(Cat(words[32:], self.program.payload))
                    with m.If(number >= LAST_WORDS):
                        m.d.sync += address.eq(Cat(address[32:], self.program.payload))
                    with m.If(number == DESCRIPTOR_WORDS - 1):
                        m.next = "run"
                with m.Elif(self.list_fault != 0):
                    m.d.sync += [self.error.eq(self.list_fault), self.failed.eq(index)]
                    m.next = "idle"
            with m.State("run"):
                m.d.sync += [self.left.eq(steps), beat.eq(0), refused.eq(0)]
                with m.Switch(opcode):
                    with m.Case(Opcode.FORWARD):
                        m.next = "count"
                    with m.Case(Opcode.LOAD):
                        m.next = "ask to read"
                    with m.Case(Opcode.SAVE):
                        m.next = "ask to write"
                    with m.Case(HANGS):
                        m.next = "hang"
                    with m.Default():
                        m.d.sync += [self.error.eq(Error.OPCODE), self.failed.eq(index)]
                        m.next = "idle"
            with m.State("count"):
                m.d.sync += self.left.eq(self.left - 1)
                with m.If(self.left == 0):
                    m.next = "end"
            with m.State("ask to read"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "read"
            with m.State("read"):
                answer = self.read_data.payload
                m.d.comb += self.read_data.ready.eq(1)
                with m.If(self.read_data.valid):
                    m.d.sync += [
                        self.sum.eq(self.sum + sum(
                            answer.data[32 * part:32 * part + 32] for part in range(bits // 32))),
                        refused.eq(refused | answer.error),
                    ]
                    with m.If(answer.last):
                        m.next = "end"
            with m.State("ask to write"):
                m.d.comb += self.writes.valid.eq(1)
                with m.If(self.writes.ready):
                    m.next = "write"
            with m.State("write"):
                m.d.comb += self.write_data.valid.eq(1)
                with m.If(self.write_data.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat + 1 == steps):
                        m.next = "written"
            with m.State("written"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    m.d.sync += refused.eq(self.write_done.payload.error)
                    m.next = "end"
            with m.State("hang"):
                pass
            with m.State("end"):
                with m.If(refused):
                    m.d.sync += [
                        self.failed.eq(index), self.failed_address.eq(address),
                        self.error.eq(Error.READ_RESPONSE),
                    ]
                    with m.If(opcode == Opcode.SAVE):
                        m.d.sync += self.error.eq(Error.WRITE_RESPONSE)
                    m.next = "idle"
                with m.Else():
                    m.d.comb += self.progress.eq(1)
                    m.d.sync += [self.ended.eq(self.ended + 1), index.eq(index + 1)]
                    m.next = "words"
                    with m.If(end):
                        m.next = "idle"
