"""Verilog from components, with every distinct component converted once.

A component that repeats another calls `place` instead of adding a submodule. For Verilog, each
distinct part becomes one module and is instantiated by name, so that the cost of generation does
not grow with rows x columns; for Amaranth's simulator, which cannot run an Instance, `place`
elaborates the part in line.
"""

import gc
from functools import partial

from amaranth import ClockSignal, Instance, Module, ResetSignal
from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil
from amaranth.hdl import Value
from amaranth.lib import wiring

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

    def place(self, m: Module, name: str, module: str, part: partial):
        """Instantiate `part` as Verilog module `module`; return its ports."""
        if module not in self._parts:
            template = part()
            self._parts[module] = (part, template)
            self._texts.append(
                rtlil.convert(template, name=module, platform=self, emit_src=False))
        known, template = self._parts[module]
        if (known.func, known.args, known.keywords) != (part.func, part.args, part.keywords):
            raise ValueError(f"module name {module!r} stands for two different parts: rename one")
        ports = template.signature.create(path=(name,))
        connections = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in template.signature.flatten(ports):
            prefix = "i" if member.flow is wiring.In else "o"
            connections[f"{prefix}_{'__'.join(str(step) for step in path)}"] = Value.cast(value)
        if not getattr(template, "CLOCKED", True):
            del connections["i_clk"], connections["i_rst"]
        m.submodules[name] = Instance(module, **connections)
        return ports


def place(m: Module, platform, name: str, module: str, part: partial):
    """Add `part` to `m` as submodule `name`; return the object that has its ports.

    Parameters
    ----------
    module : str
        Verilog module name shared by all uses of an equal `part`.
    part : functools.partial
        Makes the component. Purely combinational ones have a class attribute ``CLOCKED = False``.
    """
    if isinstance(platform, Emitter):
        return platform.place(m, name, module, part)
    component = part()
    m.submodules[name] = component
    return component


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
    return yosys.run(["-q", "-"], script, ignore_warnings=True)
