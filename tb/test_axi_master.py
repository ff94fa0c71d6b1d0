# amaranth: UnusedElaboratable=no
"""The AXI4 master moves what its clients ask for, a beat a cycle, and comes to rest when told."""

from collections import deque
from itertools import cycle

import pytest

from gradloom.axi_master import AxiMaster
from gradloom.burst import PAGE_BYTES, BurstSplitter
from gradloom_golden.config import preset
from simulate import put, simulate

TINY = preset("tiny")
PATIENCE = 40


class Memory:
    """Answers on the bus after a latency; a beat holds its address, faulty ones are refused."""

    def __init__(self, dut, *, latency=3, stalls="1", faults=()):
        self.dut = dut
        self.latency = latency
        self.willing = {name: cycle(stalls[at % len(stalls):] + stalls[:at % len(stalls)])
                        for at, name in enumerate(("ar", "aw", "w", "r", "b"))}
        self.faults = set(faults)
        self.bytes = dut.config.axi_data_bits // 8
        self.read_answers, self.write_answers = deque(), deque()
        self.bursts, self.writing, self.beats = [], deque(), deque()
        self.written = {}
        self.moves = {"r": [], "w": []}
        self.stalled = {}
        self.now = 0

    def is_faulty(self, address):
        return address // self.bytes in self.faults

    def offer(self, ctx):
        """Set what the memory says in this cycle."""
        dut = self.dut
        for name in ("ar", "aw", "w"):
            put(ctx, getattr(dut, name).ready, int(next(self.willing[name])))
        for name, answers in (("r", self.read_answers), ("b", self.write_answers)):
            channel = getattr(dut, name)
            held = ctx.get(channel.valid) and self.stalled.get(name)
            willing = next(self.willing[name]) == "1"
            valid = held or (bool(answers) and answers[0][0] <= self.now and willing)
            put(ctx, channel.valid, int(valid))
            if valid:
                put(ctx, channel.payload, answers[0][1])

    def take(self, ctx):
        """Follow what passes at the end of this cycle."""
        dut = self.dut
        self.stalled = {}
        for name in ("ar", "aw", "w", "r", "b"):
            channel = getattr(dut, name)
            passes = ctx.get(channel.valid) and ctx.get(channel.ready)
            self.stalled[name] = ctx.get(channel.valid) and not passes
            if passes:
                getattr(self, f"_take_{name}")(ctx.get(channel.payload))
        self.now += 1

    def _burst(self, kind, payload):
        address, beats = payload.addr, payload.len + 1
        assert address % self.bytes == 0
        assert address % PAGE_BYTES + beats * self.bytes <= PAGE_BYTES
        self.bursts.append((kind, address, beats))
        return [address + number * self.bytes for number in range(beats)]

    def _take_ar(self, payload):
        places = self._burst("read", payload)
        for place in places:
            self.read_answers.append((self.now + self.latency, {
                "data": place, "resp": 2 * self.is_faulty(place), "last": place == places[-1]}))

    def _take_aw(self, payload):
        self.writing.append(self._burst("write", payload))
        self._write()

    def _take_w(self, payload):
        self.beats.append((payload.data, payload.strb, payload.last))
        self.moves["w"].append(self.now)
        self._write()

    def _write(self):
        while self.writing and len(self.beats) >= len(self.writing[0]):
            places = self.writing.popleft()
            for place in places:
                data, strobe, last = self.beats.popleft()
                assert last == (place == places[-1])
                if strobe:
                    self.written[place] = (data, strobe)
            refused = any(map(self.is_faulty, places))
            self.write_answers.append((self.now + self.latency, {"resp": 2 * refused}))

    def _take_r(self, payload):
        self.read_answers.popleft()
        self.moves["r"].append(self.now)

    def _take_b(self, payload):
        self.write_answers.popleft()


