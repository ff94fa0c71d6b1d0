"""Drained gradients move weights and state as `gradloom_golden.optimizer` does."""

import numpy as np
import pytest

from gradloom.optimizer import Optimizer
from gradloom_golden import geometry, lfsr
from gradloom_golden import optimizer as golden
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, saturate, sign_extend
from gradloom_golden.program import Descriptor, Drain, Opcode
from simulate import memory, put, read, simulate, stalled

TINY = preset("tiny")
SEED = 0x2468ACE
CONFIGS = [
    TINY, TINY.with_changes(columns=8), TINY.with_changes(gradient_bits=16),
    TINY.with_changes(operand_bits=4, lanes=False, master_bits=12),
    TINY.with_changes(master_bits=13),
]
RULES = [
    {"gradient_shift": 4}, {"gradient_shift": 0}, {"gradient_shift": 31},
    {"gradient_shift": 3, "momentum": 1, "decay_shift": 3, "rate_shift": 2},
    {"gradient_shift": 0, "momentum": 1, "decay_shift": 1, "rate_shift": 0},
    {"gradient_shift": 5, "momentum": 1, "decay_shift": 7, "rate_shift": 8},
    {"gradient_shift": 7, "momentum": 1, "decay_shift": 0, "rate_shift": 31, "x_shift": 4},
    {"gradient_shift": 5, "x_shift": 6},
    {"drain": Drain.STORE, "x_shift": 2}, {"drain": Drain.STORE, "gradient_shift": 9},
    {"drain": Drain.ACCUMULATE, "x_shift": 2}, {"drain": Drain.ACCUMULATE, "gradient_shift": 9},
]
GROUPS = [
    {"k_group": 1, "n_group": 1}, {"k_group": 3, "n_group": 2, "k_first": 2, "n_first": -3},
    {"k_group": 2, "n_group": 5, "n_first": 3}, {"k_group": 9, "n_group": 3, "n_first": -1},
    {"k_group": 2, "n_group": 3, "n_first": -2047}, {"k_group": 1, "n_group": 2, "n_first": 2047},
]


def drawn(rng, bits, shape):
    """Return integers of all magnitudes, both limits among them."""
    low, high = integer_range(bits)
    values = rng.integers(low, high, shape, endpoint=True) >> rng.integers(0, bits, shape)
    values[0] = low
    values[1] = high
    return values


def offsets(config, d):
    """Return where the drained rows lie from the first, in their order."""
    return [geometry.weight_tile(d, tile) * config.rows + row
            for tile in geometry.tiles(d) for row in range(config.rows)]


def allowed(config, d):
    """Return, for each drained row, which columns belong to its group: element by element."""
    masks = []
    for tile in geometry.tiles(d):
        for row in range(config.rows):
            group = (d.k_first + row) // d.k_group if d.k_group else 0
            outputs = range(d.n_first + group * d.n_group, d.n_first + (group + 1) * d.n_group)
            masks.append([not d.k_group or tile.n * config.columns + column in outputs
                          for column in range(config.columns)])
    return np.array(masks)


