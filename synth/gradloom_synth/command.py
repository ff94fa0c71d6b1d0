"""`gradloom area`: a machine by block, and its array beside arrays without its ideas."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gradloom.array import Array
from gradloom.baseline import PlainElement, SwitchableElement
from gradloom.emit import to_verilog
from gradloom.generate import TOP, machine_verilog
from gradloom.pe import ProcessingElement
from gradloom_golden.config import Config
from gradloom_host.files import write_file

from .area import AreaReport, measure

__all__ = ["Variant", "area_command", "compare", "variants"]

NOTE = (
    "Cell area after logic synthesis: no placement, wiring, clock tree, scan or timing closure. "
    "Memories are counted in bits, not as area.")

REPORT_FILE = "area.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """An array to compare: its cell and the configuration of the cell."""

    name: str
    cell: type
    config: Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One variant's gate equivalents: a cell and the whole array with its edges."""

    name: str
    cell: float
    array: float
    cell_ratio: float
    array_ratio: float


def variants(config: Config) -> tuple[Variant, ...]:
    """Return what each idea is compared with, the plain array first, in the sizes of `config`."""
    bare = config.with_changes(lanes=False, overlap=False)
    found = [
        Variant(name="plain WS", cell=PlainElement, config=bare),
        Variant(name="switchable WS/OS", cell=SwitchableElement, config=bare),
        Variant(name="interleaved", cell=ProcessingElement, config=bare),
    ]
    if config.operand_bits == 8:
        found.append(Variant(name="+ lanes", cell=ProcessingElement,
                             config=bare.with_changes(lanes=True)))
    found.append(Variant(name="+ hidden load and drain", cell=ProcessingElement,
                         config=found[-1].config.with_changes(overlap=True)))
    return tuple(found)


def compare(config: Config, liberty: Path | None,
            progress: Callable[[str], None] = lambda name: None) -> list[Measured]:
    """Synthesize every variant's array; ratios are to the first."""
    measured = []
    for variant in variants(config):
        progress(variant.name)
        report = measure(to_verilog(Array(variant.config, variant.cell), "array"), "array", liberty)
        cell = next(m for m in report.modules if m.name == variant.cell.MODULE)
        sizes = (cell.total_area / report.nand2_area, report.gate_equivalents)
        plain = (measured[0].cell, measured[0].array) if measured else sizes
        measured.append(Measured(
            name=variant.name, cell=sizes[0], array=sizes[1],
            cell_ratio=sizes[0] / plain[0], array_ratio=sizes[1] / plain[1]))
    return measured


def area_command(config: Config, name: str, liberty: Path | None, folder: Path | None) -> int:
    """Print the tables and, with `folder`, write `area.json` there; return 0."""
    console = Console()
    with console.status("synthesizing the machine") as status:
        machine = measure(machine_verilog(config), TOP, liberty)
        arrays = compare(config, liberty,
                         lambda variant: status.update(f"synthesizing the array: {variant}"))
    console.print(_blocks(machine, name))
    console.print(_arrays(arrays, config))
    library = "generic cells weighed by transistors" if machine.is_estimate else machine.library
    console.print(f"{library}; {machine.yosys}. {NOTE}", highlight=False)
    if folder is not None:
        content = {
            "note": NOTE, "config": asdict(config), "library": library,
            "yosys": machine.yosys, "gate_equivalents": machine.gate_equivalents,
            "modules": [asdict(module) for module in machine.modules],
            "arrays": [asdict(array) for array in arrays],
        }
        write_file(folder / REPORT_FILE, json.dumps(content, indent=2) + "\n")
        console.print(f"wrote {folder / REPORT_FILE}", highlight=False, soft_wrap=True)
    return 0


def _blocks(report: AreaReport, name: str) -> Table:
    """Return a row a block directly below the machine, the array's cells apart."""
    table = Table(title=f"{name}: {report.gate_equivalents:,.0f} gate equivalents, "
                        f"{report.cells:,} cells, {report.sequential_share:.0%} sequential, "
                        f"{report.memory_bits:,} bits of memory", title_justify="left")
    for column in ("block", "instances", "gate equivalents", "share", "memory bits"):
        table.add_column(column, justify="left" if column == "block" else "right")
    blocks: dict[str, tuple[int, float, int]] = {}
    for module in report.modules:
        # Yosys names a module with parameters after its source and a hash of them.
        block = module.name.rpartition("\\")[2]
        instances, area, bits = blocks.get(block, (0, 0.0, 0))
        blocks[block] = (instances + module.instances, area + module.area * module.instances,
                         bits + module.memory_bits * module.instances)
    small = 0.0
    for block, (instances, area, bits) in sorted(blocks.items(), key=lambda item: -item[1][1]):
        if area * 100 < report.area and not bits:
            small += area
            continue
        table.add_row(block, f"{instances:,}", f"{area / report.nand2_area:,.0f}",
                      f"{area / report.area:.1%}", f"{bits:,}" if bits else "")
    table.add_row("all others", "", f"{small / report.nand2_area:,.0f}",
                  f"{small / report.area:.1%}", "")
    table.caption = "own cells of each module, all its instances together"
    return table


def _arrays(arrays: list[Measured], config: Config) -> Table:
    table = Table(title=f"{config.rows} x {config.columns} arrays from the same generator",
                  title_justify="left")
    table.add_column("array")
    for column in ("GE a cell", "to plain", "GE with edges", "to plain"):
        table.add_column(column, justify="right")
    for array in arrays:
        table.add_row(array.name, f"{array.cell:,.0f}", f"{array.cell_ratio:.2f}x",
                      f"{array.array:,.0f}", f"{array.array_ratio:.2f}x")
    return table
