"""Tables of energies: data files with provenance, of this package or of the user."""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any

from .sram import PACKAGE, Sram, cacti, data_text, technologies

__all__ = ["Curve", "EnergyTable", "TableError", "drams", "load", "tables"]

STATUSES = ("measured", "computed", "quoted", "relative")


class TableError(ValueError):
    """A table of energies cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Energies at rising points; a single one holds everywhere."""

    points: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyTable:
    """What operations cost, in one unit, and where the figures are from.

    Attributes
    ----------
    name, title : str
    status : str
        "measured", "computed" from a model, "quoted", or "relative" to one operation.
    unit : str
        "pJ", or what figures are relative to.
    technology_nm : float
    voltage : float or None
    source, checked, limits : str
        Where figures are from, what they were compared with, and what they are not.
    multiply : Curve
        By the product of both widths in bits; with the addition if there is no `add`.
    add : Curve or None
        By width in bits.
    hop, hold : float
        A bit that moves into the register of the next cell; that is written where it is.
    sram : Sram
    sram_source : str
    dram_bit : float
        A bit from or to DRAM.
    dram_source : str
    """

    name: str
    title: str
    status: str
    unit: str
    technology_nm: float
    voltage: float | None
    source: str
    checked: str
    limits: str
    multiply: Curve
    add: Curve | None
    hop: float
    hold: float
    sram: Sram
    sram_source: str
    dram_bit: float
    dram_source: str

    @property
    def provenance(self) -> str:
        """A line for beside results: name, status, technology and source."""
        voltage = "" if self.voltage is None else f", {self.voltage:g} V"
        return (f"{self.name} ({self.status}, {self.technology_nm:g} nm{voltage}, {self.unit}): "
                f"{self.source}")


class _Reader:
    """A part of a TOML file whose errors name file, key, value and remedy."""

    def __init__(self, name: str, content: dict[str, Any], path: str = ""):
        self.name = name
        self.content = content
        self.path = path
        self.left = set(content)

    def fail(self, key: str, problem: str) -> TableError:
        return TableError(f"energy table {self.name!r}: {self.path}{key} {problem}")

    def take(self, key: str, default: Any = None) -> Any:
        self.left.discard(key)
        return self.content.get(key, default)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(key, f"must be some text, not {value!r}: say it")
        return value

    def number(self, key: str) -> float:
        value = self.take(key)
        if not _is_amount(value):
            raise self.fail(key, f"must be a number above 0, not {value!r}")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.take(key)
        if not isinstance(value, list) or not value or not all(map(_is_amount, value)):
            raise self.fail(key, f"must be a list of numbers above 0, not {value!r}")
        return tuple(map(float, value))

    def values(self, key: str, points: tuple[float, ...]) -> tuple[float, ...]:
        found = self.numbers(key)
        if len(found) != len(points):
            raise self.fail(key, f"has {len(found)} entries: give one for each of the "
                                 f"{len(points)} points")
        return found

    def points(self, key: str) -> tuple[float, ...]:
        found = self.numbers(key)
        if list(found) != sorted(set(found)):
            raise self.fail(key, f"must rise, not {list(found)!r}: sort its points")
        return found

    def part(self, key: str) -> "_Reader":
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.fail(key, f"must be a section, not {value!r}: add [{self.path}{key}]")
        return _Reader(self.name, value, f"{self.path}{key}.")

    def curve(self, key: str, points: str) -> Curve:
        part = self.part(key)
        found = part.points(points)
        curve = Curve(points=found, values=part.values("energy", found))
        part.end()
        return curve

    def end(self) -> None:
        """Raise what nobody read: a misspelt key would otherwise be a silent default."""
        if self.left:
            raise self.fail(min(self.left), "is not known: remove it, or mend its spelling")


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (
        isfinite(value) and value > 0)


def _listed(folder: str) -> tuple[str, ...]:
    files = resources.files(PACKAGE).joinpath("data", folder).iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files
                        if file.name.endswith(".toml")))


