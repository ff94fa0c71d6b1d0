"""Energy of a cell: functions and energies of a small library, and a netlist against arithmetic."""

import json
import stat
from typing import Any

import numpy as np
import pytest

from gradloom.emit import to_verilog
from gradloom.pe import ProcessingElement
from gradloom_golden.config import preset
from gradloom_model.energy import load
from gradloom_synth import power
from gradloom_synth.liberty import LibertyError, cell_functions
from gradloom_synth.yosys import run_script

POWER = """internal_power() { related_pin : "A";
    rise_power(t) { index_1("0.01, 1"); index_2("1, 3"); values("5, 9", "7, 7"); }
    fall_power(t) { index_1("0.01, 1"); index_2("1, 3"); values("1, 5", "7, 7"); } }"""
LIBRARY = f"""library(tiny) {{
capacitive_load_unit(1, ff); nom_voltage : 2.0;
cell(NOT) {{ area : 2; pin(A) {{ direction : input; capacitance : 1.0; }}
    pin(Y) {{ direction : output; function : "!A"; {POWER} }} }}
cell(BUF) {{ area : 3; pin(A) {{ direction : input; capacitance : 1.0; }}
    pin(Y) {{ direction : output; function : "A"; }} }}
cell(ND) {{ area : 4; pin(A) {{ direction : input; capacitance : 2.0; }}
    pin(B) {{ direction : input; capacitance : 2.0; }}
    pin(Y) {{ direction : output; function : "(A B)'"; {POWER} }} }}
cell(FF) {{ area : 16; ff(IQ, IQN) {{ clocked_on : "C"; next_state : "D"; }}
    pin(C) {{ direction : input; clock : true; capacitance : 1.0; }}
    pin(D) {{ direction : input; capacitance : 3.0; }}
    pin(Q) {{ direction : output; function : "IQ"; }} }}
}}
"""
STA = """#!/bin/sh
if [ "$1" = -version ]; then echo 9.9; exit 0; fi
grep -q "set_power_activity -input_ports {west\\[0\\]} -activity 0.[45]" "$3" || exit 7
grep -q "sta::set_power_pin_activity .get_pins c[0-9]*/Q." "$3" || exit 8
echo "Sequential 4e-04 1e-04 1e-09 5e-04 1.0%"
echo "Combinational 1e-03 1e-03 1e-09 2e-03 99.0%"
"""
CONFIG = preset("base").with_changes(lanes=False, overlap=False)


@pytest.fixture
def library(tmp_path):
    """Path of a library with energies."""
    path = tmp_path / "tiny.lib"
    path.write_text(LIBRARY)
    return path


def fake(tmp_path, text):
    """Return the path of a program in place of OpenSTA."""
    path = tmp_path / "sta"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def inverter(count=1):
    """Return the netlist of an inverter that drives `count` NANDs and a register."""
    cells: dict[str, Any] = {"n": {"type": "NOT", "connections": {"A": [2], "Y": [3]}}}
    for place in range(count):
        cells[f"d{place}"] = {"type": "ND", "connections": {"A": [3], "B": [2], "Y": [10 + place]}}
    cells["r"] = {"type": "FF", "connections": {"C": [4], "D": [3], "Q": [5]}}
    return {"cells": cells, "ports": {"a": {"direction": "input", "bits": [2]},
                                      "clk": {"direction": "input", "bits": [4]}}}


def test_reads_functions_loads_and_energies():
    cells = cell_functions(LIBRARY)
    assert cells["ND"].outputs == {"Y": "(A B)'"}
    assert cells["ND"].loads == pytest.approx({"A": 0.002, "B": 0.002})
    assert (cells["FF"].state, cells["FF"].next_state) == ("IQ", "D")
    table = cells["NOT"].internal["Y"]
    assert (table.slews, table.loads) == ((0.01, 1), pytest.approx((0.001, 0.003)))
    assert table.energy[0] == pytest.approx((0.003, 0.007))
    assert table.energy[1] == pytest.approx((0.007, 0.007))
    assert cells["BUF"].internal == {}


def test_needs_a_unit_of_capacitance():
    with pytest.raises(LibertyError, match=r"no capacitive_load_unit; name a complete library"):
        cell_functions(LIBRARY.replace("capacitive_load_unit(1, ff);", ""))


def test_energy_of_an_inverter_by_hand():
    """It drives 2 + 3 fF: beyond the table at 3 fF; half of 4 V2 x 5 fF, and 7 fJ at any slew."""
    netlist = power._Netlist(inverter(), cell_functions(LIBRARY))
    rates = {2: (0.5, 0.5), 3: (0.25, 0.5), 10: (0, 0)}
    assert netlist.energy(rates, 2.0) == pytest.approx(0.25 * (0.010 + 0.007))
    # The NAND drives nothing: the least load, 3 fJ at the lower of two slews equally far away.
    assert netlist.energy({3: (0, 0), 10: (1, 0)}, 2.0) == pytest.approx(0.003)


def test_gates_settle_behind_what_drives_them():
    module = inverter(3)
    module["cells"] = dict(reversed(module["cells"].items()))
    netlist = power._Netlist(module, cell_functions(LIBRARY))
    assert next(name for name, *_ in netlist.gates) == "n"
    nets: dict = {}
    value = np.arange(power.LANES) % 2
    netlist.drive(nets, {"a": value})
    netlist.settle(nets)
    assert np.array_equal(nets[3], 1 - value)
    assert nets[10].all()
    nets[5] = np.zeros_like(nets[3])
    netlist.clock(nets)
    assert np.array_equal(nets[5], 1 - value)


