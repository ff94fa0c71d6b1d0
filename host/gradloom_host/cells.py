"""A machine's Verilog, prepared so that Verilator compiles a cell of the array once for all cells.

Left to itself Verilator writes the code of every cell out, with the names of its neighbours in
it. That of a 16x16 array is more than a processor's caches hold, and most of a cycle goes into
fetching it.
"""

import re

__all__ = ["shared_cells"]

CELL = re.compile(r"^module pe ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
PORTS = re.compile(r"^module pe ?\([^;]*\);")
INPUT = re.compile(r"^  input (?!clk;|rst;)([^;]*\S) ?;", re.MULTILINE)

# Yosys writes a replication, such as an extended sign, as so many copies of a bit; Verilator would
# pick each out on its own.
COPIES = re.compile(r"(?<=[{,] )(\\?[\w$.]+ ?\[\d+\])((?:, \1)+)")


def shared_cells(verilog: str) -> str:
    """Return the text with the same meaning, its cells kept apart from what is around them.

    A cell stays a module, and its inputs, being visible from outside, stay variables of it instead
    of becoming those of its neighbours. What is left is the same for all cells.
    """
    return COPIES.sub(_replicated, CELL.sub(_kept_apart, verilog))


def _kept_apart(cell: re.Match) -> str:
    text = PORTS.sub(r"\g<0> /* verilator no_inline_module */", cell[0])
    return INPUT.sub(r"  input \1 /* verilator public_flat_rd */;", text)


def _replicated(copies: re.Match) -> str:
    return f"{{{1 + copies[2].count(',')}{{{copies[1]}}}}}"
