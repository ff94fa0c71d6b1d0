"""The machine behind its AXI ports, compiled by Verilator, with a memory and a host in C++."""

import ctypes
from pathlib import Path

import numpy as np

from .verilated import (
    CYCLES_PER_CALL,
    PATIENCE,
    Harness,
    SimulationError,
    Verilated,
)

__all__ = ["AxiSimulator"]

RESPONSES = {2: "SLVERR", 3: "DECERR"}

LITE_BYTES = 1 << 26

# A register in front of the reset, for the reason given in `simulator`.
WRAPPER = """\
module simulated (
    input clk, input rst, output irq,
    output m_axi_awid, output [{address}-1:0] m_axi_awaddr, output [7:0] m_axi_awlen,
    output [2:0] m_axi_awsize, output [1:0] m_axi_awburst,
    output m_axi_awvalid, input m_axi_awready,
    output [{data}-1:0] m_axi_wdata, output [{data}/8-1:0] m_axi_wstrb, output m_axi_wlast,
    output m_axi_wvalid, input m_axi_wready,
    input m_axi_bid, input [1:0] m_axi_bresp, input m_axi_bvalid, output m_axi_bready,
    output m_axi_arid, output [{address}-1:0] m_axi_araddr, output [7:0] m_axi_arlen,
    output [2:0] m_axi_arsize, output [1:0] m_axi_arburst,
    output m_axi_arvalid, input m_axi_arready,
    input m_axi_rid, input [{data}-1:0] m_axi_rdata, input [1:0] m_axi_rresp, input m_axi_rlast,
    input m_axi_rvalid, output m_axi_rready,
    input [25:0] s_axil_awaddr, input s_axil_awvalid, output s_axil_awready,
    input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb, input s_axil_wvalid,
    output s_axil_wready, output [1:0] s_axil_bresp, output s_axil_bvalid, input s_axil_bready,
    input [25:0] s_axil_araddr, input s_axil_arvalid, output s_axil_arready,
    output [31:0] s_axil_rdata, output [1:0] s_axil_rresp, output s_axil_rvalid,
    input s_axil_rready
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    {top} machine (
        .rst(reset), .m_axi_awlock(), .m_axi_awcache(), .m_axi_awprot(),
        .m_axi_awqos(), .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(),
        .m_axi_arqos(), .s_axil_awprot(3'b0), .s_axil_arprot(3'b0), .*
    );
endmodule
"""

_machine, _count, _word = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
_bytes = np.ctypeslib.ndpointer(np.uint8, ndim=1, flags="C_CONTIGUOUS")
_byte_out, _word_out, _count_out = (ctypes.POINTER(kind) for kind in (
    ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64))

FUNCTIONS = (
    ("create", _machine, (ctypes.c_char_p, _bytes, _count, _count, _count, _word, _count)),
    ("fault", None, (_machine, _count, _count)),
    ("violation", ctypes.c_char_p, (_machine, _count_out)),
    ("interrupt", ctypes.c_bool, (_machine,)),
    ("write", ctypes.c_bool, (_machine, _word, _word, _count, _byte_out)),
    ("read", ctypes.c_bool, (_machine, _word, _word_out, _count, _byte_out)),
    ("run", _count, (_machine, _count)),
)


