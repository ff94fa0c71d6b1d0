# amaranth: UnusedElaboratable=no
"""Parts become one module each, and Verilog is the same every time."""

import re
from functools import partial

import pytest
from amaranth import Module, Signal
from amaranth.back import rtlil, verilog
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom import emit
from gradloom.array import Array
from gradloom.emit import Emitter, place, place_unit, to_rtlil, to_verilog
from gradloom.pool import InlineExecutor, start_pool
from gradloom_golden.config import preset
from simulate import play, simulate

TINY = preset("tiny")


class Register(wiring.Component):
    """A part with a clock."""

    def __init__(self, width):
        self.width = width
        super().__init__({"i": In(width), "o": Out(width)})

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
    """Three registers, the second of width `second` and named as `names` say, and an inverter.

    Parameters
    ----------
    input_bits : int
        Given to the first register, which takes 8.
    connected : bool
        Give the inverter its input.
    """

    def __init__(self, *, second=8, names=("register", "register"), input_bits=8, connected=True):
        self._second = second
        self._names = names
        self._input_bits = input_bits
        self._connected = connected
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        word = self.i[:self._input_bits]
        for index, width in enumerate((8, self._second, 8)):
            after = Signal(width, name=f"word_{index}")
            place(m, platform, f"part_{index}", self._names[index % 2], partial(Register, width),
                  inputs={"i": word}, outputs={"o": after})
            word = after
        place(m, platform, "inverter", "inverter", partial(Inverter, 8),
              inputs={"i": word} if self._connected else {}, outputs={"o": self.o})
        return m


class Units(wiring.Component):
    """Two chains one after the other, the second of width `second`, and a holder."""

    def __init__(self, *, names=("chain", "chain"), second=8):
        self._names = names
        self._second = second
        super().__init__({"i": In(8), "words": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        makers = partial(Chain, second=8), partial(Chain, second=self._second)
        first, then = (place_unit(m, platform, f"unit_{index}", self._names[index], maker)
                       for index, maker in enumerate(makers))
        holder = place_unit(m, platform, "holder", "holder", partial(Holder))
        m.d.comb += [first.i.eq(self.i), then.i.eq(first.o), holder.i.eq(then.o)]
        wiring.connect(m, holder.words, wiring.flipped(self.words))
        return m


class Holder(wiring.Component):
    """A part with an interface among its ports."""

    def __init__(self):
        super().__init__({"i": In(8), "words": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.words.payload.eq(self.i), self.words.valid.eq(~self.words.ready)]
        return m


class Wrapper(wiring.Component):
    """A part around a chain."""

    def __init__(self, maker):
        self._maker = maker
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        place(m, platform, "inner", "inner", self._maker,
              inputs={"i": self.i}, outputs={"o": self.o})
        return m


@pytest.fixture(params=[start_pool, InlineExecutor])
def pool(request, monkeypatch):
    """Convert in forked processes, and in this one."""
    monkeypatch.setattr(emit, "start_pool", request.param)


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


@pytest.mark.parametrize("component", [
    partial(Chain, names=("register", "inverter")), partial(Units, second=5),
])
def test_a_name_stands_for_one_part(component, pool):
    with pytest.raises(ValueError, match=r"^module name '\w+' stands for two different parts: "
                                         r"rename one$"):
        to_verilog(component(), "top")


def test_one_name_for_two_parts_is_found_in_different_modules(pool):
    units = Units(names=("chain", "register"))
    with pytest.raises(ValueError, match=r"^module name 'register' stands for two different parts"):
        to_verilog(units, "units")


@pytest.mark.parametrize(("wrong", "error"), [
    ({"input_bits": 7}, "port 'i' of 'part_0' has 8 bits, not 7"),
    ({"second": 9, "names": ("register", "wider")}, "port 'i' of 'part_1' has 9 bits, not 8"),
    ({"connected": False}, "input 'i' of 'inverter' is not connected: give it"),
])
@pytest.mark.parametrize("depth", [0, 1])
def test_rejects_wrong_connections_at_any_depth(wrong, error, depth, pool):
    top = Wrapper(partial(Chain, **wrong)) if depth else Chain(**wrong)
    with pytest.raises(ValueError, match=f"^{error}$"):
        to_verilog(top, "top")


def test_a_simulator_gets_the_parts_themselves():
    seen = play(Chain(), [{"i": 0xA3}, *[{"i": 0}] * 3], "o")["o"]
    assert seen.tolist() == [0xFF, 0xFF, 0xFF, 0xFF ^ 0xA3]
    units = Units()

    async def testbench(ctx):
        ctx.set(units.i, 0xA3)
        await ctx.tick().repeat(7)
        assert ctx.get(units.words.payload) == 0xA3

    simulate(units, testbench)


def test_ports_of_units_are_named_as_conversion_names_them(pool):
    text = to_verilog(Units(), "units")
    assert sorted(modules(text)) == ["chain", "holder", "inverter", "register", "units"]
    assert {name for *_, name in ports(text, "holder")} == {
        "clk", "rst", "i", "words__payload", "words__valid", "words__ready"}
    assert text.count("  chain unit_") == 2


def test_order_is_top_first_then_by_first_use(pool):
    names = re.findall(r"^module \\(\S+)", to_rtlil(Units(), "units"), re.MULTILINE)
    assert names == ["units", "chain", "holder", "register", "inverter"]


def test_large_text_goes_through_yosys_in_two_shares_with_one_header(monkeypatch, pool):
    whole = to_verilog(Units(), "units")
    monkeypatch.setattr(emit, "SHARE", 0)
    shared = to_verilog(Units(), "units")
    assert sorted(modules(shared)) == sorted(modules(whole))
    assert len(modules(shared)) == len(set(modules(shared)))
    assert shared.count("Generated by") == 1


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
    assert modules(text.replace("\\", "")) == ["chain"]
    assert list(emitter.parts) == ["register", "inverter"]
    assert modules(rtlil.convert(Inverter(8), name="inverter", emit_src=False)) == ["inverter"]
