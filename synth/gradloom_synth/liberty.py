"""The little of a Liberty file that an area report needs."""

import gzip
import re
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

__all__ = ["CellFunction", "LibertyError", "Library", "PowerTable", "cell_functions",
           "parse_liberty", "read_liberty", "truth_table"]

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_LIBRARY = re.compile(r'\blibrary\s*\(\s*"?([^"()\s]+)"?\s*\)\s*\{')
_CELL = re.compile(r'\bcell\s*\(\s*"?([^"()\s]+)"?\s*\)\s*\{')
_AREA = re.compile(r'\barea\s*:\s*"?([0-9.eE+-]+)')
_FLIP_FLOP = re.compile(r"\bff\s*\(")
_INPUT = re.compile(r'\bdirection\s*:\s*"?input\b')
_FUNCTION = re.compile(r'\bfunction\s*:\s*"([^"]*)"')
_PIN = re.compile(r'\bpin\s*\(\s*"?(\w+)"?\s*\)\s*\{')
_STATE = re.compile(r'\bff\s*\(\s*"?(\w+)"?')
_LOAD_UNIT = re.compile(r"\bcapacitive_load_unit\s*\(\s*([0-9.]+)\s*,\s*\"?(\w+)")
_CAPACITANCE = re.compile(r"\bcapacitance\s*:\s*\"?([0-9.eE+-]+)")
_POWER = re.compile(r"\b(rise|fall)_power\s*\([^)]*\)\s*\{([^}]*)\}")
_VALUES = re.compile(r"\b(index_1|index_2|values)\s*\(([^)]*)\)")
_QUOTED = re.compile(r'"([^"]*)"')
_NEXT_STATE = re.compile(r'\bnext_state\s*:\s*"([^"]*)"')
_TOKEN = re.compile(r"\w+|[!'^&*|+()]")
_NAND2 = (True, True, True, False)


