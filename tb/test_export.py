"""The files of a machine agree with its Verilog, its program layout and its configuration."""

import json
import os
import re

import pytest

from gradloom.generate import SHELL_TOP, shell_verilog
from gradloom_golden.config import PRESETS, Config
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_WORDS,
    OFFSET_BITS,
    Descriptor,
    Drain,
    Error,
    Function,
    Opcode,
    Region,
    Register,
    Schedule,
    SkipRule,
)
from gradloom_golden.shell import Interrupt, ShellRegister, Status
from gradloom_host import export, layout
from gradloom_host.export import interface, write_machine
from gradloom_host.header import c_header

TINY = PRESETS["tiny"]
NAMES = ["gradloom_axi.v", "gradloom.h", "config.json", "interface.json"]
CONFIGS = {
    **PRESETS,
    "16-bit gradients": TINY.with_changes(gradient_bits=16),
    "wide": TINY.with_changes(columns=16, gradient_bits=16),
}
PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?\\?(\S+?) ?;", re.MULTILINE)


@pytest.fixture(scope="module")
def verilog():
    return shell_verilog(TINY)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def test_ports_are_those_of_the_verilog(verilog):
    module = re.search(rf"^module {SHELL_TOP}\((.*?)\);(.*?)^endmodule", verilog, re.DOTALL | re.M)
    assert module
    found = {name: {"direction": direction.removesuffix("put"), "bits": int(high or 0) + 1}
             for direction, high, name in PORT.findall(module[2])}
    assert set(found) == {name.strip() for name in module[1].split(",")}
    told = interface(TINY)
    expected = {name: {"direction": port["direction"], "bits": port["bits"]}
                for name, port in told["ports"].items()}
    for name in (told["clock"], told["reset"]["port"]):
        expected[name] = {"direction": "in", "bits": 1}
    expected[told["interrupt_request"]["port"]] = {"direction": "out", "bits": 1}
    assert found == expected


def test_memories_are_where_the_machine_has_them(config):
    memories = interface(config)["memories"]
    assert set(memories) == {region.name.lower() for region in Region} - {"control", "shell"}
    machine = GoldenMachine(config)
    for name, memory in memories.items():
        region = Region[name.upper()]
        assert memory["offset"] == 4 * layout.address(config, region, 0)
        depth, elements = machine.memory[region].shape
        assert (memory["words"], memory["elements_per_word"]) == (depth, elements)
        assert memory["port_words"] == depth * layout.words_each(config, region)
        assert memory["port_words"] * 32 >= depth * elements * memory["bits_per_element"]
        assert memory["port_words"] <= 1 << OFFSET_BITS
        # The last word is there, and nothing behind it.
        machine.write(memory["offset"] // 4 + memory["port_words"] - 1, [0xFFFFFFFF])
        assert machine.memory[region].flat[-1] != 0


def test_registers_and_counters():
    told = interface(TINY)
    assert told["registers"] == {
        register.name.lower(): 4 * register.value for register in Register}
    assert told["shell_registers"] == {
        register.name.lower(): 4 * (Region.SHELL << OFFSET_BITS | register.value)
        for register in ShellRegister}
    assert list(told["counters"]) == list(COUNTERS)
    machine = GoldenMachine(TINY)
    for index, (name, offset) in enumerate(told["counters"].items()):
        machine.counters[name] = (index + 1) << 32 | index
        assert machine.read(offset // 4, 2).tolist() == [index, index + 1]


def test_descriptor_fields_decode_what_encode_writes():
    told = interface(TINY)["descriptor"]
    assert told["words"] == DESCRIPTOR_WORDS
    fields = told["fields"]
    for name, place in fields.items():
        value = (1 << place["bits"]) - 1 >> place["signed"]
        words = Descriptor(**{"opcode": 0, name: value}).encode()
        assert words[place["word"]] >> place["low_bit"] == value
        assert sum(words) == value << place["low_bit"]
    used = [(place["word"], bit) for place in fields.values()
            for bit in range(place["low_bit"], place["low_bit"] + place["bits"])]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("kind", [
    Opcode, Function, SkipRule, Schedule, Drain, Error, Region, Interrupt, Status])
def test_codes_are_those_of_the_program(kind):
    codes = interface(TINY)[kind.__name__.lower()]
    assert codes == {entry.name.lower(): entry.value for entry in kind}


def test_four_files_are_written_and_stay_when_nothing_changes(tmp_path, verilog, monkeypatch):
    monkeypatch.setattr(export, "shell_verilog", lambda config: verilog)
    folder = tmp_path / "new" / "machine"
    paths = write_machine(TINY, folder)
    assert [path.name for path in paths] == NAMES
    assert sorted(folder.iterdir()) == sorted(paths)
    assert paths[0].read_text() == verilog
    assert paths[1].read_text() == c_header(TINY)
    assert Config.from_json(paths[2].read_text()) == TINY
    assert json.loads(paths[3].read_text()) == json.loads(json.dumps(interface(TINY)))
    for path in paths:
        os.utime(path, (1, 1))
    write_machine(TINY, folder)
    assert {path.stat().st_mtime for path in paths} == {1}
    write_machine(TINY.with_changes(steps_depth=16), folder)
    assert [path.stat().st_mtime == 1 for path in paths] == [True, False, False, False]


def test_an_interruption_leaves_only_whole_files(tmp_path, verilog, monkeypatch):
    monkeypatch.setattr(export, "shell_verilog", lambda config: verilog)
    write = export.write_file

    def interrupted(path, text):
        if path.name == "interface.json":
            raise KeyboardInterrupt
        return write(path, text)

    monkeypatch.setattr(export, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_machine(TINY, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "gradloom.h", "gradloom_axi.v"]
    assert (tmp_path / "gradloom_axi.v").read_text() == verilog
