"""Run a component in Amaranth's simulator, cycle by cycle."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle

import numpy as np
from amaranth.lib import data
from amaranth.sim import Simulator

__all__ = ["memory", "play", "put", "read", "simulate", "stalled"]

PERIOD = 1e-6


def simulate(dut, *testbenches, processes=(), clocked: bool = True) -> None:
    """Run the testbenches to their end; `processes` go on beside them for as long."""
    sim = Simulator(dut)
    if clocked:
        sim.add_clock(PERIOD)
    for process in processes:
        sim.add_process(process)
    for testbench in testbenches:
        sim.add_testbench(testbench)
    sim.run()


def put(ctx, port, value) -> None:
    """Set a port to an integer, a list or an array of them, or a mapping of fields."""
    ctx.set(port, value.tolist() if isinstance(value, np.ndarray | np.generic) else value)


def read(ctx, port):
    """Return a port's value: an integer, or a list for a vector; a struct is its bits."""
    if not isinstance(port, data.View):
        return ctx.get(port)
    layout = port.shape()
    if not isinstance(layout, data.ArrayLayout):
        return ctx.get(port.as_value())
    if isinstance(layout.elem_shape, data.Layout):
        return [read(ctx, port[index]) for index in range(layout.length)]
    shape = layout.elem_shape
    word = ctx.get(port.as_value())
    elements = [word >> shape.width * k & (1 << shape.width) - 1 for k in range(layout.length)]
    if shape.signed:
        sign = 1 << shape.width - 1
        elements = [(element ^ sign) - sign for element in elements]
    return elements


def play(dut, cycles: Iterable[Mapping], *watch: str, processes=(), clocked: bool = True,
         ) -> dict[str, np.ndarray]:
    """Drive ports cycle by cycle; return what others show in the same cycles.

    Parameters
    ----------
    cycles : iterable of mappings
        What to set in each cycle, by the name of the port; a port keeps its value otherwise.
    watch : str
        Names of ports.

    Returns
    -------
    dict of str to int64 array
        A row a cycle, of one number or of a vector.
    """
    seen = {name: [] for name in watch}

    async def testbench(ctx):
        for inputs in cycles:
            for name, value in inputs.items():
                put(ctx, getattr(dut, name), value)
            if not clocked:
                await ctx.delay(PERIOD)
            for name in watch:
                seen[name].append(read(ctx, getattr(dut, name)))
            if clocked:
                await ctx.tick()

    simulate(dut, testbench, processes=processes, clocked=clocked)
    return {name: np.array(rows, np.int64) for name, rows in seen.items()}


def memory(contents, address, answer, enable=None):
    """Return a process that answers an address a cycle later, and stands until the next read.

    Parameters
    ----------
    contents : array (depth,) or (depth, lanes)
        May change while the simulation runs.
    enable : Signal or None
        Read in this cycle; None reads always.
    """
    async def process(ctx):
        ports = (address,) if enable is None else (address, enable)
        async for _, _, place, *enabled in ctx.tick().sample(*ports):
            if all(enabled):
                put(ctx, answer, contents[place])

    return process


def stalled(items: Iterable, pattern: str = "1101") -> Iterator:
    """Yield the items where the repeated pattern has a 1, and None where it has a 0."""
    gaps = cycle(pattern)
    for item in items:
        while next(gaps) == "0":
            yield None
        yield item