@lru_cache(maxsize=1)
def tables() -> tuple[str, ...]:
    """Return the names of this package's tables."""
    return _listed("energy")


@lru_cache(maxsize=1)
def drams() -> tuple[str, ...]:
    """Return the names of this package's kinds of DRAM."""
    return _listed("dram")


def load(table: str | Path, dram: str | None = None) -> EnergyTable:
    """Return a table by name, or from a TOML file of the same form.

    Parameters
    ----------
    table : str or Path
        One of `tables`, or a path that ends with ``.toml``.
    dram : str, optional
        One of `drams`, in place of the table's own.

    Raises
    ------
    TableError
        Naming file, key, value and what to do.
    """
    name = str(table)
    if name in tables():
        return _shipped(name, dram)
    if not name.endswith(".toml"):
        raise TableError(f"unknown energy table {name!r}; choose from {', '.join(tables())}, or "
                         "give the path of a .toml file")
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise TableError(f"energy table {name!r} cannot be read ({error}); check the path"
                         ) from error
    return _table(name, _parsed(name, text), dram)


@lru_cache(maxsize=64)
def _shipped(name: str, dram: str | None) -> EnergyTable:
    return _table(name, _parsed(name, data_text("energy", f"{name}.toml")), dram)


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TableError(f"energy table {name!r} is not TOML: {error}") from error


def _table(name: str, content: dict[str, Any], dram: str | None) -> EnergyTable:
    file = _Reader(name, content)
    status = file.text("status")
    if status not in STATUSES:
        raise file.fail("status", f"must be one of {', '.join(STATUSES)}, not {status!r}")
    unit = file.text("unit")
    register = file.part("register")
    register.text("source")
    word = register.number("word_bits")
    provenance = file.part("provenance")
    sram, sram_source = _sram(file.part("sram"))
    dram_bit, dram_source = _dram(file.part("dram"), unit, dram)
    found = EnergyTable(
        name=Path(name).stem, title=file.text("title"), status=status, unit=unit,
        technology_nm=file.number("technology_nm"),
        voltage=file.number("voltage") if "voltage" in content else None,
        source=provenance.text("source"), checked=provenance.text("checked"),
        limits=provenance.text("limits"),
        multiply=file.curve("multiply", "bit_products"),
        add=file.curve("add", "bits") if "add" in content else None,
        hop=register.number("hop") / word, hold=register.number("hold") / word,
        sram=sram, sram_source=sram_source, dram_bit=dram_bit, dram_source=dram_source)
    for part in (register, provenance, file):
        part.end()
    return found


def _sram(part: _Reader) -> tuple[Sram, str]:
    source = part.text("source")
    if "cacti_nm" in part.content:
        nm = part.number("cacti_nm")
        if nm not in technologies():
            listed = ", ".join(f"{one:g}" for one in technologies())
            raise part.fail("cacti_nm", f"must be one of {listed}, not {nm:g}")
        part.end()
        return cacti(nm), source
    width, capacity = part.number("width_bits"), part.points("capacity_kb")
    points = {"capacity": capacity, "read": part.values("read", capacity),
              "write": part.values("write", capacity)}
    part.end()
    return Sram(points={int(width): points}), source


def _dram(part: _Reader, unit: str, choice: str | None) -> tuple[float, str]:
    """Return the energy of a bit and its source: the table's own, or the kind chosen."""
    source = part.text("source")
    name = part.take("use")
    bit = None if name is not None else part.number("access") / part.number("word_bits")
    part.end()
    name = name if choice is None else choice
    if name is None and bit is not None:
        return bit, source
    if name not in drams():
        raise part.fail("use", f"must be one of {', '.join(drams())}, not {name!r}")
    kind = _Reader(name, _parsed(name, data_text("dram", f"{name}.toml")))
    if kind.text("unit") != unit:
        raise part.fail("use", f"cannot be {name!r}, whose unit is not {unit!r}: keep the "
                               "table's own DRAM")
    return kind.number("per_bit"), kind.part("provenance").text("source")
