"""A machine's Verilog with its choices written as conditions.

Yosys writes a choice among several values as a function of all of them, side by side, and of a word
with a bit for each. Verilator would put both together in every cycle before it looks at them.
"""

import re
from collections.abc import Iterator

__all__ = ["as_conditions"]

MODULE = re.compile(r"^module .*?^endmodule", re.MULTILINE | re.DOTALL)
WIRE = re.compile(r"^  (?:wire|reg|input|output)(?: \[(\d+):0\])? ([^;\[\]]*\S) ?;", re.MULTILINE)
CHOICE = re.compile(
    r"^  function (?:\[(?P<top>\d+):0\] )?(?P<name>\S+) ;\n"
    r"    input \[\d+:0\] a;\n    input \[\d+:0\] b;\n    input \[\d+:0\] s;\n"
    r"(?:    \(\* full_case = 32'd1 \*\)\n)?    \(\* parallel_case \*\)\n    casez \(s\)\n"
    r"(?:[^;]*;\n)*?    endcase\n"
    r"  endfunction\n  assign (?P<target>[^=\n]*) = (?P=name) \((?P<given>.*)\);\n", re.MULTILINE)
PART = re.compile(r"(\\\S+|[^\s\[\\]+)(?: ?\[(\d+)(?::(\d+))?\])?$")
LITERAL = re.compile(r"(\d+)'([hdb])(\w+)$")
BASES = {"h": 16, "d": 10, "b": 2}


def as_conditions(verilog: str) -> str:
    """Return the text with the same meaning; a choice with a part of unknown width stays."""
    return MODULE.sub(_module, verilog)


def _module(module: re.Match) -> str:
    text = module[0]
    widths = {name: int(top or 0) + 1 for top, name in WIRE.findall(text)}
    return CHOICE.sub(lambda choice: _conditions(choice, widths), text)


def _conditions(choice: re.Match, widths: dict[str, int]) -> str:
    """Return a choice as conditions, the lowest bit's first: as the cases of the function are."""
    bits = int(choice["top"] or 0) + 1
    given = list(_parts(choice["given"]))
    try:
        otherwise, values, bits_of = given
        chosen = list(_words(bits_of, 1, widths))
        words = list(_words(values, bits, widths))
    except (KeyError, ValueError):
        return choice[0]
    if len(chosen) != len(words):
        return choice[0]
    # An escaped name ends with a space.
    cases = "".join(f"{bit} ? {word} : " for bit, word in zip(chosen, words))
    return f"  assign {choice['target']} = {cases}{otherwise} ;\n"


def _words(joined: str, bits: int, widths: dict[str, int]) -> Iterator[str]:
    """Yield the words of `bits` bits that stand side by side, the lowest first."""
    word, size = [], 0
    waiting = list(_parts(joined.removeprefix("{ ").removesuffix(" }")))
    while waiting:
        part = waiting.pop()
        width = _width(part, widths)
        if size + width > bits:
            high, part = _split(part, width, bits - size)
            waiting.append(high)
            width = bits - size
        word.insert(0, part)
        size += width
        if size == bits:
            yield f"{{ {' , '.join(word)} }}" if len(word) > 1 else part
            word, size = [], 0
    if word:
        raise ValueError(f"parts do not end at multiples of {bits} bits")


def _split(part: str, width: int, bits: int) -> tuple[str, str]:
    """Return the upper bits of a part, and its lowest."""
    literal = LITERAL.match(part)
    if literal:
        value = int(literal[3], BASES[literal[2]])
        return f"{width - bits}'d{value >> bits}", f"{bits}'d{value % (1 << bits)}"
    name, high, low = _range(part)
    first = int(low or high or 0)
    return (f"{name} [{first + width - 1}:{first + bits}]",
            f"{name} [{first + bits - 1}:{first}]")


def _parts(text: str) -> Iterator[str]:
    """Yield what stands between commas, but for those in braces."""
    depth, begin = 0, 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            yield text[begin:index].strip()
            begin = index + 1
    yield text[begin:].strip()


def _width(part: str, widths: dict[str, int]) -> int:
    literal = LITERAL.match(part)
    if literal:
        return int(literal[1])
    name, high, low = _range(part)
    if high is None:
        return widths[name]
    return int(high) - int(low or high) + 1


def _range(part: str) -> tuple[str, str | None, str | None]:
    found = PART.match(part)
    if not found:
        raise ValueError(f"{part} is neither a number nor named")
    name, high, low = found.groups()
    return name, high, low
