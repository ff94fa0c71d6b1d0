"""The AXI4-Lite slave: accesses to the core's host port and to the shell's registers."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.program import OFFSET_BITS, Region

from .axi import OKAY, SLVERR, lite_channels
from .layouts import Request

__all__ = ["AxiLite"]


class AxiLite(wiring.Component):
    """Serves one write and one read at a time, of whole 32-bit words.

    A byte address is four times the host port's word address. Accesses to the shell's region never
    wait. The others go to the core, in the order in which they come; what the core lets wait also
    holds up those behind it. Answers are SLVERR for an address that is no multiple of 4, a
    write of less than four bytes, and what the shell refuses.

    Members
    -------
    aw, w, b, ar, r
        Of `gradloom.axi.lite_channels`; every output is a register or a function of the state.
    requests : Out(stream.Signature(Request)), responses : In(stream.Signature(32))
        To the core.
    core_reset : In(1)
        The core is in reset: offer it nothing, and answer the read that it has lost with SLVERR.
    write : Out(1), write_offset : Out(OFFSET_BITS), write_data : Out(32), write_refused : In(1)
        A write to the shell, and whether it is refused, in the same cycle.
    read_offset : Out(OFFSET_BITS), read_data : In(32), read_refused : In(1)
        A read of the shell, in the same cycle; reads have no effect.
    """

    def __init__(self):
        super().__init__({
            **lite_channels(),
            "requests": Out(stream.Signature(Request)),
            "responses": In(stream.Signature(32)),
            "core_reset": In(1),
            "write": Out(1),
            "write_offset": Out(OFFSET_BITS),
            "write_data": Out(32),
            "write_refused": In(1),
            "read_offset": Out(OFFSET_BITS),
            "read_data": In(32),
            "read_refused": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        self.write_asks = Signal()
        self.write_sent = Signal()
        self.read_asks = Signal()
        self.read_sent = Signal()
        write = self._write(m)
        read = self._read(m)
        self._send(m, write, read)
        return m

    def _write(self, m):
        """Return address and data of the write."""
        have_address = Signal()
        have_data = Signal()
        address = Signal.like(self.aw.payload.addr)
        beat = Signal.like(self.w.payload)
        is_shell = Signal()
        malformed = Signal()
        word = address[2:]
        m.d.comb += [
            is_shell.eq(word[OFFSET_BITS:] == Region.SHELL),
            malformed.eq((address[:2] != 0) | (beat.strb != 0b1111)),
            self.write_offset.eq(word),
            self.write_data.eq(beat.data),
        ]
        with m.FSM(name="write_state"):
            with m.State("take"):
                m.d.comb += [self.aw.ready.eq(~have_address), self.w.ready.eq(~have_data)]
                with m.If(self.aw.valid & self.aw.ready):
                    m.d.sync += [have_address.eq(1), address.eq(self.aw.payload.addr)]
                with m.If(self.w.valid & self.w.ready):
                    m.d.sync += [have_data.eq(1), beat.eq(self.w.payload)]
                with m.If(have_address & have_data):
                    m.next = "act"
            with m.State("act"):
                m.d.sync += [have_address.eq(0), have_data.eq(0), self.b.payload.resp.eq(OKAY)]
                with m.If(malformed):
                    m.d.sync += self.b.payload.resp.eq(SLVERR)
                    m.next = "answer"
                with m.Elif(is_shell):
                    m.d.comb += self.write.eq(1)
                    m.d.sync += self.b.payload.resp.eq(Mux(self.write_refused, SLVERR, OKAY))
                    m.next = "answer"
                with m.Else():
                    m.next = "ask"
            with m.State("ask"):
                m.d.comb += self.write_asks.eq(1)
                with m.If(self.write_sent):
                    m.next = "answer"
            with m.State("answer"):
                m.d.comb += self.b.valid.eq(1)
                with m.If(self.b.ready):
                    m.next = "take"
        return word, beat.data

    def _read(self, m):
        """Return the address of the read."""
        address = Signal.like(self.ar.payload.addr)
        word = address[2:]
        answer = self.r.payload
        m.d.comb += self.read_offset.eq(word)
        with m.FSM(name="read_state"):
            with m.State("take"):
                m.d.comb += self.ar.ready.eq(1)
                with m.If(self.ar.valid):
                    m.d.sync += address.eq(self.ar.payload.addr)
                    m.next = "act"
            with m.State("act"):
                m.d.sync += [answer.data.eq(0), answer.resp.eq(OKAY)]
                with m.If(address[:2] != 0):
                    m.d.sync += answer.resp.eq(SLVERR)
                    m.next = "answer"
                with m.Elif(word[OFFSET_BITS:] == Region.SHELL):
                    m.d.sync += [
                        answer.data.eq(self.read_data),
                        answer.resp.eq(Mux(self.read_refused, SLVERR, OKAY)),
                    ]
                    m.next = "answer"
                with m.Else():
                    m.next = "ask"
            with m.State("ask"):
                m.d.comb += self.read_asks.eq(1)
                with m.If(self.read_sent):
                    m.next = "wait"
            with m.State("wait"):
                m.d.comb += self.responses.ready.eq(1)
                m.d.sync += answer.data.eq(self.responses.payload)
                with m.If(self.core_reset):
                    m.d.sync += [answer.data.eq(0), answer.resp.eq(SLVERR)]
                    m.next = "answer"
                with m.Elif(self.responses.valid):
                    m.next = "answer"
            with m.State("answer"):
                m.d.comb += self.r.valid.eq(1)
                with m.If(self.r.ready):
                    m.next = "take"
        return word

    def _send(self, m, write, read):
        """Offer one request at a time to the core, and keep it until it is taken."""
        write_word, write_data = write
        offers = Signal()
        is_write = Signal()
        request = self.requests.payload
        taken = Signal()
        m.d.comb += [
            self.requests.valid.eq(offers & ~self.core_reset),
            taken.eq(self.requests.valid & self.requests.ready),
            self.write_sent.eq(taken & is_write),
            self.read_sent.eq(taken & ~is_write),
            request.write.eq(is_write),
        ]
        with m.If(taken):
            m.d.sync += offers.eq(0)
        with m.Elif(~offers & (self.write_asks | self.read_asks)):
            m.d.sync += [
                offers.eq(1),
                is_write.eq(self.write_asks),
                Cat(request.address, request.data).eq(
                    Cat(Mux(self.write_asks, write_word, read), write_data)),
            ]