class Bench:
    """An optimizer between its two buffers, fed with rows that leave the array."""

    def __init__(self, config, rng):
        self.config = config
        self.dut = Optimizer(config)
        shape = (config.weight_depth, config.columns)
        self.state = rng.integers(0, 1 << config.state_bits, shape)
        velocity = drawn(rng, golden.VELOCITY_BITS, shape) & 0xFFFF
        self.state &= (1 << config.residue_bits) - 1
        self.state |= velocity << config.residue_bits
        self.weights = drawn(rng, config.operand_bits, shape)
        self.reads, self.weight_reads = [], []
        self.log, self.expected = [], []
        self.random = lfsr.Lfsr(lfsr.Bank.UPDATE, config.columns, SEED)

    def run(self, layers, pattern):
        """Stream (descriptor, gradients); each starts as early as the last write allows."""
        dut = self.dut
        # The golden updates see the state before any of this.
        self.before = self.state.copy()
        simulate(dut, self._testbench(layers, pattern), processes=[
            memory(self.before, dut.state_read_address, dut.state_read_data, dut.state_read_en),
            memory(self.weights, dut.weight_read_address, dut.weight_read_data,
                   dut.weight_read_en)])

    def _testbench(self, layers, pattern):
        dut = self.dut

        async def testbench(ctx):
            put(ctx, dut.seed, SEED)
            put(ctx, dut.seed_load, 1)
            await ctx.tick()
            put(ctx, dut.seed_load, 0)
            self.cycle = 0
            for d, gradients in layers:
                bits = sum(word << 32 * index for index, word in enumerate(d.encode()))
                ctx.set(dut.descriptor.as_value(), bits)
                put(ctx, dut.start, 1)
                await self._step(ctx, None, d)
                put(ctx, dut.start, 0)
                if d.opcode == Opcode.UPDATE:
                    await self._update(ctx, d)
                    continue
                arriving = None
                places = offsets(self.config, d)
                masks = allowed(self.config, d)
                for index in stalled(range(len(gradients)), pattern):
                    put(ctx, dut.coming, index is not None)
                    leaving = None
                    if index is not None:
                        leaving = places[index], gradients[index]
                        self._expect(d, self.cycle, places[index],
                                     np.where(masks[index], gradients[index], 0) << d.x_shift)
                    await self._step(ctx, arriving, d)
                    arriving = leaving
                put(ctx, dut.coming, 0)
                await self._step(ctx, arriving, d)
                await self._step(ctx, None, d)
            await self._step(ctx, None, layers[-1][0])

        return testbench

    async def _update(self, ctx, d):
        """Run an UPDATE from the cycle after its start; a row takes two cycles."""
        began = self.cycle
        for row in range(d.rows):
            gradient = self.before[(d.packed_base + row) % self.config.weight_depth]
            self._expect(d, began + 1 + 2 * row, row,
                         sign_extend(gradient, self.config.state_bits))
        while ctx.get(self.dut.busy):
            await self._step(ctx, None, d)
        assert self.cycle - began == 2 * d.rows + Optimizer.LATENCY

    async def _step(self, ctx, arriving, d):
        dut = self.dut
        if arriving is not None:
            row, gradient = arriving
            put(ctx, dut.drained, gradient)
            put(ctx, dut.old_weights, self.weights[(d.w_base + row) % self.config.weight_depth])
        else:
            put(ctx, dut.drained, [-1] * self.config.columns)
        if ctx.get(dut.state_read_en):
            self.reads.append(ctx.get(dut.state_read_address))
        if ctx.get(dut.weight_read_en):
            self.weight_reads.append(ctx.get(dut.weight_read_address))
        if ctx.get(dut.state_write_en):
            self.log.append((self.cycle, "state", ctx.get(dut.state_write_address),
                             read(ctx, dut.state_write_data)))
        if ctx.get(dut.weight_write_en):
            self.log.append((self.cycle, "weight", ctx.get(dut.weight_write_address),
                             read(ctx, dut.weight_write_data)))
        await ctx.tick()
        self.cycle += 1

    def _expect(self, d, came, row, gradient):
        """Note what a gradient that came in cycle `came` for a row must write, and when."""
        config = self.config
        when = came + Optimizer.LATENCY
        place = (d.state_base + row) % config.weight_depth
        weights_at = (d.w_base + row) % config.weight_depth
        state = self.before[place]
        if d.opcode == Opcode.BACKWARD and d.drain != Drain.UPDATE:
            kept = sign_extend(state, config.state_bits) if d.drain == Drain.ACCUMULATE else 0
            stored = saturate(kept + gradient, config.state_bits) & (1 << config.state_bits) - 1
            self.expected.append((when, "state", place, stored.tolist()))
            return
        draw = self.random.draw(1)[0]
        velocity = sign_extend(state >> config.residue_bits, golden.VELOCITY_BITS)
        residue = state & (1 << config.residue_bits) - 1
        rule = golden.Rule(gradient_shift=d.gradient_shift, momentum=bool(d.momentum),
                           decay_shift=d.decay_shift, rate_shift=d.rate_shift)
        master, velocity = golden.update(
            golden.join(self.weights[weights_at], residue, config.residue_bits), velocity,
            gradient, rule, master_bits=config.master_bits,
            random_gradient=lfsr.low_half(draw), random_step=lfsr.high_half(draw))
        weight, residue = golden.split(master, config.residue_bits)
        new = residue | (velocity & 0xFFFF) << config.residue_bits
        self.expected.append((when, "state", place, new.tolist()))
        self.expected.append(
            (when, "weight", weights_at, (weight & (1 << config.operand_bits) - 1).tolist()))