class AxiSimulator(Verilated):
    """A machine with its AXI ports that runs as compiled C++, its memory an array of Python.

    The memory answers in order: the first beat of a read can be taken `latency` cycles after its
    address, then a beat a cycle; a write takes a beat a cycle, once its address was taken, and is
    answered `latency` cycles after its last one. Beats that leave the memory answer DECERR.

    All transfers are checked: what is offered stays until it is taken; bursts are of type INCR, as
    wide as the bus and aligned to it, and within 4 KiB; WLAST is where it belongs; nothing is
    offered in reset. A broken rule ends the run.

    A new simulator has been reset. See `gradloom_host.verilated.Verilated` for the cache and
    closing.

    Parameters
    ----------
    verilog : str
        Of `gradloom.generate.shell_verilog`.
    top : str
        Name of its top module, an identifier.
    memory_bytes : int
        Size of the memory, which begins at address 0.
    latency : int
        Cycles, from 1.
    outstanding : int
        Bursts of each kind that the memory takes before it has ended the first.
    data_bits, address_bits : int
        Of the AXI master.
    stall_probability : float
        With which each channel, also of the AXI4-Lite port, pauses in a cycle; below 1.
    seed : int
        Of the pauses.
    cache, waves : path or None
        As of `Verilated`.

    Attributes
    ----------
    memory : uint8 array (memory_bytes,)
        The memory itself: what Python writes the machine reads, and the reverse.

    Raises
    ------
    MissingExtraError, BuildError
        As of `Verilated`.
    """

    def __init__(self, verilog: str, *, memory_bytes: int, top: str = "gradloom_axi",
                 latency: int = 20, outstanding: int = 8, data_bits: int = 128,
                 address_bits: int = 40, stall_probability: float = 0.0, seed: int = 0,
                 cache: Path | None = None, waves: Path | None = None):
        for name, value in (("Latency", latency), ("Outstanding", outstanding)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}.")
        if not 0 <= stall_probability < 1:
            raise ValueError(
                f"Stall probability must be from 0 to below 1, not {stall_probability!r}.")
        if not (top.isascii() and top.isidentifier()):
            raise ValueError(f"Top module must be named by an identifier, not {top!r}.")
        self.memory = np.zeros(memory_bytes, np.uint8)
        harness = Harness(
            wrapper=WRAPPER.format(top=top, data=data_bits, address=address_bits),
            sources=("axi_harness.cpp", "axi_memory.h", "clocked.h"), functions=FUNCTIONS)
        stall = min(round(stall_probability * 2**32), 2**32 - 1)
        super().__init__(
            verilog, harness, (self.memory, memory_bytes, latency, outstanding, stall, seed),
            cache=cache, waves=waves)

    def fault(self, first: int, end: int) -> None:
        """Let beats that touch bytes `first` to `end` - 1 answer SLVERR; an empty range ends it."""
        self._library.gradloom_fault(self._open(), first, end)

    def write(self, address: int, value: int) -> None:
        """Write a register through the AXI4-Lite port.

        Parameters
        ----------
        address : int
            Of a byte, 0 to 2**26 - 1.
        value : int
            32 bits.

        Raises
        ------
        SimulationError
            It was refused, or not answered within `PATIENCE` cycles, or a rule was broken.
        """
        machine, response = self._open(), ctypes.c_uint8()
        _check_word(address, value)
        done = self._library.gradloom_write(
            machine, address, value, PATIENCE, ctypes.byref(response))
        self._check_answer("write", address, done, response.value)

    def read(self, address: int) -> int:
        """Return the 32 bits of a register, read at a byte address through the AXI4-Lite port.

        Raises
        ------
        SimulationError
            As of `write`.
        """
        machine, response, value = self._open(), ctypes.c_uint8(), ctypes.c_uint32()
        _check_word(address)
        done = self._library.gradloom_read(
            machine, address, ctypes.byref(value), PATIENCE, ctypes.byref(response))
        self._check_answer("read", address, done, response.value)
        return value.value

    def run_until_interrupt(self, limit: int) -> int:
        """Clock the machine until its interrupt is high; return the cycles spent, 0 if it was.

        Raises
        ------
        SimulationError
            There is none after `limit` cycles, it can be run further; or a rule was broken.
        """
        machine = self._open()
        spent = 0
        while spent < limit and not self._library.gradloom_interrupt(machine):
            spent += self._library.gradloom_run(machine, min(limit - spent, CYCLES_PER_CALL))
            self._check_rules()
        if not self._library.gradloom_interrupt(machine):
            raise SimulationError(
                f"No interrupt came within the limit of {limit} cycles; raise the limit.")
        return spent

    def _check_answer(self, kind: str, address: int, done: bool, response: int) -> None:
        self._check_rules()
        if not done:
            raise SimulationError(
                f"The {kind} at {address:#x} was not answered for {PATIENCE} cycles; reset() the "
                "machine.")
        if response:
            named = RESPONSES.get(response, f"response {response}")
            raise SimulationError(
                f"The {kind} at {address:#x} was answered with {named}; use the address of a "
                "register that allows it.")

    def _check_rules(self) -> None:
        cycle = ctypes.c_uint64()
        rule = self._library.gradloom_violation(self._open(), ctypes.byref(cycle))
        if rule:
            raise SimulationError(
                f"The machine breaks a rule of its bus in cycle {cycle.value}: {rule.decode()}.")


def _check_word(address: int, value: int = 0) -> None:
    if not 0 <= address < LITE_BYTES:
        raise ValueError(
            f"A register's byte address lies below {LITE_BYTES:#x}, so not at {address:#x}.")
    if not 0 <= value < 1 << 32:
        raise ValueError(f"A register takes 32 bits, not {value:#x}.")
