"""Bench of the shell around a stub core: registers, lists, errors, reset and watchdog.

Parameters: ``config`` (JSON of the configuration).
"""

import random
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from axi_stub import CHECKSUM, DONE_COUNT, HANGS, SCRATCH_WORDS
from benches.axi_memory import STALLS, FaultyMemory, attach, stall
from benches.axi_rules import AxiRules, LiteRules
from gradloom_golden.config import Config
from gradloom_golden.program import (
    IDENT,
    OFFSET_BITS,
    Descriptor,
    Error,
    Opcode,
    Region,
    Register,
)
from gradloom_golden.shell import (
    LIST_ALIGNMENT,
    MAX_LIST,
    RESET_KEY,
    Interrupt,
    ShellRegister,
    Status,
)
from rtl_bench import bench_params

MEMORY_BYTES = 1 << 16
LIST = 0x1000
SOURCE = 0x4000
TARGET = 0x8000
OUTSTANDING = 4
PATIENCE = 4000


@dataclass
class System:
    """The shell, its memory, its host, and what watches both buses."""

    dut: Any
    config: Config
    memory: FaultyMemory
    slave: Any
    host: Any
    rules: AxiRules
    lite_rules: LiteRules

    async def write(self, region: int, offset: int, value: int) -> AxiResp:
        """Write one word of the host's map and return the response."""
        address = (region << OFFSET_BITS | offset) * 4
        return (await self.host.write(address, value.to_bytes(4, "little"))).resp

    async def read(self, region: int, offset: int) -> tuple[int, AxiResp]:
        """Return one word of the host's map, and the response."""
        answer = await self.host.read((region << OFFSET_BITS | offset) * 4, 4)
        return int.from_bytes(answer.data, "little"), answer.resp

    async def shell(self, register: ShellRegister, value: int | None = None) -> int:
        """Write or read a register of the shell, which must accept it."""
        if value is None:
            value, response = await self.read(Region.SHELL, register)
        else:
            response = await self.write(Region.SHELL, register, value)
        assert response == AxiResp.OKAY, f"{register.name} answered {response!r}"
        return value

    async def status(self) -> tuple[Status, Error, int]:
        """Return flags, error and index of the status register."""
        word = await self.shell(ShellRegister.STATUS)
        return Status(word & 0xFF), Error(word >> 8 & 0xFF), word >> 16

    async def error_address(self) -> int:
        """Return the address behind the error."""
        low = await self.shell(ShellRegister.ERROR_LOW)
        return low | await self.shell(ShellRegister.ERROR_HIGH) << 32

    def put_list(self, descriptors: list[Descriptor], address: int = LIST) -> None:
        """Store descriptors in memory."""
        words = [word for descriptor in descriptors for word in descriptor.encode()]
        text = b"".join(word.to_bytes(4, "little") for word in words)
        self.memory.data[address:address + len(text)] = text

    async def start(self, address: int = LIST, limit: int = 64) -> None:
        """Start a list."""
        await self.shell(ShellRegister.LIST_LOW, address & 0xFFFFFFFF)
        await self.shell(ShellRegister.LIST_HIGH, address >> 32)
        await self.shell(ShellRegister.LIST_LIMIT, limit)
        await self.shell(ShellRegister.LIST_START, 1)

    async def interrupt(self) -> None:
        """Wait for the interrupt."""
        for _ in range(PATIENCE):
            if self.dut.irq.value:
                return
            await RisingEdge(self.dut.clk)
        raise AssertionError(f"no interrupt came in {PATIENCE} cycles")

    async def rest(self) -> None:
        """Wait until the shell is no longer busy."""
        for _ in range(PATIENCE):
            if not (await self.status())[0] & Status.BUSY:
                return
        raise AssertionError(f"the shell is still busy after {PATIENCE} reads of its status")

    async def end(self) -> tuple[Error, int]:
        """Wait for the interrupt, clear it, and return error and index."""
        await self.interrupt()
        flags, error, failed = await self.status()
        assert flags == Status.DONE, flags
        wanted = Interrupt.DONE | (Interrupt.ERROR if error else Interrupt(0))
        assert await self.shell(ShellRegister.INTERRUPT_STATUS) == wanted
        await self.shell(ShellRegister.INTERRUPT_STATUS, wanted)
        await ClockCycles(self.dut.clk, 2)
        assert not self.dut.irq.value
        return error, failed

    async def run(self, descriptors: list[Descriptor], **options) -> tuple[Error, int]:
        """Store and run a list; return its error and index."""
        self.put_list(descriptors)
        await self.start(**options)
        return await self.end()

    def finish(self) -> None:
        """Fail if something is still on its way."""
        self.rules.finish()
        self.lite_rules.finish()


