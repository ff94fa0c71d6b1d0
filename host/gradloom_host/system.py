"""A machine with memory: lists of descriptors run on the RTL behind AXI, or on the golden model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_WORDS,
    OFFSET_BITS,
    Descriptor,
    Error,
    Region,
    Register,
)
from gradloom_golden.shell import LIST_ALIGNMENT, MAX_LIST, Interrupt, ShellRegister

from .device import DeviceError, Mismatch, check_backend

__all__ = ["System"]

WORD_BYTES = 4
CYCLE_LIMIT = 1 << 40


def _register(region: Region, offset: int) -> int:
    """Return the byte address of a word on the AXI4-Lite port."""
    return (region << OFFSET_BITS | offset) * WORD_BYTES


class System:
    """A machine, its memory, and a host that writes registers and waits for the interrupt.

    Parameters
    ----------
    config : Config
    backend : str
        ``rtl``: Verilog in Verilator behind its AXI ports; ``golden``: the NumPy model.
    memory_bytes : int
    latency : int
        Cycles from a read request to its first beat (RTL).
    check : bool
        Run the golden model beside the RTL and compare registers, counters and memory.
    stall, seed : float, int
        Probability that a bus channel pauses in a cycle, and the seed of that (RTL).
    waves : path, optional
        FST file to write (RTL).

    Attributes
    ----------
    memory : uint8 array (memory_bytes,)
    cycles : int
        From start to interrupt, over all lists so far; RTL only.
    """

    def __init__(self, config: Config, backend: str = "rtl", *, memory_bytes: int,
                 latency: int = 20, check: bool = False, stall: float = 0.0, seed: int = 0,
                 waves: Path | None = None):
        check_backend(backend, check=check, waves=waves)
        self.config = config
        self.cycles = 0
        # Each is there or not; which of them run is decided once, here.
        self._golden: Any = None
        self._rtl: Any = None
        if backend == "rtl":
            from gradloom.generate import shell_verilog  # noqa: PLC0415 - Amaranth, slow

            from .axi_simulator import AxiSimulator  # noqa: PLC0415

            self._rtl = AxiSimulator(
                shell_verilog(config), memory_bytes=memory_bytes, latency=latency,
                data_bits=config.axi_data_bits, address_bits=config.axi_address_bits,
                stall_probability=stall, seed=seed, waves=waves)
            self.memory = self._rtl.memory
        else:
            self.memory = np.zeros(memory_bytes, np.uint8)
        if backend == "golden" or check:
            shared = self.memory if backend == "golden" else self.memory.copy()
            self._golden = GoldenMachine(config, shared)

    @property
    def checking(self) -> bool:
        """Whether the golden model runs beside the RTL."""
        return self._rtl is not None and self._golden is not None

    def close(self) -> None:
        """Free the simulator."""
        if self._rtl is not None:
            self._rtl.close()

    def store(self, address: int, content: np.ndarray) -> None:
        """Put an array, as its bytes lie, at a byte address of the memory.

        Raises
        ------
        ValueError
            If it does not fit.
        """
        raw = np.ascontiguousarray(content).view(np.uint8).ravel()
        if not 0 <= address <= len(self.memory) - len(raw):
            raise ValueError(
                f"{len(raw)} bytes at {address:#x} leave the memory of {len(self.memory)}: "
                "raise memory_bytes")
        for memory in self._memories():
            memory[address:address + len(raw)] = raw

    def store_list(self, address: int, descriptors: Sequence[Descriptor]) -> int:
        """Put a list at a byte address, its last descriptor marked as the end; return its bytes."""
        words = np.array([word for d in descriptors for word in d.encode()], "<u4")
        words = words.reshape(-1, DESCRIPTOR_WORDS)
        words[-1, 0] |= 1 << 31
        self.store(address, words)
        return words.nbytes

    def write(self, region: Region, offset: int, words: Iterable[int]) -> None:
        """Write 32-bit words to a region of the control port, as the host would."""
        words = [int(word) & 0xFFFFFFFF for word in words]
        if self._rtl is not None:
            for index, word in enumerate(words):
                self._rtl.write(_register(region, offset + index), word)
        if self._golden is not None:
            self._golden.write(region << OFFSET_BITS | offset, np.array(words, np.uint32))

    def read(self, region: Region, offset: int, count: int = 1) -> np.ndarray:
        """Return 32-bit words of a region of the control port.

        Raises
        ------
        Mismatch
            With `check`, if the golden model has others.
        """
        found = []
        if self._rtl is not None:
            found.append(np.array(
                [self._rtl.read(_register(region, offset + index)) for index in range(count)],
                np.uint32))
        if self._golden is not None:
            found.append(self._golden.read(region << OFFSET_BITS | offset, count))
        if len(found) == 2 and not np.array_equal(*found):
            where = int(np.flatnonzero(found[0] != found[1])[0])
            raise Mismatch(
                f"{region.name} word {offset + where}: the RTL has {found[0][where]:#x}, the "
                f"golden model {found[1][where]:#x}")
        return found[0]

    def run(self, address: int, limit: int = MAX_LIST) -> int:
        """Run the list at a byte address to its end; return the RTL's cycles, 0 without it.

        Raises
        ------
        DeviceError
            If the machine met an error; it names the descriptor and the address.
        Mismatch
            With `check`.
        """
        if address % LIST_ALIGNMENT:
            raise ValueError(
                f"a list begins at a multiple of {LIST_ALIGNMENT} bytes, not at {address:#x}")
        cycles = 0
        errors = []
        if self._golden is not None:
            error = self._golden.run_list(address, limit)
            status = int(self._golden.read(Register.STATUS, 1)[0])
            errors.append((error, status >> 16, self._golden.failed_address))
        if self._rtl is not None:
            cycles = self._run_rtl(address, limit)
            status = self._shell(ShellRegister.STATUS)
            failed = (self._shell(ShellRegister.ERROR_HIGH) << 32
                      | self._shell(ShellRegister.ERROR_LOW))
            errors.append((Error(status >> 8 & 0xFF), status >> 16, failed))
        self.cycles += cycles
        self._compare(errors)
        error, index, failed = errors[-1]
        if error:
            raise DeviceError(
                f"descriptor {index} of the list at {address:#x} ended with {error.name} "
                f"(memory address {failed:#x})")
        return cycles

    def counters(self) -> dict[str, int]:
        """Return the counters since they were cleared.

        ``cycles`` and ``wait_cycles`` depend on the memory, and are not compared.
        """
        first = Register.COUNTER
        found = []
        if self._rtl is not None:
            found.append([self._rtl.read(_register(Region.CONTROL, first + index))
                          for index in range(2 * len(COUNTERS))])
        if self._golden is not None:
            found.append(self._golden.read(first, 2 * len(COUNTERS)).tolist())
        named: list[dict[str, int]] = [dict(zip(COUNTERS, (low | high << 32 for low, high in
                                     zip(words[::2], words[1::2])))) for words in found]
        if len(named) == 2:
            for name in COUNTERS:
                if name not in ("cycles", "wait_cycles") and named[0][name] != named[1][name]:
                    raise Mismatch(f"counter {name}: the RTL has {named[0][name]}, the golden "
                                   f"model {named[1][name]}")
        return named[0]

    def clear(self) -> None:
        """Zero the counters and the loss."""
        self.write(Region.CONTROL, Register.CLEAR, [1])

    def _memories(self):
        yield self.memory
        if self._rtl is not None and self._golden is not None:
            yield self._golden.bus

    def _shell(self, register: ShellRegister) -> int:
        return self._rtl.read(_register(Region.SHELL, register))

    def _run_rtl(self, address: int, limit: int) -> int:
        for register, value in (
                (ShellRegister.INTERRUPT_STATUS, Interrupt.DONE | Interrupt.ERROR),
                (ShellRegister.INTERRUPT_ENABLE, Interrupt.DONE),
                (ShellRegister.LIST_LOW, address & 0xFFFFFFFF),
                (ShellRegister.LIST_HIGH, address >> 32),
                (ShellRegister.LIST_LIMIT, limit),
                (ShellRegister.LIST_START, 1)):
            self._rtl.write(_register(Region.SHELL, register), int(value))
        self._rtl.run_until_interrupt(CYCLE_LIMIT)
        return (self._shell(ShellRegister.CYCLES_HIGH) << 32
                | self._shell(ShellRegister.CYCLES_LOW))

    def _compare(self, errors) -> None:
        """With `check`, compare how a list ended and what it left in memory."""
        if len(errors) < 2:
            return
        if errors[0] != errors[1]:
            raise Mismatch(f"the list ended with {errors[1]}, in the golden model {errors[0]}")
        if not np.array_equal(self.memory, self._golden.bus):
            where = int(np.flatnonzero(self.memory != self._golden.bus)[0])
            raise Mismatch(
                f"memory at {where:#x}: the RTL has {self.memory[where]:#x}, the golden model "
                f"{self._golden.bus[where]:#x}")
