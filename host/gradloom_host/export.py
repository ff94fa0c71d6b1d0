"""The machine as files: Verilog, its configuration, and how to talk to it."""

import json
from pathlib import Path

from gradloom.generate import TOP, machine_verilog
from gradloom_golden.config import Config
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    OFFSET_BITS,
    Drain,
    Error,
    Opcode,
    Region,
    Register,
    Schedule,
    memory_shape,
)

from .files import write_file

__all__ = ["interface", "write_machine"]


def interface(config: Config) -> dict:
    """Return what a host needs to know: ports, memory map, registers, descriptor layout."""
    regions = {}
    for region in Region:
        if region == Region.CONTROL:
            continue
        depth, elements, bits = memory_shape(config, region)
        regions[region.name.lower()] = {
            "address": region << OFFSET_BITS,
            "words": depth,
            "elements_per_word": elements,
            "bits_per_element": bits,
            "host_words": depth * max(1, elements * bits // 32),
        }
    return {
        "top": TOP,
        "clock": "clk",
        "reset": {"port": "rst", "active": "high", "synchronous": True},
        "ports": {
            "requests__payload": {
                "direction": "in", "bits": 57,
                "fields": {"data": [0, 32], "address": [32, 24], "write": [56, 1]},
            },
            "requests__valid": {"direction": "in", "bits": 1},
            "requests__ready": {"direction": "out", "bits": 1},
            "responses__payload": {"direction": "out", "bits": 32},
            "responses__valid": {"direction": "out", "bits": 1},
            "responses__ready": {"direction": "in", "bits": 1},
            "busy": {"direction": "out", "bits": 1},
        },
        "registers": {register.name.lower(): int(register) for register in Register},
        "counters": {
            name: int(Register.COUNTER) + 2 * index for index, name in enumerate(COUNTERS)
        },
        "memories": regions,
        "descriptor": {
            "words": DESCRIPTOR_WORDS,
            "fields": {
                name: {"word": word, "low_bit": low, "bits": width}
                for name, (word, low, width) in DESCRIPTOR_FIELDS.items()
            },
        },
        **{
            kind.__name__.lower(): {entry.name.lower(): int(entry) for entry in kind}
            for kind in (Opcode, Schedule, Drain, Error)
        },
    }


def write_machine(config: Config, folder: Path) -> list[Path]:
    """Write `gradloom.v`, `config.json` and `interface.json`; return their paths."""
    contents = {
        f"{TOP}.v": machine_verilog(config),
        "config.json": config.to_json(),
        "interface.json": json.dumps(interface(config), indent=2) + "\n",
    }
    for name, text in contents.items():
        write_file(folder / name, text)
    return [folder / name for name in contents]
