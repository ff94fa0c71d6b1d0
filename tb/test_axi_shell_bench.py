"""The shell around a stub core as Verilog, in both simulators, with a bus model on each side."""

import re
from functools import cache

import pytest

from axi_stub import StubCore
from gradloom.emit import to_verilog
from gradloom.shell import Shell
from gradloom_golden.config import PRESETS, Config
from rtl_bench import run_bench

TINY = PRESETS["tiny"]
CONFIGS = [
    pytest.param(TINY, id="128"),
    pytest.param(TINY.with_changes(axi_data_bits=64, axi_address_bits=64), id="64",
                 marks=pytest.mark.slow),
    pytest.param(TINY.with_changes(axi_data_bits=256, axi_address_bits=32), id="256",
                 marks=pytest.mark.slow),
]
TOP = "shell"
TESTS = 10


@cache
def verilog(config: Config) -> str:
    # Yosys writes priorities as overlapping cases.
    return "/* verilator lint_off CASEOVERLAP */\n" + to_verilog(Shell(config, StubCore), TOP)


@pytest.mark.parametrize("config", CONFIGS)
def test_lists_errors_and_resets(config, sim):
    ran = run_bench(verilog(config), top=TOP, bench="benches.axi_shell", sim=sim,
                    params={"config": config.to_json()})
    assert ran == TESTS


def test_ports_have_the_names_of_the_standard():
    header = re.search(rf"module {TOP}\((.*?)\);", verilog(TINY), re.DOTALL)
    assert header
    ports = {port.strip() for port in header.group(1).split(",")}
    master = {
        "aw": "addr len size burst id lock cache prot qos", "w": "data strb last",
        "b": "resp id", "ar": "addr len size burst id lock cache prot qos",
        "r": "data resp last id"}
    lite = {"aw": "addr prot", "w": "data strb", "b": "resp", "ar": "addr prot", "r": "data resp"}
    wanted = {"clk", "rst", "irq"}
    for prefix, channels in (("m_axi_", master), ("s_axil_", lite)):
        wanted |= {f"{prefix}{channel}{field}" for channel, fields in channels.items()
                   for field in [*fields.split(), "valid", "ready"]}
    assert ports == wanted
