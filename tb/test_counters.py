"""Every counter counts its own events."""

import numpy as np

from gradloom.counters import Counters
from gradloom_golden.program import COUNTERS
from simulate import put, simulate


def values(dut, cycles):
    """Play (clear, events) a cycle; return what all counters show then, low and high words."""
    shown = []

    async def testbench(ctx):
        for clear, events in cycles:
            put(ctx, dut.clear, clear)
            put(ctx, dut.count, dict(zip(COUNTERS, events, strict=True)))
            await ctx.tick()
        put(ctx, dut.clear, 0)
        put(ctx, dut.count, dict.fromkeys(COUNTERS, 0))
        for word in (0, 1):
            put(ctx, dut.word, word)
            for select in range(len(COUNTERS)):
                put(ctx, dut.select, select)
                shown.append(ctx.get(dut.value))

    simulate(dut, testbench)
    return np.reshape(shown, (2, len(COUNTERS)))


def test_each_counts_by_itself(rng):
    rates = np.linspace(0, 1, len(COUNTERS))
    events = (rng.random((100, len(COUNTERS))) < rates).astype(int)
    low, high = values(Counters(), [(0, row.tolist()) for row in events])
    np.testing.assert_array_equal(low, events.sum(axis=0))
    assert not high.any()


def test_clearing_forgets_what_came_before():
    ones, zeros = [1] * len(COUNTERS), [0] * len(COUNTERS)
    low, _ = values(Counters(), [(0, ones), (0, ones), (1, zeros), (0, ones)])
    assert (low == 1).all()
