"""Cell area of a Verilog design, module by module."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gradloom_host.missing import require

from .generic import generic_liberty
from .liberty import Library, parse_liberty, read_liberty
from .yosys import run_script

__all__ = ["AreaError", "AreaReport", "ModuleArea", "measure"]

_MODULE = re.compile(r"^\s*module\s+(?:\\(\S+)|(\w+))", re.MULTILINE)
_ERROR = re.compile(r"^ERROR: (.*)", re.MULTILINE)
# Read-only memories become logic, as they do in silicon; what can be written is left alone.
_SCRIPT = """\
read_verilog design.v
synth -top {top} -booth -run begin:fine
memory_map -rom-only
opt -fast -full
techmap
opt -fast
dfflibmap -liberty cells.lib
opt -fast
abc -liberty cells.lib
opt_clean -purge
write_json design.json
"""


class AreaError(ValueError):
    """A design cannot be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleArea:
    """One module of a design.

    Attributes
    ----------
    name : str
    instances : int
        How often the whole design holds it.
    cells, area, sequential_area, memory_bits : int, float, float, int
        Of one instance, without what it instantiates; areas in the unit of the library.
    total_cells, total_area : int, float
        Of one instance with everything below it.
    """

    name: str
    instances: int
    cells: int
    area: float
    sequential_area: float
    memory_bits: int
    total_cells: int
    total_area: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AreaReport:
    """Cell area after synthesis; no wires, no clock tree, no memory macros.

    Attributes
    ----------
    top : str
    modules : tuple of ModuleArea
        Distinct modules, the top first, then by name.
    library : str
        Name inside the Liberty file.
    nand2_area : float
        Area of one gate equivalent.
    yosys : str
        Version that synthesized; counts differ between versions.
    is_estimate : bool
        No Liberty file was given, so cells are weighed by their transistors.
    """

    top: str
    modules: tuple[ModuleArea, ...]
    library: str
    nand2_area: float
    yosys: str
    is_estimate: bool

    @property
    def cells(self) -> int:
        """Cells of the whole design."""
        return self.modules[0].total_cells

    @property
    def area(self) -> float:
        """Area of the whole design, in the unit of the library."""
        return self.modules[0].total_area

    @property
    def gate_equivalents(self) -> float:
        """Area in 2-input NANDs."""
        return self.area / self.nand2_area

    @property
    def sequential_share(self) -> float:
        """Share of the area that is flip-flops; 0 for a design without cells."""
        sequential = sum(module.instances * module.sequential_area for module in self.modules)
        return sequential / self.area if self.area else 0.0

    @property
    def memory_bits(self) -> int:
        """Bits in writable memories, which are macros in silicon and in no other figure here."""
        return sum(module.instances * module.memory_bits for module in self.modules)

    def __str__(self) -> str:
        """Return a table of the modules under a line on what the figures are."""
        kind = "estimate by transistor count" if self.is_estimate else f"library {self.library}"
        lines = [
            f"{self.top}: {self.cells} cells, area {self.area:.1f}, "
            f"{self.gate_equivalents:.0f} gate equivalents, "
            f"{self.sequential_share:.1%} sequential, {self.memory_bits} memory bits apart",
            f"{kind}; {self.yosys}",
            f"{'module':32} {'instances':>9} {'own cells':>10} {'own area':>12} {'total area':>12}",
        ]
        lines += [
            f"{module.name:32} {module.instances:9} {module.cells:10} {module.area:12.1f} "
            f"{module.total_area:12.1f}"
            for module in self.modules
        ]
        return "\n".join(lines)