async def begin(dut) -> System:
    """Reset the shell and attach memory, host and rules."""
    config = Config.from_json(bench_params()["config"])
    dut.rst.value = 1
    memory = FaultyMemory(MEMORY_BYTES)
    memory.data[:] = random.randbytes(MEMORY_BYTES)
    host: Any = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    for part in (host.read_if, host.write_if):
        part.log.setLevel("ERROR")
    slave = attach(dut, memory)
    rules = AxiRules(dut, data_bits=config.axi_data_bits, outstanding=OUTSTANDING)
    lite_rules = LiteRules(dut)
    cocotb.start_soon(rules.watch())
    cocotb.start_soon(lite_rules.watch())
    Clock(dut.clk, 10, "ns").start()
    await ClockCycles(dut.clk, 3)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    system = System(dut, config, memory, slave, host, rules, lite_rules)
    await system.shell(ShellRegister.INTERRUPT_ENABLE, Interrupt.DONE | Interrupt.ERROR)
    return system


def waits(cycles: int, *, end: int = 0) -> Descriptor:
    """Return a descriptor that only takes time."""
    return Descriptor(opcode=Opcode.FORWARD, steps=cycles, end=end)


def loads(address: int, beats: int, *, end: int = 0) -> Descriptor:
    """Return a descriptor that reads beats."""
    return Descriptor(opcode=Opcode.LOAD, steps=beats, memory_low=address, end=end)


def saves(address: int, beats: int, *, end: int = 0) -> Descriptor:
    """Return a descriptor that writes beats."""
    return Descriptor(opcode=Opcode.SAVE, steps=beats, memory_low=address, end=end)


def checksum(data: bytes | bytearray) -> int:
    """Return what the stub core makes of what it reads."""
    return sum(int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), 4))


@cocotb.test()
async def registers(dut):
    """Each register keeps, tells or refuses what it should."""
    system = await begin(dut)
    config = system.config
    kept = (ShellRegister.LIST_LOW, ShellRegister.LIST_HIGH, ShellRegister.LIST_LIMIT,
            ShellRegister.WATCHDOG)
    for register in kept:
        value = random.getrandbits(32)
        await system.shell(register, value)
        assert await system.shell(register) == value
    await system.shell(ShellRegister.WATCHDOG, 0)
    assert await system.shell(ShellRegister.ARRAY) == config.rows | config.columns << 16
    assert await system.shell(ShellRegister.AXI) == (
        config.axi_data_bits | config.axi_address_bits << 16)
    assert await system.status() == (Status(0), Error.NONE, 0)
    tells = (ShellRegister.STATUS, ShellRegister.ERROR_LOW, ShellRegister.ERROR_HIGH,
             ShellRegister.ARRAY, ShellRegister.AXI, ShellRegister.CYCLES_LOW,
             ShellRegister.CYCLES_HIGH)
    for register in (*tells, len(ShellRegister), 1 << 19):
        assert await system.write(Region.SHELL, register, 1) == AxiResp.SLVERR
    assert await system.write(Region.SHELL, ShellRegister.RESET, 1) == AxiResp.SLVERR
    for offset in (len(ShellRegister), 1 << 19):
        assert (await system.read(Region.SHELL, offset))[1] == AxiResp.SLVERR
    await any_order(system)
    # Nothing but whole words: a byte is a write of one strobe.
    address = (Region.SHELL << OFFSET_BITS | ShellRegister.LIST_LOW) * 4
    assert (await system.host.write(address, b"\1")).resp == AxiResp.SLVERR
    assert await system.shell(ShellRegister.LIST_LOW) != 1
    system.lite_rules.finish()


