"""Rules of AXI4 and AXI4-Lite, watched in every cycle of a bench."""

from collections import deque

from cocotb.triggers import FallingEdge, ReadOnly

from gradloom.burst import PAGE_BYTES

__all__ = ["AxiRules", "AxiRulesError", "LiteRules"]

INCR = 1


class AxiRulesError(AssertionError):
    """A side of the bus broke a rule; the message begins with the channel."""


class _Rules:
    """Samples each channel once a cycle, in the second half, when all is settled.

    Parameters
    ----------
    dut
        Has ``clk``, ``rst`` and the bus.
    prefix : str
        Of the bus's ports.
    channels : dict of str to tuple of str
        Fields of each channel's payload.
    """

    def __init__(self, dut, prefix: str, channels: dict[str, tuple[str, ...]]):
        self.dut = dut
        self.prefix = prefix
        self.channels = channels
        self.cycles = 0
        self.passed = dict.fromkeys(channels, 0)
        self._stalled: dict[str, dict | None] = dict.fromkeys(channels)

    async def watch(self):
        """Watch for ever; start it as a task of its own, whose failure fails the test."""
        await FallingEdge(self.dut.rst)
        while True:
            await ReadOnly()
            self.cycles += 1
            for name in self.channels:
                self._sample(name)
            await FallingEdge(self.dut.clk)

    def value(self, name: str) -> int:
        """Return what a port of the bus shows; it must not be unknown."""
        value = getattr(self.dut, f"{self.prefix}{name}").value
        if not value.is_resolvable:
            raise AxiRulesError(f"{name}: unknown value {value}")
        return int(value)

    def _sample(self, name):
        valid, ready = self.value(f"{name}valid"), self.value(f"{name}ready")
        before = self._stalled[name]
        if not valid:
            if before is not None:
                raise AxiRulesError(f"{name}: valid was taken back in cycle {self.cycles}")
            return
        beat = {field: self.value(f"{name}{field}") for field in self.channels[name]}
        if before is not None and beat != before:
            raise AxiRulesError(f"{name}: a stalled beat changed from {before} to {beat}")
        self._stalled[name] = None if ready else beat
        self.offered(name, beat)
        if ready:
            self.passed[name] += 1
            self.transferred(name, beat)

    def offered(self, name: str, beat: dict) -> None:
        """Check a beat that is valid."""
        raise NotImplementedError

    def transferred(self, name: str, beat: dict) -> None:
        """Check a beat that passes."""
        raise NotImplementedError


class AxiRules(_Rules):
    """Rules of an AXI4 master that uses one ID, and of its slave.

    Parameters
    ----------
    dut
    prefix : str
    data_bits : int
    outstanding : int
        Most bursts of reads, and of writes, that may wait for their answers.
    """

    def __init__(self, dut, *, data_bits: int, outstanding: int, prefix: str = "m_axi_"):
        address = ("addr", "len", "size", "burst", "id", "lock", "cache", "prot", "qos")
        super().__init__(dut, prefix, {
            "aw": address, "w": ("data", "strb", "last"), "b": ("resp", "id"),
            "ar": address, "r": ("data", "resp", "last", "id")})
        self.beat_bytes = data_bits // 8
        self.outstanding = outstanding
        self.lengths: dict[str, list[int]] = {"aw": [], "ar": []}
        self._reading: deque[int] = deque()
        self._announced: deque[int] = deque()
        self._sent: deque[int] = deque()
        self._beats = 0
        self._answerable = 0

    def offered(self, name, beat):
        """Check an address before it passes: a memory may look at it early."""
        if name in ("ar", "aw"):
            self._check_burst(name, beat)

    def transferred(self, name, beat):
        """Follow the bursts on their way."""
        {"aw": self._write_begins, "w": self._write_beat, "b": self._write_ends,
         "ar": self._read_begins, "r": self._read_beat}[name](beat)

    def finish(self) -> None:
        """Fail if a burst is on its way, or there was none."""
        if self._reading or self._announced or self._sent or self._answerable or self._beats:
            raise AxiRulesError("bursts are still on their way at the end")
        if not (self.lengths["ar"] or self.lengths["aw"]):
            raise AxiRulesError("no burst was seen")

    def _check_burst(self, name, beat):
        size = self.beat_bytes.bit_length() - 1
        if (beat["size"], beat["burst"], beat["id"], beat["lock"]) != (size, INCR, 0, 0):
            raise AxiRulesError(f"{name}: {beat} is no incrementing burst of full width")
        if beat["addr"] % self.beat_bytes:
            raise AxiRulesError(f"{name}: {beat['addr']:#x} is not aligned to a beat")
        end = beat["addr"] % PAGE_BYTES + (beat["len"] + 1) * self.beat_bytes
        if end > PAGE_BYTES:
            raise AxiRulesError(f"{name}: {beat} crosses a page")

    def _write_begins(self, beat):
        self._announced.append(beat["len"] + 1)
        self.lengths["aw"].append(beat["len"] + 1)
        self._match_write()

    def _write_beat(self, beat):
        self._beats += 1
        if beat["last"]:
            self._sent.append(self._beats)
            self._beats = 0
        self._match_write()

    def _match_write(self):
        while self._announced and self._sent:
            length, sent = self._announced.popleft(), self._sent.popleft()
            if length != sent:
                raise AxiRulesError(f"w: a burst of {length} beats ended after {sent}")
            self._answerable += 1
        if len(self._announced) + self._answerable > self.outstanding:
            raise AxiRulesError(f"aw: more than {self.outstanding} bursts wait for answers")
        if len(self._sent) + bool(self._beats) > self.outstanding:
            raise AxiRulesError("w: data are too far ahead of their addresses")

    def _write_ends(self, beat):
        if not self._answerable:
            raise AxiRulesError("b: answer without a write")
        self._answerable -= 1

    def _read_begins(self, beat):
        self._reading.append(beat["len"] + 1)
        self.lengths["ar"].append(beat["len"] + 1)
        if len(self._reading) > self.outstanding:
            raise AxiRulesError(f"ar: more than {self.outstanding} bursts wait for answers")

    def _read_beat(self, beat):
        if not self._reading:
            raise AxiRulesError("r: beat without a read")
        self._reading[0] -= 1
        if beat["last"] != (self._reading[0] == 0):
            raise AxiRulesError("r: a burst ends too early or too late")
        if beat["last"]:
            self._reading.popleft()


class LiteRules(_Rules):
    """Rules of an AXI4-Lite slave and its master."""

    def __init__(self, dut, *, prefix: str = "s_axil_"):
        super().__init__(dut, prefix, {
            "aw": ("addr",), "w": ("data", "strb"), "b": ("resp",), "ar": ("addr",),
            "r": ("data", "resp")})

    def offered(self, name, beat):
        """Refuse an answer to what has not passed."""
        passed = self.passed
        if name == "b" and passed["b"] >= min(passed["aw"], passed["w"]):
            raise AxiRulesError("b: answer before address and data")
        if name == "r" and passed["r"] >= passed["ar"]:
            raise AxiRulesError("r: answer before an address")
        if name in ("b", "r") and beat["resp"] not in (0, 2):
            raise AxiRulesError(f"{name}: response {beat['resp']} is neither OKAY nor SLVERR")

    def transferred(self, name, beat):
        """Count only; `passed` has it."""

    def finish(self) -> None:
        """Fail if an answer is missing."""
        passed = self.passed
        if not passed["aw"] == passed["w"] == passed["b"] or passed["ar"] != passed["r"]:
            raise AxiRulesError(f"answers are missing: {passed}")
