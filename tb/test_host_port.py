"""The host port lets through what it may, one access a cycle, and answers reads in order."""

from itertools import cycle

import pytest

from gradloom.host_port import HostPort
from gradloom_golden.program import OFFSET_BITS, Region
from simulate import put, simulate

CYCLES = 400


def answer_of(region, offset):
    """Return what the memory behind the port holds."""
    return (region * 0x01000193 ^ offset * 0x9E3779B1) & 0xFFFFFFFF


class Bench:
    """A host that asks, a memory that answers a cycle later, and a host that takes answers."""

    def __init__(self, requests, *, asks="1", takes="1", busy="0", cycles=CYCLES):
        self.dut = HostPort()
        self.waiting = list(requests)
        # Cycle, busy, write, region, offset, data.
        self.accesses = []
        self.answers = []
        simulate(self.dut, self._run(asks, takes, busy, cycles))

    def _run(self, asks, takes, busy, cycles):
        dut = self.dut

        async def testbench(ctx):
            asking, taking, working = cycle(asks), cycle(takes), cycle(busy)
            # A stream must not take back what it has offered.
            offered = False
            answer = 0
            for number in range(cycles):
                put(ctx, dut.answer, answer)
                is_busy = int(next(working))
                put(ctx, dut.busy, is_busy)
                put(ctx, dut.responses.ready, int(next(taking)))
                offered = bool(self.waiting) and (offered or next(asking) == "1")
                put(ctx, dut.requests.valid, offered)
                if offered:
                    write, region, offset, data = self.waiting[0]
                    put(ctx, dut.requests.payload,
                        {"data": data, "address": region << OFFSET_BITS | offset, "write": write})
                ready = ctx.get(dut.requests.ready)
                read, write = ctx.get(dut.read), ctx.get(dut.write)
                assert (read or write) == (offered and ready), "an access without its request"
                assert not (read and write)
                answer = 0xDEADBEEF
                if read or write:
                    region, offset = ctx.get(dut.region), ctx.get(dut.offset)
                    self.accesses.append(
                        (number, is_busy, write, region, offset, ctx.get(dut.data)))
                    if read:
                        answer = answer_of(region, offset)
                if ctx.get(dut.responses.valid) and ctx.get(dut.responses.ready):
                    self.answers.append(ctx.get(dut.responses.payload))
                if offered and ready:
                    self.waiting.pop(0)
                    offered = False
                await ctx.tick()

        return testbench


def drawn(rng, count):
    return [(int(rng.integers(2)), int(rng.integers(len(Region))),
             int(rng.integers(1 << OFFSET_BITS)), int(rng.integers(1 << 32)))
            for _ in range(count)]


def is_done(bench, requests):
    """Compare accesses and answers with the requests."""
    assert not bench.waiting
    wanted = [(write, region, offset) for write, region, offset, _ in requests]
    assert [(write, region, offset) for _, _, write, region, offset, _ in bench.accesses] == wanted
    data = [data for write, _, _, data in requests if write]
    assert [data for *_, write, _, _, data in bench.accesses if write] == data
    assert bench.answers == [answer_of(region, offset) for write, region, offset in wanted
                             if not write]


@pytest.mark.parametrize("asks", ["1", "1101", "0001"])
@pytest.mark.parametrize("takes", ["1", "0110", "00001"])
@pytest.mark.parametrize("busy", ["0", "0001111"])
def test_all_accesses_in_order_whatever_stalls(asks, takes, busy, rng):
    requests = drawn(rng, 40)
    bench = Bench(requests, asks=asks, takes=takes, busy=busy)
    is_done(bench, requests)
    for _, was_busy, write, region, *_ in bench.accesses:
        assert not was_busy or (not write and region == Region.CONTROL)


def test_writes_and_taken_reads_go_every_cycle(rng):
    requests = drawn(rng, 60)
    bench = Bench(requests)
    is_done(bench, requests)
    assert [number for number, *_ in bench.accesses] == list(range(60))


def test_a_busy_machine_shows_its_control_region_only():
    requests = [(0, Region.CONTROL, 2, 0), (0, Region.CONTROL, 32, 0), (1, Region.CONTROL, 3, 7)]
    bench = Bench(requests, busy="1", cycles=30)
    assert [offset for *_, offset, _ in bench.accesses] == [2, 32]
    assert len(bench.answers) == 2
    assert bench.waiting == requests[2:]


def test_reads_wait_for_room_and_lose_nothing():
    requests = [(0, Region.LABEL, offset, 0) for offset in range(9)]
    bench = Bench(requests, takes="0", cycles=40)
    assert len(bench.accesses) == HostPort.DEPTH
    assert not bench.answers