async def any_order(system: System) -> None:
    """Let the address come before the data, after them, and answers be taken late."""
    writes, reads = system.host.write_if, system.host.read_if
    channels = (writes.aw_channel, writes.w_channel, writes.b_channel, reads.ar_channel,
                reads.r_channel)
    for turn in range(3 * len(STALLS)):
        for at, channel in enumerate(channels):
            pattern = STALLS[(turn + 2 * at) % len(STALLS)]
            channel.set_pause_generator(cycle(map(int, pattern or "0")))
        value = random.getrandbits(32)
        await system.shell(ShellRegister.LIST_HIGH, value)
        assert await system.shell(ShellRegister.LIST_HIGH) == value
    for channel in channels:
        channel.clear_pause_generator()
        channel.pause = False


@cocotb.test()
async def core_accesses(dut):
    """Words of the core's regions are reached, and wait while it works."""
    system = await begin(dut)
    assert await system.read(Region.CONTROL, Register.IDENT) == (IDENT, AxiResp.OKAY)
    values = [random.getrandbits(32) for _ in range(SCRATCH_WORDS)]
    for offset, value in enumerate(values):
        assert await system.write(Region.WEIGHT, offset, value) == AxiResp.OKAY
    for offset, value in enumerate(values):
        assert await system.read(Region.WEIGHT, offset) == (value, AxiResp.OKAY)
    assert await system.write(Region.CONTROL, Register.START, 200) == AxiResp.OKAY
    assert (await system.status())[0] == Status.BUSY
    assert await system.write(Region.SHELL, ShellRegister.LIST_START, 1) == AxiResp.SLVERR
    late = cocotb.start_soon(system.write(Region.WEIGHT, 3, 7))
    # The shell answers beside a write that waits.
    while (await system.status())[0] & Status.BUSY:
        assert not late.done()
    assert await late == AxiResp.OKAY
    assert await system.read(Region.WEIGHT, 3) == (7, AxiResp.OKAY)
    system.lite_rules.finish()


