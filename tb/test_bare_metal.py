"""The C driver: its example on the Verilog and, call by call, on a register file in Python."""

import ctypes
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradloom_golden.config import PRESETS
from gradloom_golden.program import IDENT, OFFSET_BITS, SCALES, Error, Region, Register
from gradloom_golden.shell import RESET_KEY, Interrupt, ShellRegister, Status
from gradloom_host.axi_simulator import AxiSimulator

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "bare_metal"
sys.path.append(str(FOLDER))
example = importlib.import_module("run_simulation")

TINY = PRESETS["tiny"]
COMPILERS = [
    pytest.param((name, options), id=name, marks=pytest.mark.skipif(
        shutil.which(name) is None, reason=f"{name} is not installed"))
    for name, options in (("gcc", ("-std=c99",)), ("g++", ("-x", "c++", "-std=c++11")),
                          ("clang", ("-std=c99",)))]
RUNNING, FAILED, OK = 5, 7, 0
ARRAY = TINY.rows | TINY.columns << 16
AXI = TINY.axi_data_bits | TINY.axi_address_bits << 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("example")
    example.write_example(TINY, path)
    return path


@pytest.fixture(scope="module", params=COMPILERS)
def library(request, folder):
    compiler, options = request.param
    return example.compile_example(
        folder, compiler=compiler, options=options, name=f"example-{compiler}.so")


@pytest.fixture(scope="module")
def simulator():
    machine = example.simulator_of(TINY)
    yield machine
    machine.close()


def test_the_example_passes_on_the_verilog(library, simulator):
    for interrupts in (True, False):
        simulator.memory[:] = 0
        result, end = example.run_example(library, simulator, interrupts=interrupts)
        assert (result, end.error) == ("passed", Error.NONE)
        assert end.cycles > 0
        assert simulator.read(Registers.shell(ShellRegister.INTERRUPT_STATUS)) == 0


def test_a_memory_that_refuses_is_told(library, simulator):
    first = example.MEMORY_ADDRESS
    simulator.fault(first, first + 16)
    try:
        result, end = example.run_example(library, simulator, interrupts=True)
    finally:
        simulator.fault(0, 0)
    assert result == "the layer's list failed"
    assert (end.error, end.failed, end.address) == (Error.READ_RESPONSE, 0, first)
    assert example.run_example(library, simulator, interrupts=True)[0] == "passed"


@pytest.mark.parametrize(("array", "result"), [
    ("layer_y", "the layer's result differs from the golden model's"),
    ("training_result", "the training's result differs from the golden model's")])
def test_a_wrong_bit_is_found(array, result, folder, simulator, tmp_path):
    text = (folder / "data.h").read_text()
    head, found, values = text.partition(f"uint8_t {array}[")
    assert found
    size, _, values = values.partition("= {\n    ")
    first, comma, rest = values.partition(",")
    changed = f"{head}{found}{size}= {{\n    {int(first) ^ 1}{comma}{rest}"
    (tmp_path / "data.h").write_text(changed)
    (tmp_path / "gradloom.h").write_bytes((folder / "gradloom.h").read_bytes())
    library = example.compile_example(tmp_path, compiler="g++", options=("-x", "c++"))
    assert example.run_example(library, simulator, interrupts=True)[0] == result


def test_errors_of_the_simulator_come_out_of_c(library, simulator, monkeypatch):
    def broken(*_):
        raise RuntimeError("the bus is broken")

    monkeypatch.setattr(AxiSimulator, "read", broken)
    with pytest.raises(RuntimeError, match="the bus is broken"):
        example.run_example(library, simulator, interrupts=True)


def test_main_compiles_for_a_board(folder, tmp_path):
    flags = [*example.WARNINGS, f"-I{folder}", "-DPORT_ADDRESS=0x40000000",
             "-DMEMORY_ADDRESS=0x80000000"]
    for compiler, options in (("gcc", ["-std=c99"]), ("g++", ["-x", "c++", "-std=c++11"])):
        if shutil.which(compiler):
            subprocess.run([compiler, *options, *flags, "-c", "-o", tmp_path / "main.o",
                            FOLDER / "main.c"], check=True)


