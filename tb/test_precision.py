"""The precision unit picks what `gradloom_golden.precision` picks."""

import numpy as np
import pytest

from gradloom.precision import Precision
from gradloom_golden import precision as golden
from gradloom_golden.config import preset
from gradloom_golden.cycles import descriptor_cycles
from gradloom_golden.fixed import integer_range
from gradloom_golden.program import Descriptor, Opcode
from simulate import memory, put, simulate

TINY = preset("tiny")
CONFIGS = [TINY, TINY.with_changes(columns=8), TINY.with_changes(gradient_bits=16)]
START_CYCLES = 2
"""A descriptor is accepted and started before its unit is busy."""


class Bench:
    """A precision unit and its state buffer; runs one descriptor after the other."""

    def __init__(self, config):
        self.config = config
        self.dut = Precision(config)
        self.state = np.zeros((config.weight_depth, config.columns), np.int64)
        self.picks = []

    def store(self, base, gradient, rng):
        """Put a gradient where the optimizer stores it; what lies above its bits is no part."""
        bits = self.config.wgrad_bits
        noise = rng.integers(0, 1 << self.config.state_bits, gradient.shape) >> bits << bits
        self.state[base:base + len(gradient)] = gradient & (1 << bits) - 1 | noise

    def run(self, descriptors):
        dut = self.dut

        async def testbench(ctx):
            assert ctx.get(dut.bits) == 8
            for d in descriptors:
                bits = sum(word << 32 * index for index, word in enumerate(d.encode()))
                ctx.set(dut.descriptor.as_value(), bits)
                put(ctx, dut.start, 1)
                assert not ctx.get(dut.busy)
                await ctx.tick()
                put(ctx, dut.start, 0)
                busy = 0
                while ctx.get(dut.busy):
                    busy += 1
                    await ctx.tick()
                assert busy == descriptor_cycles(self.config, d) - START_CYCLES
                self.picks.append(ctx.get(dut.bits))

        simulate(dut, testbench, processes=[
            memory(self.state, dut.read_address, dut.read_data, dut.read_en)])


def angle(**fields):
    return Descriptor(opcode=Opcode.ANGLE, **fields)


def pairs(rng, bits, shape):
    """Yield gradients and tested gradients, some near and some far in angle."""
    low, high = integer_range(bits)
    for magnitude in (5, 12, bits - 1):
        g = rng.integers(-(1 << magnitude), 1 << magnitude, shape)
        for noise in (magnitude - 2, magnitude):
            h = g + rng.integers(-(1 << noise), (1 << noise) + 1, shape)
            yield g, np.clip(h, low, high)
    g = np.full(shape, low)
    yield g, g
    yield g, -(g + 1)
    yield g, 0 * g
    yield 0 * g, 0 * g
    # A squared cosine of a quarter, which a bound can equal.
    g, h = 0 * g, 0 * g
    g[0, 0] = h[0, :4] = 1
    yield g, h


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_golden_model(config, rng):
    rows = 2
    for g, h in pairs(rng, config.wgrad_bits, (rows, config.columns)):
        products = golden.dot_products(g, h)
        cosine = products[1] ** 2 * 65536 // max(1, products[0] * products[2])
        near = {max(0, min(0xFFFF, cosine + step)) for step in (-400, -1, 0, 1, 400)}
        bench = Bench(config)
        bench.store(8, g, rng)
        bench.store(32, h, rng)
        jobs = [angle(state_base=8, packed_base=32, rows=rows, bound=bound, first=1, last=1,
                      fresh=1, tested_bits=4) for bound in sorted({0, 0xFFFF, *near})]
        bench.run(jobs)
        assert bench.picks == [
            4 if golden.angle_within(*products, d.bound) else 8 for d in jobs], (g, h)


def test_picks_survive_unless_a_fresh_test_fails(rng):
    g = rng.integers(-100, 100, (2, 4))
    bench = Bench(TINY)
    bench.store(0, g, rng)
    bench.store(4, g, rng)
    bench.store(8, -g, rng)
    same, opposite = {"packed_base": 4}, {"packed_base": 8}
    ends = {"state_base": 0, "rows": 2, "first": 1, "last": 1}
    bench.run([
        angle(**ends, **same, tested_bits=4, fresh=1), angle(**ends, **opposite, tested_bits=2),
        angle(**ends, **same, tested_bits=2), angle(**ends, **opposite, tested_bits=4, fresh=1),
    ])
    assert bench.picks == [4, 4, 2, 8]


def test_dot_products_gather_over_descriptors(rng):
    g = rng.integers(-1000, 1000, (4, 4))
    h = np.vstack([-g[:2], g[2:]])
    decided = {bound: golden.angle_within(*golden.dot_products(g, h), bound)
               for bound in (0, 0xFFFF)}
    whole = dict(zip(decided, (4 if within else 8 for within in decided.values()), strict=True))
    bench = Bench(TINY)
    bench.store(0, g, rng)
    bench.store(16, h, rng)
    jobs = []
    for bound in decided:
        jobs += [
            angle(state_base=0, packed_base=16, rows=3, bound=bound, first=1, tested_bits=4),
            angle(state_base=3, packed_base=19, rows=1, bound=bound, last=1, tested_bits=4,
                  fresh=1),
        ]
    # Deciding clears the products, so this one needs no `first`.
    jobs.append(angle(state_base=2, packed_base=18, rows=2, bound=0xFFF0, last=1, tested_bits=2,
                      fresh=1))
    bench.run(jobs)
    assert bench.picks[1::2] == list(whole.values())
    assert bench.picks[-1] == 2


def test_a_first_descriptor_forgets_what_was_not_decided(rng):
    g = rng.integers(-1000, 1000, (4, 4))
    bench = Bench(TINY)
    bench.store(0, g, rng)
    bench.store(16, -50 * g, rng)
    bench.store(32, g, rng)
    decide = {"state_base": 0, "packed_base": 32, "rows": 4, "bound": 0, "last": 1, "fresh": 1}
    undecided = angle(state_base=0, packed_base=16, rows=4, first=1)
    bench.run([undecided, angle(**decide, tested_bits=4, first=1),
               undecided, angle(**decide, tested_bits=4)])
    assert bench.picks[1::2] == [4, 8]
