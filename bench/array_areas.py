"""Areas of the arrays that the cost model compares, measured by synthesis.

It writes the table that `gradloom_model.area` fits: gate equivalents (GE) of the cell and of the
whole array with its edges, for each kind of array and size.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gradloom_golden.config import preset
from gradloom_host.files import write_file
from gradloom_synth.area import measure
from gradloom_synth.command import NOTE, compare

EDGES = (4, 8, 16, 32)
CHECKED = ((64, 64), (64, 16), (8, 64))
"""Larger arrays, which no fit uses: they tell how well it extrapolates."""

COLUMNS = ("kind", "rows", "columns", "fitted", "cell_ge", "array_ge")
PROBE = "module probe(input a, input b, output y); assign y = ~(a & b); endmodule"


def sizes() -> list[tuple[int, int, bool]]:
    """Return rows, columns and whether the fit uses them."""
    fitted = [(rows, columns, True) for rows in EDGES for columns in EDGES]
    return fitted + [(rows, columns, False) for rows, columns in CHECKED]


def table(rows: Sequence[Sequence], header: Sequence[str]) -> str:
    """Return the CSV file."""
    text = io.StringIO()
    for line in header:
        text.write(f"# {line}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    """Synthesize every kind and size, print the table and write it."""
    parser = argparse.ArgumentParser(description="Areas of arrays, measured by synthesis.")
    parser.add_argument("--liberty", type=Path, required=True, metavar="FILE",
                        help="cell library, .lib or .lib.gz")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--base", default="base", help="preset whose sizes vary (default: base)")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    base = preset(arguments.base)
    library = measure(PROBE, "probe", arguments.liberty)
    rows = []
    for edge_rows, edge_columns, fitted in sizes():
        config = base.with_changes(rows=edge_rows, columns=edge_columns)
        console.print(f"{edge_rows} x {edge_columns}", highlight=False)
        rows += [(one.name, edge_rows, edge_columns, int(fitted), round(one.cell, 2),
                  round(one.array, 2)) for one in compare(config, arguments.liberty)]
    varied = ("rows", "columns", "lanes", "overlap")
    fixed = ", ".join(f"{field} {value}" for field, value in asdict(base).items()
                      if field not in varied)
    text = table(rows, [
        "Gate equivalents (GE, one = the library's smallest 2-input NAND) of arrays of this "
        "repository.",
        NOTE,
        "Only arrays: no buffers, edges' accumulators, optimizer or control.",
        f"command: python bench/array_areas.py --liberty {arguments.liberty.name} "
        f"--base {arguments.base}",
        f"library: {library.library}, NAND2 area {library.nand2_area:g}",
        f"synthesis: {library.yosys}",
        f"config: {fixed}",
    ])
    print(text, end="")
    if arguments.output is not None:
        write_file(arguments.output, text)


if __name__ == "__main__":
    main()
