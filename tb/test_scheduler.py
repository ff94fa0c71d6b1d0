"""The scheduler's slots, addresses and cycles are those of the golden model."""

from dataclasses import replace

import numpy as np
import pytest

from gradloom.scheduler import Scheduler
from gradloom_golden import geometry
from gradloom_golden.config import preset
from gradloom_golden.cycles import counts, descriptor_cycles, tile_slots
from gradloom_golden.program import Descriptor, Opcode, Schedule
from simulate import memory, put, read, simulate
from slots import tile as slots_of

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY, "turning": TINY.with_changes(overlap=False),
    "wide": TINY.with_changes(columns=8), "tall": TINY.with_changes(rows=8, overlap=False),
    "flat": TINY.with_changes(columns=16, overlap=False),
}
FLAGS = ("ready", "shift", "wave", "x_read", "x_address", "packed_read", "d_read", "d_address",
         "x_wave", "packed_wave", "x_part", "d_wave", "d_part", "pack_wave", "pack_step",
         "packed_write", "packed_address", "packed_part", "counts_wave",
         "ends_wave", "load", "result", "drain", "product", "element", "x_zero", "x_packed",
         "x_block_ends")
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


PATCH = {"patch": 1, "schedule": Schedule.WEIGHT_GRADIENT, "conv": 1}


def walked(config, rng, **fixed):
    """Return a descriptor whose rows walk over pixels and taps, some of them outside their image.

    Any offsets and steps do: addresses wrap at the end of a buffer, and nothing here reads one.
    """
    t_x, t_y = rng.integers(1, 5, 2).tolist()
    images = int(rng.integers(1, 4))
    kind = rng.integers(3)
    geometry_fields = {
        "conv": 1, "steps": images * t_x * t_y - int(rng.integers(0, t_x)), "t_x": t_x, "t_y": t_y,
        "taps_y": int(rng.integers(1, 4)), "taps_x": int(rng.integers(1, 4)),
        "k_tiles": int(rng.integers(1, 3)), "n_tiles": int(rng.integers(1, 3)),
        "x_pixel": int(rng.integers(4)), "x_row": int(rng.integers(20)),
        "x_image": int(rng.integers(60)), "x_offset": int(rng.integers(-20, 20)),
        "d_stride": int(rng.integers(30)), "d_row": int(rng.integers(20)),
        "d_image": int(rng.integers(60)), "d_offset": int(rng.integers(-20, 20)),
        "tap_row": int(rng.integers(-9, 9)), "tap_pixel": int(rng.integers(-3, 3)),
        "y_first": int(rng.integers(-2, 3)), "x_first": int(rng.integers(-2, 3)),
        "y_limit": int(rng.integers(1, 9)), "x_limit": int(rng.integers(1, 9)),
        "y_step": int(rng.integers(1, 3)), "x_step": int(rng.integers(1, 3)),
        "tap_dy": int(rng.integers(-1, 2)), "tap_dx": int(rng.integers(-1, 2)),
        "first_sample": int(rng.integers(9)),
    }
    if kind == 1:
        geometry_fields |= {"opcode": Opcode.BACKWARD, "d_moves": 1}
    elif kind == 2:
        geometry_fields |= PATCH | {"x_stride": config.rows}
    d = drawn(config, rng, **geometry_fields | fixed)
    return d if d.opcode == Opcode.BACKWARD else replace(d, gather=0)