def test_the_driver_needs_no_library(folder, tmp_path):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    target = tmp_path / "driver.o"
    subprocess.run(["g++", "-x", "c++", "-ffreestanding", "-O2", f"-I{folder}", "-c", "-o", target,
                    FOLDER / "gradloom_driver.c"], check=True)
    found = subprocess.run(["nm", "-u", target], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


class Registers:
    """A register file that answers the driver and writes down what it does."""

    def __init__(self, library, patience=3):
        self.driver = ctypes.CDLL(str(library))
        self.values = {self.core(Register.IDENT): IDENT, self.shell(ShellRegister.ARRAY): ARRAY,
                       self.shell(ShellRegister.AXI): AXI}
        self.script: dict[int, list[int]] = {}
        self.written: list[tuple[int, int]] = []
        self.machine = example.Machine(
            example.Read(self._read), example.Write(self._write), example.Wait(), None, patience)

    @staticmethod
    def core(register: int) -> int:
        return 4 * register

    @staticmethod
    def shell(register: int) -> int:
        return 4 * (Region.SHELL << OFFSET_BITS | register)

    def call(self, name, *arguments):
        return getattr(self.driver, f"gradloom_{name}")(ctypes.byref(self.machine), *arguments)

    def _read(self, context, offset):
        answers = self.script.get(offset)
        return answers.pop(0) if answers else self.values.get(offset, 0)

    def _write(self, context, offset, value):
        self.written.append((offset, value))


@pytest.fixture
def registers(library):
    return Registers(library)


def test_init_resets_and_clears(registers):
    assert registers.call("init") == OK
    assert registers.written == [
        (registers.shell(ShellRegister.RESET), RESET_KEY), (registers.core(Register.CLEAR), 1)]


@pytest.mark.parametrize(("offset", "value", "result"), [
    (4 * Register.IDENT, IDENT + 1, 1),
    (Registers.shell(ShellRegister.ARRAY), ARRAY + 1, 2),
    (Registers.shell(ShellRegister.AXI), AXI + 1, 2)])
def test_init_leaves_other_machines_alone(registers, offset, value, result):
    registers.values[offset] = value
    assert registers.call("init") == result
    assert registers.written == []


def test_reset_waits_with_patience(registers):
    status = registers.shell(ShellRegister.STATUS)
    registers.script[status] = [Status.BUSY, Status.BUSY, 0]
    assert registers.call("reset") == OK
    registers.script[status] = [Status.BUSY] * 3
    assert registers.call("reset") == 6


def test_start_writes_the_list_and_clears_old_interrupts(registers):
    standing = Interrupt.DONE | Interrupt.ERROR
    registers.values[registers.shell(ShellRegister.INTERRUPT_STATUS)] = standing
    address = ctypes.c_uint64(0x12_3456_7880)
    assert registers.call("start", address, 9) == OK
    assert registers.written == [(registers.shell(register), value) for register, value in (
        (ShellRegister.INTERRUPT_STATUS, standing), (ShellRegister.LIST_LOW, 0x3456_7880),
        (ShellRegister.LIST_HIGH, 0x12), (ShellRegister.LIST_LIMIT, 9),
        (ShellRegister.LIST_START, 1))]


@pytest.mark.parametrize(("address", "limit", "status", "result"), [
    (64, 1, 0, 3), (128, 0, 0, 4), (128, (1 << 20) + 1, 0, 4), (128, 1, Status.BUSY, RUNNING)])
def test_a_start_that_makes_no_sense_is_refused(registers, address, limit, status, result):
    registers.values[registers.shell(ShellRegister.STATUS)] = status
    assert registers.call("start", ctypes.c_uint64(address), limit) == result
    assert registers.written == []


def test_poll_tells_how_a_list_ended(registers):
    end = example.End()
    status = registers.shell(ShellRegister.STATUS)
    registers.values[status] = Status.BUSY
    assert registers.call("poll", ctypes.byref(end)) == RUNNING
    registers.values |= {
        status: Status.DONE | Error.MEMORY_RANGE << 8 | 0x1234 << 16,
        registers.shell(ShellRegister.ERROR_LOW): 5, registers.shell(ShellRegister.ERROR_HIGH): 6,
        registers.shell(ShellRegister.CYCLES_LOW): 7,
        registers.shell(ShellRegister.CYCLES_HIGH): 8}
    assert registers.call("poll", ctypes.byref(end)) == FAILED
    assert (end.error, end.failed, end.address, end.cycles) == (
        Error.MEMORY_RANGE, 0x1234, 6 << 32 | 5, 8 << 32 | 7)


def test_run_gives_up_after_its_patience(registers):
    registers.script[registers.shell(ShellRegister.STATUS)] = [0, *[Status.BUSY] * 3]
    end = example.End()
    assert registers.call("run", ctypes.c_uint64(128), 1, ctypes.byref(end)) == 6


def test_a_counter_that_wraps_between_its_halves_is_read_again(registers):
    low = registers.core(Register.COUNTER)
    registers.script = {low: [0xFFFF_FFFF, 2], low + 4: [0, 1, 1]}
    function = registers.driver.gradloom_counter
    function.restype = ctypes.c_uint64
    assert function(ctypes.byref(registers.machine), low) == 1 << 32 | 2


def test_scales_keep_their_sign(registers):
    scales = np.array([-128, -1, 0, 127], np.int8)
    place = scales.ctypes.data_as(ctypes.c_void_p)
    assert registers.call("write_scales", 60, 4, place) == OK
    first = 4 * (Region.SCALE << OFFSET_BITS | 60)
    assert registers.written == [
        (first + 4 * index, int(scale) & 0xFF) for index, scale in enumerate(scales)]
    registers.values |= {offset: value | 0xFFFF_FF00 for offset, value in registers.written}
    found = np.zeros(4, np.int8)
    assert registers.call("read_scales", 60, 4, found.ctypes.data_as(ctypes.c_void_p)) == OK
    assert found.tolist() == scales.tolist()


@pytest.mark.parametrize(("first", "count"), [
    (SCALES - 3, 4), (SCALES + 1, 0), (0, SCALES + 1), (4, 0xFFFF_FFFF)])
def test_scales_that_do_not_exist_are_refused(registers, first, count):
    for name in ("write_scales", "read_scales"):
        assert registers.call(name, first, ctypes.c_uint32(count), None) == 4
    assert registers.written == []


def test_acknowledge_clears_what_stands(registers):
    offset = registers.shell(ShellRegister.INTERRUPT_STATUS)
    registers.values[offset] = Interrupt.DONE
    assert registers.call("acknowledge") == Interrupt.DONE
    assert registers.written == [(offset, Interrupt.DONE)]
