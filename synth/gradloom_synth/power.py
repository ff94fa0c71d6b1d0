"""Switching energy of a processing element, from its netlist: a table for `gradloom estimate`.

``python -m gradloom_synth.power --liberty cells.lib --technology-nm 130 --output mine.toml``

The cell is mapped by Yosys; its netlist is simulated without delays on random operands, in the
forward, the input-gradient and the weight-gradient slot, so that every net has a toggle rate.
Gates cost the library's energy of those toggles; registers what OpenSTA's ``report_power`` says,
given the rates of ports and registers. For gates that report is only quoted beside: it propagates
rates as though the inputs of each gate were independent, which multiplies them along the adders.

What it is not: glitches, wires, clock tree and leakage are left out, and random operands toggle
more than those of a network.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gradloom.emit import to_verilog
from gradloom.pe import ProcessingElement
from gradloom_golden.config import Config, preset
from gradloom_host.files import write_file
from gradloom_host.missing import require
from gradloom_model.sram import technologies

from .liberty import CellFunction, cell_functions, parse_liberty, read_liberty, truth_table
from .yosys import run_script

__all__ = ["PowerError", "Slot", "main", "measure_slots"]

TOP = "pe"
LANES, WARM_UP, CYCLES, SEED = 256, 4, 64, 1
PERIOD_NS = 10
SLEW = 0.1
"""Transition time at which tables are read, in the library's unit of time."""
_SYNTHESIS = """\
read_verilog pe.v
synth -flatten -top pe -booth
dfflibmap -liberty cells.lib
abc -liberty cells.lib
opt_clean -purge
rename -enumerate -pattern c%
write_verilog -noattr -noexpr net.v
write_json net.json
"""
# Rates must be known before the first report, which keeps what it propagates; of pins it heeds only
# those of registers, and its own command for pins does not run (2.0.17).
_STA = """\
read_liberty cells.lib
read_verilog net.v
link_design pe
create_clock -name clk -period {period} [get_ports clk]
set_power_activity -input -activity 0 -duty 0
{rates}
report_power -digits 9
"""
_GROUP = re.compile(r"^(Sequential|Combinational)\s+(\S+)\s+(\S+)\s+(\S+)", re.MULTILINE)
SLOTS = ("forward", "input gradient", "weight gradient")


class PowerError(ValueError):
    """A cell's energy cannot be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Energy of a slot of one cell in pJ.

    Attributes
    ----------
    gates : float
        Of toggles without delays.
    registers : float
        With the clock pins of all.
    propagated : float
        Of gates as OpenSTA propagates rates, for comparison.
    """

    gates: float
    registers: float
    propagated: float


