"""The budget unit keeps the sums, and chooses the threshold, of `gradloom_golden.budget`."""

import numpy as np

from gradloom.budget import Budget
from gradloom_golden import budget as golden
from gradloom_golden.confidence import NEVER
from simulate import put, simulate


async def add(ctx, dut, probability):
    error = golden.ONE - int(probability)
    put(ctx, dut.error, error)
    put(ctx, dut.square, error * error >> 16)
    put(ctx, dut.add, 1)
    await ctx.tick()
    put(ctx, dut.add, 0)
    await ctx.tick()


async def choose(ctx, dut, bound):
    """Return the threshold chosen; check how long it took."""
    put(ctx, dut.choose, 1)
    await ctx.tick()
    put(ctx, dut.choose, 0)
    put(ctx, dut.bound, bound)
    busy = 0
    while ctx.get(dut.busy):
        busy += 1
        await ctx.tick()
    assert busy == Budget.CYCLES == golden.choose_cycles() - 2
    return ctx.get(dut.threshold)


def run(batches):
    """Add and choose on both units; return the thresholds chosen."""
    dut, model, found = Budget(), golden.Budget(), []

    async def testbench(ctx):
        assert ctx.get(dut.threshold) == NEVER
        for probabilities, bound in batches:
            for probability in probabilities:
                await add(ctx, dut, probability)
            model.add(probabilities)
            found.append(await choose(ctx, dut, bound))
            assert found[-1] == model.choose(bound)

    simulate(dut, testbench)
    return found


def test_equals_the_golden_unit(rng):
    confident = 65536 - (rng.random((6, 40)) ** 3 * 65537).astype(int)
    bounds = [0, 1, 500, 9000, 40000, 65535]
    found = run([*zip(confident, bounds, strict=True), ([], 65535), ([65536], 65535),
                 ([0, 0, 65536], 65535), (np.arange(0, 65537, 512), 3000)])
    assert found[0] == NEVER
    assert len(set(found)) > 4
    assert found[6:8] == [NEVER, NEVER]


def test_a_budget_of_the_exact_share_is_spent():
    # Squares of 16, 64 and 65456 make 65536.
    seen = [65536 - 1024, 65536 - 2048, 40]
    assert run([(seen, bound) for bound in (15, 16, 79, 80)]) == [
        65537 - 1024, 65537 - 2 * 1024, 65537 - 2 * 1024, 65537 - 63 * 1024]


def test_sums_saturate(monkeypatch):
    for module in ("gradloom.budget", "gradloom_golden.budget"):
        monkeypatch.setattr(f"{module}.SUM_BITS", 18)
    # Four hopeless samples fill the last bucket; a fifth would begin anew.
    assert run([([32768] * 4 + [0] * 5, bound) for bound in (12000, 18000)]) == [
        65537 - 32 * 1024, 65537 - 63 * 1024]
