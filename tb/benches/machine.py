"""Bench of the whole machine: random programs through its streams, with stalls on both.

Parameters: ``config`` (JSON of the configuration), ``programs`` (how many), ``coverage`` (the file
that receives the counts).
"""

import random
from itertools import product
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from benches.host import PATTERNS, Host, host_coverage
from coverage import Coverage
from gradloom_golden.config import Config
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_WORDS,
    Descriptor,
    Error,
    Opcode,
    Region,
    Register,
    Schedule,
)
from random_programs import (
    BUFFERS,
    OPCODES,
    broken_words,
    buffer_address,
    buffer_words,
    random_contents,
    random_descriptor,
)
from rtl_bench import bench_params

LONGEST = 12
STREAMS = (Opcode.FORWARD, Opcode.BACKWARD)
ELSEWHERE = (Error.IMAGE_RANGE, Error.REGION)
"""Errors of transfers only, which need a memory."""

ERRORS = [e for e in Error if e < Error.MEMORY_ALIGNMENT and e not in ELSEWHERE]
UNUSED_INPUTS = (
    "reads__ready", "read_data__valid", "read_data__payload", "writes__ready", "write_data__ready",
    "write_done__valid", "write_done__payload", "list_start", "program__valid", "program__payload",
    "list_fault",
)
"""Ports of the shell, which is absent here."""


def patterns_in_turn(rng: np.random.Generator):
    """Yield pairs of stall patterns, all of them before one comes again."""
    pairs = list(product(PATTERNS, PATTERNS))
    while True:
        for index in rng.permutation(len(pairs)):
            yield pairs[index]


def kinds_in_turn():
    """Yield opcodes, and for backward passes a schedule, all of them before one comes again."""
    while True:
        for schedule in Schedule:
            yield Opcode.FORWARD, None
            yield Opcode.BACKWARD, schedule
        for opcode in OPCODES:
            if opcode not in STREAMS:
                yield opcode, None


def descriptor_of(rng, config: Config, kind: tuple[Opcode, Schedule | None]) -> Descriptor:
    """Draw descriptors until one has the schedule."""
    opcode, schedule = kind
    while True:
        drawn = random_descriptor(rng, config, opcode, longest=LONGEST)
        if schedule is None or drawn.schedule == schedule:
            return drawn


def start(host: Host, words: list[int]) -> None:
    """Queue a program and its start, then accesses that meet it at work."""
    host.write(buffer_address(Region.PROGRAM), words)
    host.write(Register.START, [len(words) // DESCRIPTOR_WORDS])
    host.read(Register.STATUS, 1)
    host.read(Register.IDENT, 1)


def read_registers(host: Host) -> None:
    """Queue reads of everything in the control region."""
    for register, words in (
        (Register.STATUS, 1),
        (Register.KEPT, 1),
        (Register.BITS, 1),
        (Register.LOSS, 2),
        (Register.THRESHOLD, 1),
    ):
        host.read(register, words)
    host.read(Register.COUNTER, 2 * len(COUNTERS))


def read_buffers(host: Host, config: Config) -> None:
    """Queue reads of every word that the host can see."""
    for region in BUFFERS:
        host.read(buffer_address(region), buffer_words(config, region))


async def begin(dut) -> None:
    """Start the clock and reset the machine."""
    dut.requests__valid.value = 0
    dut.requests__payload.value = 0
    dut.responses__ready.value = 0
    for name in UNUSED_INPUTS:
        getattr(dut, name).value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test()
async def random_programs(dut):
    """Programs leave what the golden machine leaves, refused ones too, however streams stall."""
    params = bench_params()
    config = Config.from_json(params["config"])
    rng = np.random.default_rng(random.getrandbits(32))
    coverage = Coverage(
        {
            **host_coverage(),
            "descriptor": [o.name for o in OPCODES] + [s.name for s in Schedule],
            "error": [error.name for error in ERRORS],
        }
    )
    await begin(dut)
    host = Host(dut, GoldenMachine(config), coverage)

    for region in BUFFERS:
        host.write(buffer_address(region), random_contents(rng, config, region))
    await host.settle()

    patterns, kinds = patterns_in_turn(rng), kinds_in_turn()
    for number in range(max(params["programs"], len(PATTERNS) ** 2)):
        host.set_patterns(*next(patterns))
        host.write(Register.SEED, [int(rng.integers(0, 1 << 31))])
        error = ERRORS[number % len(ERRORS)]
        coverage.hit("error", error.name)
        if error == Error.PROGRAM_LENGTH:
            host.write(Register.START, [int(rng.choice([0, config.descriptor_depth + 1]))])
        else:
            kind = next(kinds)
            coverage.hit("descriptor", (kind[1] if kind[1] is not None else kind[0]).name)
            if kind[1] is not None:
                coverage.hit("descriptor", kind[0].name)
            words = descriptor_of(rng, config, kind).encode()
            if error != Error.NONE:
                words += broken_words(rng, config, error)
            start(host, words)
        # A memory's word, so that the request waits for the program.
        host.read(buffer_address(Region.PROGRAM), 4)
        read_registers(host)
        if number % 18 == 17:
            read_buffers(host, config)
            host.write(Register.CLEAR, [0])
        await host.settle()
    dut._log.info("%d cycles, compared %d answers", host.cycles, host.finish())
    coverage.save(Path(params["coverage"]))