def _stimuli(slot: str, config: Config, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the inputs of a cycle, each of LANES cells: operands of all values alike."""
    def signed(bits):
        return random.integers(-(1 << bits - 1), 1 << bits - 1, LANES)

    x = signed(config.operand_bits)
    return {
        "mode": np.full(LANES, slot == "forward", int),
        "wave_i": np.full(LANES, slot == "weight gradient", int),
        "west": signed(config.product_bits) if slot == "input gradient" else (
            x & (1 << config.operand_bits) - 1),
        "sum_i": signed(config.product_bits),
        "gradient_i": signed(config.gradient_bits) * (slot != "forward"),
        "weight_i": x,
    }


class _Netlist:
    """A mapped design and the functions of its cells, stepped for many cells at once."""

    def __init__(self, module: Mapping, functions: Mapping[str, CellFunction]):
        self.ports = module["ports"]
        self.registers, self.loads, gates = [], {}, {}
        for name, cell in module["cells"].items():
            function = functions.get(cell["type"])
            if function is None:
                raise PowerError(f"the library has no function for {cell['type']}; name another")
            pins = {pin: bits[0] for pin, bits in cell["connections"].items()}
            for pin, bit in pins.items():
                if pin not in function.outputs:
                    self.loads[bit] = self.loads.get(bit, 0.0) + function.loads.get(pin, 0.0)
            if function.next_state is not None:
                self.registers.append((name, pins, function))
            else:
                gates[name] = (pins, function)
        self.gates = self._ordered(gates)

    def _ordered(self, gates) -> list:
        """Return the gates behind what drives them."""
        driver = {pins[pin]: name for name, (pins, function) in gates.items()
                  for pin in function.outputs if pin in pins}
        order, seen = [], set()
        for start in gates:
            waiting = [start]
            while waiting:
                name = waiting[-1]
                pins, function = gates[name]
                ahead = [driver[bit] for pin, bit in pins.items() if pin not in function.outputs
                         and bit in driver and driver[bit] not in seen]
                if ahead and name not in seen:
                    waiting += ahead
                    continue
                waiting.pop()
                if name not in seen:
                    seen.add(name)
                    order.append((name, pins, function))
        return order

    def settle(self, nets: dict) -> None:
        """Compute all gates from ports and registers."""
        for _, pins, function in self.gates:
            for pin, text in function.outputs.items():
                if pin in pins:
                    nets[pins[pin]] = _value(text, pins, nets)

    def clock(self, nets: dict) -> None:
        """Compute what registers take at an edge, and give it to them."""
        taken = [_value(function.next_state, pins, nets)
                 for _, pins, function in self.registers]
        for (_, pins, function), value in zip(self.registers, taken):
            for pin, text in function.outputs.items():
                if pin in pins:
                    nets[pins[pin]] = value ^ (text != function.state)

    def energy(self, rates: Mapping, voltage: float) -> float:
        """Return the energy of gates in pJ a cycle: inside them, and of what they drive."""
        found = 0.0
        for _, pins, function in self.gates:
            for pin in function.outputs:
                if pin not in pins:
                    continue
                load = self.loads.get(pins[pin], 0.0)
                each = voltage ** 2 * load / 2
                table = function.internal.get(pin)
                if table is not None:
                    row = np.argmin(np.abs(np.log(np.array(table.slews) / SLEW)))
                    each += np.interp(load, table.loads, table.energy[row])
                found += rates[pins[pin]][0] * each
        return float(found)

    def drive(self, nets: dict, values: Mapping[str, np.ndarray]) -> None:
        """Set input ports; those that are not named are zero."""
        for name, port in self.ports.items():
            if port["direction"] == "input":
                value = values.get(name, np.zeros(LANES, int))
                for place, bit in enumerate(port["bits"]):
                    nets[bit] = (value >> place & 1).astype(np.uint8)


def _value(text: str, pins: Mapping, nets: Mapping) -> np.ndarray:
    names, values = _lookup(text)
    index = np.zeros(LANES, np.intp)
    for name in names:
        index = index << 1 | nets[pins[name]]
    return values[index]


@lru_cache(maxsize=1024)
def _lookup(text: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the pins of a function in the order of its truth table, and the table."""
    names = tuple(sorted(set(re.findall(r"[A-Za-z_]\w*", text))))
    return names, np.array(truth_table(text), np.uint8)


def _rates(netlist: _Netlist, slot: str, config: Config) -> dict:
    """Return toggles a cycle and the share of ones of every net."""
    random = np.random.default_rng(SEED)
    nets = {"0": np.zeros(LANES, np.uint8), "1": np.ones(LANES, np.uint8), "x": np.zeros(
        LANES, np.uint8)}
    for _, pins, function in netlist.registers:
        for pin in function.outputs:
            if pin in pins:
                nets[pins[pin]] = np.zeros(LANES, np.uint8)
    toggles: dict = {}
    ones: dict = {}
    before: dict = {}
    for cycle in range(WARM_UP + CYCLES):
        values = _stimuli(slot, config, random)
        netlist.drive(nets, values | {"shift": np.full(LANES, int(cycle == 0))})
        netlist.settle(nets)
        if cycle >= WARM_UP:
            for bit, value in nets.items():
                ones[bit] = ones.get(bit, 0) + value.mean()
                toggles[bit] = toggles.get(bit, 0) + (value ^ before[bit]).mean()
        before = dict(nets)
        netlist.clock(nets)
    return {bit: (toggles[bit] / CYCLES, ones[bit] / CYCLES) for bit in toggles}


def measure_slots(config: Config, liberty: Path,
                  sta: str = "sta") -> tuple[dict[str, Slot], str]:
    """Return the energy of each of SLOTS in one cell, without lanes and overlap, and the tools.

    Raises
    ------
    MissingExtraError
        pyosys is not installed.
    LibertyError, PowerError
        The library does not serve, or a tool failed.
    """
    require("pyosys", "synth")
    text = read_liberty(liberty)
    parse_liberty(text, str(liberty))
    bare = config.with_changes(lanes=False, overlap=False)
    with tempfile.TemporaryDirectory(prefix="gradloom-power-") as folder:
        place = Path(folder)
        (place / "cells.lib").write_text(text)
        (place / "pe.v").write_text(to_verilog(ProcessingElement(bare), TOP))
        (place / "pe.ys").write_text(_SYNTHESIS)
        _said(run_script(folder, "pe.ys"), "Yosys")
        content = json.loads((place / "net.json").read_text())
        netlist = _Netlist(content["modules"][TOP], cell_functions(text))
        found = {}
        for slot in SLOTS:
            rates = _rates(netlist, slot, bare)
            (place / "slot.tcl").write_text(
                _STA.format(period=PERIOD_NS, rates="\n".join(_commands(netlist, rates))))
            report = _run([sta, "-no_splash", "-exit", "slot.tcl"], folder)
            groups = {group: (float(internal) + float(switching)) * PERIOD_NS * 1e3
                      for group, internal, switching, _ in _GROUP.findall(report)}
            if set(groups) != {"Sequential", "Combinational"}:
                raise PowerError(f"{sta} reported no power: {report.strip()[-200:]!r}")
            found[slot] = Slot(gates=netlist.energy(rates, _voltage(text)),
                               registers=groups["Sequential"], propagated=groups["Combinational"])
        yosys = re.sub(r" \(.*", "", content["creator"])
        return found, f"{yosys}, OpenSTA {_run([sta, '-version'], folder).strip()}"


def _commands(netlist: _Netlist, rates: Mapping) -> list[str]:
    """Return the commands that tell OpenSTA the rates of ports and registers."""
    found = []
    for name, port in netlist.ports.items():
        for place, bit in enumerate(port["bits"]):
            if port["direction"] == "input" and name != "clk":
                one = name if len(port["bits"]) == 1 else f"{name}[{place}]"
                toggle, duty = rates[bit]
                found.append(f"set_power_activity -input_ports {{{one}}} -activity {toggle:.6f} "
                             f"-duty {duty:.6f}")
    clock = netlist.ports["clk"]["bits"]
    for name, pins, _ in netlist.registers:
        for pin, bit in pins.items():
            if bit not in clock:
                toggle, duty = rates[bit]
                found.append(f"sta::set_power_pin_activity [get_pins {name}/{pin}] {toggle:.6f} "
                             f"{duty:.6f}")
    return found


def _voltage(text: str) -> float:
    found = re.search(r"\bnom_voltage\s*:\s*\"?([0-9.]+)", text)
    if found is None:
        raise PowerError("the library gives no nom_voltage; name a complete library")
    return float(found[1])


def _run(command: list[str], folder: str) -> str:
    try:
        run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise PowerError(f"{command[0]} is not installed; install OpenSTA or name it with --sta"
                         ) from None
    return _said(run, command[0])


def _said(run: subprocess.CompletedProcess[str], tool: str) -> str:
    """Return what a tool said, unless it failed."""
    if run.returncode or "Error: " in run.stdout:
        raise PowerError(f"{tool} failed: {run.stdout.strip()[-300:]}")
    return run.stdout


def table(slots: Mapping[str, Slot], config: Config, *, library: str, tools: str, nm: int,
          voltage: float, sram_nm: int) -> str:
    """Return the table in the form that `gradloom_model.energy.load` reads.

    Gates are what a product costs, on average over the slots. Registers, those that only hold
    something too, are shared out over the bits that move or are written, so that the model's
    equations give the measured slots back.
    """
    gates = sum(slot.gates for slot in slots.values()) / len(slots)
    moving = config.operand_bits + config.sum_bits
    hop = (slots["forward"].registers + slots["input gradient"].registers) / 2 / moving
    passing = config.operand_bits + config.gradient_bits
    hold = (slots["weight gradient"].registers - passing * hop) / config.wgrad_bits
    if hold <= 0:
        raise PowerError("registers of a weight-gradient slot cost less than the operands that "
                         "move; take another library")
    each = "; ".join(f"{name} {slot.gates:.2f} gates, {slot.registers:.2f} registers"
                     for name, slot in slots.items())
    propagated = ", ".join(f"{slot.propagated:.1f}" for slot in slots.values())
    return f'''\
title = "GradLoom's own cell, {nm} nm, before layout"
status = "measured"
unit = "pJ"
technology_nm = {nm}
voltage = {voltage:g}

[provenance]
source = """\\
python -m gradloom_synth.power on this repository's processing element, without lanes and \\
overlap: X and W of {config.operand_bits} bits, D of {config.gradient_bits}, sums of \\
{config.sum_bits}, weight gradients of {config.wgrad_bits}; library {library}, \\
{tools}. pJ a slot: {each}."""
checked = """\\
Toggles of a simulation of the netlist without delays, on {LANES * CYCLES} uniformly random \\
operands. OpenSTA, which propagates rates as though inputs were independent, gives {propagated} \\
pJ for the gates of the three slots. Not compared with silicon."""
limits = """\\
No glitches, wires, clock tree or leakage, and no timing closure: less than silicon takes. Random \\
operands toggle more than a network's. Registers include the clock pins of all that a cell holds. \\
SRAM and DRAM are of other technologies."""

[multiply]
bit_products = [{config.operand_bits * config.gradient_bits}]
energy = [{gates:.4g}]

[register]
source = "registers of the same netlist, by bits that move or are written"
word_bits = 1
hop = {hop:.4g}
hold = {hold:.4g}

[sram]
source = "CACTI 7 at {sram_nm} nm, the nearest in sram_cacti.csv"
cacti_nm = {sram_nm}

[dram]
source = "dram/lpddr4.toml"
use = "lpddr4"
'''


def main(arguments: list[str] | None = None) -> None:
    """Measure a cell and write its table."""
    parser = argparse.ArgumentParser(prog="python -m gradloom_synth.power",
                                     description="Switching energy of a cell, as a table.")
    parser.add_argument("--liberty", type=Path, required=True, metavar="FILE",
                        help="cell library with energies, .lib or .lib.gz")
    parser.add_argument("--technology-nm", type=int, required=True, metavar="NM")
    parser.add_argument("--preset", default="base", help="machine whose cell it is (base)")
    parser.add_argument("--sta", default="sta", help="OpenSTA's command (sta)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    config = preset(options.preset)
    text = read_liberty(options.liberty)
    nearest = min(technologies(), key=lambda nm: abs(np.log(nm / options.technology_nm)))
    slots, tools = measure_slots(config, options.liberty, options.sta)
    bare = config.with_changes(lanes=False, overlap=False)
    content = table(slots, bare, library=parse_liberty(text, str(options.liberty)).name,
                    tools=tools, nm=options.technology_nm, voltage=_voltage(text),
                    sram_nm=int(nearest))
    print(content, end="")
    if options.output is not None:
        write_file(options.output, content)


if __name__ == "__main__":
    main()