def measure(verilog: str, top: str, liberty: Path | None = None) -> AreaReport:
    """Synthesize a design with its hierarchy kept and add up its cells.

    Each distinct module is mapped once and counts as often as it is instantiated. The same input
    gives the same figures.

    Parameters
    ----------
    verilog : str
        Text of the whole design.
    top : str
        Name of the top module.
    liberty : Path, optional
        A ``.lib`` or ``.lib.gz`` file. Without one, cells are weighed by their transistors
        (`gradloom_synth.generic`), and the report is an estimate.

    Raises
    ------
    MissingExtraError
        pyosys is not installed.
    LibertyError
        The Liberty file is missing, not a Liberty file, or without a NAND2 or a flip-flop.
    AreaError
        `top` is not in the design, or Yosys cannot map it.
    """
    require("pyosys", "synth")
    cells = generic_liberty() if liberty is None else read_liberty(liberty)
    library = parse_liberty(cells, "The generic library" if liberty is None else str(liberty))
    names = [escaped or plain for escaped, plain in _MODULE.findall(verilog)]
    if top not in names:
        found = ", ".join(names) if names else "none"
        raise AreaError(f"Top module {top!r} is not in the Verilog; name one of these: {found}")

    netlist = _synthesize(verilog, top, cells)
    return AreaReport(
        top=top,
        modules=_add_up(netlist["modules"], top, library),
        library=library.name,
        nand2_area=library.nand2_area,
        yosys=re.sub(r" \(.*", "", netlist["creator"]),
        is_estimate=liberty is None,
    )


def _synthesize(verilog: str, top: str, cells: str) -> dict:
    """Return the mapped netlist in the form of Yosys' `write_json`."""
    with tempfile.TemporaryDirectory(prefix="gradloom-area-") as folder:
        Path(folder, "design.v").write_text(verilog)
        Path(folder, "cells.lib").write_text(cells)
        Path(folder, "area.ys").write_text(_SCRIPT.format(top=top))
        run = run_script(folder, "area.ys")
        if run.returncode:
            errors = _ERROR.findall(run.stdout) or run.stdout.strip().splitlines()[-1:]
            reason = errors[-1].rstrip(".") if errors else f"exit status {run.returncode}"
            raise AreaError(
                f"Yosys cannot synthesize {top!r}: {reason}; change the design or the library"
            )
        return json.loads(Path(folder, "design.json").read_text())


def _add_up(modules: dict, top: str, library: Library) -> tuple[ModuleArea, ...]:
    children = {
        name: [cell["type"] for cell in module["cells"].values() if cell["type"] in modules]
        for name, module in modules.items()
    }
    own = {name: _own(name, module, modules, library) for name, module in modules.items()}
    order = _children_first(children, top)

    totals: dict[str, tuple[int, float]] = {}
    for name in order:
        cells, area = own[name]["cells"], own[name]["area"]
        for child in children[name]:
            cells, area = cells + totals[child][0], area + totals[child][1]
        totals[name] = (cells, area)
    instances = dict.fromkeys(order, 0)
    instances[top] = 1
    for name in reversed(order):
        for child in children[name]:
            instances[child] += instances[name]

    return tuple(
        ModuleArea(
            name=name,
            instances=instances[name],
            total_cells=totals[name][0],
            total_area=totals[name][1],
            **own[name],
        )
        for name in [top, *sorted(order[:-1])]
    )


def _children_first(children: dict[str, list[str]], top: str) -> list[str]:
    order: dict[str, None] = {}

    def visit(name: str):
        for child in sorted(set(children[name]) - order.keys()):
            visit(child)
        order[name] = None

    visit(top)
    return list(order)


def _own(name: str, module: dict, modules: dict, library: Library) -> dict:
    """Return the figures of a module without its submodules."""
    cells, area, sequential_area, memory_bits = 0, 0.0, 0.0, 0
    for cell in module["cells"].values():
        kind = cell["type"]
        if kind in library.areas:
            cells += 1
            area += library.areas[kind]
            sequential_area += library.areas[kind] if kind in library.flip_flops else 0.0
        elif kind == "$mem_v2":
            size, width = (int(cell["parameters"][key], 2) for key in ("SIZE", "WIDTH"))
            memory_bits += size * width
        elif kind not in modules:
            raise AreaError(
                f"Library {library.name} has no counterpart of {kind} in module {name!r}; "
                "name a library that has"
            )
    return {
        "cells": cells,
        "area": area,
        "sequential_area": sequential_area,
        "memory_bits": memory_bits,
    }