def test_an_inverted_output_of_a_register_is_inverted():
    inverted = LIBRARY.replace('function : "IQ"', 'function : "IQN"')
    netlist = power._Netlist(inverter(), cell_functions(inverted))
    nets: dict = {3: np.arange(power.LANES, dtype=np.uint8) % 2}
    netlist.clock(nets)
    assert np.array_equal(nets[5], 1 - nets[3])


def test_names_a_cell_without_function():
    module = inverter()
    module["cells"]["n"]["type"] = "MAGIC"
    with pytest.raises(power.PowerError, match=r"no function for MAGIC; name another"):
        power._Netlist(module, cell_functions(LIBRARY))


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Netlist of the processing element in the small library."""
    folder = tmp_path_factory.mktemp("cell")
    for name, text in (("cells.lib", LIBRARY), ("pe.ys", power._SYNTHESIS),
                       ("pe.v", to_verilog(ProcessingElement(CONFIG), "pe"))):
        (folder / name).write_text(text)
    run = run_script(folder, "pe.ys")
    assert run.returncode == 0, run.stdout
    module = json.loads((folder / "net.json").read_text())["modules"]["pe"]
    return power._Netlist(module, cell_functions(LIBRARY))


@pytest.mark.parametrize("slot", power.SLOTS)
def test_the_netlist_computes_what_a_slot_should(cell, slot):
    """X W + sum south, D W + sum east, or X D in place, a cycle later."""
    random = np.random.default_rng(3)
    nets = {"0": np.zeros(power.LANES, np.uint8), "1": np.ones(power.LANES, np.uint8)}
    for _, pins, _ in cell.registers:
        nets[pins["Q"]] = np.zeros(power.LANES, np.uint8)

    def read(name):
        bits = cell.ports[name]["bits"]
        value = sum(nets[bit].astype(int) << place for place, bit in enumerate(bits))
        return value - (nets[bits[-1]].astype(int) << len(bits))

    def step(values, shift):
        cell.drive(nets, values | {"shift": np.full(power.LANES, shift)})
        cell.settle(nets)
        cell.clock(nets)
        cell.settle(nets)

    first = power._stimuli(slot, CONFIG, random)
    step(first, 1)
    weight, before = read("weight_o"), read("drain_o")
    assert np.array_equal(weight, first["weight_i"])
    values = power._stimuli(slot, CONFIG, random)
    step(values, 0)
    x = (values["west"] & 255) - ((values["west"] & 128) << 1)
    if slot == "forward":
        assert np.array_equal(read("sum_o"), values["sum_i"] + x * weight)
    elif slot == "input gradient":
        assert np.array_equal(read("east"), values["west"] + values["gradient_i"] * weight)
    else:
        assert np.array_equal(read("drain_o"), before + x * values["gradient_i"])


@pytest.mark.parametrize("slot", power.SLOTS)
def test_rates_of_operands_are_those_of_random_bits(cell, slot):
    rates = power._rates(cell, slot, CONFIG)
    toggles = {name: np.mean([rates[bit][0] for bit in port["bits"]])
               for name, port in cell.ports.items() if port["direction"] == "input"}
    assert toggles["shift"] == toggles["mode"] == 0
    assert toggles["gradient_i"] == pytest.approx(0 if slot == "forward" else 0.5, abs=0.02)
    x = [rates[bit][0] for bit in cell.ports["west"]["bits"][:8]]
    assert np.mean(x) == pytest.approx(0.5, abs=0.02)
    weight = [rates[bit][0] for bit in cell.ports["weight_o"]["bits"]]
    assert weight == [0] * 8


def test_writes_a_table_that_the_model_reads(tmp_path, library, capsys):
    output = tmp_path / "own.toml"
    power.main(["--liberty", str(library), "--technology-nm", "180", "--sta",
                fake(tmp_path, STA), "--output", str(output)])
    assert output.read_text() == capsys.readouterr().out
    table = load(output)
    assert (table.status, table.technology_nm, table.voltage) == ("measured", 180, 2)
    assert "OpenSTA 9.9" in table.source
    assert "Yosys 0." in table.source
    assert "tiny" in table.source
    assert "No glitches" in table.limits
    # Each slot has 5 pJ of registers: shared over 8 + 20 bits, or 8 + 8 that move and 26 that stay.
    assert table.hop == pytest.approx(5 / 28, rel=1e-3)
    assert 16 * table.hop + 26 * table.hold == pytest.approx(5, rel=1e-3)
    assert table.multiply.values[0] > 0


@pytest.mark.parametrize(("sta", "message"), [
    ("#!/bin/sh\necho nothing\n", r"reported no power: 'nothing'"),
    ("#!/bin/sh\necho broken; exit 3\n", r"failed: broken"),
])
def test_says_what_opensta_said(tmp_path, library, sta, message):
    with pytest.raises(power.PowerError, match=message):
        power.measure_slots(CONFIG, library, fake(tmp_path, sta))


def test_names_a_missing_opensta(library):
    with pytest.raises(power.PowerError, match=r"sta-that-is-absent is not installed; install "
                                               r"OpenSTA or name it with --sta"):
        power.measure_slots(CONFIG, library, "sta-that-is-absent")
