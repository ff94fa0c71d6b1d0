"""Choices among several values mean the same when they are written as conditions."""

import re

import pytest

from gradloom.generate import shell_verilog
from gradloom_golden.config import preset
from gradloom_host.choices import CHOICE, as_conditions
from gradloom_synth.yosys import run_script

MODULE = re.compile(r"^module .*?^endmodule", re.MULTILINE | re.DOTALL)
DECLARED = re.compile(r"^  (?:wire|reg|input|output) (\[\d+:0\] )?([^;\[\]]*\S) ?;", re.MULTILINE)
NAME = re.compile(r"(?<![\w'$\\.])(\\\S+|[a-zA-Z_][\w$]*)")


def comparisons(verilog):
    """Yield, for each choice of a text, a module that compares it with its conditions."""
    for module in MODULE.findall(verilog):
        declared = {name: width for width, name in DECLARED.findall(module)}
        for choice in CHOICE.finditer(module):
            # What stands for "whatever" has to be the same whatever on both sides.
            given = re.sub(r"'h[0-9a-fx]*x[0-9a-fx]*", lambda digits: digits[0].replace("x", "0"),
                           choice["given"])
            inputs = sorted(set(NAME.findall(given)))
            ports = ", ".join(f"input {declared[name]}{name} " for name in inputs)
            text = choice[0].replace(choice["given"], given)
            wires = "".join(f"  wire {declared[name]}{name} ;\n" for name in inputs)
            rewritten = as_conditions(f"module m;\n{wires}{text}endmodule")
            (conditions,) = re.findall(r"^  assign .* = (.* \? .*);$", rewritten, re.MULTILINE)
            # Without the promise that one bit is set, the first of several decides on both sides.
            text = text.replace("(* parallel_case *)", "")
            begin, end = text.rsplit(f"assign {choice['target']}", 1)
            shipped = f"{begin}assign shipped{end}"
            width = f"[{choice['top'] or 0}:0]"
            yield (f"module compare (output same, {ports});\n  wire {width} shipped, conditions;\n"
                   f"{shipped}  assign conditions = {conditions};\n"
                   "  assign same = shipped == conditions;\nendmodule\n")


def prove(modules, folder):
    """Return how many modules are the same for every input, and what Yosys said."""
    script = []
    for index, text in enumerate(modules):
        (folder / f"{index}.sv").write_text(text)
        script += ["design -reset", f"read_verilog -sv {index}.sv", "proc", "opt -full",
                   "sat -verify -prove same 1 compare"]
    (folder / "proof.ys").write_text("\n".join([*script, ""]))
    run = run_script(folder, "proof.ys")
    return run.stdout.count("SUCCESS!"), run.stdout[-2000:]


@pytest.fixture(scope="module")
def machine():
    return shell_verilog(preset("tiny"))


def test_every_choice_of_a_machine_is_rewritten(machine):
    assert machine.count("parallel_case") > 100
    assert as_conditions(machine).count("parallel_case") == 0


def test_conditions_are_equal_for_every_input(machine, tmp_path):
    modules = list(comparisons(machine))
    assert len(modules) == machine.count("parallel_case")
    proved, said = prove(modules, tmp_path)
    assert proved == len(modules), said


def test_the_proof_finds_a_fault(machine, tmp_path):
    two = re.compile(r"(conditions = [^?]*) \? ([^?]*) : ([^?]*) \? ([^?]*) :")
    first = next(text for text in comparisons(machine) if two.search(text))
    broken = two.sub(r"\1 ? \4 : \3 ? \2 :", first)
    assert broken != first
    assert prove([broken], tmp_path)[0] == 0


FUNCTION = """\
module m(o);
  output [3:0] o;
  wire [{top}:0] \\b$1 ;
  wire [1:0] s;
  function [3:0] \\f$2 ;
    input [3:0] a;
    input [7:0] b;
    input [1:0] s;
    (* parallel_case *)
    casez (s)
      2'b?1:
        \\f$2  = b[3:0];
      2'b1?:
        \\f$2  = b[7:4];
      default:
        \\f$2  = a;
    endcase
  endfunction
  assign o = \\f$2 (4'h0, {{ {values} }}, {{ s[1], s[0] }});
endmodule
"""


@pytest.mark.parametrize(("values", "first", "second"), [
    ("4'h1, 4'h2", "4'h2", "4'h1"),
    ("8'h12", "4'd2", "4'd1"),
    (r"2'h1, \b$1 ", r"\b$1 [3:0]", r"{ 2'h1 , \b$1 [5:4] }"),
    (r"\b$1 [5:2], 1'h1, \b$1 [2:0]", r"{ 1'h1 , \b$1 [2:0] }", r"\b$1 [5:2]"),
])
def test_values_are_cut_where_they_begin(values, first, second):
    text = as_conditions(FUNCTION.format(values=values, top=5))
    expected = f"  assign o = s[0] ? {first} : s[1] ? {second} : 4'h0 ;\n"
    assert re.sub(r" +", " ", expected) in re.sub(r" +", " ", text)


@pytest.mark.parametrize("values", ["4'h1, 3'h2", "8'hxx", "{4{s}}", "unknown"])
def test_what_is_not_understood_stays(values):
    text = FUNCTION.format(values=values, top=5)
    assert as_conditions(text) == text
