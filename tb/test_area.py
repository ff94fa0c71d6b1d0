"""Area reports of designs small enough to count by hand."""

import gzip
import sys

import pytest

from gradloom_host.missing import MissingExtraError
from gradloom_synth.area import AreaError, measure
from gradloom_synth.generic import GENERIC_CELLS, GENERIC_NAME, generic_liberty
from gradloom_synth.liberty import LibertyError, parse_liberty, truth_table

HEADER = "library(tiny) {"
INVERTER = """cell(NOT) { area : 2; pin(A) { direction : input; }
    pin(Y) { direction : output; function : "!A"; } }
    cell(BUF) { area : 3; pin(A) { direction : input; }
    pin(Y) { direction : output; function : "A"; } }"""
NAND2 = """cell(ND) { area : 4; pin(A) { direction : input; } pin(B) { direction : input; }
    pin(Y) { direction : output; function : "(A B)'"; } }"""
FLIP_FLOP = """cell(FF) { area : 16; ff(IQ, IQN) { clocked_on : "C"; next_state : "D"; }
    pin(C) { direction : input; clock : true; } pin(D) { direction : input; }
    pin(Q) { direction : output; function : "IQ"; } }"""
TINY = "\n".join([HEADER, INVERTER, NAND2, FLIP_FLOP, "}"])

GATES = """
module gates(input clk, input a, input b, input c, input d,
             output reg p, output reg q, output x, output y);
  always @(posedge clk) begin p <= ~(a & b); q <= ~(c & d); end
  assign x = ~(a & c);
  assign y = ~(b & d);
endmodule
"""
HIERARCHY = """
module leaf(input clk, input a, input b, output reg q);
  always @(posedge clk) q <= ~(a & b);
endmodule
module \\pair.x (input clk, input a, input b, output y);
  wire u, v;
  leaf first(clk, a, b, u);
  leaf second(clk, b, a, v);
  assign y = ~(u & v);
endmodule
module unused(input a, output y); assign y = ~a; endmodule
module top(input clk, input a, input b, output [3:0] y);
  \\pair.x west(clk, a, b, y[0]);
  \\pair.x east(clk, b, a, y[1]);
  \\pair.x south(clk, b, b, y[2]);
  leaf alone(clk, a, a, y[3]);
endmodule
"""
MEMORY = """
module store(input clk, input write, input [3:0] address, input [7:0] value,
             output reg [7:0] q);
  reg [7:0] rows [0:15];
  always @(posedge clk) begin if (write) rows[address] <= value; q <= rows[address]; end
endmodule
module top(input clk, input write, input [3:0] address, input [7:0] value, output [15:0] q);
  store low(clk, write, address, value, q[7:0]);
  store high(clk, write, address, ~value, q[15:8]);
endmodule
"""
TABLE = """
module top(input [1:0] address, output y);
  reg rows [0:3];
  initial begin rows[0] = 1; rows[1] = 1; rows[2] = 1; rows[3] = 0; end
  assign y = rows[address];
endmodule
"""
LATCH = "module top(input e, input d, output reg q); always @* if (e) q = d; endmodule"
MESSAGE = 'module top(input clk); always @(posedge clk) $display("tick"); endmodule'


@pytest.fixture
def tiny(tmp_path):
    """Path of a Liberty file with four cells."""
    path = tmp_path / "tiny.lib"
    path.write_text(TINY)
    return path


def test_counts_four_gates_and_two_flip_flops(tiny, capfd):
    report = measure(GATES, "gates", tiny)
    assert capfd.readouterr() == ("", "")
    assert (report.cells, report.area, report.nand2_area) == (6, 48.0, 4.0)
    assert report.gate_equivalents == 12
    assert report.sequential_share == pytest.approx(32 / 48)
    assert (report.library, report.is_estimate, report.memory_bits) == ("tiny", False, 0)
    assert report.yosys.startswith("Yosys 0.")
    assert measure(GATES, "gates", tiny) == report


def test_multiplies_instances(tiny):
    report = measure(HIERARCHY, "top", tiny)
    figures = {
        m.name: (m.instances, m.cells, m.area, m.total_cells, m.total_area) for m in report.modules
    }
    assert figures == {
        "top": (1, 0, 0.0, 17, 152.0),
        "leaf": (7, 2, 20.0, 2, 20.0),
        "pair.x": (3, 1, 4.0, 5, 44.0),
    }
    assert list(figures) == ["top", "leaf", "pair.x"]
    assert report.area == sum(m.instances * m.area for m in report.modules) == 152
    assert report.sequential_share == pytest.approx(7 * 16 / 152)


def test_sets_writable_memory_apart(tiny):
    report = measure(MEMORY, "top", tiny)
    assert report.memory_bits == 2 * 16 * 8
    assert (report.cells, report.area) == (8, 16.0)
    assert report.sequential_share == 0


def test_makes_a_read_only_table_of_gates(tiny):
    report = measure(TABLE, "top", tiny)
    assert (report.cells, report.area, report.memory_bits) == (1, 4.0, 0)


