"""Bench of the counter in test_rtl_bench: it counts from 0 to `limit` and stays there."""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from rtl_bench import bench_params


@cocotb.test()
async def counts_only_when_enabled(dut):
    """The count follows a random enable, cycle by cycle."""
    limit = bench_params()["limit"]
    dut.rst.value = 1
    dut.en.value = 0
    Clock(dut.clk, 10, "ns").start()
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    expected = 0
    for _ in range(3 * limit):
        enable = random.getrandbits(1)
        dut.en.value = enable
        await FallingEdge(dut.clk)
        expected = min(expected + enable, limit)
        assert dut.count.value.to_unsigned() == expected
    assert expected > 0


@cocotb.test()
async def knows_the_seed(_dut):
    """The seed that the test printed is the one that the bench draws from."""
    assert os.environ["COCOTB_RANDOM_SEED"] == str(bench_params()["seed"])
