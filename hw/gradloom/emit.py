# amaranth: UnusedElaboratable=no
# A part is made where it is placed, for its ports, and again where it is converted.
"""Verilog from components, with every distinct component converted once.

A component that repeats another calls `place` instead of adding a submodule. For Verilog, each
distinct part becomes one module and is instantiated by name, so that the cost of generation does
not grow with rows x columns; for Amaranth's simulator, which cannot run an Instance, `place`
elaborates the part in line. A component that is large calls `place_unit`: modules are converted in
parallel.
"""

import gc
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import accumulate

from amaranth import ClockSignal, Instance, Module, ResetSignal
from amaranth._toolchain.yosys import _BuiltinYosys
from amaranth.back import rtlil
from amaranth.hdl import Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from .pool import start_pool

__all__ = ["Emitter", "place", "place_unit", "to_rtlil", "to_verilog"]

SHARE = 1 << 18
"""Characters of RTLIL that are worth a second Yosys."""


class Emitter:
    """The `platform` under which parts become instances, for the text of one module.

    Parameters
    ----------
    found : callable
        Is given the module name and the maker of each part when it is first placed.

    Attributes
    ----------
    parts : dict of str to functools.partial
        The parts placed, in order of first use.
    """

    def __init__(self, found: Callable[[str, partial], object] = lambda module, part: None):
        self.parts: dict[str, partial] = {}
        self._found = found
        self._templates: dict[str, wiring.Component] = {}

    def text(self, component: wiring.Component, name: str) -> str:
        """Return RTLIL for `component` as module `name`, without the parts that it places."""
        return rtlil.convert(component, name=name, platform=self, emit_src=False)

    def place(self, m: Module, name: str, module: str, part: partial, inputs, outputs) -> None:
        """Instantiate `part`, connected to the given values."""
        self._register(module, part)
        if module not in self._templates:
            self._templates[module] = part()
        template = self._templates[module]
        connections = {}
        inputs, outputs = _flat(inputs), _flat(outputs)
        for direction, port, signal in _ports(template):
            given = inputs if direction == "i" else outputs
            if port not in given:
                if direction == "i":
                    raise ValueError(f"input {port!r} of {name!r} is not connected: give it")
                continue
            value = Value.cast(given[port])
            if len(value) != len(signal):
                raise ValueError(
                    f"port {port!r} of {name!r} has {len(signal)} bits, not {len(value)}")
            connections[f"{direction}_{port}"] = value
        _instantiate(m, name, module, template, connections)

    def place_unit(self, m: Module, name: str, module: str, part: partial) -> wiring.Component:
        """Instantiate `part`, connected to the ports of the component that is returned."""
        self._register(module, part)
        unit = part()
        _instantiate(m, name, module, unit, {
            f"{direction}_{port}": signal for direction, port, signal in _ports(unit)})
        return unit

    def _register(self, module: str, part: partial) -> None:
        known = self.parts.setdefault(module, part)
        if known is part:
            self._found(module, part)
        _check_equal(module, known, part)


def place(m: Module, platform, name: str, module: str, part: partial, *,
          inputs: Mapping[str, ValueLike | list], outputs: Mapping[str, ValueLike | list]
          ) -> None:
    """Add `part` to `m` as submodule `name`, wired to values of exactly its ports' widths.

    Parameters
    ----------
    module : str
        Verilog module name shared by all uses of an equal `part`.
    part : functools.partial
        Makes the component, from what can be compared and pickled. Purely combinational
        components have a class attribute ``CLOCKED = False``.
    inputs, outputs : mapping of port name to value
        Every input; the outputs that are wanted, each a signal or a slice of one. For an array of
        ports, a list.

    Raises
    ------
    ValueError
        For Verilog: if a width differs, an input is missing, or `module` names another part.
    """
    if isinstance(platform, Emitter):
        platform.place(m, name, module, part, inputs, outputs)
        return
    m.submodules[name] = component = part()
    ports = {port: signal for _, port, signal in _ports(component)}
    for port, value in _flat(inputs).items():
        m.d.comb += ports[port].eq(value)
    for port, value in _flat(outputs).items():
        m.d.comb += Value.cast(value).eq(ports[port])


def place_unit(m: Module, platform, name: str, module: str, part: partial) -> wiring.Component:
    """Add `part` to `m` as submodule `name`, and return a component whose ports can be wired.

    For Verilog nothing but the ports of that component exists in `m`.

    Parameters
    ----------
    module, part
        As of `place`.

    Raises
    ------
    ValueError
        For Verilog: if `module` names another part.
    """
    if isinstance(platform, Emitter):
        return platform.place_unit(m, name, module, part)
    m.submodules[name] = unit = part()
    return unit


