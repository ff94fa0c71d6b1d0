"""What the simulator changes in a machine's text reaches the cells, and nothing else."""

import re

import pytest

from gradloom.generate import machine_verilog
from gradloom_golden.config import preset
from gradloom_host.cells import SHARED, shared_cells

APART = "/* verilator no_inline_module */"
PUBLIC = "/* verilator public_flat_rd */"


@pytest.fixture(scope="module")
def machine():
    return shared_cells(machine_verilog(preset("tiny")))


OTHER = """\
module other(a, b);
  input [3:0] a;
  output [3:0] b;
  assign b = a;
endmodule
"""


@pytest.mark.parametrize("name", SHARED)
def test_modules_that_stand_many_times_stay_apart(machine, name):
    (module,) = re.findall(rf"^module {name} ?\(.*?^endmodule", machine, re.MULTILINE | re.DOTALL)
    assert module.partition(";")[2].startswith(f" {APART}\n")
    inputs = re.findall(r"^  input .*", module, re.MULTILINE)
    assert len(inputs) > 2
    for line in inputs:
        assert (PUBLIC in line) != (line in {"  input clk;", "  input rst;"})


def test_others_do_not(machine):
    assert machine.count(APART) == len(SHARED)


@pytest.mark.parametrize("changes", [{"lanes": False}, {"overlap": False}])
def test_cells_of_other_kinds_stay_apart(changes):
    text = shared_cells(machine_verilog(preset("tiny").with_changes(**changes)))
    assert re.search(r"^module pe ?\([^;]*\); /\* verilator no_inline", text, re.MULTILINE)


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
