"""Verilog of a whole machine, and of its core alone."""

from amaranth.lib import wiring

from gradloom_golden.config import Config

from . import __version__
from .emit import to_verilog
from .machine import Machine
from .ram import RAM_VERILOG
from .shell import Shell

__all__ = ["SHELL_TOP", "TOP", "machine_verilog", "shell_verilog"]

TOP = "gradloom"
SHELL_TOP = "gradloom_axi"


def machine_verilog(config: Config) -> str:
    """Return the machine's core as one Verilog text, the same for the same configuration.

    The top module is `TOP`; its clock is ``clk``, its synchronous reset ``rst``.
    """
    return _verilog(config, Machine(config), TOP)


def shell_verilog(config: Config) -> str:
    """Return the machine with its AXI ports as one Verilog text.

    The top module is `SHELL_TOP`; its clock is ``clk``, its synchronous reset ``rst``.
    """
    return _verilog(config, Shell(config, Machine), SHELL_TOP)


def _verilog(config: Config, component: wiring.Component, top: str) -> str:
    head = [
        "/* verilator lint_off UNUSEDSIGNAL */ // slices of words, and arithmetic cut to its width",
        "/* verilator lint_off CASEOVERLAP */ // priorities, written by Yosys as overlapping cases",
    ]
    head += [f"// GradLoom {__version__}, generated. Configuration:"]
    head += [f"//   {line}" for line in config.to_json().splitlines()]
    return "\n".join([*head, to_verilog(component, top), RAM_VERILOG])
