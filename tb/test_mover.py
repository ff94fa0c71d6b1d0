# amaranth: UnusedElaboratable=no
"""LOAD and SAVE move what `gradloom_golden.transfer` says, whatever stalls."""

from collections import deque
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom.mover import Mover, buffer_word, host_word, transfer_bits
from gradloom.row_requests import RowRequests
from gradloom_golden import transfer
from gradloom_golden.config import preset
from gradloom_golden.fixed import HALF
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.program import Descriptor, Error, Opcode, Region, element_bits, memory_shape
from gradloom_golden.transfer import REGIONS
from simulate import join, memory, put, simulate

TINY = preset("tiny")
CONFIGS = [
    TINY.with_changes(axi_data_bits=64), TINY, TINY.with_changes(axi_data_bits=256),
    TINY.with_changes(rows=16, axi_data_bits=64, gradient_bits=16),
    TINY.with_changes(columns=16, operand_bits=4, lanes=False),
]
BASE = preset("base")
SEED = 0x1357BD
MEMORY = 1 << 14
LIMIT = 20_000
FLOWING = "1"


@dataclass
class Job:
    """One descriptor, and the beats of memory that fail."""

    descriptor: Descriptor
    faults: frozenset = field(default_factory=frozenset)


@dataclass
class Stalls:
    """Patterns of ready and valid, and the memory's latency in cycles.

    Lengths without a common factor let the patterns meet in every phase.
    """

    buffer: str = FLOWING
    requests: str = FLOWING
    data: str = FLOWING
    latency: int = 3


