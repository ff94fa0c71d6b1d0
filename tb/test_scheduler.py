"""The scheduler's slots, addresses and cycles are those of `gradloom_golden.cycles`."""

import numpy as np
import pytest

from gradloom.scheduler import Scheduler
from gradloom_golden.config import preset
from gradloom_golden.cycles import counts, descriptor_cycles, tile_slots
from gradloom_golden.program import Descriptor, Opcode, Schedule
from simulate import memory, put, read, simulate
from slots import tile

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY, "turning": TINY.with_changes(overlap=False),
    "wide": TINY.with_changes(columns=8), "tall": TINY.with_changes(rows=8, overlap=False),
    "flat": TINY.with_changes(columns=16, overlap=False),
}
FLAGS = ("ready", "shift", "wave", "x_read", "x_address", "packed_read", "d_read", "d_address",
         "x_wave", "packed_wave", "x_part", "d_wave", "d_part", "pack_wave", "pack_step",
         "packed_write", "packed_address", "packed_part", "counts_wave",
         "ends_wave", "load", "result", "drain", "product")
COUNTED = {"weight_reads": "load", "os_products": "product", "x_reads": "x_read",
           "packed_reads": "packed_read", "d_reads": "d_read", "packed_writes": "packed_write"}


def drawn(config, rng, **fixed):
    """Return a descriptor with few steps and tiles; bases need not fit the buffers."""
    steps = int(rng.integers(1, 12))
    fields = {
        "opcode": int(rng.choice([Opcode.FORWARD, Opcode.BACKWARD])), "steps": steps,
        "x_stride": steps + int(rng.integers(4)), "k_tiles": int(rng.integers(1, 5)),
        "n_tiles": int(rng.integers(1, 4)), "x_base": int(rng.integers(64)),
        "d_base": int(rng.integers(32)), "packed_base": int(rng.integers(128, 192)),
        "gather": int(rng.integers(2)), "x_unsigned": int(rng.integers(2)),
    } | fixed
    if fields["opcode"] == Opcode.BACKWARD:
        fields = {"schedule": int(rng.integers(4)),
                  "lanes_log2": int(rng.integers(3)) if config.lanes else 0} | fields
    return Descriptor(**fields)


