"""The host's side of the machine in a simulator, and the golden machine that watches it."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle

from cocotb.triggers import FallingEdge, ReadOnly

from coverage import Coverage, cross
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import IDENT, OFFSET_BITS, Region, Register

__all__ = ["PATTERNS", "Host", "HostError", "host_coverage"]

PATTERNS = ("1", "1101", "10", "001", "1100", "11111111000000")
"""Cycles in which a side is willing, over and over."""

PATIENCE = 20_000
"""Cycles without any transfer after which the machine counts as hung."""

WRITE = 56
BUSY = 1


class HostError(AssertionError):
    """The machine broke a rule of its streams or answered what the golden one does not."""


@dataclass(frozen=True)
class Answer:
    """What a read must return, in the bits of `mask`."""

    address: int
    value: int
    mask: int


class Watcher:
    """The golden machine, fed with the requests that the machine under test accepts.

    Parameters
    ----------
    machine : GoldenMachine
    coverage : Coverage
        Of `host_coverage`.
    """

    def __init__(self, machine: GoldenMachine, coverage: Coverage):
        self.machine = machine
        self.coverage = coverage
        self.expected: deque[Answer] = deque()
        self.compared = 0
        self.programs = 0
        self._cycles_due = 0
        self._cycles = 0

    def request(self, payload: int, *, busy: bool) -> None:
        """Take an accepted request."""
        word, address = payload & 0xFFFFFFFF, payload >> 32 & (1 << WRITE - 32) - 1
        write, region = payload >> WRITE, address >> OFFSET_BITS
        kind = "write" if write else "control read" if region == Region.CONTROL else "read"
        if busy and kind != "control read":
            raise HostError(f"A {kind} of {address:#x} passed while the machine was busy")
        if not write:
            self.expected.append(self._answer(address, busy=busy))
        elif address == Register.START:
            if self._cycles_due:
                raise HostError("A program was started while the last one had cycles to go")
            self.machine.write(address, [word])
            self._cycles_due = self.machine.run(PATIENCE)
            self.programs += 1
        else:
            self.machine.write(address, [word])

    def response(self, word: int) -> None:
        """Compare a response with the oldest read."""
        if not self.expected:
            raise HostError(f"Response {word:#x} came without a read")
        answer = self.expected.popleft()
        if (word ^ answer.value) & answer.mask:
            raise HostError(f"Read of {answer.address:#x} gave {word:#x}, not {answer.value:#x}")
        self.compared += 1

    def clocked(self, *, busy: bool) -> None:
        """Take the level of `busy` in one cycle; a program's cycles follow its start."""
        if busy != (self._cycles < self._cycles_due):
            raise HostError(
                f"busy is {busy:d} in cycle {self._cycles} of a program of {self._cycles_due}"
            )
        if busy:
            self._cycles += 1
        if self._cycles == self._cycles_due:
            self._cycles = self._cycles_due = 0

    def _answer(self, address: int, *, busy: bool) -> Answer:
        if not busy:
            return Answer(address, int(self.machine.read(address, 1)[0]), 0xFFFFFFFF)
        # The golden machine has already finished what this one is in the middle of.
        value, mask = {Register.IDENT: (IDENT, 0xFFFFFFFF), Register.STATUS: (BUSY, BUSY)}.get(
            Register(address), (0, 0)
        )
        return Answer(address, value, mask)