class Bench:
    """A mover between buffers, a keep list and a memory that ends where the bus does."""

    def __init__(self, config, rng, stalls=None, *, most_beats=4, origin=None):
        self.config = config
        self.rng = rng
        self.stalls = stalls or Stalls()
        self.most_beats = most_beats
        self.beat = config.axi_data_bits // 8
        self.origin = (1 << config.axi_address_bits) - MEMORY if origin is None else origin
        self.dut = Mover(config, most_beats=most_beats)
        self.memory = rng.integers(0, 256, MEMORY, np.uint8)
        self.keep = rng.permutation(config.steps_depth)
        self.buffers = {}
        for region in sorted(REGIONS):
            depth, elements, _ = memory_shape(config, region)
            self.buffers[region] = rng.integers(
                0, 1 << element_bits(config, region), (depth, elements))
        self.random = Lfsr(Bank.SAVE, config.lane_count, SEED)
        self.now = 0
        self.faults = frozenset()
        self.failing = False
        self.word = 0
        self.read_beats, self.write_beats, self.done = deque(), deque(), deque()
        self.log = {name: [] for name in ("beats_in", "beats_out", "words", "requests")}
        self.lengths = []

    def address(self, offset):
        place = self.origin + offset
        return {"memory_low": place & 0xFFFFFFFF, "memory_high": place >> 32}

    def run(self, jobs):
        """Run the jobs one after the other, each compared with the golden model."""
        dut, stalls = self.dut, self.stalls
        simulate(dut, self._testbench(jobs), processes=[
            memory(self.keep, dut.keep_address, dut.keep_index),
            self._clock,
            self._sink(dut.buffer_write, stalls.buffer, self._store),
            self._sink(dut.buffer_read, stalls.buffer[::-1], self._fetch, self._answer),
            self._sink(dut.reads, stalls.requests, self._read),
            self._source(dut.read_data, stalls.data, self.read_beats),
            self._sink(dut.writes, stalls.requests[::-1], self._write),
            self._sink(dut.write_data, stalls.data[::-1], self._beat,
                       enable=lambda: self.write_beats),
            self._source(dut.write_done, stalls.requests, self.done),
        ])

    def _testbench(self, jobs):
        dut = self.dut

        async def testbench(ctx):
            put(ctx, dut.seed, SEED)
            put(ctx, dut.seed_load, 1)
            await ctx.tick()
            put(ctx, dut.seed_load, 0)
            for job in jobs:
                self.faults = job.faults
                expected = self._expect(job)
                d = job.descriptor
                ctx.set(dut.descriptor.as_value(),
                        sum(word << 32 * index for index, word in enumerate(d.encode())))
                put(ctx, dut.start, 1)
                await ctx.tick()
                put(ctx, dut.start, 0)
                cycles = 1
                while ctx.get(dut.busy):
                    cycles += 1
                    assert cycles < LIMIT, d
                    await ctx.tick()
                self.lengths.append(cycles)
                self._compare(d, expected, (ctx.get(dut.error), ctx.get(dut.failed_address)))

        return testbench

    def _expect(self, job):
        """Return buffers, memory and error as they must be after the job."""
        d, config = job.descriptor, self.config
        plan = transfer.plan(config, d, self.keep.tolist())
        buffers = {region: words.copy() for region, words in self.buffers.items()}
        image = self.memory.copy()
        shared = {"x_shift": d.x_shift, "unsigned": bool(d.x_unsigned)}
        ended = self._refused(job, plan) or (plan.error, plan.failed_address)
        for row, address in enumerate(plan.addresses):
            place = slice(d.out_base + row * d.steps, d.out_base + (row + 1) * d.steps)
            size = transfer.row_bytes(config, d.function, d.steps, d.tested_bits)
            offset = address - self.origin
            assert 0 <= offset <= MEMORY - size
            if d.opcode == Opcode.LOAD:
                buffers[d.function][place] = transfer.unpack_words(
                    config, d.function, image[offset:offset + size], d.steps, d.tested_bits,
                    **shared)
                continue
            random = HALF
            if d.stochastic and transfer.is_compressed(d.function, d.tested_bits):
                random = low_half(self.random.draw(d.steps))
            image[offset:offset + size] = transfer.pack_words(
                config, d.function, buffers[d.function][place], d.tested_bits, random=random,
                **shared)
        return buffers, image, ended

    def _refused(self, job, plan):
        """Return the error and address of the first beat or write that the memory refuses."""
        d = job.descriptor
        for address in plan.addresses:
            size = transfer.row_bytes(self.config, d.function, d.steps, d.tested_bits)
            for index, beat in enumerate(range(address, address + size, self.beat)):
                if beat in job.faults and d.opcode == Opcode.LOAD:
                    return Error.READ_RESPONSE, beat
                if beat in job.faults:
                    return (Error.WRITE_RESPONSE,
                            address + index // self.most_beats * self.most_beats * self.beat)
        return None

    def _compare(self, d, expected, ended):
        buffers, image, error = expected
        assert ended == error, d
        for region, words in buffers.items():
            np.testing.assert_array_equal(self.buffers[region], words, err_msg=str(d))
        np.testing.assert_array_equal(self.memory, image, err_msg=str(d))
        assert not self.read_beats
        assert not self.write_beats
        assert not self.done

    # The world around the mover.

    async def _clock(self, ctx):
        async for _ in ctx.tick():
            self.now += 1

    def _sink(self, port, pattern, take, every_cycle=None, enable=None):
        """Take payloads; a valid one must not change until it is taken."""
        async def process(ctx):
            gaps = cycle(pattern)
            waiting = None
            payload = port.payload.as_value() if hasattr(port.payload, "as_value") else port.payload
            async for _, _, valid, ready, value in ctx.tick().sample(
                    port.valid, port.ready, payload):
                if waiting is not None:
                    assert valid
                    assert value == waiting
                waiting = value if valid and not ready else None
                if valid and ready:
                    take(value)
                if every_cycle:
                    every_cycle(ctx, valid and ready)
                go = next(gaps) == "1"
                put(ctx, port.ready, int(go and (enable is None or bool(enable()))))
        return process

    def _source(self, port, pattern, queue):
        """Give the payloads in `queue` whose time has come."""
        async def process(ctx):
            gaps = cycle(pattern)
            offered = False
            async for _, _, ready in ctx.tick().sample(port.ready):
                if offered and ready:
                    queue.popleft()
                    self.log["beats_in"].append(self.now)
                    offered = False
                if not offered and next(gaps) == "1" and queue and queue[0][0] <= self.now:
                    offered = True
                put(ctx, port.valid, int(offered))
                ctx.set(port.payload.as_value(), queue[0][1] if offered else 0)
        return process

    def _store(self, value):
        region, address, word = Region(value & 15), value >> 4 & 0xFFFF, value >> 20
        _, elements, host_bits = memory_shape(self.config, region)
        kept = (1 << element_bits(self.config, region)) - 1
        values = [word >> host_bits * index & kept for index in range(elements)]
        self.buffers[region][address] = values
        self.log["words"].append(self.now)

    def _fetch(self, value):
        region, address = Region(value & 15), value >> 4
        self.word = join(self.buffers[region][address], memory_shape(self.config, region)[2])

    def _answer(self, ctx, accepted):
        """Show the word for one cycle, noise in all others."""
        noise = int.from_bytes(self.rng.bytes(transfer_bits(self.config) // 8), "little")
        ctx.set(self.dut.buffer_data, self.word if accepted else noise)

    def _request(self, value):
        address, beats = value & (1 << 64) - 1, value >> 64
        assert address % self.beat == 0
        assert 0 < beats <= self.most_beats
        assert self.origin <= address <= self.origin + MEMORY - beats * self.beat
        self.log["requests"].append(self.now)
        return [address + index * self.beat for index in range(beats)]

    def _read(self, value):
        addresses = self._request(value)
        for address in addresses:
            offset = address - self.origin
            data = int.from_bytes(self.memory[offset:offset + self.beat].tobytes(), "little")
            flags = (address in self.faults) + 2 * (address == addresses[-1])
            self.read_beats.append(
                (self.now + self.stalls.latency, data | flags << self.config.axi_data_bits))

    def _write(self, value):
        addresses = self._request(value)
        self.write_beats.extend((address, address == addresses[-1]) for address in addresses)

    def _beat(self, value):
        address, last = self.write_beats.popleft()
        self.failing = self.failing or address in self.faults
        for lane in range(self.beat):
            if value >> self.config.axi_data_bits + lane & 1:
                self.memory[address - self.origin + lane] = value >> 8 * lane & 255
        self.log["beats_out"].append(self.now)
        if last:
            self.done.append((self.now + self.stalls.latency, int(self.failing)))
            self.failing = False


def random_job(bench, rng, opcode):
    """Return a transfer of a random region; one in four meets a memory that fails."""
    config = bench.config
    region = Region(rng.choice(sorted(REGIONS)))
    compressed = region == Region.ACTIVATION and rng.random() < 0.8
    bits = int(rng.choice([4, 2] if compressed else [0, 8]))
    depth = len(bench.buffers[region])
    gather = opcode == Opcode.LOAD and rng.random() < 0.4
    most_rows = 6
    steps = int(rng.integers(1, min(depth, 40), endpoint=True))
    places = config.steps_depth if gather else most_rows
    # Of the widest elements, fewer: gathered rows must lie within the memory.
    while (size := transfer.row_bytes(config, region, steps, bits)) > MEMORY // (2 * places):
        steps = max(1, steps // 2)
    rows = int(rng.integers(1, min(most_rows, depth // steps), endpoint=True))
    stride = (-(-size // bench.beat) + int(rng.integers(0, 3))) * bench.beat
    if not gather and rng.random() < 0.1:
        stride = 0
    span = (places - 1) * stride + -(-size // bench.beat) * bench.beat
    offset = int(rng.integers(0, (MEMORY - span) // bench.beat)) * bench.beat
    faults = frozenset()
    if rng.random() < 0.25:
        faults = frozenset(
            bench.origin + offset + int(beat) * bench.beat
            for beat in rng.integers(0, span // bench.beat, 4))
    return Job(Descriptor(
        opcode=opcode, function=region, tested_bits=bits, steps=steps, rows=rows,
        packed_base=stride, out_base=int(rng.integers(0, depth - rows * steps, endpoint=True)),
        gather=int(gather), first_sample=int(rng.integers(0, config.steps_depth - rows)),
        x_shift=int(rng.integers(0, 8)), x_unsigned=int(rng.integers(2)),
        stochastic=int(rng.integers(2)), **bench.address(offset)), faults)


@pytest.mark.parametrize("stalls", [
    Stalls(), Stalls(buffer="1101001", requests="01", data="1110", latency=9),
    Stalls(buffer="01101", requests="0001", data="1100100", latency=0)],
    ids=["flowing", "late", "stalled"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.rows}x{c.columns}-{c.axi_data_bits}")
def test_equals_the_golden_model(config, stalls, rng):
    bench = Bench(config, rng, stalls)
    bench.run([random_job(bench, rng, opcode) for opcode in [Opcode.LOAD, Opcode.SAVE] * 12])
    assert len(bench.lengths) == 24


def saved(bench, offset=0, **changes):
    values = {"opcode": Opcode.SAVE, "function": Region.ACTIVATION, "steps": 4, "rows": 1}
    return Job(Descriptor(**values | bench.address(offset) | changes))


def test_errors_of_the_descriptor_move_nothing(rng):
    bench = Bench(TINY, rng)
    end = MEMORY - bench.beat
    bad = [
        saved(bench, function=Region.SUMS), saved(bench, function=14),
        saved(bench, tested_bits=3), saved(bench, function=Region.MASK, tested_bits=1),
        saved(bench, gather=1), saved(bench, 1), saved(bench, rows=2, packed_base=8),
        saved(bench, end, steps=5), saved(bench, MEMORY), saved(bench, memory_high=1 << 31),
        saved(bench, end, rows=2, packed_base=16),
        saved(bench, rows=65535, packed_base=0xFFFFFFF0), saved(bench, MEMORY, gather=1,
                                                                opcode=Opcode.LOAD),
    ]
    good = [
        saved(bench, rows=0), saved(bench, MEMORY, rows=0), saved(bench, steps=0, rows=3),
        saved(bench, end), saved(bench, packed_base=8), saved(bench, end - 16, rows=2,
                                                             packed_base=16),
    ]
    jobs = bad + good
    bench.run([jobs[index] for index in rng.permutation(len(jobs))])
    moving = 3
    assert len(bench.log["requests"]) == moving + 1


def test_a_bus_of_all_64_bits_ends_at_its_end(rng):
    config = TINY.with_changes(axi_address_bits=64)
    bench = Bench(config, rng)
    end = MEMORY - bench.beat
    bench.run([saved(bench, end), saved(bench, end, steps=5),
               saved(bench, end, rows=65535, packed_base=0xFFFFFFF0),
               saved(bench, end - 16, rows=2, packed_base=16, opcode=Opcode.LOAD)])


def test_gathered_rows_before_an_error_move(rng):
    bench = Bench(TINY, rng, Stalls(latency=20))
    bench.keep = np.array([0, 1, 3, 2] + [0] * 28)
    gathered = saved(bench, MEMORY - 3 * 16, opcode=Opcode.LOAD, gather=1, rows=4, packed_base=16)
    failing = Job(gathered.descriptor, frozenset({bench.origin + MEMORY - 2 * 16}))
    assert transfer.plan(TINY, gathered.descriptor, bench.keep.tolist()).error
    bench.run([gathered, failing, gathered])


def test_compressed_elements_of_every_kind(rng):
    bench = Bench(TINY, rng)
    kinds = [{"tested_bits": bits, "x_unsigned": unsigned, "x_shift": shift, "stochastic": draw}
             for bits in (4, 2) for unsigned in (0, 1) for shift in (0, 3, 6) for draw in (0, 1)]
    # Loaded elsewhere: what was saved must not get coarser from kind to kind.
    bench.run([saved(bench, steps=9, **kind, **place) for kind in kinds
               for place in ({}, {"opcode": Opcode.LOAD, "out_base": 100})])


def test_a_draw_a_word_and_none_without_stochastic_rounding(rng):
    bench = Bench(TINY.with_changes(columns=16, axi_data_bits=64), rng, Stalls(data="110"))
    common = {"tested_bits": 4, "steps": 7, "x_shift": 3, "packed_base": 64}
    bench.run([
        saved(bench, **common, stochastic=1), saved(bench, 1024, **common),
        saved(bench, function=Region.IMAGE, steps=3, stochastic=1),
        saved(bench, 2048, **common | {"tested_bits": 2}, rows=3, stochastic=1),
        saved(bench, opcode=Opcode.LOAD, **common, stochastic=1),
        saved(bench, 4096, **common, stochastic=1),
    ])
    assert (bench.random.state != Lfsr(Bank.SAVE, 16, SEED).state).all()


def test_a_row_that_ends_inside_a_byte_is_padded_with_zeros(rng):
    bench = Bench(TINY, rng)
    bench.buffers[Region.MASK][:] = 1
    masks = saved(bench, function=Region.MASK, steps=37, rows=2, packed_base=32)
    bench.run([masks])
    assert bench.memory[[17, 18, 32 + 17, 32 + 18]].tolist() == [255, 15, 255, 15]


def gaps(times):
    return np.diff(times).tolist()


@pytest.mark.parametrize(("region", "words", "beats"), [
    (Region.ACTIVATION, 64, 64), (Region.STATE, 16, 64), (Region.BIAS, 16, 32)])
def test_a_beat_moves_every_cycle(region, words, beats, rng):
    bench = Bench(BASE, rng, Stalls(latency=25), most_beats=16)
    common = {"function": region, "steps": words}
    bench.run([saved(bench, **common, opcode=Opcode.LOAD), saved(bench, **common)])
    # The last entry of `beats_in` is the answer to the last write.
    answers = beats // 16
    assert gaps(bench.log["beats_in"][:-answers]) == [1] * (beats - 1)
    assert gaps(bench.log["beats_out"]) == [1] * (beats - 1)
    assert bench.lengths[0] < beats + 25 + 12
    assert bench.lengths[1] < beats + 25 + 12


def test_a_narrow_word_moves_every_cycle(rng):
    bench = Bench(TINY.with_changes(axi_data_bits=256), rng)
    bench.run([saved(bench, steps=64, opcode=Opcode.LOAD), saved(bench, steps=64)])
    assert gaps(bench.log["words"]) == [1] * 63
    assert gaps(bench.log["beats_out"]) == [8] * 7


def test_rows_do_not_wait_for_each_other(rng):
    latency = 40
    bench = Bench(BASE, rng, Stalls(latency=latency), most_beats=16)
    rows = {"rows": 24, "steps": 2, "packed_base": 48, "function": Region.IMAGE}
    bench.run([saved(bench, **rows, opcode=Opcode.LOAD), saved(bench, **rows)])
    assert max(bench.lengths) < 2 * 24 + latency + 30


def test_gathered_rows_do_not_wait_for_each_other(rng):
    latency = 60
    bench = Bench(BASE.with_changes(steps_depth=32), rng, Stalls(latency=latency), most_beats=16)
    gathered = {"rows": 12, "steps": 12, "packed_base": 192, "function": Region.IMAGE}
    bench.run([saved(bench, **gathered, gather=1, opcode=Opcode.LOAD)])
    assert bench.lengths[0] < 12 * 12 + latency + 30


class Windows(wiring.Component):
    """The two conversions at a buffer's port."""

    def __init__(self, config, region):
        self.config = config
        self.region = region
        _, elements, _ = memory_shape(config, region)
        kept = elements * element_bits(config, region)
        super().__init__({
            "seen": In(transfer_bits(config)), "stored": Out(kept),
            "back": Out(transfer_bits(config)),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.stored.eq(buffer_word(self.config, self.region, self.seen)),
            self.back.eq(host_word(self.config, self.region, self.stored)),
        ]
        return m


@pytest.mark.parametrize("region", sorted(REGIONS))
def test_a_buffer_takes_its_bits_of_what_the_host_sees(region, rng):
    config = TINY.with_changes(columns=16, gradient_bits=16, operand_bits=4, lanes=False)
    _, elements, host_bits = memory_shape(config, region)
    bits = element_bits(config, region)
    seen = int.from_bytes(rng.bytes(transfer_bits(config) // 8), "little")
    dut = Windows(config, region)
    cells = [seen >> host_bits * index & (1 << bits) - 1 for index in range(elements)]
    shown = []

    async def testbench(ctx):
        ctx.set(dut.seen, seen)
        shown.extend([ctx.get(dut.stored), ctx.get(dut.back)])

    simulate(dut, testbench, clocked=False)
    assert shown == [join(cells, bits), join(cells, host_bits)]


@pytest.mark.parametrize("beats", [0, 3, 1 << 16])
def test_requests_have_a_power_of_two_of_beats(beats):
    with pytest.raises(ValueError, match=f"power of two of beats up to 32768, not {beats}"):
        RowRequests(TINY, [32], most_beats=beats)
