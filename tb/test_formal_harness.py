# amaranth: UnusedElaboratable=no
"""The stream contract accepts good components and refuses broken and dead ones."""

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from formal import ProofError, StreamContract, prove

DEPTH = 8


class Register(wiring.Component):
    """A one-deep elastic register; `fault` names the rule that it breaks."""

    def __init__(self, fault=""):
        self._fault = fault
        super().__init__({"i": In(stream.Signature(4)), "o": Out(stream.Signature(4))})

    def elaborate(self, platform):
        m = Module()
        free = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(free)
        with m.If(self.i.ready):
            m.d.sync += self.o.payload.eq(self.i.payload)
            m.d.sync += self.o.valid.eq(self.i.valid if self._fault != "dead" else 0)
        if self._fault == "changes":
            with m.If(~free):
                m.d.sync += self.o.payload.eq(self.i.payload)
        if self._fault in ("retracts", "retracts late"):
            cycle = Signal(4)
            m.d.sync += cycle.eq(cycle + 1)
            with m.If(self.o.valid & ((cycle == 12) | (self._fault == "retracts"))):
                m.d.sync += self.o.valid.eq(0)
        return m


class Adder(wiring.Component):
    """The sums of two streams on one output and their left operands on another."""

    def __init__(self, *, wait=True):
        self._wait = wait
        super().__init__(
            {
                "i": In(stream.Signature(4)).array(2),
                "link": Out(
                    wiring.Signature(
                        {"sum": Out(stream.Signature(5)), "left": Out(stream.Signature(4))}
                    )
                ),
                "cycles": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        west, north = self.i
        both = west.valid & north.valid
        taken = self.link.sum.ready & self.link.left.ready
        m.d.sync += self.cycles.eq(self.cycles + 1)
        m.d.comb += [
            self.link.sum.payload.eq(west.payload + north.payload),
            self.link.left.payload.eq(west.payload),
            self.link.sum.valid.eq(both & (self.link.left.ready if not self._wait else 1)),
            self.link.left.valid.eq(both),
            west.ready.eq(north.valid & taken),
            north.ready.eq(west.valid & taken),
        ]
        return m


class Chooser(wiring.Component):
    """One of two streams, chosen by a mode that must not move."""

    mode: In(1)
    i: In(stream.Signature(4)).array(2)
    o: Out(stream.Signature(4))

    def elaborate(self, platform):
        m = Module()
        west, east = self.i
        m.d.comb += [
            self.o.payload.eq(Mux(self.mode, east.payload, west.payload)),
            self.o.valid.eq(Mux(self.mode, east.valid, west.valid)),
            west.ready.eq(self.o.ready & ~self.mode),
            east.ready.eq(self.o.ready & self.mode),
        ]
        return m


class Drain(wiring.Component):
    """An output that nobody can stall."""

    o: Out(stream.Signature(4, always_ready=True))

    def elaborate(self, platform):
        return Module()


def test_good_register_proves():
    assert "SUCCESS" in prove(StreamContract(Register()), depth=DEPTH)


@pytest.mark.parametrize("fault", ["changes", "retracts"])
def test_broken_register_is_refused(fault):
    with pytest.raises(ProofError, match=r"not proved to depth 8(.|\n)*model found for base case"):
        prove(StreamContract(Register(fault)), depth=DEPTH)


def test_fault_beyond_the_depth_is_refused_by_the_induction_step():
    with pytest.raises(ProofError, match="maximum number of time steps"):
        prove(StreamContract(Register("retracts late")), depth=DEPTH)
    with pytest.raises(ProofError, match="model found for base case"):
        prove(StreamContract(Register("retracts late")), depth=20)


def test_dead_register_is_refused():
    with pytest.raises(ProofError, match="Called with -falsify and proof did succeed"):
        prove(StreamContract(Register("dead")), depth=DEPTH)


def test_arrays_and_nested_streams_are_found():
    contract = StreamContract(Adder())
    assert contract.stalls == ("link__sum_stalled", "link__left_stalled")
    prove(contract, depth=DEPTH)


def test_broken_two_port_component_is_refused():
    with pytest.raises(ProofError, match="proof did fail"):
        prove(StreamContract(Adder(wait=False)), depth=DEPTH)


def test_held_input_is_assumed_constant():
    prove(StreamContract(Chooser(), held=["mode"]), depth=DEPTH)
    with pytest.raises(ProofError, match="proof did fail"):
        prove(StreamContract(Chooser()), depth=DEPTH)


def test_rtlil_text_is_proved_too():
    for fault, expected in (("", True), ("changes", False)):
        text = rtlil.convert(StreamContract(Register(fault)), name="frame", emit_src=False)
        if expected:
            prove(text, "frame", depth=DEPTH, reachable=["o_stalled"])
        else:
            with pytest.raises(ProofError, match="frame is not proved"):
                prove(text, "frame", depth=DEPTH)


def test_unproved_within_the_time_limit():
    with pytest.raises(ProofError, match=r"not decided within 0\.001 s; raise timeout"):
        prove(StreamContract(Register()), depth=DEPTH, timeout=0.001)


def test_what_asserts_nothing_is_refused():
    with pytest.raises(ValueError, match="'top' asserts nothing; wrap it in StreamContract"):
        prove(Register(), depth=DEPTH)
    with pytest.raises(ValueError, match="Drain has no output stream that can stall"):
        StreamContract(Drain())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="Depth must be at least 2, not 1"):
        prove(StreamContract(Register()), depth=1)
    with pytest.raises(ValueError, match=r"one of the inputs \['mode'\], not 'o'"):
        StreamContract(Chooser(), held=["o"])
