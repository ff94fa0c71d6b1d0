# amaranth: UnusedElaboratable=no
"""The fetcher gives the core whole descriptors, and reads no further than it may."""

from collections import deque
from itertools import cycle

import pytest

from gradloom.fetcher import Fetcher
from gradloom_golden.config import preset
from gradloom_golden.program import DESCRIPTOR_WORDS, Error
from gradloom_golden.shell import LIST_ALIGNMENT, MAX_LIST
from simulate import put, simulate

TINY = preset("tiny")
END = 1 << 31
BASE = 0x12_3456_7800
QUIET = 60


def word_at(address, ends):
    """Return what memory holds: first words of descriptors have no end bit but those of `ends`."""
    word = (address * 0x9E3779B1 >> 7) & 0xFFFFFFFF
    if address % LIST_ALIGNMENT == 0:
        word = word & ~END | END * ((address - BASE) // LIST_ALIGNMENT in ends)
    return word


class Bench:
    """A fetcher between a memory that answers in order and a core that takes words."""

    def __init__(self, *lists, bits=128, latency=2, memory="1", core="1", faults=(), prefetch=4,
                 stop_after=None):
        self.dut = Fetcher(TINY.with_changes(axi_data_bits=bits), prefetch=prefetch)
        self.bytes = bits // 8
        self.latency = latency
        self.memory, self.core = cycle(memory), cycle(core)
        self.faults = set(faults)
        self.stop_after = stop_after
        self.words, self.aborts, self.asked = [], [], []
        self.word_cycles = []
        self.lists = lists
        simulate(self.dut, self._run)

    async def _run(self, ctx):
        dut = self.dut
        put(ctx, dut.stop, 1)
        for address, limit, ends in self.lists:
            for name, value in (("address", address), ("limit", limit), ("start", 1)):
                put(ctx, getattr(dut, name), value)
            await ctx.tick()
            put(ctx, dut.start, 0)
            put(ctx, dut.stop, 0)
            await self._list(ctx, ends)

    async def _list(self, ctx, ends):
        """Serve until nothing has moved for a while; then stop the list and wait for its rest."""
        dut, now, quiet, stopped = self.dut, 0, 0, False
        answers, words, asked, offered = deque(), [], [], False
        while not (stopped and ctx.get(dut.idle)):
            put(ctx, dut.reads.ready, int(next(self.memory)))
            offered = bool(answers) and answers[0][0] <= now and (
                offered or next(self.memory) == "1")
            put(ctx, dut.read_data.valid, int(offered))
            if offered:
                put(ctx, dut.read_data.payload, answers[0][1])
            put(ctx, dut.program.ready, int(next(self.core)) if not stopped else 0)
            moved = offered
            if offered:
                assert ctx.get(dut.read_data.ready)
                answers.popleft()
                offered = False
            if ctx.get(dut.reads.valid) and ctx.get(dut.reads.ready):
                moved = True
                request = ctx.get(dut.reads.payload)
                assert request.beats * self.bytes == LIST_ALIGNMENT
                asked.append(request.address)
                answers += self._answers(request.address, now, ends)
            if ctx.get(dut.program.valid) and ctx.get(dut.program.ready):
                assert not ctx.get(dut.list_fault), "a fault before the last word"
                moved = True
                words.append(ctx.get(dut.program.payload))
                self.word_cycles.append(now)
            quiet = 0 if moved else quiet + 1
            if not stopped and (quiet > QUIET or len(words) == self.stop_after):
                stopped = True
                self.aborts.append((ctx.get(dut.list_fault), ctx.get(dut.failed_address)))
                put(ctx, dut.stop, 1)
            now += 1
            await ctx.tick()
        put(ctx, dut.read_data.valid, 0)
        self.words.append(words)
        self.asked.append(asked)

    def _answers(self, address, now, ends):
        for place in range(address, address + LIST_ALIGNMENT, self.bytes):
            data = sum(word_at(place + 4 * k, ends) << 32 * k for k in range(self.bytes // 4))
            yield now + self.latency, {
                "data": data, "error": place in self.faults,
                "last": place + self.bytes == address + LIST_ALIGNMENT}


def words_of(count, ends, base=BASE):
    return [word_at(base + 4 * k, ends) for k in range(count * DESCRIPTOR_WORDS)]


@pytest.mark.parametrize("bits", [64, 128, 256])
@pytest.mark.parametrize(("memory", "core", "latency"), [
    ("1", "1", 1), ("1", "0001", 9), ("0010", "1", 3), ("110", "10", 20)])
def test_a_list_is_given_to_its_end(bits, memory, core, latency):
    lists = [(BASE, 20, {length - 1}) for length in (1, 5, 2)]
    bench = Bench(*lists, bits=bits, memory=memory, core=core, latency=latency)
    assert bench.words == [words_of(length, {length - 1}) for length in (1, 5, 2)]
    assert [error for error, _ in bench.aborts] == [Error.NONE] * 3
    for asked, length in zip(bench.asked, (1, 5, 2), strict=True):
        assert asked == [BASE + LIST_ALIGNMENT * k for k in range(len(asked))]
        assert length <= len(asked) <= length + 4


def test_words_come_without_a_gap():
    bench = Bench((BASE, 30, {29}), latency=12)
    assert bench.words == [words_of(30, {29})]
    first = bench.word_cycles[0]
    assert bench.word_cycles == list(range(first, first + 30 * DESCRIPTOR_WORDS))


def test_a_list_ends_at_its_limit_at_the_latest():
    bench = Bench((BASE, 3, set()), (BASE, 3, {2}), latency=5)
    assert bench.words == [words_of(3, set()), words_of(3, {2})]
    assert bench.aborts[0] == (Error.LIST_END, BASE + 3 * LIST_ALIGNMENT)
    assert bench.aborts[1][0] == Error.NONE
    assert [len(asked) for asked in bench.asked] == [3, 3]


@pytest.mark.parametrize("core", ["1", "001"])
def test_a_refused_beat_ends_the_list_before_its_descriptor(core):
    fault = BASE + 2 * LIST_ALIGNMENT + 48
    bench = Bench((BASE, 9, {5}), (BASE, 9, {1}), faults=[fault], core=core)
    assert bench.words == [words_of(2, {5}), words_of(2, {1})]
    assert bench.aborts[0] == (Error.FETCH_RESPONSE, fault)
    # What was read beyond the end does not count.
    assert bench.aborts[1][0] == Error.NONE


def test_a_stopped_list_leaves_nothing_to_the_next():
    bench = Bench((BASE, 9, {8}), (BASE, 9, {8}), latency=8, stop_after=3 * DESCRIPTOR_WORDS + 5)
    assert bench.words == [words_of(4, {8})[:3 * DESCRIPTOR_WORDS + 5]] * 2


@pytest.mark.parametrize(("address", "limit", "error"), [
    (BASE, 0, Error.PROGRAM_LENGTH), (BASE, MAX_LIST + 1, Error.PROGRAM_LENGTH),
    (BASE, (1 << 32) - 1, Error.PROGRAM_LENGTH), (BASE + 64, 2, Error.MEMORY_ALIGNMENT),
    ((1 << 40) - 128, 2, Error.MEMORY_RANGE), (1 << 40, 1, Error.MEMORY_RANGE),
    ((1 << 64) - 128, 2, Error.MEMORY_RANGE)])
def test_a_list_that_cannot_be_is_refused_at_once(address, limit, error):
    bench = Bench((address, limit, set()), ((1 << 40) - 256, 2, set()))
    assert bench.words[0] == []
    assert bench.asked[0] == []
    assert bench.aborts[0] == (error, address)
    assert bench.aborts[1] == (Error.LIST_END, 1 << 40)


def test_prefetch_must_hide_something():
    with pytest.raises(ValueError, match="prefetch must be at least 2, not 1"):
        Fetcher(TINY, prefetch=1)