def to_rtlil(component: wiring.Component, name: str) -> str:
    """Return RTLIL for the component and its parts."""
    return "\n".join(_texts(component, name))


def to_verilog(component: wiring.Component, name: str) -> str:
    """Return Verilog for the component and its parts, without source locations.

    Amaranth's own conversion takes one elaborated design and keeps what simulators need and linters
    refuse: names that nothing reads, and initial values beside the reset that sets them.
    """
    texts = _texts(component, name)
    sizes = list(accumulate(map(len, texts)))
    half = bisect(sizes, sizes[-1] // 2) + 1
    shares = [texts] if sizes[-1] < SHARE else [texts[:half], texts[half:]]
    with ThreadPoolExecutor(len(shares)) as threads:
        first, *rest = threads.map(_verilog, shares)
    # Each begins with a line that names Yosys.
    return first + "".join(text.partition("\n")[2] for text in rest)


def _verilog(texts: list[str]) -> str:
    """Return Verilog for modules in RTLIL."""
    script = "\n".join([
        "read_rtlil <<rtlil", *texts, "rtlil",
        "proc -norom -noopt",
        "opt_clean -purge",
        "attrmap -remove init",
        "attrmap -remove generator -remove top -remove amaranth.hierarchy "
        "-remove amaranth.decoding",
        "attrmap -modattr -remove generator -remove top -remove amaranth.hierarchy",
        "write_verilog -norename",
    ])
    # The Yosys that came with Amaranth, whatever else is installed: the same text everywhere.
    text = _BuiltinYosys.run(["-q", "-"], script, ignore_warnings=True)
    # Icarus takes an escaped name that begins with a dollar for a system function.
    return text.replace("\\$procmux$", "\\procmux$")


def _texts(component: wiring.Component, name: str) -> list[str]:
    """Return RTLIL of the component, then of its parts in order of first use, level by level."""
    # Conversion makes millions of small objects and no garbage; collecting doubles its time.
    was_enabled = gc.isenabled()
    gc.disable()
    pool = start_pool()
    try:
        parts = _Parts(pool)
        emitter = Emitter(parts.add)
        return [emitter.text(component, name), *parts.texts(emitter.parts)]
    finally:
        pool.shutdown(cancel_futures=True)
        if was_enabled:
            gc.enable()


class _Parts:
    """Converts each part once, as soon as it is known."""

    def __init__(self, pool: Executor):
        self._pool = pool
        self._parts: dict[str, partial] = {}
        self._futures: dict[str, Future] = {}
        self._pending: set[Future] = set()

    def add(self, module: str, part: partial) -> None:
        """Convert the part, if it is new."""
        if module not in self._parts:
            self._parts[module] = part
            self._futures[module] = self._pool.submit(_convert, module, part)
            self._pending.add(self._futures[module])
        _check_equal(module, self._parts[module], part)

    def texts(self, first: Mapping[str, partial]) -> list[str]:
        """Wait for every part below the first ones; return RTLIL, a text each."""
        while self._pending:
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            for future in done:
                for module, part in future.result()[1].items():
                    self.add(module, part)
        order = dict.fromkeys(first)
        texts = []
        for module in (queue := list(order)):
            text, below = self._futures[module].result()
            texts.append(text)
            queue += [name for name in below if name not in order]
            order |= dict.fromkeys(below)
        return texts


def _convert(module: str, part: partial) -> tuple[str, dict[str, partial]]:
    """Return RTLIL for a part, and the parts that it places."""
    emitter = Emitter()
    return emitter.text(part(), module), emitter.parts


def _ports(component: wiring.Component) -> Iterator[tuple[str, str, Value]]:
    """Yield direction, name and value of every port, as conversion names them."""
    for path, member, value in component.signature.flatten(component):
        direction = "i" if member.flow == In else "o"
        yield direction, "__".join(map(str, path)), Value.cast(value)


def _flat(values: Mapping) -> dict[str, ValueLike]:
    """Return values by the names that `_ports` gives to the elements of an array of ports."""
    found = {}
    for name, value in values.items():
        if isinstance(value, list):
            found |= _flat({f"{name}__{index}": part for index, part in enumerate(value)})
        else:
            found[name] = value
    return found


def _instantiate(m: Module, name: str, module: str, component: wiring.Component,
                 connections: Mapping[str, Value]) -> None:
    clock = {}
    if getattr(component, "CLOCKED", True):
        clock = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
    m.submodules[name] = Instance(module, **clock, **connections)


def _check_equal(module: str, known: partial, part: partial) -> None:
    if (known.func, known.args, known.keywords) != (part.func, part.args, part.keywords):
        raise ValueError(f"module name {module!r} stands for two different parts: rename one")