def drains(config, rng, d):
    """Return a descriptor and the gradients that leave the array for it."""
    rows = len(offsets(config, d))
    return d, drawn(rng, config.wgrad_bits - d.x_shift, (rows, config.columns))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("pattern", ["1", "1101", "01"])
def test_equals_the_golden_model(config, pattern, rng):
    layers = []
    for index, rule in enumerate(RULES):
        d = Descriptor(opcode=Opcode.BACKWARD, w_base=8 * index, state_base=4 * index + 20,
                       k_tiles=1, n_tiles=2, **rule)
        layers.append(drains(config, rng, d))
    bench = Bench(config, rng)
    bench.run(layers, pattern)
    assert bench.log == bench.expected
    assert bench.reads == [d.state_base + row for d, _ in layers if d.drain != Drain.STORE
                           for row in range(8)]
    assert not bench.weight_reads


@pytest.mark.parametrize("config", [TINY, TINY.with_changes(rows=8)])
@pytest.mark.parametrize("drain", Drain)
def test_rows_of_a_kernel_lie_where_its_tiles_do(config, drain, rng):
    layers = [drains(config, rng, Descriptor(
        opcode=Opcode.BACKWARD, drain=drain, conv=1, k_tiles=2, n_tiles=2, taps_y=2, taps_x=taps_x,
        w_block=13, w_row=w_row, w_pixel=3, w_base=16, state_base=64, gradient_shift=5))
        for taps_x, w_row in ((1, 5), (2, 7))]
    bench = Bench(config, rng)
    bench.run(layers, "1101")
    assert bench.log == bench.expected


@pytest.mark.parametrize("config", [TINY.with_changes(columns=8), TINY.with_changes(rows=8)])
@pytest.mark.parametrize("drain", Drain)
def test_only_weights_inside_a_group_get_a_gradient(config, drain, rng):
    layers = [drains(config, rng, Descriptor(
        opcode=Opcode.BACKWARD, drain=drain, k_tiles=1, n_tiles=3, gradient_shift=3, **group))
        for group in GROUPS]
    bench = Bench(config, rng)
    bench.run(layers, "1101")
    assert bench.log == bench.expected
    masks = np.concatenate([allowed(config, d) for d, _ in layers])
    assert 0.02 < masks.mean() < 0.5


@pytest.mark.parametrize("config", CONFIGS)
def test_an_update_takes_stored_gradients(config, rng):
    # Groups and drains are those of a backward pass: they must not matter.
    shared = {"k_group": 1, "n_group": 1, "drain": Drain.ACCUMULATE}
    updates = [Descriptor(opcode=Opcode.UPDATE, rows=rows, w_base=9 * rows, state_base=5 * rows + 1,
                          packed_base=60 + rows, gradient_shift=4, **rule, **shared)
               for rows, rule in ((1, {}), (2, {"momentum": 1, "decay_shift": 2, "rate_shift": 1}),
                                  (7, {}))]
    drained = drains(config, rng, Descriptor(
        opcode=Opcode.BACKWARD, k_tiles=1, n_tiles=2, gradient_shift=4, state_base=40, w_base=24))
    layers = [(updates[0], None), drained, (updates[1], None), (updates[2], None), drained]
    bench = Bench(config, rng)
    bench.run(layers, "1101")
    assert bench.log == sorted(bench.expected, key=lambda write: write[0])
    assert bench.weight_reads == [d.w_base + row for d in updates for row in range(d.rows)]
