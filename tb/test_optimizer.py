"""Drained gradients move weights and state as `gradloom_golden.optimizer` does."""

import pytest

from gradloom.optimizer import Optimizer
from gradloom_golden import lfsr
from gradloom_golden import optimizer as golden
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, sign_extend
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
    {"gradient_shift": 7, "momentum": 1, "decay_shift": 0, "rate_shift": 31, "x_shift": 4},
    {"gradient_shift": 5, "x_shift": 6},
    {"drain": Drain.STORE, "x_shift": 2}, {"drain": Drain.STORE, "gradient_shift": 9},
]


def drawn(rng, bits, shape):
    """Return integers of all magnitudes, both limits among them."""
    low, high = integer_range(bits)
    values = rng.integers(low, high, shape, endpoint=True) >> rng.integers(0, bits, shape)
    values[0] = low
    values[1] = high
    return values


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
        self.reads = []
        self.log, self.expected = [], []
        self.random = lfsr.Lfsr(lfsr.Bank.UPDATE, config.columns, SEED)

    def run(self, layers, pattern):
        """Stream (descriptor, gradients); each starts as early as the last write allows."""
        dut = self.dut
        # The golden updates see the state before any of this.
        self.before = self.state.copy()
        simulate(dut, self._testbench(layers, pattern), processes=[
            memory(self.before, dut.state_read_address, dut.state_read_data, dut.state_read_en)])

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
                arriving = None
                for row in stalled(range(len(gradients)), pattern):
                    put(ctx, dut.coming, row is not None)
                    if row is not None:
                        self._expect(d, row, gradients[row])
                    await self._step(ctx, arriving, d)
                    arriving = None if row is None else (row, gradients[row])
                put(ctx, dut.coming, 0)
                await self._step(ctx, arriving, d)
                await self._step(ctx, None, d)
            await self._step(ctx, None, layers[-1][0])

        return testbench

    async def _step(self, ctx, arriving, d):
        dut = self.dut
        if arriving is not None:
            row, gradient = arriving
            put(ctx, dut.drained, gradient)
            put(ctx, dut.old_weights, self.weights[d.w_base + row])
        else:
            put(ctx, dut.drained, [-1] * self.config.columns)
        if ctx.get(dut.state_read_en):
            self.reads.append(ctx.get(dut.state_read_address))
        if ctx.get(dut.state_write_en):
            self.log.append((self.cycle, "state", ctx.get(dut.state_write_address),
                             read(ctx, dut.state_write_data)))
        if ctx.get(dut.weight_write_en):
            self.log.append((self.cycle, "weight", ctx.get(dut.weight_write_address),
                             read(ctx, dut.weight_write_data)))
        await ctx.tick()
        self.cycle += 1

    def _expect(self, d, row, gradient):
        config = self.config
        when = self.cycle + Optimizer.LATENCY
        scaled = gradient << d.x_shift
        if d.drain == Drain.STORE:
            stored = scaled & (1 << config.state_bits) - 1
            self.expected.append((when, "state", d.state_base + row, stored.tolist()))
            return
        draw = self.random.draw(1)[0]
        state = self.before[d.state_base + row]
        velocity = sign_extend(state >> config.residue_bits, golden.VELOCITY_BITS)
        residue = state & (1 << config.residue_bits) - 1
        rule = golden.Rule(gradient_shift=d.gradient_shift, momentum=bool(d.momentum),
                           decay_shift=d.decay_shift, rate_shift=d.rate_shift)
        master, velocity = golden.update(
            golden.join(self.weights[d.w_base + row], residue, config.residue_bits), velocity,
            scaled, rule, master_bits=config.master_bits,
            random_gradient=lfsr.low_half(draw), random_step=lfsr.high_half(draw))
        weight, residue = golden.split(master, config.residue_bits)
        new = residue | (velocity & 0xFFFF) << config.residue_bits
        self.expected.append((when, "state", d.state_base + row, new.tolist()))
        self.expected.append(
            (when, "weight", d.w_base + row, (weight & (1 << config.operand_bits) - 1).tolist()))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("pattern", ["1", "1101", "01"])
def test_equals_the_golden_model(config, pattern, rng):
    layers = []
    for index, rule in enumerate(RULES):
        bits = config.wgrad_bits - rule.get("x_shift", 0)
        d = Descriptor(opcode=Opcode.BACKWARD, w_base=8 * index, state_base=4 * index + 20, **rule)
        layers.append((d, drawn(rng, bits, (8, config.columns))))
    bench = Bench(config, rng)
    bench.run(layers, pattern)
    assert bench.log == bench.expected
    assert bench.reads == [d.state_base + row for d, _ in layers if d.drain == Drain.UPDATE
                           for row in range(8)]
