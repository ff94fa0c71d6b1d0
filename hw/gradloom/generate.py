"""Verilog of a whole machine."""

from gradloom_golden.config import Config

from . import __version__
from .emit import to_verilog
from .machine import Machine
from .ram import RAM_VERILOG

__all__ = ["TOP", "machine_verilog"]

TOP = "gradloom"


def machine_verilog(config: Config) -> str:
    """Return the machine as one Verilog text, the same for the same configuration.

    The top module is `TOP`; its clock is ``clk``, its synchronous reset ``rst``.
    """
    head = [
        "/* verilator lint_off UNUSEDSIGNAL */ // slices of words, and arithmetic cut to its width",
        "/* verilator lint_off CASEOVERLAP */ // priorities, written by Yosys as overlapping cases",
    ]
    head += [f"// GradLoom {__version__}, generated. Configuration:"]
    head += [f"//   {line}" for line in config.to_json().splitlines()]
    return "\n".join([*head, to_verilog(Machine(config), TOP), RAM_VERILOG])