class WestMemory:
    """What stands at the outputs of the memories of X, and where it lies."""

    def __init__(self, d):
        self.d = d
        self._word = None
        self._block = 0
        self._is_packed = False

    def shown(self, row):
        """Return word and part, of patches element and block; None for a row of zeros."""
        if row["x_zero"]:
            return None
        if row["pack_wave"] or (row["x_wave"] and not row["packed_wave"]):
            assert row["x_packed"] == self._is_packed
        if self.d.patch and not row["x_packed"]:
            return self._word
        return self._word, row["x_part"]

    def clocked(self, row):
        """Take the reads of this cycle."""
        assert not (row["x_read"] and row["packed_read"])
        if row["x_read"] or row["packed_read"]:
            self._is_packed = row["packed_read"]
            patch = self.d.patch and not row["packed_read"]
            self._word = (row["element"], self._block) if patch else row["x_address"]
        if row["x_block_ends"]:
            self._block = (self._block + 1) % self.d.k_tiles


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
        expected["x_reads"] += expected["image_reads"]
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

    def x_of(self, tile):
        """Return where X of each step lies: word and part, of patches element and block.

        None for what lies outside its image.
        """
        d, config, share = self.d, self.config, self.config.lane_count // self.config.rows
        image = geometry.steps_of(d).image
        gathers = d.gather and not self.forward
        if gathers:
            image = self.keep[(d.first_sample + image) % config.steps_depth]
        rows, inside = geometry.x_rows(d, tile, image)
        if gathers and not d.conv:
            rows = self.keep[:d.steps]
        if d.patch:
            size = config.image_depth * config.lane_count
            elements = (d.x_base + tile.block * d.x_stride + rows) % size
            return [(element, tile.block) for element in elements.tolist()]
        words = (d.x_base + tile.block // share * d.x_stride + rows) % config.activation_depth
        return [(word, tile.block % share) if here else None
                for word, here in zip(words.tolist(), inside, strict=True)]

    def d_of(self, tile):
        """Return where D of each step lies, None outside its image and for padding of a group."""
        d, share = self.d, self.config.lane_count // self.config.columns
        rows, inside = geometry.d_rows(d, tile)
        stride = d.d_stride if d.conv else d.steps
        words = (d.d_base + tile.n // share * stride + rows) % self.config.gradient_depth
        return [(word, tile.n % share) if here else None
                for word, here in zip(words.tolist(), inside, strict=True)] + [None] * self.q

    def packed_of(self, block, group):
        share = self.config.lane_count // self.config.rows
        groups = -(-self.d.steps // self.q)
        word = self.d.packed_base + block // share * groups + group
        return word % self.config.activation_depth, block % share

    def uses(self, tile):
        """Return whether this is the first tile that takes its packed words, and the last."""
        d = self.d
        moving = d.conv and d.d_moves
        last_tap = (tile.tap_y, tile.tap_x) == (d.taps_y - 1, d.taps_x - 1)
        return (tile.n == 0 and (not moving or (tile.tap_y, tile.tap_x) == (0, 0)),
                tile.n == d.n_tiles - 1 and (not moving or last_tap))

    def expected(self):
        """Return what each slot takes: X of sums' slots or D, and the operands of products.

        Then what is packed and where to, and the D that each tile's weight gradient counts.
        """
        sums, products, writes, counted = [], [], [], []
        for tile in geometry.tiles(self.d):
            slots = list(slots_of(self.d.steps, self.q, self.schedule))
            assert len(slots) == tile_slots(self.d)
            x_of, d_of = self.x_of(tile), self.d_of(tile)
            first_use, last_use = self.uses(tile)
            counted.append([d_of[slot.step] for slot in slots if slot.counts])
            for slot in slots:
                if slot.sums:
                    assert slot.step is not None
                    sums.append(x_of[slot.step] if self.forward else d_of[slot.step])
                if slot.group is not None:
                    first = slot.group * self.q
                    x = x_of[first:first + self.q]
                    if self.q > 1 and not first_use:
                        x = self.packed_of(tile.block, slot.group)
                    elif self.q > 1 and not last_use:
                        writes.append((self.packed_of(tile.block, slot.group), x))
                    products.append((x, d_of[first:first + self.q]))
        return sums, products, writes, counted

    def seen(self):
        """Follow buffers, packer and the gradients that passed; return the same as `expected`."""
        sums, products, writes, counted = [], [], [], []
        d_word, west = None, WestMemory(self.d)
        packer, history, of_tile = [], [], []
        before = {"result": 0}
        for row in self.rows:
            d = (d_word, row["d_part"]) if row["d_wave"] and d_word is not None else None
            x = west.shown(row)
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
            west.clocked(row)
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


def check(config, descriptors, rng):
    """Compare all that the scheduler shows with the golden model."""
    for trace in traces(config, descriptors, rng):
        trace.check_counts()
        trace.check_shifts()
        for got, wanted in zip(trace.seen(), trace.expected(), strict=True):
            assert got == wanted, trace.d


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_the_golden_model(name, rng):
    config = CONFIGS[name]
    descriptors = [drawn(config, rng) for _ in range(12)]
    for schedule in Schedule:
        for lanes_log2 in range(3):
            descriptors.append(drawn(
                config, rng, opcode=Opcode.BACKWARD, schedule=schedule, lanes_log2=lanes_log2))
    check(config, descriptors, rng)


@pytest.mark.parametrize("name", CONFIGS)
def test_walks_over_pixels_and_taps_as_the_golden_model_does(name, rng):
    config = CONFIGS[name]
    descriptors = [walked(config, rng) for _ in range(12)]
    moved = {"opcode": Opcode.BACKWARD, "patch": 0}
    descriptors += [walked(config, rng, **moved, d_moves=d_moves, gather=1, lanes_log2=lanes_log2,
                           schedule=schedule)
                    for schedule, lanes_log2, d_moves in (
                        (Schedule.INTERLEAVED, 2, 1), (Schedule.WEIGHT_GRADIENT, 1, 0),
                        (Schedule.SEQUENTIAL, 0, 1), (Schedule.INPUT_GRADIENT, 0, 1))]
    # Where words hold several tiles, patches have a test of their own.
    check(config, [d if d.k_tiles == 1 or not d.patch else replace(d, k_tiles=1)
                   for d in descriptors], rng)


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_go_on_by_a_tile_however_many_a_word_holds(name, rng):
    config = CONFIGS[name]
    check(config, [walked(config, rng, **PATCH, opcode=opcode, d_moves=0, k_tiles=4,
                          x_stride=config.rows, lanes_log2=0)
                   for opcode in (Opcode.FORWARD, Opcode.BACKWARD)], rng)


def test_a_packed_word_is_read_back_where_it_was_written(rng):
    d = drawn(TINY, rng, opcode=Opcode.BACKWARD, schedule=Schedule.INTERLEAVED, lanes_log2=2,
              steps=7, k_tiles=3, n_tiles=3)
    trace, = traces(TINY, [d], rng)
    written = [row["packed_address"] for row in trace.rows if row["packed_write"]]
    read_back = [row["x_address"] for row in trace.rows if row["packed_read"]]
    blocks = np.reshape(written, (3, 1, 2))
    np.testing.assert_array_equal(read_back, np.repeat(blocks, 2, axis=1).ravel())
