"""Whole tiles through the array, wave by wave, equal `gradloom_golden.gemm`."""

import numpy as np
import pytest

from gradloom.array import Array
from gradloom_golden import gemm, lanes
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import Schedule
from simulate import play
from slots import tile

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY,
    "turning": TINY.with_changes(overlap=False),
    "gradients": TINY.with_changes(gradient_bits=16),
    "wide": TINY.with_changes(columns=8, overlap=False),
    "tall": TINY.with_changes(rows=8, steps_depth=16),
    "operands": TINY.with_changes(operand_bits=4, lanes=False),
    "plain": TINY.with_changes(lanes=False, overlap=False, gradient_bits=16),
}
TILES = 3
IDLE = {"os": 0, "swap": 0}


def signed_fields(words, bits, q):
    """Return words with the top bit of each of their q fields inverted, as the cells take them."""
    field = bits // q
    return words ^ sum(1 << field * k + field - 1 for k in range(q))


class Pass:
    """Some tiles of one pass: operands, the cycles that stream them, and what must come out."""

    def __init__(self, config, rng, *, schedule, steps, q=1, unsigned=False, slack=0):
        self.config, self.rng = config, rng
        self.q, self.unsigned = q, unsigned
        self.schedule, self.steps, self.slack = schedule, steps, slack
        low, high = integer_range(config.operand_bits // q, signed=not unsigned)
        gradient = integer_range(config.gradient_bits)
        self.tiles = []
        for _ in range(TILES):
            x = rng.integers(low, high, (steps, config.rows), endpoint=True)
            w = rng.integers(*integer_range(config.operand_bits), (config.rows, config.columns),
                             endpoint=True)
            d = rng.integers(*gradient, (steps, config.columns), endpoint=True)
            x[0], d[0] = low, gradient[0]
            w[:, 0] = integer_range(config.operand_bits)[0]
            self.tiles.append((x, w, d))
        self.cycles, self.sums, self.drains = [], [], []
        self._stream()

    def _cycle(self, **changes):
        """Append a cycle, with noise on every input that is not in use."""
        config, rng = self.config, self.rng
        inputs = {
            "mode": {"forward": int(self.schedule is None), "two": int(self.q == 2),
                     "four": int(self.q == 4)},
            "x_unsigned": int(self.unsigned), "wave": IDLE, "counts": 0, "ends": 0, "shift": 0,
            "west": [0] * config.rows,
            "gradients": rng.integers(*integer_range(config.gradient_bits), config.columns),
            "weights": rng.integers(*integer_range(config.operand_bits), config.columns),
        }
        self.cycles.append(inputs | changes)

    def _stream(self):
        config = self.config
        for row in self.tiles[0][1]:
            self._cycle(shift=1, weights=row)
        if config.overlap:
            self._cycle(wave={"os": 0, "swap": 1})
        swapped = len(self.cycles) - 1
        for index in range(TILES):
            self._slots(index)
            # Without overlap the chain waits for the slots, with overlap only for the swap before.
            if not config.overlap:
                swapped = len(self.cycles) - 1
                self.cycles[swapped]["ends"] = 1
            first = swapped + config.rows + self.slack
            if config.overlap:
                self._shift(first, index - 1, index + 1)
                self._pad(first + config.rows + 1)
                self.cycles[-1]["wave"] = {**self.cycles[-1]["wave"], "swap": 1}
                self.cycles[-1]["ends"] = 1
                swapped = len(self.cycles) - 1
            else:
                self._shift(first, index, index + 1)
        if config.overlap:
            self._shift(swapped + config.rows + self.slack, TILES - 1, TILES)
        self._pad(len(self.cycles) + config.rows + config.columns)

    def _pad(self, length):
        while len(self.cycles) < length:
            self._cycle()

    def _shift(self, first, leaving, entering):
        """Shift one tile out, from cycle `first`, while another goes in."""
        config = self.config
        self._pad(first + config.rows)
        for row in range(config.rows):
            inputs = self.cycles[first + row]
            inputs["shift"] = 1
            if entering < TILES:
                inputs["weights"] = self.tiles[entering][1][row]
            if leaving >= 0:
                self.drains.append((first + row, leaving, row))

    def _slots(self, index):
        config = self.config
        x, _, d = self.tiles[index]
        words = lanes.pack(x, self.q) if self.q > 1 else x
        if self.unsigned:
            x, words = (signed_fields(each, config.operand_bits, self.q) for each in (x, words))
        for slot in tile(self.steps, self.q, self.schedule):
            inputs = {"wave": {"os": int(slot.group is not None), "swap": 0},
                      "counts": int(slot.counts)}
            if slot.sums:
                self.sums.append((len(self.cycles), index, slot.step))
            if self.schedule is None:
                inputs["west"] = x[slot.step]
            elif slot.step is not None:
                inputs["gradients"] = d[slot.step] if slot.step < self.steps else 0 * d[0]
            if slot.group is not None:
                inputs["west"] = words[slot.group]
            self._cycle(**inputs)

    def check(self, seen, start, dut):
        """Compare what left the array, whose first cycle of this pass was `start`."""
        config = self.config
        has_os = self.schedule not in (None, Schedule.INPUT_GRADIENT)
        for cycle, index, step in self.sums:
            x, w, d = self.tiles[index]
            here = start + cycle + dut.RESULT_LATENCY
            if self.schedule is None:
                y = gemm.forward(x[step:step + 1], w, rows=config.rows)[0]
                np.testing.assert_array_equal(seen["sums_south"][here], y)
            else:
                dx = gemm.input_gradient(d[step:step + 1], w, columns=config.columns)[0]
                np.testing.assert_array_equal(seen["sums_east"][here], dx)
        assert len(self.drains) == TILES * config.rows
        for cycle, index, row in self.drains:
            x, w, d = self.tiles[index]
            here = start + cycle + dut.DRAIN_LATENCY
            np.testing.assert_array_equal(seen["old_weights"][here], w[row])
            if has_os:
                np.testing.assert_array_equal(
                    seen["drained"][here], gemm.weight_gradient(x, d)[row])


def passes_for(config, rng):
    """Yield passes of every kind; with 2 or 4 lanes the last group is short, or is not."""
    yield Pass(config, rng, schedule=None, steps=5)
    yield Pass(config, rng, schedule=None, steps=1, unsigned=True)
    whole = config.rows == config.columns and config.gradient_bits == 8
    for q in (1, 2, 4) if config.lanes and whole else (config.max_lanes,):
        # The other schedules are made of the same slots.
        both = (Schedule.INTERLEAVED, Schedule.WEIGHT_GRADIENT)
        for schedule in (Schedule if q == 1 else both) if whole else both[:1]:
            yield Pass(config, rng, schedule=schedule, steps=5, q=q, slack=int(rng.integers(3)),
                       unsigned=bool(rng.integers(2)))
    if whole:
        yield Pass(config, rng, schedule=Schedule.INTERLEAVED, steps=8, q=config.max_lanes,
                   unsigned=True)
        yield Pass(config, rng, schedule=Schedule.WEIGHT_GRADIENT, steps=1, q=config.max_lanes)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_golden_model(name, rng):
    config = CONFIGS[name]
    dut = Array(config)
    passes = list(passes_for(config, rng))
    cycles, starts = [], []
    for one in passes:
        starts.append(len(cycles))
        cycles += one.cycles
    seen = play(dut, cycles, "sums_south", "sums_east", "drained", "old_weights")
    for one, start in zip(passes, starts, strict=True):
        one.check(seen, start, dut)
    assert sum(len(one.sums) for one in passes) > 10


@pytest.mark.parametrize("name", ["tiny", "turning"])
def test_the_widest_sums_fit(name, rng):
    config = CONFIGS[name]
    dut = Array(config)
    full = Pass(config, rng, schedule=Schedule.INTERLEAVED, steps=config.steps_depth, unsigned=True)
    full.tiles[:] = [(0 * x + 255, 0 * w - 128, 0 * d - 128) for x, w, d in full.tiles]
    full.cycles, full.sums, full.drains = [], [], []
    full._stream()
    seen = play(dut, full.cycles, "sums_south", "sums_east", "drained", "old_weights")
    full.check(seen, 0, dut)