def test_handles_a_design_without_cells(tiny):
    report = measure("module top(input a, output y); assign y = a; endmodule", "top", tiny)
    assert (report.cells, report.gate_equivalents, report.sequential_share) == (0, 0, 0)


def test_estimates_without_a_library():
    report = measure(GATES, "gates")
    assert report.is_estimate
    assert report.library == GENERIC_NAME
    assert report.gate_equivalents == report.area == 4 + 2 * GENERIC_CELLS["DFF"][0] / 4
    assert "estimate" in str(report)


def test_prints_its_provenance(tiny):
    text = str(measure(HIERARCHY, "top", tiny))
    assert "library tiny; Yosys 0." in text
    assert "estimate" not in text
    assert "38 gate equivalents" in text


def test_reads_a_compressed_library(tmp_path, tiny):
    path = tmp_path / "tiny.lib.gz"
    path.write_bytes(gzip.compress(TINY.encode()))
    assert measure(GATES, "gates", path) == measure(GATES, "gates", tiny)


@pytest.mark.parametrize(
    "function", ["(!(A B))", "(A&B)'", "!(A*B)", "(!A) | (!B)", "A'+B'", "((A B)')", "!(B A)"]
)
def test_knows_a_nand_by_its_function(function):
    library = parse_liberty(TINY.replace("(A B)'", function), "it")
    assert library.nand2_area == 4


@pytest.mark.parametrize("function", ["A B", "!(A+B)", "A^B", "(!A B)"])
def test_takes_no_other_gate_for_a_nand(function):
    with pytest.raises(LibertyError, match="no 2-input NAND"):
        parse_liberty(TINY.replace("(A B)'", function), "it")


def test_takes_the_smallest_nand():
    large = NAND2.replace("cell(ND)", "cell(ND4)").replace("area : 4", "area : 9")
    text = "\n".join([HEADER, INVERTER, large, NAND2, FLIP_FLOP, "}"])
    assert parse_liberty(text, "it").nand2_area == 4


@pytest.mark.parametrize(
    ("function", "table"),
    [("A", (0, 1)), ("A^B", (0, 1, 1, 0)), ("A B + !A C", (0, 1, 0, 1, 0, 0, 1, 1)), ("1", (1,))],
)
def test_tabulates_functions(function, table):
    assert truth_table(function) == table


@pytest.mark.parametrize("function", ["(A", "A)", "", "A &"])
def test_rejects_what_is_no_function(function):
    with pytest.raises(ValueError, match=r"Parenthesis|Unexpected"):
        truth_table(function)


def test_generic_library_is_in_gate_equivalents():
    library = parse_liberty(generic_liberty(), "it")
    assert library.nand2_area == 1
    assert library.flip_flops == {"DFF", "DFFR", "DFFS"}
    assert set(library.areas) == set(GENERIC_CELLS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module top; endmodule", r"bad\.lib is not a Liberty library; name a \.lib"),
        (HEADER + INVERTER + FLIP_FLOP + "}", r"bad\.lib has no 2-input NAND with an area"),
        (HEADER + INVERTER + NAND2 + "}", r"bad\.lib has no flip-flop to map registers to"),
    ],
)
def test_rejects_an_unfit_library(tmp_path, text, message):
    path = tmp_path / "bad.lib"
    path.write_text(text)
    with pytest.raises(LibertyError, match=message):
        measure(GATES, "gates", path)


def test_rejects_a_missing_library(tmp_path):
    with pytest.raises(LibertyError, match=r"absent\.lib does not exist; check the path"):
        measure(GATES, "gates", tmp_path / "absent.lib")


@pytest.mark.parametrize(("name", "content"), [("x.lib", b"\xff\xfe"), ("x.lib.gz", b"plain")])
def test_rejects_an_unreadable_library(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LibertyError, match=r"cannot be read \(.*\); name a \.lib"):
        measure(GATES, "gates", path)


def test_rejects_an_absent_top():
    with pytest.raises(AreaError, match=r"'pe' is not in the Verilog; .* these: leaf, pair\.x, un"):
        measure(HIERARCHY, "pe")


@pytest.mark.parametrize(
    ("verilog", "reason"),
    [
        ("module top(input a); absent part(a); endmodule", "absent"),
        (LATCH, "D latches are not supported"),
    ],
)
def test_passes_on_what_yosys_says(tiny, verilog, reason):
    message = rf"cannot synthesize 'top': .*{reason}.*; change the design or the library$"
    with pytest.raises(AreaError, match=message):
        measure(verilog, "top", tiny)


def test_names_what_the_library_lacks(tiny):
    with pytest.raises(
        AreaError, match=r"tiny has no counterpart of \$print in module 'top'; name"
    ):
        measure(MESSAGE, "top", tiny)


def test_names_the_extra_without_pyosys(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyosys", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gradloom\[synth\]'"):
        measure(GATES, "gates")
