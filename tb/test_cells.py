"""What the simulator changes in a machine's text reaches the cells, and nothing else."""

import re

import pytest

from gradloom.generate import machine_verilog
from gradloom_golden.config import preset
from gradloom_host.cells import shared_cells

APART = "/* verilator no_inline_module */"
PUBLIC = "/* verilator public_flat_rd */"

OTHER = """\
module other(a, b);
  input [3:0] a;
  output [3:0] b;
  assign b = a;
endmodule
"""


@pytest.mark.parametrize("changes", [{}, {"lanes": False}, {"overlap": False}])
def test_cells_stay_apart_with_their_inputs(changes):
    text = shared_cells(machine_verilog(preset("tiny").with_changes(**changes)))
    assert text.count(APART) == 1
    (cell,) = re.findall(r"^module pe\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    assert APART in cell.splitlines()[0]
    inputs = re.findall(r"^  input .*", cell, re.MULTILINE)
    assert len(inputs) > 5
    assert sum(PUBLIC in line for line in inputs) == len(inputs) - 2
    assert "  input clk;" in inputs
    assert "  input rst;" in inputs
    assert text.count(PUBLIC) == len(inputs) - 2


def test_leaves_other_modules_as_they_are():
    assert shared_cells(OTHER) == OTHER


@pytest.mark.parametrize(("before", "after"), [
    ("{ x[3], x[3], x[3], x }", "{ {3{x[3]}}, x }"),
    ("{ a, x[3], x[3] }", "{ a, {2{x[3]}} }"),
    (r"{ \$9 [1], \$9 [1], \$9 [2] }", r"{ {2{\$9 [1]}}, \$9 [2] }"),
    ("{ x[3], y[3], x[3] }", "{ x[3], y[3], x[3] }"),
    ("{ x[3], x[31] }", "{ x[3], x[31] }"),
    ("{ ax[3], x[3], x[3] }", "{ ax[3], {2{x[3]}} }"),
    ("{ x, x }", "{ x, x }"),
    ("{ x[3:2], x[3:2] }", "{ x[3:2], x[3:2] }"),
])
def test_replicates_bits(before, after):
    assert shared_cells(before) == after