@cocotb.test()
async def lists(dut):
    """Lists of all lengths run to their end, however the memory stalls."""
    system = await begin(dut)
    beat = system.config.axi_data_bits // 8
    count = total = 0
    for turn in range(8):
        patterns = [random.choice(STALLS) for _ in range(5)]
        stall(system.slave, patterns, latency=random.choice((0, 7, 30)))
        descriptors = []
        for number in range(length := 1 + turn):
            end = int(number == length - 1)
            beats = random.randint(1, 90)
            source = SOURCE + random.randrange(512) * beat
            descriptors.append(random.choice((
                waits(random.randint(0, 40), end=end), loads(source, beats, end=end),
                saves(TARGET, beats, end=end))))
        assert await system.run(descriptors, limit=length) == (Error.NONE, 0)
        count += length
        for descriptor in descriptors:
            start, size = descriptor.memory_low, descriptor.steps * beat
            stored = system.memory.data[start:start + size]
            if descriptor.opcode == Opcode.LOAD:
                total += checksum(stored)
            elif descriptor.opcode == Opcode.SAVE:
                assert stored == b"".join(
                    word.to_bytes(4, "little") for word in range(size // 4))
        assert await system.read(Region.CONTROL, DONE_COUNT) == (count, AxiResp.OKAY)
        assert await system.read(Region.CONTROL, CHECKSUM) == (
            total & 0xFFFFFFFF, AxiResp.OKAY)
    system.finish()


@cocotb.test()
async def late_answers(dut):
    """A list has not ended before what was read ahead has come; the next sees none of it."""
    system = await begin(dut)
    beats = 8 * LIST_ALIGNMENT // system.config.axi_data_bits
    second = LIST + 0x800
    system.put_list([waits(1, end=1)])
    system.put_list([waits(2)] * 3 + [waits(1, end=1)], second)
    stall(system.slave, ("", "0" * beats + "1" * 300, "", "", ""))
    for address, count in ((LIST, 1), (second, 5), (LIST, 6), (second, 10)):
        await system.start(address)
        assert await system.end() == (Error.NONE, 0)
        assert await system.read(Region.CONTROL, DONE_COUNT) == (count, AxiResp.OKAY)
    system.finish()


@cocotb.test()
async def list_cycles(dut):
    """The cycle counter grows by the cycles that a longer list takes."""
    system = await begin(dut)
    taken = []
    for length in (100, 400):
        assert await system.run([waits(length, end=1)]) == (Error.NONE, 0)
        taken.append(await system.shell(ShellRegister.CYCLES_LOW))
        assert await system.shell(ShellRegister.CYCLES_HIGH) == 0
    assert taken[1] - taken[0] == 300
    assert 100 < taken[0] < 200
    system.finish()


@cocotb.test()
async def bad_lists(dut):
    """What is wrong with a list, or with one of its descriptors, is told with its address."""
    system = await begin(dut)
    limit = 1 << system.config.axi_address_bits
    fine = [waits(3), waits(5)]
    for error, failed, address, place, most in (
        (Error.PROGRAM_LENGTH, 0, LIST, LIST, 0),
        (Error.PROGRAM_LENGTH, 0, LIST, LIST, MAX_LIST + 1),
        (Error.MEMORY_ALIGNMENT, 0, LIST + 64, LIST + 64, 4),
        (Error.MEMORY_RANGE, 0, limit - 128, limit - 128, 2),
        (Error.MEMORY_RANGE, 0, limit & (1 << 64) - 1, limit & (1 << 64) - 1, 1),
        (Error.LIST_END, 2, LIST + 2 * LIST_ALIGNMENT, LIST, 2),
    ):
        if limit >> 64 and error == Error.MEMORY_RANGE and most == 1:
            continue
        assert await system.run(fine, address=place, limit=most) == (error, failed)
        assert await system.error_address() == address
    bad = [*fine, Descriptor(opcode=15, end=1)]
    assert await system.run(bad) == (Error.OPCODE, 2)
    assert await system.error_address() == LIST + 2 * LIST_ALIGNMENT
    assert await system.run([waits(1, end=1)]) == (Error.NONE, 0)
    assert await system.error_address() == 0
    system.finish()


@cocotb.test()
async def refused_memory(dut):
    """Responses of memory that are no OKAY end a list; what was read too far does not."""
    system = await begin(dut)
    beat = system.config.axi_data_bits // 8
    for patterns in (("",) * 5, ("01", "0010", "1100", "01", "0010")):
        stall(system.slave, patterns, latency=3)
        ends = [waits(2), waits(30, end=1)]
        system.memory.faults = [range(LIST + 256, LIST + 4096)]
        assert await system.run(ends) == (Error.NONE, 0)
        for descriptor, part in ((0, 0), (1, 32 // beat * beat), (2, 128 - beat)):
            place = LIST + descriptor * LIST_ALIGNMENT + part
            system.memory.faults = [range(place, place + beat)]
            assert await system.run([waits(2)] * 6 + ends) == (Error.FETCH_RESPONSE, descriptor)
            assert await system.error_address() == place
        system.memory.faults = [range(SOURCE + 40 * beat, SOURCE + 41 * beat)]
        assert await system.run([waits(1), loads(SOURCE, 99), waits(1, end=1)]) == (
            Error.READ_RESPONSE, 1)
        assert await system.error_address() == SOURCE
        assert await system.run([loads(SOURCE, 40), waits(1, end=1)]) == (Error.NONE, 0)
        system.memory.faults = [range(TARGET + 5 * beat, TARGET + 6 * beat)]
        # The second burst of the same write is accepted: the first one's error must stay.
        assert await system.run([waits(1), saves(TARGET, 90), waits(1, end=1)]) == (
            Error.WRITE_RESPONSE, 1)
        assert await system.error_address() == TARGET
        system.memory.faults = []
    system.finish()


@cocotb.test()
async def reset_in_flight(dut):
    """A reset at any moment leaves the bus legal and the shell as new."""
    system = await begin(dut)
    for turn in range(10):
        patterns = [random.choice(STALLS) for _ in range(5)]
        stall(system.slave, patterns, latency=random.choice((0, 20)))
        work = [loads(SOURCE, 200), saves(TARGET, 200)] * 4 + [waits(1, end=1)]
        system.put_list(work if turn % 2 else work[1:])
        await system.start()
        await ClockCycles(dut.clk, random.randint(0, 150))
        await system.shell(ShellRegister.RESET, RESET_KEY)
        await system.rest()
        bursts = {name: len(lengths) for name, lengths in system.rules.lengths.items()}
        system.rules.finish()
        assert await system.status() == (Status(0), Error.NONE, 0)
        assert await system.shell(ShellRegister.LIST_LOW) == 0
        assert await system.shell(ShellRegister.INTERRUPT_ENABLE) == 0
        assert bursts == {name: len(lengths) for name, lengths in system.rules.lengths.items()}
        await system.shell(ShellRegister.INTERRUPT_ENABLE, Interrupt.DONE | Interrupt.ERROR)
        before = (await system.read(Region.CONTROL, CHECKSUM))[0]
        assert before == 0
        assert await system.run([loads(SOURCE, 70, end=1)]) == (Error.NONE, 0)
        size = 70 * system.config.axi_data_bits // 8
        wanted = checksum(system.memory.data[SOURCE:SOURCE + size]) & 0xFFFFFFFF
        assert await system.read(Region.CONTROL, CHECKSUM) == (wanted, AxiResp.OKAY)
    system.finish()


@cocotb.test()
async def reset_meets_a_read(dut):
    """A read of the core that a reset overtakes is answered, with an error."""
    system = await begin(dut)
    seen = set()
    for delay in range(12):
        read = cocotb.start_soon(system.read(Region.CONTROL, Register.IDENT))
        if delay:
            await ClockCycles(dut.clk, delay)
        await system.shell(ShellRegister.RESET, RESET_KEY)
        value, response = await with_timeout(read, 5, "us")
        assert value == (IDENT if response == AxiResp.OKAY else 0)
        seen.add(response)
    assert seen == {AxiResp.OKAY, AxiResp.SLVERR}
    system.lite_rules.finish()


@cocotb.test()
async def watchdog(dut):
    """What hangs is ended, what is only slow is not."""
    system = await begin(dut)
    await system.shell(ShellRegister.WATCHDOG, 100)
    assert await system.run([waits(50)] * 5 + [waits(1, end=1)]) == (Error.NONE, 0)
    hangs = Descriptor(opcode=HANGS)
    assert await system.run([waits(4), waits(4), hangs]) == (Error.WATCHDOG, 2)
    assert await system.error_address() == LIST + 2 * LIST_ALIGNMENT
    assert await system.run([waits(120), waits(1, end=1)]) == (Error.WATCHDOG, 0)
    assert await system.run([waits(9, end=1)]) == (Error.NONE, 0)
    # A memory that does not answer: the error is told although the bus is not at rest.
    system.slave.read_if.r_channel.pause = True
    system.put_list([waits(1, end=1)])
    await system.start()
    await system.interrupt()
    assert await system.status() == (Status.BUSY | Status.DONE, Error.WATCHDOG, 0)
    system.slave.read_if.r_channel.pause = False
    await system.rest()
    assert await system.end() == (Error.WATCHDOG, 0)
    await system.shell(ShellRegister.WATCHDOG, 0)
    assert await system.run([waits(120), waits(1, end=1)]) == (Error.NONE, 0)
    # A write that waits for a core that hangs is done once the watchdog has reset it.
    await system.shell(ShellRegister.WATCHDOG, 100)
    system.put_list([hangs])
    await system.start()
    assert await system.write(Region.WEIGHT, 1, 77) == AxiResp.OKAY
    assert await system.end() == (Error.WATCHDOG, 0)
    assert await system.read(Region.WEIGHT, 1) == (77, AxiResp.OKAY)
    # It is not lost while the core is held in reset.
    system.slave.read_if.r_channel.pause = True
    system.put_list([waits(1, end=1)])
    await system.start()
    late = cocotb.start_soon(system.write(Region.CONTROL, Register.START, 400))
    await system.interrupt()
    await ClockCycles(dut.clk, 20)
    assert not late.done()
    system.slave.read_if.r_channel.pause = False
    assert await late == AxiResp.OKAY
    await system.shell(ShellRegister.WATCHDOG, 0)
    assert (await system.status())[0] & Status.BUSY
    system.rules.finish()
