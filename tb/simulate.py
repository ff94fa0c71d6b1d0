"""Run a component in Amaranth's simulator, cycle by cycle."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle

import numpy as np
from amaranth import Shape
from amaranth.lib import data
from amaranth.sim import Simulator

__all__ = ["join", "memory", "play", "put", "read", "simulate", "split", "stalled"]

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
    """Set a port to an integer, a list or an array of them, or a mapping of fields.

    An array of ports takes what its elements take, in a list or an array.
    """
    if isinstance(port, list):
        for element, part in zip(port, value, strict=True):
            put(ctx, element, part)
        return
    ctx.set(port, value.tolist() if isinstance(value, np.ndarray | np.generic) else value)


def read(ctx, port):
    """Return a port's value: an integer, or a list for a vector; a struct is its bits."""
    if isinstance(port, list):
        return [read(ctx, element) for element in port]
    if not isinstance(port, data.View):
        return ctx.get(port)
    layout = port.shape()
    if not isinstance(layout, data.ArrayLayout):
        return ctx.get(port.as_value())
    if isinstance(layout.elem_shape, data.Layout):
        return [read(ctx, port[index]) for index in range(layout.length)]
    return split(ctx.get(port.as_value()), Shape.cast(layout.elem_shape), layout.length)


def join(vector, bits: int) -> int:
    """Return the elements as one word, the first in the lowest bits."""
    flat = np.ravel(vector).tolist()
    return sum((value & (1 << bits) - 1) << bits * k for k, value in enumerate(flat))


def split(word: int, shape: Shape, count: int) -> list[int]:
    """Return the elements of a word that `join` made."""
    elements = [word >> shape.width * k & (1 << shape.width) - 1 for k in range(count)]
    if shape.signed:
        sign = 1 << shape.width - 1
        elements = [(element ^ sign) - sign for element in elements]
    return elements


def play(dut, cycles: Iterable[Mapping], *watch: str, elements: Mapping[str, Shape] | None = None,
         processes=(), clocked: bool = True) -> dict[str, np.ndarray]:
    """Drive ports cycle by cycle; return what others show in the same cycles.

    Parameters
    ----------
    cycles : iterable of mappings
        What to set in each cycle, by the name of the port; a port keeps its value otherwise.
    watch : str
        Names of ports.
    elements : mapping of str to Shape
        Ports that are vectors in one plain word: the shape of an element.

    Returns
    -------
    dict of str to int64 array
        A row a cycle, of one number or of a vector.
    """
    seen = {name: [] for name in watch}
    elements = elements or {}

    def value(ctx, name):
        port = getattr(dut, name)
        if name not in elements:
            return read(ctx, port)
        return split(ctx.get(port), elements[name], len(port) // elements[name].width)

    async def testbench(ctx):
        for inputs in cycles:
            for name, given in inputs.items():
                word = join(given, elements[name].width) if name in elements else given
                put(ctx, getattr(dut, name), word)
            if not clocked:
                await ctx.delay(PERIOD)
            for name in watch:
                seen[name].append(value(ctx, name))
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
