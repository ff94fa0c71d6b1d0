"""The machine as files: Verilog behind AXI, its configuration, and how to talk to it."""

import json
from pathlib import Path

from amaranth import Shape
from amaranth.lib.wiring import In

from gradloom.axi import flat_members, lite_channels, master_channels
from gradloom.generate import SHELL_TOP, shell_verilog
from gradloom.shell import LITE, MASTER
from gradloom_golden.config import Config
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    SIGNED_FIELDS,
    Region,
    Register,
    memory_shape,
)
from gradloom_golden.shell import ShellRegister

from .files import write_file
from .header import CODES, byte_offset, c_header
from .layout import words_each

__all__ = ["interface", "write_machine"]


def interface(config: Config) -> dict:
    """Return what a host needs to know: ports, memory map, registers, descriptor layout.

    Offsets are bytes on the AXI4-Lite port.
    """
    regions = {}
    for region in Region:
        if region in (Region.CONTROL, Region.SHELL):
            continue
        depth, elements, bits = memory_shape(config, region)
        regions[region.name.lower()] = {
            "offset": byte_offset(region, 0),
            "words": depth,
            "elements_per_word": elements,
            "bits_per_element": bits,
            "port_words": depth * words_each(config, region),
        }
    return {
        "top": SHELL_TOP,
        "clock": "clk",
        "reset": {"port": "rst", "active": "high", "synchronous": True},
        "interrupt_request": {"port": "irq", "active": "high", "level": True},
        "ports": _ports(config),
        "registers": {
            register.name.lower(): byte_offset(Region.CONTROL, register) for register in Register},
        "shell_registers": {
            register.name.lower(): byte_offset(Region.SHELL, register)
            for register in ShellRegister},
        "counters": {
            name: byte_offset(Region.CONTROL, Register.COUNTER + 2 * index)
            for index, name in enumerate(COUNTERS)
        },
        "memories": regions,
        "descriptor": {
            "words": DESCRIPTOR_WORDS,
            "fields": {
                name: {"word": word, "low_bit": low, "bits": width,
                       "signed": name in SIGNED_FIELDS}
                for name, (word, low, width) in DESCRIPTOR_FIELDS.items()
            },
        },
        **{
            kind.__name__.lower(): {str(entry.name).lower(): int(entry) for entry in kind}
            for kind in CODES
        },
    }


def _ports(config: Config) -> dict[str, dict[str, str | int]]:
    """Return direction and width of every port but clock, reset and interrupt."""
    channels = master_channels(config.axi_data_bits, config.axi_address_bits)
    members = flat_members(MASTER, channels, full=True) | flat_members(
        LITE, lite_channels(), full=False)
    return {
        name: {"direction": "in" if member.flow == In else "out",
               "bits": Shape.cast(member.shape).width}
        for name, member in members.items()
    }


def write_machine(config: Config, folder: Path) -> list[Path]:
    """Write Verilog, `gradloom.h`, `config.json` and `interface.json`; return their paths."""
    contents = {
        f"{SHELL_TOP}.v": shell_verilog(config),
        "gradloom.h": c_header(config),
        "config.json": config.to_json(),
        "interface.json": json.dumps(interface(config), indent=2) + "\n",
    }
    for name, text in contents.items():
        write_file(folder / name, text)
    return [folder / name for name in contents]
