# amaranth: UnusedElaboratable=no
"""Parts become one module each, and Verilog is the same every time."""

import re
from functools import partial

import pytest
from amaranth import Module
from amaranth.back import rtlil, verilog
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from gradloom.array import Array
from gradloom.emit import Emitter, place, to_rtlil, to_verilog
from gradloom_golden.config import preset
from simulate import play

TINY = preset("tiny")


class Register(wiring.Component):
    """A part with a clock."""

    def __init__(self, width):
        self.width = width
        pair = data.ArrayLayout(width, 2)
        super().__init__({"i": In(pair), "o": Out(pair)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i)
        return m


class Inverter(wiring.Component):
    """A part without one."""

    CLOCKED = False

    def __init__(self, width):
        self.width = width
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(~self.i)
        return m


class Chain(wiring.Component):
    """Three registers, the second of another width where `name` says so, and an inverter."""

    def __init__(self, *, second=4, names=("register", "register")):
        self._second = second
        self._names = names
        super().__init__({"i": In(data.ArrayLayout(4, 2)), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        word = self.i.as_value()
        for index, width in enumerate((4, self._second, 4)):
            part = place(m, platform, f"part_{index}", self._names[index % 2],
                         partial(Register, width))
            m.d.comb += part.i.as_value().eq(word)
            word = part.o.as_value()
        inverter = place(m, platform, "inverter", "inverter", partial(Inverter, 8))
        m.d.comb += [inverter.i.eq(word), self.o.eq(inverter.o)]
        return m


def modules(text):
    return re.findall(r"^module (\S+?)(?: *\(|;|$)", text.replace("\\", ""), re.MULTILINE)


def ports(text, name):
    """Return direction, range and name of every port of a Verilog module."""
    body = re.search(rf"^module {name}\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    assert body, f"no module {name}"
    return set(re.findall(r"^  (input|output) (?:reg |wire )?(\[\d+:0\] )?(\S+) ?;",
                          body.group(0), re.MULTILINE))


def test_a_part_used_three_times_is_one_module():
    text = to_verilog(Chain(), "chain")
    assert sorted(modules(text)) == ["chain", "inverter", "register"]
    assert len(re.findall(r"^  register part_\d \(", text, re.MULTILINE)) == 3


def test_only_parts_with_state_have_a_clock():
    text = to_verilog(Chain(), "chain")
    assert {name for *_, name in ports(text, "register")} == {"clk", "rst", "i", "o"}
    assert {name for *_, name in ports(text, "inverter")} == {"i", "o"}


def test_a_name_stands_for_one_part():
    with pytest.raises(ValueError, match=r"^module name 'register' stands for two different parts: "
                                         r"rename one$"):
        to_verilog(Chain(second=5), "chain")
    named = to_verilog(Chain(second=5, names=("register", "wider")), "chain")
    assert sorted(modules(named)) == ["chain", "inverter", "register", "wider"]


def test_a_simulator_gets_the_parts_themselves():
    m = Module()
    part = place(m, None, "part", "register", partial(Register, 4))
    assert isinstance(part, Register)
    assert m.submodules["part"] is part
    Simulator(m)
    seen = play(Chain(), [{"i": [3, 10]}, *[{"i": [0, 0]}] * 3], "o")["o"]
    assert seen.tolist() == [0xFF, 0xFF, 0xFF, 0xFF ^ 0xA3]


@pytest.mark.parametrize("convert", [to_rtlil, to_verilog])
def test_text_is_the_same_every_time(convert):
    first, second = (convert(Array(TINY), "array") for _ in range(2))
    assert first == second
    assert ".py" not in first


def test_inline_and_by_instance_have_the_same_ports(monkeypatch):
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "builtin")
    array = Array(TINY)
    inline = verilog.convert(array, name="array", emit_src=False, strip_internal_attrs=True)
    placed = to_verilog(Array(TINY), "array")
    assert ports(inline, "array") == ports(placed, "array")
    assert len(ports(placed, "array")) == len(array.signature.members) + 2


def test_each_distinct_part_of_the_array_is_emitted_once():
    text = to_verilog(Array(TINY), "array")
    names = modules(text)
    assert len(names) == len(set(names))
    assert names.count("pe") == 1
    assert text.count("  pe cell_") == TINY.columns


def test_cost_does_not_grow_with_rows_times_columns():
    small, large = (modules(to_rtlil(Array(TINY.with_changes(rows=edge, columns=edge)), "array"))
                    for edge in (4, 8))
    assert len(large) - len(small) < 20


def test_the_emitter_is_the_platform():
    emitter = Emitter()
    text = emitter.text(Chain(), "chain")
    assert sorted(modules(text)) == ["chain", "inverter", "register"]
    assert modules(rtlil.convert(Inverter(8), name="inverter", emit_src=False)) == ["inverter"]