class Bench:
    """An AXI4 master between a memory and clients that ask for (address, beats)."""

    def __init__(self, config=TINY, *, reads=(), fetches=(), writes=(), clients="1", drain=(),
                 after=(), burst_beats=64, outstanding=4, **memory):
        self.dut = dut = AxiMaster(config, burst_beats=burst_beats, outstanding=outstanding)
        self.bytes = config.axi_data_bits // 8
        self.memory = Memory(dut, **memory)
        self._ask(reads, fetches, writes)
        self.came = {"read_data": [], "fetch_data": []}
        self.done = []
        self.drain = drain
        self.after = after
        self.idle = []
        names = ("reads", "fetches", "writes", "write_data", "read_data", "fetch_data",
                 "write_done")
        self.willing = {name: cycle(clients[at % len(clients):] + clients[:at % len(clients)])
                        for at, name in enumerate(names)}
        simulate(dut, self._run)

    def _ask(self, reads, fetches, writes):
        """Let the clients forget what they wanted, and want this."""
        self.asks = {"reads": deque(reads), "fetches": deque(fetches), "writes": deque(writes)}
        self.beats = deque((address + number * self.bytes, address)
                           for address, beats in writes for number in range(beats))

    async def _run(self, ctx):
        dut, quiet, offered = self.dut, 0, {}
        while quiet < PATIENCE:
            draining = self.memory.now in self.drain
            put(ctx, dut.drain, int(draining))
            if draining and self.memory.now == self.drain[-1]:
                self._ask(*[self.after] * 3)
                self.came = {name: [] for name in self.came}
            self.memory.offer(ctx)
            for name, asks in (*self.asks.items(), ("write_data", self.beats)):
                port = getattr(dut, name)
                willing = next(self.willing[name]) == "1"
                valid = bool(asks) and (offered.get(name) or willing) and not draining
                put(ctx, port.valid, int(valid))
                if valid:
                    put(ctx, port.payload, self._payload(name, asks[0]))
                offered[name] = valid
            for name in (*self.came, "write_done"):
                put(ctx, getattr(dut, name).ready, int(next(self.willing[name])))
            quiet = 0 if self._take(ctx, offered) or draining else quiet + 1
            self.idle.append(ctx.get(dut.idle))
            self.memory.take(ctx)
            await ctx.tick()

    def _payload(self, name, item):
        if name == "write_data":
            return {"data": item[0], "strobe": (1 << self.bytes) - 1}
        return {"address": item[0], "beats": item[1]}

    def _take(self, ctx, offered):
        """Pop what passes; return whether anything did."""
        dut, moved = self.dut, ctx.get(self.dut.moved)
        for name, asks in (*self.asks.items(), ("write_data", self.beats)):
            if offered[name] and ctx.get(getattr(dut, name).ready):
                asks.popleft()
                offered[name] = False
                moved = True
        for name, came in (*self.came.items(), ("write_done", self.done)):
            port = getattr(dut, name)
            if ctx.get(port.valid) and ctx.get(port.ready):
                came.append(ctx.get(port.payload))
                moved = True
        return moved

    def at_rest(self):
        """Return whether nothing is left on the bus."""
        memory = self.memory
        return self.idle[-1] and not (
            memory.read_answers or memory.write_answers or memory.writing or memory.beats)


