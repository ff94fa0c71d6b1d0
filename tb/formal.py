"""Prove assertions by temporal induction with Yosys' built-in SAT engine."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Const, Module, ResetSignal, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import FlippedSignature, In

from gradloom_synth.yosys import run_script

__all__ = ["ProofError", "StreamContract", "prove"]

_LAST_LINES = 60


class ProofError(AssertionError):
    """Yosys did not prove a design; the message ends with its last lines."""


def _streams(members, interface, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, bool]]:
    """Yield the name, the interface and whether it is an output, for every stream in a tree."""
    for name, member in members.items():
        if not member.is_signature:
            continue
        for index, part in _elements(getattr(interface, name), len(member.dimensions)):
            here = (*path, name, *index)
            if isinstance(member.signature, stream.Signature):
                # The signature of an input member is already flipped.
                yield "__".join(here), part, not isinstance(member.signature, FlippedSignature)
            else:
                yield from _streams(member.signature.members, part, here)


def _elements(parts, dimensions: int, index: tuple[str, ...] = ()):
    if not dimensions:
        yield index, parts
        return
    for number, part in enumerate(parts):
        yield from _elements(part, dimensions - 1, (*index, str(number)))


class StreamContract(wiring.Component):
    """A component in a frame that assumes the stream rule at inputs and asserts it at outputs.

    The rule is that a beat which is valid and stalled neither retracts nor changes, unless reset
    comes between. Every port of the component is a port of the frame, and whatever is no stream
    is left free.

    Parameters
    ----------
    component
        The design under proof. Its streams, also those in arrays and in nested interfaces, are
        found from its signature.
    held
        Names of plain input ports that keep their value from reset to reset, such as a mode.

    Attributes
    ----------
    stalls : tuple of str
        For each output that can stall, the signal that tells that it did; `prove` refuses a
        component that never does, since such a proof would say nothing.

    Raises
    ------
    ValueError
        No output stream can stall, or `held` names what is not a plain input.
    """

    def __init__(self, component: wiring.Component, *, held: Iterable[str] = ()):
        self._component: Any = component
        self._held = tuple(held)
        members = component.signature.members
        for name in self._held:
            if name not in members or not members[name].is_port or members[name].flow != In:
                inputs = [n for n, p in members.items() if p.is_port and p.flow == In]
                raise ValueError(f"Held port must be one of the inputs {inputs}, not {name!r}")
        self.stalls = tuple(
            f"{name}_stalled"
            for name, port, outward in _streams(members, component)
            if outward and not isinstance(port.ready, Const)
        )
        if not self.stalls:
            raise ValueError(
                f"{type(component).__name__} has no output stream that can stall; "
                "there is nothing to prove about it"
            )
        super().__init__(dict(members.items()))

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = self._component
        # wiring.connect cannot flip a component that has an array of interfaces.
        outer = self.signature.flatten(self)
        inner = self._component.signature.flatten(self._component)
        for (_, member, ours), (_, _, theirs) in zip(outer, inner, strict=True):
            target, source = (theirs, ours) if member.flow == In else (ours, theirs)
            if not isinstance(target, Const):
                m.d.comb += Value.cast(target).eq(source)
        for name, port, outward in _streams(self.signature.members, self):
            self._rule(m, name, port, Assert if outward else Assume)
        for name in self._held:
            self._hold(m, name)
        return m

    def _rule(self, m, name, port, check):
        payload = Value.cast(port.payload)
        stalled = Signal(name=f"{name}_stalled")
        previous = Signal(len(payload), name=f"{name}_previous")
        m.d.sync += [stalled.eq(port.valid & ~port.ready), previous.eq(payload)]
        with m.If(stalled & ~ResetSignal()):
            m.d.comb += [check(port.valid), check(payload == previous)]

    def _hold(self, m, name):
        value = Value.cast(getattr(self, name))
        running = Signal(name=f"{name}_running")
        previous = Signal(len(value), name=f"{name}_previous")
        m.d.sync += [running.eq(1), previous.eq(value)]
        with m.If(running & ~ResetSignal()):
            m.d.comb += Assume(value == previous)  # pyright: ignore[reportCallIssue]


def _script(design: Path, top: str, depth: int, reachable: Iterable[str]) -> str:
    prepare = [
        f"read_rtlil {design.name}",
        f"prep -flatten -top {top}",
        "memory_map",
        "async2sync",
        "chformal -lower",
        "dffunmap",
        "opt_clean",
    ]
    reach = [
        f"sat -falsify -prove {name} 0 -set-assumes -seq {depth} -set-at 1 rst 1 {top}"
        for name in reachable
    ]
    proof = (
        "sat -verify -prove-asserts -set-assumes -seq 1 -set-at 1 rst 1 "
        f"-tempinduct -maxsteps {depth} {top}"
    )
    return "\n".join([*prepare, *reach, proof, ""])


def prove(
    design: wiring.Component | str,
    top: str = "top",
    *,
    depth: int,
    reachable: Iterable[str] = (),
    timeout: float = 300.0,
) -> str:
    """Prove every assertion of a design for all time after a reset.

    Parameters
    ----------
    design
        A component, usually a `StreamContract`, or RTLIL text whose synchronous reset is the
        top's port ``rst``.
    top
        Name of the top module.
    depth
        Longest induction, in clock cycles; also the cycle at which `reachable` is asked for.
    reachable
        Names of 1-bit signals of the top that must be able to become 1, so that the proof is
        about something. A `StreamContract` adds its own stalls.
    timeout
        Limit in seconds.

    Returns
    -------
    str
        Yosys' last lines.

    Raises
    ------
    ProofError
        An assertion is broken, the induction does not close within `depth`, or a signal of
        `reachable` can never become 1.
    ValueError
        `depth` is less than 2, or the design asserts nothing.
    """
    if depth < 2:  # the first cycle is the reset
        raise ValueError(f"Depth must be at least 2, not {depth!r}")
    if isinstance(design, StreamContract):
        reachable = (*reachable, *design.stalls)
    text = design if isinstance(design, str) else rtlil.convert(design, name=top, emit_src=False)
    if not re.search(r'cell \$assert |parameter \\FLAVOR "assert"', text):
        raise ValueError(f"Design {top!r} asserts nothing; wrap it in StreamContract or add Assert")

    with tempfile.TemporaryDirectory(prefix="gradloom-formal-") as folder:
        source = Path(folder, "design.il")
        source.write_text(text)
        script = Path(folder, "proof.ys")
        script.write_text(_script(source, top, depth, reachable))
        try:
            run = run_script(folder, script.name, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ProofError(
                f"{top} was not decided within {timeout} s; raise timeout or shrink the design"
            ) from None
    tail = "\n".join(run.stdout.strip().splitlines()[-_LAST_LINES:])
    if run.returncode:
        raise ProofError(f"{top} is not proved to depth {depth}; Yosys said:\n{tail}")
    return tail
