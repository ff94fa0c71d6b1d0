"""A memory on the bus with latency, gaps and addresses that it refuses."""

from collections.abc import Iterable
from itertools import chain, cycle, repeat
from typing import Any

from cocotbext.axi import AxiBus, AxiSlave

__all__ = ["STALLS", "FaultyMemory", "attach", "stall"]

STALLS = ("", "0", "01", "0010", "111101", "1100", "0000000011111111")
"""Cycles in which a channel pauses, over and over; empty: none, and the model is not asked."""


class FaultyMemory:
    """Bytes from zero up; accesses that touch a range of `faults` are refused.

    Parameters
    ----------
    size : int
        Bytes.
    """

    def __init__(self, size: int):
        self.data = bytearray(size)
        self.faults: list[range] = []

    async def read(self, address: int, length: int) -> bytes:
        """Return bytes; an exception becomes the response SLVERR."""
        self._check(address, length)
        return bytes(self.data[address:address + length])

    async def write(self, address: int, data: bytes) -> None:
        """Store bytes; an exception becomes the response SLVERR."""
        self._check(address, len(data))
        self.data[address:address + len(data)] = data

    def _check(self, address, length):
        if address + length > len(self.data) or any(
                address < fault.stop and fault.start < address + length for fault in self.faults):
            raise ValueError(f"{address:#x} is refused")


def attach(dut, memory: FaultyMemory) -> Any:
    """Put the memory on the master's bus; return the model, an ``AxiSlave``."""
    slave: Any = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=memory)
    for part in (slave.read_if, slave.write_if):
        part.log.setLevel("ERROR")
    return slave


def stall(slave, patterns: Iterable[str], *, latency: int = 0) -> None:
    """Let the channels AR, R, AW, W, B pause as the patterns say.

    Parameters
    ----------
    slave
        Of `attach`.
    patterns : iterable of five str
        Of `STALLS`.
    latency : int
        Cycles for which the answers wait at first.
    """
    reads, writes = slave.read_if, slave.write_if
    channels = (reads.ar_channel, reads.r_channel, writes.aw_channel, writes.w_channel,
                writes.b_channel)
    for channel, pattern in zip(channels, patterns, strict=True):
        channel.clear_pause_generator()
        channel.pause = False
        answers = channel in (reads.r_channel, writes.b_channel)
        first = repeat(1, latency if answers else 0)
        if pattern or (answers and latency):
            channel.set_pause_generator(chain(first, cycle(map(int, pattern or "0"))))
