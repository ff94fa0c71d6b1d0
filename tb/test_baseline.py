"""The cells that area is compared with do what they are said to do: all three products."""

import numpy as np
import pytest

from gradloom.array import Array
from gradloom.baseline import PlainElement, SwitchableElement
from gradloom_golden import gemm
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range
from simulate import play

TINY = preset("tiny").with_changes(overlap=False, lanes=False)
CONFIGS = {
    "tiny": TINY,
    "tall": TINY.with_changes(rows=8),
    "wide": TINY.with_changes(columns=8, operand_bits=4),
    "gradients": TINY.with_changes(gradient_bits=16),
}
CELLS = {"plain": PlainElement, "switchable": SwitchableElement}
STEPS = 7


def drawn(rng, bits, shape, *, signed=True):
    low, high = integer_range(bits, signed=signed)
    values = rng.integers(low, high, shape, endpoint=True)
    values[0] = low
    return values


class Bench:
    """Collects the cycles of some products, plays them, and compares each result."""

    def __init__(self, config, cell, rng):
        self.config = config
        self.dut = Array(config, cell)
        self.rng = rng
        self.cycles = []
        self.due = []

    def _cycle(self, mode, **changes):
        """Append a cycle, with noise on what no slot and no shift takes."""
        config, rng = self.config, self.rng
        self.cycles.append({
            "mode": {"forward": mode, "two": 0, "four": 0}, "x_unsigned": 0,
            "wave": {"os": 0, "swap": 0}, "shift": 0, "counts": 0, "ends": 0,
            "west": [0] * config.rows,
            "gradients": drawn(rng, config.gradient_bits, config.columns),
            "weights": drawn(rng, config.operand_bits, config.columns),
        } | changes)

    def _wait(self, mode, cycles, **changes):
        for _ in range(cycles):
            self._cycle(mode, **changes)

    def _inverted(self, x, unsigned):
        return x ^ 1 << self.config.operand_bits - 1 if unsigned else x

    def weight_stationary(self, x, w, *, unsigned=0):
        """Stream X past W."""
        config = self.config
        for row in w:
            self._cycle(1, shift=1, weights=row)
        expected = gemm.forward(x, w, rows=config.rows)
        for given, sums in zip(self._inverted(x, unsigned), expected, strict=True):
            self.due.append(("sums_south", len(self.cycles) + self.dut.RESULT_LATENCY, sums))
            self._cycle(1, x_unsigned=unsigned, west=given)
        self._wait(1, config.rows + config.columns, x_unsigned=unsigned)

    def output_stationary(self, x, d, *, unsigned=0):
        """Gather the products of X and D in the cells, which a shift clears before."""
        config = self.config
        self._wait(0, config.rows, shift=1)
        for given, gradients in zip(self._inverted(x, unsigned), d, strict=True):
            self._cycle(0, x_unsigned=unsigned, wave={"os": 1, "swap": 0}, counts=1, west=given,
                        gradients=gradients)
            # A cycle that is no slot must leave the sums alone.
            if self.rng.integers(2):
                self._cycle(0, x_unsigned=unsigned, west=given)
        self.cycles[-1]["ends"] = 1
        self._wait(0, config.rows - 1, x_unsigned=unsigned)
        for row in gemm.weight_gradient(x, d):
            self.due.append(("drained", len(self.cycles) + self.dut.DRAIN_LATENCY, row))
            self._cycle(0, x_unsigned=unsigned, shift=1)
        self._wait(0, config.columns, x_unsigned=unsigned)

    def finish(self):
        """Play everything and compare."""
        seen = play(self.dut, self.cycles, "sums_south", "drained")
        assert self.due
        for name, cycle, vector in self.due:
            np.testing.assert_array_equal(seen[name][cycle], vector, f"{name} of cycle {cycle}")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", CONFIGS)
def test_forward(name, cell, rng):
    config = CONFIGS[name]
    bench = Bench(config, CELLS[cell], rng)
    for unsigned in (0, 1, 0):
        x = drawn(rng, config.operand_bits, (STEPS, config.rows), signed=not unsigned)
        w = drawn(rng, config.operand_bits, (config.rows, config.columns))
        bench.weight_stationary(x, w, unsigned=unsigned)
    bench.finish()


@pytest.mark.parametrize("cell", CELLS)
def test_input_gradient_with_transposed_weights(cell, rng):
    bench = Bench(TINY, CELLS[cell], rng)
    for _ in range(2):
        w = drawn(rng, TINY.operand_bits, (TINY.rows, TINY.columns))
        d = drawn(rng, TINY.gradient_bits, (STEPS, TINY.columns))
        bench.weight_stationary(d, w.T)
    bench.finish()


@pytest.mark.parametrize("cell", CELLS)
def test_weight_gradient_with_a_stationary_gradient(cell, rng):
    """Steps stand in the rows: transposed X streams past D."""
    bench = Bench(TINY, CELLS[cell], rng)
    for unsigned in (0, 1):
        x = drawn(rng, TINY.operand_bits, (TINY.rows, STEPS), signed=not unsigned)
        d = drawn(rng, TINY.gradient_bits, (TINY.rows, TINY.columns))
        bench.weight_stationary(x.T, d, unsigned=unsigned)
    bench.finish()


@pytest.mark.parametrize("name", CONFIGS)
def test_switchable_cells_gather_weight_gradients_in_place(name, rng):
    config = CONFIGS[name]
    bench = Bench(config, SwitchableElement, rng)
    for unsigned in (0, 1, 0):
        x = drawn(rng, config.operand_bits, (STEPS, config.rows), signed=not unsigned)
        d = drawn(rng, config.gradient_bits, (STEPS, config.columns))
        bench.output_stationary(x, d, unsigned=unsigned)
        # Between two passes of the one kind comes one of the other.
        bench.weight_stationary(
            drawn(rng, config.operand_bits, (2, config.rows)),
            drawn(rng, config.operand_bits, (config.rows, config.columns)))
    bench.finish()