class LibertyError(ValueError):
    """A file is not a Liberty library that area can be measured with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """Cell areas, in the unit of the file.

    Attributes
    ----------
    name : str
        As the file names itself.
    areas : dict of str to float
        Area of each cell.
    flip_flops : frozenset of str
        Cells that hold a bit from clock edge to clock edge.
    nand2_area : float
        Area of the smallest 2-input NAND: one gate equivalent.
    """

    name: str
    areas: dict[str, float]
    flip_flops: frozenset[str]
    nand2_area: float


def truth_table(function: str) -> tuple[bool, ...]:
    """Return the outputs of a Liberty function, for its inputs in sorted order counting up.

    Raises
    ------
    ValueError
        The text is not a function of pins.
    """
    tokens = _TOKEN.findall(function)
    names = sorted({token for token in tokens if token[0].isalpha() or token[0] == "_"})
    return tuple(
        _evaluate(tokens, dict(zip(names, values, strict=True)))
        for values in product((False, True), repeat=len(names))
    )


def _evaluate(tokens: list[str], values: dict[str, bool]) -> bool:
    """Evaluate one row; NOT binds tightest, then XOR, AND (also by mere adjacency), OR."""
    left = [*reversed(tokens)]

    def peek() -> str:
        return left[-1] if left else ""

    def factor() -> bool:
        token = left.pop() if left else ""
        if token == "!":
            return not factor()
        if token == "(":
            value = any_of()
            if not left or left.pop() != ")":
                raise ValueError("Parenthesis is not closed")
        elif token in values or token in ("0", "1"):
            value = values.get(token, token == "1")
        else:
            raise ValueError(f"Unexpected {token!r}")
        while peek() == "'":
            left.pop()
            value = not value
        return value

    def odd_of() -> bool:
        value = factor()
        while peek() == "^":
            left.pop()
            value ^= factor()
        return value

    def all_of() -> bool:
        value = odd_of()
        while peek() and peek() not in "|+)":
            if peek() in "&*":
                left.pop()
            value &= odd_of()
        return value

    def any_of() -> bool:
        value = all_of()
        while peek() and peek() in "|+":
            left.pop()
            value |= all_of()
        return value

    value = any_of()
    if left:
        raise ValueError(f"Unexpected {left[-1]!r}")
    return value


def _is_nand2(name: str, body: str) -> bool:
    functions = _FUNCTION.findall(body)
    if len(_INPUT.findall(body)) != 2 or len(functions) > 1:
        return False
    if not functions:
        return re.search(r"nand2", name, re.IGNORECASE) is not None
    try:
        return truth_table(functions[0]) == _NAND2
    except ValueError:
        return False


def parse_liberty(text: str, source: str) -> Library:
    """Read cell areas from the text of a Liberty file; `source` names it in errors.

    Raises
    ------
    LibertyError
        The text is no Liberty library, or has no 2-input NAND or no flip-flop.
    """
    text = _COMMENT.sub("", text)
    header = _LIBRARY.search(text)
    starts = [*_CELL.finditer(text)]
    if header is None or not starts:
        raise LibertyError(f"{source} is not a Liberty library; name a .lib or .lib.gz file")

    areas, flip_flops, nand2_areas = {}, set(), []
    ends = [start.start() for start in starts[1:]] + [len(text)]
    for start, end in zip(starts, ends, strict=True):
        name, body = start[1], text[start.end() : end]
        found = _AREA.search(body)
        areas[name] = float(found[1]) if found else 0.0
        if _FLIP_FLOP.search(body):
            flip_flops.add(name)
        elif areas[name] and _is_nand2(name, body):
            nand2_areas.append(areas[name])
    if not nand2_areas:
        raise LibertyError(
            f"{source} has no 2-input NAND with an area to count gates in; name a complete library"
        )
    if not flip_flops:
        raise LibertyError(
            f"{source} has no flip-flop to map registers to; name a complete library"
        )
    return Library(
        name=header[1],
        areas=areas,
        flip_flops=frozenset(flip_flops),
        nand2_area=min(nand2_areas),
    )


def read_liberty(path: Path) -> str:
    """Return the text of a Liberty file, plain or compressed by gzip.

    Raises
    ------
    LibertyError
        There is no such file, or it is not text.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except FileNotFoundError:
        raise LibertyError(f"Liberty file {path} does not exist; check the path") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise LibertyError(
            f"Liberty file {path} cannot be read ({error}); name a .lib or .lib.gz file"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFunction:
    """What a cell computes.

    Attributes
    ----------
    outputs : dict of str to str
        Function of each output pin; of a flip-flop, of its state.
    state, next_state : str or None
        Name of the state of a flip-flop, and the function that it takes at an edge.
    loads : dict of str to float
        Capacitance of each pin that has one, in pF.
    internal : dict of str to PowerTable
        Of each output pin that has one: energy inside the cell of a toggle.
    """

    outputs: dict[str, str]
    state: str | None
    next_state: str | None
    loads: dict[str, float]
    internal: dict[str, "PowerTable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerTable:
    """Energy of an output's toggle in pJ, the mean of rising and falling and of all inputs.

    Attributes
    ----------
    slews, loads : tuple of float
        In the library's unit of time, and in pF.
    energy : tuple of tuple of float
        A row for each slew.
    """

    slews: tuple[float, ...]
    loads: tuple[float, ...]
    energy: tuple[tuple[float, ...], ...]


def cell_functions(text: str) -> dict[str, CellFunction]:
    """Return the functions of the cells of a Liberty file that have any.

    Raises
    ------
    LibertyError
        The file gives no unit of capacitance.
    """
    text = _COMMENT.sub("", text)
    unit = _LOAD_UNIT.search(text)
    if unit is None:
        raise LibertyError("The library has no capacitive_load_unit; name a complete library")
    picofarads = float(unit[1]) * (1 if unit[2].lower() == "pf" else 1e-3)
    starts = [*_CELL.finditer(text)]
    ends = [start.start() for start in starts[1:]] + [len(text)]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        body = text[start.end() : end]
        pins = [*_PIN.finditer(body)]
        outputs, loads, internal = {}, {}, {}
        for pin, stop in zip(pins, [one.start() for one in pins[1:]] + [len(body)]):
            function = _FUNCTION.search(body, pin.end(), stop)
            load = _CAPACITANCE.search(body, pin.end(), stop)
            if load is not None:
                loads[pin[1]] = float(load[1]) * picofarads
            if function is not None:
                outputs[pin[1]] = function[1]
                table = _power_table(body[pin.end() : stop], picofarads)
                if table is not None:
                    internal[pin[1]] = table
        flip_flop, takes = _STATE.search(body), _NEXT_STATE.search(body)
        if outputs:
            found[start[1]] = CellFunction(
                outputs=outputs, state=flip_flop[1] if flip_flop else None,
                next_state=takes[1] if takes else None, loads=loads, internal=internal)
    return found


def _power_table(pin: str, picofarads: float) -> PowerTable | None:
    """Return the mean of all tables of a pin of the size of the first; energy is charge x V."""
    tables: dict[str, list[list[list[float]]]] = {"rise": [], "fall": []}
    indices: list[tuple[float, ...]] = []
    for edge, body in _POWER.findall(pin):
        rows = {key: [[float(one) for one in row.split(",")] for row in _QUOTED.findall(text)]
                for key, text in _VALUES.findall(body)}
        if set(rows) == {"index_1", "index_2", "values"}:
            indices = indices or [tuple(rows["index_1"][0]), tuple(rows["index_2"][0])]
            if len(rows["values"]) == len(indices[0]):
                tables[edge].append(rows["values"])
    if not all(tables.values()):
        return None
    size = [range(len(one)) for one in indices]
    means = {edge: [[sum(table[r][c] for table in found) / len(found) for c in size[1]]
                    for r in size[0]] for edge, found in tables.items()}
    return PowerTable(
        slews=indices[0], loads=tuple(one * picofarads for one in indices[1]),
        energy=tuple(tuple((means["rise"][r][c] + means["fall"][r][c]) / 2 * picofarads
                           for c in size[1]) for r in size[0]))