def drawn(rng, count, beat, *, longest=50):
    """Return transfers that do not overlap."""
    return [(number * 0x4000 + int(rng.integers(0, 0x1000 // beat)) * beat,
             int(rng.integers(1, longest))) for number in range(count)]


def expected(transfers, beat, faults=()):
    """Return the beats of reads: data, error, last."""
    return [(address + number * beat, (address // beat + number) in faults, number == beats - 1)
            for address, beats in transfers for number in range(beats)]


@pytest.mark.parametrize("data_bits", [64, 128, 256])
@pytest.mark.parametrize(("clients", "stalls"), [
    ("1", "1"), ("1101", "1"), ("1", "011"), ("0010", "0001"), ("10", "11100000")])
def test_everything_asked_for_moves_once(data_bits, clients, stalls, rng):
    config = TINY.with_changes(axi_data_bits=data_bits)
    beat = data_bits // 8
    reads, fetches, writes = (drawn(rng, count, beat) for count in (3, 4, 3))
    places = [address // beat + number for address, beats in (*reads, *fetches, *writes)
              for number in range(beats)]
    faults = {*rng.choice(places, 5).tolist(), writes[0][0] // beat}
    bench = Bench(config, reads=reads, fetches=fetches, writes=writes, clients=clients,
                  stalls=stalls, faults=faults, latency=int(rng.integers(1, 20)),
                  burst_beats=16)
    assert bench.at_rest()
    for name, transfers in (("read_data", reads), ("fetch_data", fetches)):
        came = [(beat_.data, beat_.error, beat_.last) for beat_ in bench.came[name]]
        assert came == expected(transfers, beat, faults)
    assert bench.memory.written == {
        address + number * beat: (address + number * beat, (1 << beat) - 1)
        for address, beats in writes for number in range(beats)}
    refused = [any(address // beat + number in faults for number in range(beats))
               for address, beats in writes]
    assert [done.error for done in bench.done] == refused
    assert set(refused) == {True, False}


def test_an_error_of_one_burst_is_that_of_the_whole_write():
    writes = [(0x1000, 40), (0x2000, 40), (0x3000, 40), (0x4000, 1)]
    faults = {0x100, 0x100 + 0x200 + 39}
    bench = Bench(writes=writes, faults=faults, burst_beats=16)
    assert bench.at_rest()
    assert [done.error for done in bench.done] == [1, 0, 1, 0]


@pytest.mark.parametrize("latency", [1, 12])
def test_beats_pass_without_a_gap(latency):
    transfers = [(0x40, 130), (0x4000, 50), (0x8010, 1), (0x8020, 1), (0x9000, 70)]
    bench = Bench(reads=transfers, writes=transfers, latency=latency)
    assert bench.at_rest()
    total = sum(beats for _, beats in transfers)
    for name in ("r", "w"):
        moves = bench.memory.moves[name]
        assert moves == list(range(moves[0], moves[0] + total))


def test_clients_take_turns():
    transfers = [(0x1000 * number, 64) for number in range(6)]
    bench = Bench(reads=transfers, fetches=transfers, latency=5)
    assert bench.at_rest()
    addresses = [address for _, address, _ in bench.memory.bursts]
    assert addresses == [0x1000 * (number // 2) for number in range(12)]


@pytest.mark.parametrize("begin", [4, 9, 15, 22, 41])
def test_a_drained_bus_rests_and_works_again(begin, rng):
    drain = range(begin, begin + 120)
    reads, fetches, writes, after = (drawn(rng, 3, 16) for _ in range(4))
    bench = Bench(reads=reads, fetches=fetches, writes=writes, drain=drain, after=after, latency=6,
                  stalls="1101", clients="1101", burst_beats=16)
    assert not all(bench.idle[:begin + 1])
    assert all(bench.idle[begin + 110:begin + 120])
    assert bench.at_rest()
    # What was begun ended without a beat that the clients did not give.
    given = {address + number * 16 for address, beats in (*writes, *after)
             for number in range(beats)}
    assert {data for data, _ in bench.memory.written.values()} <= given
    assert all(data == place for place, (data, _) in bench.memory.written.items())
    for came in bench.came.values():
        assert [(beat.data, beat.error, beat.last) for beat in came] == expected(after, 16)


@pytest.mark.parametrize(("data_bits", "burst_beats"), [(64, 1), (64, 16), (128, 256), (256, 64)])
def test_bursts_cover_a_request(data_bits, burst_beats, rng):
    beat = data_bits // 8
    dut = BurstSplitter(data_bits, 40, burst_beats)
    requests = [(int(rng.integers(0, 1 << 20)) * beat, int(rng.integers(1, 600)))
                for _ in range(8)]
    requests.append(((1 << 40) - 3 * beat, 3))
    bursts = []

    async def ask(ctx):
        for address, beats in requests:
            put(ctx, dut.requests.payload, {"address": address, "beats": beats})
            put(ctx, dut.requests.valid, 1)
            await ctx.tick().until(dut.requests.ready)
        put(ctx, dut.requests.valid, 0)

    async def take(ctx):
        put(ctx, dut.bursts.ready, 1)
        ends = 0
        while ends < len(requests):
            payload, = await ctx.tick().sample(dut.bursts.payload).until(dut.bursts.valid)
            bursts.append((payload.addr, payload.len + 1, payload.last))
            ends += payload.last

    simulate(dut, ask, take)
    most = burst_beats * beat
    wanted = []
    for address, beats in requests:
        place, end = address, address + beats * beat
        while place < end:
            stop = min(end, place - place % most + most)
            wanted.append((place, (stop - place) // beat, stop == end))
            place = stop
    assert bursts == wanted


@pytest.mark.parametrize(("data_bits", "beats", "most"), [(64, 3, 256), (128, 512, 256),
                                                          (256, 256, 128), (64, 0, 256)])
def test_burst_length_must_fit_a_page(data_bits, beats, most):
    with pytest.raises(ValueError, match=f"power of two from 1 to {most}, not {beats}"):
        BurstSplitter(data_bits, 40, beats)


