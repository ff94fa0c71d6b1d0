"""A column completes sums and gradients of cells that took unsigned fields for signed ones."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from gradloom.column import Column
from gradloom_golden import gemm
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from simulate import play

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY,
    "turning": TINY.with_changes(overlap=False),
    "gradients": TINY.with_changes(rows=8, gradient_bits=16, overlap=False),
    "operands": TINY.with_changes(rows=8, operand_bits=4, lanes=False),
}
STEPS = (5, 1, 9, 4)


@dataclass
class Stream:
    """Cycles of one column, and what it must show in some of them."""

    cycles: list = field(default_factory=list)
    sums: list = field(default_factory=list)
    drains: list = field(default_factory=list)


class Tile:
    """Operands of one column, and what signed cells make of them.

    Parameters
    ----------
    extreme : bool
        Everything as far from zero as it goes, instead of random.
    """

    def __init__(self, config, rng, steps, *, q, unsigned, extreme=False):
        bits = config.operand_bits // q
        low, high = integer_range(bits, signed=not unsigned)
        weight, gradient = integer_range(config.operand_bits), integer_range(config.gradient_bits)
        self.x = rng.integers(low, high, (steps, config.rows), endpoint=True)
        self.w = rng.integers(*weight, config.rows, endpoint=True)
        self.d = rng.integers(*gradient, steps, endpoint=True)
        if extreme:
            self.x[:], self.w[:], self.d[:] = high, weight[0], gradient[0]
        inside = self.x - (unsigned << bits - 1)
        self.sums_inside, self.wgrad_inside = inside @ self.w, inside.T @ self.d
        self.sums = gemm.forward(self.x, self.w[:, None], rows=config.rows)[:, 0]
        self.wgrad = gemm.weight_gradient(self.x, self.d[:, None])[:, 0]


def streamed(config, rng, tiles, *, q, unsigned):
    """Return the tiles one after the other, the next shift or slot as early as can be.

    Unused inputs are noise. With 2 or 4 lanes the starts of sums are not looked at: forward slots
    have one field.
    """
    stream = Stream()

    def cycle(**changes):
        stream.cycles.append({
            "x_unsigned": int(unsigned), "two": int(q == 2), "four": int(q == 4),
            "shift": 0, "swap": 0, "counts": 0, "ends": 0,
            "weight": rng.integers(*integer_range(config.operand_bits)),
            "gradient": rng.integers(*integer_range(config.gradient_bits)),
            "drain_i": rng.integers(*integer_range(config.wgrad_bits - 2)),
        } | changes)

    def shift(first, leaving, entering):
        """Shift one tile out, from cycle `first`, while another goes in."""
        while len(stream.cycles) < first + config.rows:
            cycle()
        for row in range(config.rows):
            inputs = stream.cycles[first + row]
            inputs["shift"] = 1
            if entering is not None:
                inputs["weight"] = entering.w[row]
            if leaving is not None:
                inputs["drain_i"] = leaving.wgrad_inside[row]
                stream.drains.append((first + row, leaving.wgrad[row]))

    def slots(tile):
        for step, d in enumerate(tile.d):
            if rng.integers(2):
                cycle()
            if q == 1:
                stream.sums.append(
                    (len(stream.cycles), tile.sums[step] - tile.sums_inside[step]))
            cycle(counts=1, gradient=d)

    overlap = config.overlap
    # A cycle without a shift parts the weights of a tile from what was shifted before.
    cycle()
    shift(1, None, tiles[0])
    if overlap:
        cycle(swap=1)
    for before, tile, after in zip([None, *tiles], tiles, [*tiles[1:], None], strict=False):
        first = len(stream.cycles)
        slots(tile)
        if overlap:
            shift(first, before, after)
            # Weights have entered the cycle after they are shifted in.
            if first + config.rows == len(stream.cycles):
                cycle()
            stream.cycles[-1] |= {"ends": 1, "swap": 1}
        else:
            stream.cycles[-1]["ends"] = 1
            shift(len(stream.cycles), tile, after)
    if overlap:
        shift(len(stream.cycles), tiles[-1], None)
    return stream


def compare(dut, streams):
    """Play the streams without a gap, and look at every start of a sum and every drained row."""
    cycles = [dict(inputs) for stream in streams for inputs in stream.cycles]
    for index, inputs in enumerate(cycles):
        inputs["after_shift"] = cycles[index - 1]["shift"] if index else 0
    seen = play(dut, cycles, "sum_i", "drain_o")
    start = 0
    for stream in streams:
        for name, due in (("sum_i", stream.sums), ("drain_o", stream.drains)):
            places, values = np.array(due, np.int64).reshape(-1, 2).T
            np.testing.assert_array_equal(seen[name][start + places], values)
        start += len(stream.cycles)


@pytest.mark.parametrize("name", CONFIGS)
def test_completes_every_field_width_back_to_back(name, rng):
    config = CONFIGS[name]
    streams = []
    for q in (1, 2, 4, 1)[:4 if config.lanes else 1]:
        for unsigned in (True, False, True):
            tiles = [Tile(config, rng, steps, q=q, unsigned=unsigned) for steps in STEPS]
            streams.append(streamed(config, rng, tiles, q=q, unsigned=unsigned))
    assert all(len(stream.drains) == len(STEPS) * config.rows for stream in streams)
    assert any(value for stream in streams for _, value in stream.sums)
    compare(Column(config), streams)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_widest_sums_fit(name, rng):
    config = CONFIGS[name]
    tiles = [Tile(config, rng, config.steps_depth, q=1, unsigned=True, extreme=True)
             for _ in range(2)]
    compare(Column(config), [streamed(config, rng, tiles, q=1, unsigned=True)])


@pytest.mark.parametrize("name", ["tiny", "turning"])
def test_without_gradients_what_drains_passes_as_it_is(name, rng):
    config = CONFIGS[name]
    tiles = [Tile(config, rng, steps, q=1, unsigned=True) for steps in STEPS]
    stream = streamed(config, rng, tiles, q=1, unsigned=True)
    stream.drains = [(cycle, inputs["drain_i"]) for cycle, inputs in enumerate(stream.cycles)]
    compare(Column(config, gradients=False), [stream])
