"""Lists on a machine with memory: what arrives, what is refused, and how errors are told."""

import re
from pathlib import Path

import numpy as np
import pytest

from gradloom_golden.config import PRESETS
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import COUNTERS, Descriptor, Error, Opcode, Region, Register
from gradloom_golden.transfer import row_bytes
from gradloom_host.device import DeviceError, Mismatch
from gradloom_host.system import System

TINY = PRESETS["tiny"]
MEMORY, LIST, SAVED = 1 << 14, 0x1000, 0x2000
BAD = Descriptor(opcode=Opcode.FORWARD)


@pytest.fixture
def system():
    return System(TINY, "golden", memory_bytes=MEMORY)


@pytest.mark.parametrize(("options", "words"), [
    ({"check": True}, "check compares the RTL with the golden model: use backend 'rtl'"),
    ({"waves": Path("x.fst")}, "waves for x.fst come from the RTL: use backend 'rtl'")])
def test_only_the_rtl_is_checked(options, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        System(TINY, "golden", memory_bytes=MEMORY, **options)


def transfer(opcode, address, rows=2, **fields):
    return Descriptor(opcode=opcode, function=Region.WEIGHT, steps=3, rows=rows, packed_base=16,
                      memory_low=address, **fields)


@pytest.mark.parametrize("region", [Region.WEIGHT, Region.STATE, Region.BIAS, Region.IMAGE,
                                    Region.ACTIVATION, Region.GRADIENT, Region.MASK])
def test_what_is_loaded_is_saved_again(system, region, rng):
    size = row_bytes(TINY, region, 10)
    content = rng.integers(0, 256, size, dtype=np.uint8)
    if region == Region.STATE:
        content[3::4] = 0                                  # beyond the 24 bits of an element
    system.store(0x400, content)
    fields = {"function": region, "rows": 1, "steps": 10, "out_base": 3}
    count = system.store_list(LIST, [
        Descriptor(opcode=Opcode.LOAD, memory_low=0x400, **fields),
        Descriptor(opcode=Opcode.SAVE, memory_low=SAVED, **fields)])
    assert count == 256
    assert system.run(LIST) == 0
    np.testing.assert_array_equal(system.memory[SAVED:SAVED + size], content)
    assert not system.memory[SAVED + size:].any()
    counters = system.counters()
    assert (counters["load_words"], counters["save_words"]) == (10, 10)
    assert set(counters) == set(COUNTERS)
    system.clear()
    assert not any(system.counters().values())


def test_rows_lie_apart_and_side_by_side(system):
    system.store(0, np.arange(64, dtype=np.uint8))
    system.store_list(LIST, [transfer(Opcode.LOAD, 0, out_base=1)])
    system.run(LIST)
    raw = system.read(Region.WEIGHT, 1, 6).view(np.uint8)
    assert raw.tolist() == [*range(12), *range(16, 28)]


@pytest.mark.parametrize(("descriptors", "limit", "error", "index", "address"), [
    ([BAD], 9, Error.STEPS, 0, 0),
    ([transfer(Opcode.LOAD, 0), BAD], 9, Error.STEPS, 1, 0),
    ([transfer(Opcode.LOAD, 8)], 9, Error.MEMORY_ALIGNMENT, 0, 8),
    ([transfer(Opcode.SAVE, 0, memory_high=1 << 9)], 9, Error.MEMORY_RANGE, 0, 1 << 41),
    ([transfer(Opcode.LOAD, MEMORY - 16)], 9, Error.READ_RESPONSE, 0, MEMORY),
    ([transfer(Opcode.SAVE, MEMORY - 16)], 9, Error.WRITE_RESPONSE, 0, MEMORY),
    ([transfer(Opcode.LOAD, 0)] * 3, 2, Error.LIST_END, 2, 0),
])
def test_errors_name_descriptor_and_address(system, descriptors, limit, error, index, address):
    system.store_list(LIST, descriptors)
    message = (f"descriptor {index} of the list at 0x1000 ended with {error.name} "
               f"(memory address {address:#x})")
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        system.run(LIST, limit)
    system.store_list(LIST, [transfer(Opcode.LOAD, 0)])
    system.run(LIST)
    assert not system.read(Region.CONTROL, Register.STATUS)[0]


def test_a_list_that_leaves_the_memory(system):
    system.store(MEMORY - 128, np.array(transfer(Opcode.LOAD, 0).encode(), "<u4"))
    with pytest.raises(DeviceError, match=r"^descriptor 1 .* FETCH_RESPONSE \(.* 0x4000\)$"):
        system.run(MEMORY - 128)


def test_refusals(system):
    with pytest.raises(ValueError, match=r"^unknown backend 'fpga'; choose from "):
        System(TINY, "fpga", memory_bytes=MEMORY)
    with pytest.raises(ValueError, match=r"^a list begins at a multiple of 128 bytes, not at 0x40"):
        system.run(0x40)
    with pytest.raises(ValueError, match=r"^8 bytes at 0x3ffc leave the memory of 16384: raise "):
        system.store(MEMORY - 4, np.zeros(8, np.uint8))


def test_a_mismatch_is_named():
    system = System(TINY, "golden", memory_bytes=MEMORY)
    other = GoldenMachine(TINY, system.memory.copy())
    system._golden = other
    system.memory[0x123] = 7
    errors = [(Error.NONE, 0, 0)] * 2
    with pytest.raises(Mismatch, match=r"^memory at 0x123: the RTL has 0x7, the golden model 0x0$"):
        system._compare(errors)
    with pytest.raises(Mismatch, match=r"^the list ended with "):
        system._compare([errors[0], (Error.STEPS, 0, 0)])
