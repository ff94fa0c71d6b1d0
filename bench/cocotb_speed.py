"""The cocotb half of `simulation.py`: runs its program twice and leaves the rates in a file.

Parameters: ``program`` (words), ``descriptors`` and ``cycles`` (its length, in both), ``result``
(the file that receives the cycles a second).
"""

import json
import time
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from gradloom_golden.program import OFFSET_BITS, Region, Register
from rtl_bench import bench_params

WRITE = 1 << 56


async def write(dut, address: int, word: int) -> None:
    """Write one word through the request stream."""
    dut.requests__payload.value = WRITE | address << 32 | word
    dut.requests__valid.value = 1
    accepted = False
    while not accepted:
        await ReadOnly()
        accepted = bool(dut.requests__ready.value)
        await FallingEdge(dut.clk)
    dut.requests__valid.value = 0


@cocotb.test()
async def speed(dut):
    """Time the program asleep and awake."""
    params = bench_params()
    dut.requests__valid.value = 0
    dut.requests__payload.value = 0
    dut.responses__ready.value = 1
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)
    for index, word in enumerate(params["program"]):
        await write(dut, (Region.PROGRAM << OFFSET_BITS) + index, word)

    rates = {}
    for name, trigger in (("cocotb, asleep", dut.busy), ("cocotb, awake", dut.clk)):
        await write(dut, Register.START, params["descriptors"])
        assert dut.busy.value
        started, cycles = time.perf_counter(), 1
        while dut.busy.value:
            await FallingEdge(trigger)
            cycles += 1
        rates[name] = params["cycles"] / (time.perf_counter() - started)
        if trigger is dut.clk:
            assert abs(cycles - params["cycles"]) <= 2, f"the program took {cycles} cycles"
        await FallingEdge(dut.clk)
    Path(params["result"]).write_text(json.dumps(rates))
