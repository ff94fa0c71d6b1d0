"""The C header compiles as C99 and C++11 and agrees with the tables of the program."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gradloom_golden.config import PRESETS
from gradloom_golden.fixed import integer_range
from gradloom_golden.importance import field
from gradloom_golden.program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
    DESCRIPTOR_WORDS,
    IDENT,
    OFFSET_BITS,
    SIGNED_FIELDS,
    Descriptor,
    Drain,
    Error,
    Function,
    Opcode,
    Region,
    Register,
    Schedule,
    SkipRule,
    element_bits,
    memory_shape,
)
from gradloom_golden.shell import RESET_KEY, Interrupt, ShellRegister, Status
from gradloom_host import layout
from gradloom_host.header import c_header

TINY = PRESETS["tiny"]
CONFIGS = {**PRESETS, "narrow": TINY.with_changes(operand_bits=4, lanes=False, gradient_bits=16)}
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-pedantic", "-Werror"]
COMPILERS = [
    pytest.param(name, options, id=name, marks=pytest.mark.skipif(
        shutil.which(name) is None, reason=f"{name} is not installed"))
    for name, options in (("gcc", ["-std=c99"]), ("g++", ["-x", "c++", "-std=c++11"]),
                          ("clang", ["-std=c99"]))]
CODES = {"OPCODE": Opcode, "FUNCTION": Function, "SKIP_RULE": SkipRule, "SCHEDULE": Schedule,
         "DRAIN": Drain, "ERROR": Error, "REGION": Region, "INTERRUPT": Interrupt,
         "STATUS": Status}


def output_of(compiler, options, folder, program, config=TINY) -> list[str]:
    """Compile and run a C program that includes the header; return the lines that it prints."""
    (folder / "gradloom.h").write_text(c_header(config))
    source = folder / "program.c"
    source.write_text(
        f'#include <stdio.h>\n#include "gradloom.h"\nint main(void)\n{{\n{program}'
        "    return 0;\n}\n")
    target = folder / "program"
    built = subprocess.run([compiler, *options, *WARNINGS, "-o", target, source],
                           capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([target], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


def expected_numbers(config) -> dict[str, int]:
    """Return what names of the header must stand for."""
    found = {f"{prefix}_{entry.name}": int(entry) for prefix, kind in CODES.items()
             for entry in kind}
    found |= {f"REGISTER_{register.name}": 4 * register for register in Register}
    found |= {f"SHELL_{register.name}": 4 * (Region.SHELL << OFFSET_BITS | register)
              for register in ShellRegister}
    found |= {f"COUNTER_{name.upper()}": 4 * (Register.COUNTER + 2 * index)
              for index, name in enumerate(COUNTERS)}
    for region in set(Region) - {Region.CONTROL, Region.SHELL}:
        depth, elements, bits = memory_shape(config, region)
        found |= {
            f"{region.name}_OFFSET": 4 * layout.address(config, region, 0),
            f"{region.name}_WORDS": depth, f"{region.name}_ELEMENTS": elements,
            f"{region.name}_PADDED_BITS": bits,
            f"{region.name}_ELEMENT_BITS": element_bits(config, region),
            f"{region.name}_PORT_WORDS": layout.words_each(config, region)}
    return found | {
        "ROWS": config.rows, "COLUMNS": config.columns, "LANES": int(config.lanes),
        "LANE_COUNT": config.lane_count, "AXI_DATA_BITS": config.axi_data_bits, "IDENT": IDENT,
        "RESET_KEY": RESET_KEY}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("compiler", "options"), COMPILERS)
def test_numbers_are_those_of_the_tables(compiler, options, config, tmp_path):
    expected = expected_numbers(CONFIGS[config])
    program = "".join(f'    printf("%lld\\n", (long long)GRADLOOM_{name});\n' for name in expected)
    lines = output_of(compiler, options, tmp_path, program, CONFIGS[config])
    assert dict(zip(expected, map(int, lines), strict=True)) == expected


def test_no_code_is_left_out():
    names = set(re.findall(r"\bGRADLOOM_(\w+) = ", c_header(TINY)))
    assert names == {name for name in expected_numbers(TINY)
                     if name.startswith((*CODES, "REGISTER_", "SHELL_", "COUNTER_"))}


@pytest.mark.parametrize(("compiler", "options"), COMPILERS)
def test_setters_write_what_encode_does_and_getters_read_it(compiler, options, tmp_path):
    rng = np.random.default_rng(1)
    program, expected = "    struct gradloom_descriptor d = {{0}};\n    int i;\n", []
    limits = {name: integer_range(width, signed=name in SIGNED_FIELDS)
              for name, (_, _, width) in DESCRIPTOR_FIELDS.items()}
    rounds = [{name: limit[side] for name, limit in limits.items()} for side in (0, 1, 0)]
    rounds += [{name: int(rng.integers(low, high + 1)) for name, (low, high) in limits.items()}
               for _ in range(4)]
    for values in rounds:
        for name in rng.permutation(list(values)):
            suffix = "" if name in SIGNED_FIELDS else "u"
            program += f"    gradloom_set_{name}(&d, {values[name]}{suffix});\n"
        program += f"    for (i = 0; i < {DESCRIPTOR_WORDS}; ++i)\n"
        program += '        printf("%lu\\n", (unsigned long)d.words[i]);\n'
        expected += Descriptor(**values).encode()
        for name, value in values.items():
            program += f'    printf("%lld\\n", (long long)gradloom_get_{name}(&d));\n'
            expected.append(value)
    assert list(map(int, output_of(compiler, options, tmp_path, program))) == expected


@pytest.mark.parametrize(("compiler", "options"), COMPILERS)
def test_setters_leave_other_fields_alone_when_a_value_is_too_large(compiler, options, tmp_path):
    program = ("    struct gradloom_descriptor d = {{0}};\n"
               "    gradloom_set_opcode(&d, 0x12345u);\n"
               "    gradloom_set_n_first(&d, -1);\n"
               '    printf("%lx %lx\\n", (unsigned long)d.words[0], (unsigned long)d.words[14]);\n')
    assert output_of(compiler, options, tmp_path, program) == ["5 fff00000"]


@pytest.mark.parametrize(("compiler", "options"), COMPILERS)
def test_addresses_status_and_error_names(compiler, options, tmp_path):
    program = (
        '    printf("%lx\\n", (unsigned long)GRADLOOM_ADDRESS(GRADLOOM_REGION_SCALE, 1 + 2));\n'
        '    printf("%u %u\\n", GRADLOOM_STATUS_ERROR(0x12345678u | 0u),\n'
        "           GRADLOOM_STATUS_FAILED(0x12345678u | 0u));\n"
        '    printf("%u\\n", (unsigned)GRADLOOM_IMPORTANCE(4 | 1, 2));\n'
        + "".join(f'    printf("%s\\n", gradloom_error_text({code}));\n'
                  for code in [*map(int, Error), len(Error), 0xFFFFFFFF]))
    lines = output_of(compiler, options, tmp_path, program)
    assert lines == ["2c0000c", f"{0x56} {0x1234}", f"{field(5, 2)}",
                     *(error.name for error in Error),
                     "UNKNOWN", "UNKNOWN"]


@pytest.mark.parametrize("name", [*(error.name for error in Error if error),
                                  *(register.name for register in ShellRegister)])
def test_the_integration_guide_has_every_error_and_register(name):
    guide = Path(__file__).resolve().parent.parent / "docs" / "integration.md"
    assert f"`{name}`" in guide.read_text()
