"""Verilog from components, with every distinct component converted once.

A component that repeats another calls `place` instead of adding a submodule. For Verilog, each
distinct part becomes one module and is instantiated by name, so that the cost of generation does
not grow with rows x columns; for Amaranth's simulator, which cannot run an Instance, `place`
elaborates the part in line.
"""

import gc
from collections.abc import Mapping
from functools import partial

from amaranth import ClockSignal, Instance, Module, ResetSignal, Shape
from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil
from amaranth.hdl import Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["Emitter", "place", "to_rtlil", "to_verilog"]


class Emitter:
    """The `platform` under which `place` makes instances."""

    def __init__(self):
        self._parts: dict[str, tuple[partial, wiring.Component]] = {}
        self._texts: list[str] = []

    def text(self, component: wiring.Component, name: str) -> str:
        """Return RTLIL for `component` and every part below it."""
        top = rtlil.convert(component, name=name, platform=self, emit_src=False)
        return "\n".join([top, *self._texts])

    def place(self, m: Module, name: str, module: str, part: partial, inputs, outputs) -> None:
        """Instantiate `part` as Verilog module `module`."""
        if module not in self._parts:
            template = part()
            self._parts[module] = (part, template)
            self._texts.append(
                rtlil.convert(template, name=module, platform=self, emit_src=False))
        known, template = self._parts[module]
        if (known.func, known.args, known.keywords) != (part.func, part.args, part.keywords):
            raise ValueError(f"module name {module!r} stands for two different parts: rename one")
        connections = {}
        if getattr(template, "CLOCKED", True):
            connections = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for port, member in template.signature.members.items():
            given, prefix = (inputs, "i") if member.flow == In else (outputs, "o")
            if port not in given:
                if member.flow == In:
                    raise ValueError(f"input {port!r} of {name!r} is not connected: give it")
                continue
            value, width = Value.cast(given[port]), Shape.cast(member.shape).width
            if len(value) != width:
                raise ValueError(f"port {port!r} of {name!r} has {width} bits, not {len(value)}")
            connections[f"{prefix}_{port}"] = value
        m.submodules[name] = Instance(module, **connections)


def place(m: Module, platform, name: str, module: str, part: partial, *,
          inputs: Mapping[str, ValueLike], outputs: Mapping[str, ValueLike]) -> None:
    """Add `part` to `m` as submodule `name`, wired to values of exactly its ports' widths.

    Parameters
    ----------
    module : str
        Verilog module name shared by all uses of an equal `part`.
    part : functools.partial
        Makes the component. Purely combinational ones have a class attribute ``CLOCKED = False``.
    inputs, outputs : mapping of port name to value
        Every input; the outputs that are wanted, each a signal or a slice of one.

    Raises
    ------
    ValueError
        For Verilog: if a width differs, an input is missing, or `module` names another part.
    """
    if isinstance(platform, Emitter):
        platform.place(m, name, module, part, inputs, outputs)
        return
    component = part()
    m.submodules[name] = component
    for port, value in inputs.items():
        m.d.comb += Value.cast(getattr(component, port)).eq(value)
    for port, value in outputs.items():
        m.d.comb += Value.cast(value).eq(Value.cast(getattr(component, port)))


def to_rtlil(component: wiring.Component, name: str) -> str:
    """Return RTLIL for the component and its parts."""
    # Conversion makes millions of small objects and no garbage; collecting doubles its time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return Emitter().text(component, name)
    finally:
        if was_enabled:
            gc.enable()


def to_verilog(component: wiring.Component, name: str) -> str:
    """Return Verilog for the component and its parts, without source locations.

    Amaranth's own conversion takes one elaborated design and keeps what simulators need and linters
    refuse: names that nothing reads, and initial values beside the reset that sets them.
    """
    yosys = find_yosys(lambda version: version >= (0, 40))
    script = "\n".join([
        f"read_rtlil <<rtlil\n{to_rtlil(component, name)}\nrtlil",
        "proc -norom -noopt",
        "opt_clean -purge",
        "attrmap -remove init",
        "attrmap -remove generator -remove top -remove amaranth.hierarchy "
        "-remove amaranth.decoding",
        "attrmap -modattr -remove generator -remove top -remove amaranth.hierarchy",
        "write_verilog -norename",
    ])
    text = yosys.run(["-q", "-"], script, ignore_warnings=True)
    # Icarus takes an escaped name that begins with a dollar for a system function.
    return text.replace("\\$procmux$", "\\procmux$")
