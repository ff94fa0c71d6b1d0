# amaranth: UnusedElaboratable=no
"""The host port keeps the stream rule and answers every read once: proved for all time."""

import pytest
from amaranth import Signal
from amaranth.hdl import Assert

from formal import ProofError, StreamContract, prove
from gradloom.host_port import HostPort

DEPTH = 7


class ImpatientPort(HostPort):
    """Withdraws an answer that was not taken at once."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        offered = Signal()
        answers = m.submodules.answers
        m.d.sync += offered.eq(answers.r_rdy)
        m.d.comb += self.responses.valid.eq(answers.r_rdy & ~offered)
        return m


class CountedPort(HostPort):
    """Asserts that no answer leaves but for a read that was accepted, and that none is lost.

    Parameters
    ----------
    fault : str
        ``"overfull"`` accepts reads for which there is no room, ``"answers writes"`` counts as a
        read what is none.
    """

    def __init__(self, fault: str = ""):
        self._fault = fault
        super().__init__()

    def elaborate(self, platform):
        m = super().elaborate(platform)
        answers = m.submodules.answers
        reads = self.read
        if self._fault == "overfull":
            m.d.comb += self.requests.ready.eq(~self.busy)
        elif self._fault == "answers writes":
            m.d.comb += self.read.eq(self.requests.valid & self.requests.ready)
            reads = self.read & ~self.requests.payload.write
        owed = Signal(range(2 * self.DEPTH))
        coming = Signal()
        m.d.sync += [
            coming.eq(reads),
            owed.eq(owed + reads - (self.responses.valid & self.responses.ready)),
        ]
        m.d.comb += [
            Assert(~self.responses.valid | (owed != 0), "an answer without a read"),
            # Ties the count to the port's state, without which the induction does not close.
            Assert(owed == answers.level + coming, "a read without an answer to come"),
            Assert(owed <= self.DEPTH, "more answers than there is room for"),
        ]
        return m


def test_host_port_keeps_the_stream_rule():
    prove(StreamContract(HostPort()), depth=DEPTH)


def test_host_port_that_withdraws_an_answer_is_refused():
    with pytest.raises(ProofError, match="proof did fail"):
        prove(StreamContract(ImpatientPort()), depth=DEPTH)


def test_host_port_owes_as_many_answers_as_it_accepted_reads():
    prove(CountedPort(), depth=DEPTH)


@pytest.mark.parametrize("fault", ["overfull", "answers writes"])
def test_host_port_that_miscounts_is_refused(fault):
    with pytest.raises(ProofError, match="proof did fail"):
        prove(CountedPort(fault), depth=DEPTH)