class Trace:
    """Everything that the scheduler shows while it runs one descriptor, cycle by cycle."""

    def __init__(self, config, descriptor, keep, rows):
        self.config, self.d, self.keep = config, descriptor, keep
        self.rows = rows
        self.forward = descriptor.opcode == Opcode.FORWARD
        self.q = 1 << descriptor.lanes_log2
        self.schedule = None if self.forward else Schedule(descriptor.schedule)

    def count(self, name):
        return sum(row[name] for row in self.rows)

    def check_counts(self):
        """Compare with what the descriptor costs, cycles included."""
        expected = counts(self.config, self.d)
        for counter, flag in COUNTED.items():
            assert self.count(flag) == expected[counter], flag
        slots = expected["forward_slots"] + expected["ws_slots"]
        assert self.count("result") == slots
        assert self.count("drain") == expected["state_writes"]
        assert len(self.rows) == descriptor_cycles(self.config, self.d)

    def check_shifts(self):
        """A shift keeps its distance from slots, or from swaps, and comes with its memory row."""
        config = self.config
        swap_bit = 2
        for cycle, row in enumerate(self.rows[:-1]):
            if row["load"] or row["drain"]:
                assert self.rows[cycle + 1]["shift"]
        shifts = [cycle for cycle, row in enumerate(self.rows) if row["shift"]]
        swaps = [cycle for cycle, row in enumerate(self.rows) if row["wave"] & swap_bit]
        assert len(shifts) % config.rows == 0
        ends = [cycle for cycle, row in enumerate(self.rows) if row["ends_wave"]]
        # With overlap, what was counted must stand until the drain that follows the swap.
        if config.overlap:
            assert set(swaps[1:]) <= set(ends)
        else:
            assert not swaps
            assert set(ends) <= set(self._slot_cycles())
        busy = swaps if config.overlap else self._slot_cycles()
        for first in shifts[::config.rows]:
            block = list(range(first, first + config.rows))
            assert block == shifts[shifts.index(first):][:config.rows]
            assert not set(busy) & set(range(first - config.rows + 1, block[-1] + 1))

    def _slot_cycles(self):
        return [cycle + 1 for cycle, row in enumerate(self.rows[:-1]) if row["result"]] + [
            cycle for cycle, row in enumerate(self.rows) if row["wave"] & 1]

    def tiles(self):
        """Return the tiles (k, n) in their order."""
        ks, ns = range(self.d.k_tiles), range(self.d.n_tiles)
        if self.forward:
            return [(k, n) for n in ns for k in ks]
        return [(k, n) for k in ks for n in ns]

    def x_of(self, k, step):
        """Return where X of a step lies: word and part."""
        share = self.config.lane_count // self.config.rows
        row = self.keep[step] if self.d.gather and not self.forward else step
        return int(self.d.x_base + k // share * self.d.x_stride + row), k % share

    def d_of(self, n, step):
        """Return where D of a step lies, or None for padding."""
        if step >= self.d.steps:
            return None
        share = self.config.lane_count // self.config.columns
        return self.d.d_base + n // share * self.d.steps + step, n % share

    def packed_of(self, k, group):
        share = self.config.lane_count // self.config.rows
        groups = -(-self.d.steps // self.q)
        return self.d.packed_base + k // share * groups + group, k % share

    def expected(self):
        """Return what each slot takes: X of sums' slots or D, and the operands of products.

        Then what is packed and where to, and the D that each tile's weight gradient counts.
        """
        sums, products, writes, counted = [], [], [], []
        for k, n in self.tiles():
            slots = list(tile(self.d.steps, self.q, self.schedule))
            assert len(slots) == tile_slots(self.d)
            counted.append([self.d_of(n, slot.step) for slot in slots if slot.counts])
            for slot in slots:
                if slot.sums:
                    sums.append(self.x_of(k, slot.step) if self.forward
                                else self.d_of(n, slot.step))
                if slot.group is not None:
                    steps = range(slot.group * self.q, slot.group * self.q + self.q)
                    x = [self.x_of(k, step) for step in steps if step < self.d.steps]
                    if self.q > 1 and n:
                        x = self.packed_of(k, slot.group)
                    elif self.q > 1 and self.d.n_tiles > 1:
                        writes.append((self.packed_of(k, slot.group), x))
                    products.append((x, [self.d_of(n, step) for step in steps]))
        return sums, products, writes, counted

    def seen(self):
        """Follow buffers, packer and the gradients that passed; return the same as `expected`."""
        sums, products, writes, counted = [], [], [], []
        x_word = d_word = None
        packer, history, of_tile = [], [], []
        before = {"result": 0}
        for row in self.rows:
            d = (d_word, row["d_part"]) if row["d_wave"] and d_word is not None else None
            x = (x_word, row["x_part"])
            if before["result"]:
                assert row["x_wave"] == self.forward
                sums.append(x if self.forward else d)
            if row["wave"] & 1:
                assert row["x_wave"]
                if self.q == 1:
                    products.append(([x], [d]))
                else:
                    taken = list(packer) if row["packed_wave"] else x
                    products.append((taken, history[-self.q:]))
            if row["packed_write"]:
                writes.append(((row["packed_address"], row["packed_part"]), list(packer)))
            if row["pack_wave"]:
                packer = packer if row["pack_step"] else []
                assert len(packer) == row["pack_step"]
                packer.append(x)
            history.append(d)
            if row["counts_wave"]:
                of_tile.append(d)
            if row["ends_wave"]:
                counted.append(of_tile)
                of_tile = []
            assert not (row["x_read"] and row["packed_read"])
            if row["x_read"] or row["packed_read"]:
                x_word = row["x_address"]
            if row["d_read"]:
                d_word = row["d_address"]
            before = row
        assert not of_tile
        return sums, products, writes, counted


def traces(config, descriptors, rng):
    """Run the descriptors, each started in the first cycle that the one before allows."""
    dut = Scheduler(config)
    keep = rng.integers(0, config.steps_depth, config.steps_depth)
    result = []

    async def testbench(ctx):
        assert ctx.get(dut.ready)
        for d in descriptors:
            rows = []
            put(ctx, dut.start, 1)
            while True:
                rows.append({name: read(ctx, getattr(dut, name)) for name in FLAGS})
                await ctx.tick()
                put(ctx, dut.start, 0)
                ctx.set(dut.descriptor.as_value(),
                        sum(word << 32 * index for index, word in enumerate(d.encode())))
                modes = {name: ctx.get(getattr(dut.mode, name))
                         for name in ("forward", "two", "four")}
                assert modes == {
                    "forward": d.opcode == Opcode.FORWARD, "two": d.lanes_log2 == 1,
                    "four": d.lanes_log2 == 2}
                if ctx.get(dut.ready):
                    break
            result.append(Trace(config, d, keep, rows))

    simulate(dut, testbench, processes=[memory(keep, dut.keep_address, dut.keep_index)])
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_the_golden_model(name, rng):
    config = CONFIGS[name]
    descriptors = [drawn(config, rng) for _ in range(12)]
    for schedule in Schedule:
        for lanes_log2 in range(3):
            descriptors.append(drawn(
                config, rng, opcode=Opcode.BACKWARD, schedule=schedule, lanes_log2=lanes_log2))
    for trace in traces(config, descriptors, rng):
        trace.check_counts()
        trace.check_shifts()
        for got, wanted in zip(trace.seen(), trace.expected(), strict=True):
            assert got == wanted, trace.d


def test_a_packed_word_is_read_back_where_it_was_written(rng):
    d = drawn(TINY, rng, opcode=Opcode.BACKWARD, schedule=Schedule.INTERLEAVED, lanes_log2=2,
              steps=7, k_tiles=3, n_tiles=3)
    trace, = traces(TINY, [d], rng)
    written = [row["packed_address"] for row in trace.rows if row["packed_write"]]
    read_back = [row["x_address"] for row in trace.rows if row["packed_read"]]
    blocks = np.reshape(written, (3, 1, 2))
    np.testing.assert_array_equal(read_back, np.repeat(blocks, 2, axis=1).ravel())
