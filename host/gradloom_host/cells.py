"""A machine's Verilog, prepared so that Verilator compiles what stands many times in it once.

Left to itself Verilator writes the code of every cell of the array out, with the names of its
neighbours in it. That of a 16x16 array is more than a processor's caches hold, and most of a cycle
goes into fetching it.
"""

import re

__all__ = ["SHARED", "shared_cells"]

SHARED = (
    "pe", "column", "collector_lane", "compress_lane", "optimizer_lane", "packer_lane",
    "requantize_lane", "vector_lane",
)
"""Modules of which there is one a cell, or one a lane and large."""

CELL = re.compile(rf"^module (?:{'|'.join(SHARED)}) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
PORTS = re.compile(r"^module [^;]*;")
INPUT = re.compile(r"^  input (?!clk;|rst;)([^;]*\S) ?;", re.MULTILINE)

# Yosys writes a replication, such as an extended sign, as so many copies of a bit; Verilator would
# pick each out on its own.
COPIES = re.compile(r"(?<=[{,] )(\\?[\w$.]+ ?\[\d+\])((?:, \1)+)")


def shared_cells(verilog: str) -> str:
    """Return the text with the same meaning, the modules in `SHARED` apart from what is around.

    They stay modules, and their inputs, being visible from outside, stay variables of them instead
    of becoming those of their neighbours. What is left is the same for all instances.
    """
    return COPIES.sub(_replicated, CELL.sub(_kept_apart, verilog))


def _kept_apart(cell: re.Match) -> str:
    text = PORTS.sub(r"\g<0> /* verilator no_inline_module */", cell[0])
    return INPUT.sub(r"  input \1 /* verilator public_flat_rd */;", text)


def _replicated(copies: re.Match) -> str:
    return f"{{{1 + copies[2].count(',')}{{{copies[1]}}}}}"
