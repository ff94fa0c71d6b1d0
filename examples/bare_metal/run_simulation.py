"""Compiles the example and runs it against the machine's Verilog in Verilator.

Usage: python run_simulation.py [PRESET] [-o DIR]
"""

import argparse
import ctypes
import os
import subprocess
from pathlib import Path

from example_data import write_example

from gradloom.generate import shell_verilog
from gradloom_golden.config import Config, preset
from gradloom_golden.program import Error
from gradloom_host.axi_simulator import AxiSimulator

__all__ = ["RESULTS", "compile_example", "run_example"]

HERE = Path(__file__).resolve().parent
SOURCES = ("gradloom_driver.c", "example.c")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-pedantic", "-Werror")
RESULTS = ("passed", "found no machine of gradloom.h", "the layer's list failed",
           "the layer's result differs from the golden model's", "a training list failed",
           "the training's result differs from the golden model's", "the loss did not fall")
MEMORY_ADDRESS = 0x10000
PATIENCE = 100_000
CYCLE_LIMIT = 10_000_000

Read = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
Write = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
Wait = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Machine(ctypes.Structure):
    """``struct gradloom``."""

    _fields_ = [("read", Read), ("write", Write), ("wait", Wait), ("context", ctypes.c_void_p),
                ("patience", ctypes.c_uint32)]


class Memory(ctypes.Structure):
    """``struct example_memory``."""

    _fields_ = [("bytes", ctypes.c_void_p), ("address", ctypes.c_uint64)]


class End(ctypes.Structure):
    """``struct gradloom_end``."""

    _fields_ = [("error", ctypes.c_uint32), ("failed", ctypes.c_uint32),
                ("address", ctypes.c_uint64), ("cycles", ctypes.c_uint64)]


def compile_example(folder: Path, *, compiler: str = "cc", options: tuple[str, ...] = ("-std=c99",),
                    name: str = "example.so") -> Path:
    """Compile driver and example with the headers in `folder`; return the shared library."""
    target = folder / name
    subprocess.run(
        [compiler, *options, *WARNINGS, "-O2", "-fPIC", "-shared", f"-I{folder}", "-o", target,
         *(HERE / source for source in SOURCES)], check=True)
    return target


def run_example(library: Path, simulator: AxiSimulator, *, interrupts: bool) -> tuple[str, End]:
    """Run the example on a simulator; return one of `RESULTS`, and how the last list ended.

    Parameters
    ----------
    interrupts : bool
        Wait for the interrupt, else poll the status.
    """
    example = ctypes.CDLL(str(library), os.RTLD_LOCAL)
    size = example.example_memory_bytes()
    if MEMORY_ADDRESS + size > len(simulator.memory):
        raise ValueError(
            f"the example needs {MEMORY_ADDRESS + size} bytes of memory, not "
            f"{len(simulator.memory)}: raise memory_bytes")
    failures: list[Exception] = []

    def guarded(function, *arguments):
        # An exception cannot pass through C: it is kept, and the example goes on with zeros.
        try:
            return 0 if failures else function(*arguments)
        except Exception as error:
            failures.append(error)
            return 0

    machine = Machine(
        Read(lambda context, offset: guarded(simulator.read, offset)),
        Write(lambda context, offset, value: guarded(simulator.write, offset, value)),
        Wait(lambda context: guarded(simulator.run_until_interrupt, CYCLE_LIMIT) and None)
        if interrupts else Wait(),
        None, PATIENCE)
    memory = Memory(simulator.memory.ctypes.data + MEMORY_ADDRESS, MEMORY_ADDRESS)
    end = End()
    result = example.example_run(
        ctypes.byref(machine), ctypes.byref(memory), ctypes.byref(end))
    if failures:
        raise failures[0]
    return RESULTS[result], end


def simulator_of(config: Config) -> AxiSimulator:
    """Return the machine's Verilog in Verilator, with memory for the example."""
    return AxiSimulator(
        shell_verilog(config), memory_bytes=1 << 20, data_bits=config.axi_data_bits,
        address_bits=config.axi_address_bits)


def main() -> int:
    """Run the command; return 0 if the example passed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("preset", nargs="?", default="tiny")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bare_metal"),
                        metavar="DIR")
    options = parser.parse_args()
    config = preset(options.preset)
    write_example(config, options.output)
    library = compile_example(options.output)
    simulator = simulator_of(config)
    result, end = run_example(library, simulator, interrupts=True)
    print(f"{result}; {simulator.cycles:,} cycles, {end.cycles:,} of them for the last list; "
          f"its error: {Error(end.error).name}")
    return int(result != RESULTS[0])


if __name__ == "__main__":
    raise SystemExit(main())