class Host:
    """Sends requests and takes responses in the cycles that two patterns allow.

    Requests are queued by `write` and `read`; `settle` waits until the machine has done them.
    Everything is compared as it happens.

    Parameters
    ----------
    dut
        The simulated machine, its clock running and its reset released.
    machine : GoldenMachine
    coverage : Coverage
        Of `host_coverage`.
    """

    def __init__(self, dut, machine: GoldenMachine, coverage: Coverage):
        self._dut = dut
        self._watcher = Watcher(machine, coverage)
        self._coverage = coverage
        self._queue: deque[int] = deque()
        self._waited = False
        self._held: int | None = None
        self.cycles = 0
        self.set_patterns("1", "1")

    def set_patterns(self, requests: str, responses: str) -> None:
        """Choose the cycles in which a request is offered, and a response is taken."""
        self._willing, self._ready = cycle(requests), cycle(responses)
        self._names = (requests, responses)

    def write(self, address: int, words: Iterable[int]) -> None:
        """Queue writes to consecutive addresses."""
        for index, word in enumerate(words):
            self._queue.append(1 << WRITE | (address + index) << 32 | int(word))

    def read(self, address: int, count: int) -> None:
        """Queue reads of consecutive addresses."""
        self._queue.extend((address + index) << 32 for index in range(count))

    async def settle(self) -> None:
        """Clock the machine until the queue is empty, all is answered and no program runs."""
        quiet = 0
        while self._queue or self._watcher.expected or bool(self._dut.busy.value):
            quiet = 0 if await self._cycle() else quiet + 1
            if quiet > PATIENCE:
                raise HostError(f"Nothing moved for {PATIENCE} cycles")
        await self._cycle()

    def finish(self) -> int:
        """Return how many answers were compared; fail if that is none, or some are missing."""
        if self._queue or self._watcher.expected:
            raise HostError(f"{len(self._watcher.expected)} reads were never answered")
        if not self._watcher.compared or not self._watcher.programs:
            raise HostError("Nothing was compared; read something after a program")
        return self._watcher.compared

    async def _cycle(self) -> bool:
        """Run one clock cycle; return whether a request or a response moved."""
        dut = self._dut
        # A request that was offered stays, whatever the pattern says.
        willing = next(self._willing) == "1"
        offered = bool(self._queue) and (willing or self._waited)
        dut.requests__valid.value = int(offered)
        if offered:
            dut.requests__payload.value = self._queue[0]
        dut.responses__ready.value = int(next(self._ready))
        await ReadOnly()

        busy = bool(dut.busy.value)
        self._watcher.clocked(busy=busy)
        accepted = offered and bool(dut.requests__ready.value)
        self._cover_request(offered, accepted, busy)
        self._waited = offered and not accepted
        answered = self._response()
        if accepted:
            self._watcher.request(self._queue.popleft(), busy=busy)
        await FallingEdge(dut.clk)
        self.cycles += 1
        return accepted or answered

    def _response(self) -> bool:
        """Check the rule of the response stream and take what is offered."""
        dut = self._dut
        valid, ready = bool(dut.responses__valid.value), bool(dut.responses__ready.value)
        word = dut.responses__payload.value.to_unsigned() if valid else None
        if self._held is not None and word != self._held:
            raise HostError(f"A stalled response changed from {self._held:#x} to {word}")
        self._held = word if valid and not ready else None
        if word is None:
            return False
        self._coverage.hit("response", "at once" if ready else "stalled")
        if ready:
            self._watcher.response(word)
        return ready

    def _cover_request(self, offered: bool, accepted: bool, busy: bool) -> None:
        if not offered:
            return
        if not accepted:
            self._coverage.hit("request waits", "busy" if busy else "answers full")
            return
        payload = self._queue[0]
        region = Region(payload >> 32 + OFFSET_BITS & 0xF)
        kind = "write" if payload >> WRITE else "read"
        self._coverage.hit("request", kind, region.name)
        self._coverage.hit("patterns", *self._names)
        if busy:
            self._coverage.hit("while busy", Register(payload >> 32 & 0xFF).name)


def host_coverage() -> dict[str, Iterable[object]]:
    """Return the points that a run through the host port must fill."""
    # The shell answers for its own region.
    regions = [region.name for region in Region if region != Region.SHELL]
    return {
        "request": cross(("read", "write"), regions),
        "request waits": ("busy", "answers full"),
        "response": ("at once", "stalled"),
        "patterns": cross(PATTERNS, PATTERNS),
        "while busy": (Register.IDENT.name, Register.STATUS.name),
    }
