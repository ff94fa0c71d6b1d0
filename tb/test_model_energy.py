"""Energies against sums done by hand, tables against their files, and what bad files are told."""

import csv
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradloom_model import energy as model
from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import ACCESSES
from gradloom_model.energy import energy, load, notes, prices, tables
from gradloom_model.sram import Sram, cacti, data_rows, data_text, interpolate, technologies

A = Assumptions(rows=32, columns=16, steps=1024)
GOOD = """
title = "Mine"
status = "measured"
unit = "pJ"
technology_nm = 28
[provenance]
source = "a chip"
checked = "twice"
limits = "few"
[multiply]
bit_products = [64]
energy = [0.5]
[register]
source = "it"
word_bits = 10
hop = 2
hold = 1
[sram]
source = "it"
width_bits = 8
capacity_kb = [1, 100]
read = [1, 10]
write = [2, 20]
[dram]
source = "it"
word_bits = 2
access = 6
"""


def write(tmp_path, text=GOOD):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def only(counts, table, a=A, **more):
    """Return the components that are not zero."""
    found = energy(table, {name: np.array(value) for name, value in counts.items()}, a, **more)
    return {name: value for name, value in found.items() if np.any(value)}


# Tables.


def test_every_table_says_where_its_figures_are_from():
    assert tables() == ("aladdin45", "aladdin65", "eyeriss65", "gradloom130", "horowitz45")
    for name in tables():
        table = load(name)
        assert min(len(table.source), len(table.checked), len(table.limits)) > 20
        assert table.name == name
        assert name in table.provenance
        assert table.source in table.provenance
        assert str(int(table.technology_nm)) in name
        assert table.sram_source
        assert table.dram_source


def test_what_came_from_memory_says_so():
    for name in ("horowitz45", "eyeriss65"):
        assert "from memory" in load(name).checked
    assert "check" in data_text("dram", "lpddr4.toml")


def test_horowitz_has_the_published_figures():
    table = load("horowitz45")
    assert (table.multiply.points, table.multiply.values) == ((64, 1024), (0.2, 3.1))
    assert table.add is not None
    assert dict(zip(table.add.points, table.add.values)) == {8: 0.03, 16: 0.05, 32: 0.1}
    assert table.sram.per_byte("read", [8, 32, 1024], 64).tolist() == [10 / 8, 20 / 8, 100 / 8]
    assert 1300 < table.dram_bit * 64 < 2600
    assert table.voltage == 0.9


def test_a_kind_of_dram_replaces_that_of_a_table():
    assert load("aladdin65").dram_bit == 8
    assert load("aladdin65", "ddr3").dram_bit == 70
    assert load("horowitz45", "lpddr4").dram_bit == 8
    with pytest.raises(model.TableError, match=r"'eyeriss65': dram\.use cannot be 'ddr3', whose "
                                               r"unit is not 'MAC': keep the table's own DRAM"):
        load("eyeriss65", "ddr3")
    with pytest.raises(model.TableError, match=r"dram\.use must be one of ddr3, lpddr4, not 'hbm'"):
        load("aladdin45", "hbm")


def test_reads_a_table_of_the_user(tmp_path):
    table = load(write(tmp_path))
    assert (table.name, table.status, table.voltage, table.add) == ("mine", "measured", None, None)
    assert (table.hop, table.hold, table.dram_bit) == (0.2, 0.1, 3)
    (tmp_path / "mine.toml").write_text(GOOD.replace("access = 6", "access = 8"))
    assert load(tmp_path / "mine.toml").dram_bit == 4


@pytest.mark.parametrize(("old", "new", "message"), [
    ('status = "measured"', 'status = "guessed"',
     r"mine.toml': status must be one of measured, computed, quoted, relative, not 'guessed'$"),
    ('source = "a chip"', "", r"mine.toml': provenance.source must be some text, not None: say it"),
    ("hop = 2", "hop = -2", r"mine.toml': register.hop must be a number above 0, not -2$"),
    ("hop = 2", "hop = true", r"register.hop must be a number above 0, not True$"),
    ("hop = 2", "hop = nan", r"register.hop must be a number above 0, not nan$"),
    ("read = [1, 10]", "read = [1]",
     r"mine.toml': sram.read has 1 entries: give one for each of the 2 points$"),
    ("capacity_kb = [1, 100]", "capacity_kb = [100, 1]",
     r"sram.capacity_kb must rise, not \[100.0, 1.0\]: sort its points$"),
    ("energy = [0.5]", 'energy = ["x"]',
     r"multiply.energy must be a list of numbers above 0, not \['x'\]$"),
    ("hold = 1", "hold = 1\nhalt = 1",
     r"register.halt is not known: remove it, or mend its spelling$"),
    ("hold = 1", "hold = 1\n[extra]", r"mine.toml': extra is not known: remove it"),
    ("[multiply]\nbit_products = [64]\nenergy = [0.5]", "",
     r"mine.toml': multiply must be a section, not None: add \[multiply\]$"),
    ("width_bits = 8\ncapacity_kb = [1, 100]\nread = [1, 10]\nwrite = [2, 20]", "cacti_nm = 7",
     r"sram.cacti_nm must be one of 22, 32, 45, 65, not 7$"),
    ("technology_nm = 28", "technology_nm =", r"energy table '.*mine.toml' is not TOML: "),
])
def test_says_what_is_wrong_with_a_table(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(model.TableError, match=message):
        load(write(tmp_path, GOOD.replace(old, new)))


def test_says_which_tables_there_are(tmp_path):
    with pytest.raises(model.TableError, match=r"unknown energy table 'horowitz'; choose from "
                                               r"aladdin45, .*, or give the path of a .toml file"):
        load("horowitz")
    with pytest.raises(model.TableError, match=r"absent.toml' cannot be read .*; check the path"):
        load(tmp_path / "absent.toml")


# SRAM.


def test_ships_the_whole_table_of_srams():
    rows = list(data_rows("sram_cacti.csv"))
    assert len(rows) == 348
    assert technologies() == (22, 32, 45, 65)
    assert data_text("sram_cacti.csv").startswith("# SRAM macros computed with CACTI 7")


@pytest.mark.parametrize("nm", [22, 32, 45, 65])
def test_interpolation_hits_every_point(nm):
    lines = [line for line in data_text("sram_cacti.csv").splitlines() if line[0] != "#"]
    rows = [row for row in csv.DictReader(lines) if float(row["tech_nm"]) == nm]
    assert len(rows) == 87
    for row in rows:
        size, width = float(row["size_kb"]), int(row["width_bits"])
        for kind in ("read", "write"):
            expected = float(row[f"{kind}_pJ"]) * 8 / width
            assert cacti(nm).per_byte(kind, size, width) == expected
            assert expected == pytest.approx(float(row[f"{kind}_pJ_per_byte"]), rel=1e-12)
        assert cacti(nm).area(size, width) == float(row["area_mm2"])


@pytest.mark.parametrize("nm", [22, 32, 45, 65])
def test_stays_between_neighbouring_points(nm):
    """Hence it rises wherever the table rises."""
    for width, points in cacti(nm).points.items():
        for quantity in ("read", "write"):
            for low in range(len(points["capacity"]) - 1):
                ends, values = (points[key][low:low + 2] for key in ("capacity", quantity))
                between = np.linspace(ends[0], ends[1], 7)
                found = cacti(nm).per_byte(quantity, between, width) * width / 8
                steps = np.diff(found) * np.sign(values[1] - values[0])
                assert np.all(steps > 0)
                assert found[[0, -1]].tolist() == list(values)


def test_interpolates_in_logarithms_and_keeps_the_ends():
    assert interpolate([2, 4, 8, 1, 16], [2, 8], [3, 12]) == pytest.approx([3, 6, 12, 3, 12])
    assert interpolate(5, [2], [7]) == 7


def test_takes_the_nearest_port_by_ratio():
    sram = Sram(points={width: {"capacity": (4,), "read": (width,), "write": (1,)}
                        for width in (8, 16, 64)})
    widths = [1, 8, 11, 12, 16, 31, 32, 33, 64, 999]
    assert [sram.widths[one] for one in sram.nearest(widths)] == [
        8, 8, 8, 16, 16, 16, 64, 64, 64, 64]
    assert sram.per_byte("read", 4, widths).tolist() == [8] * 10


def test_areas_beyond_the_table_are_banks_side_by_side():
    sram = cacti(65)
    assert sram.area(4 * 2048, 64) == pytest.approx(4 * sram.area(2048, 64))
    assert sram.area(256, 2048) == pytest.approx(2 * sram.area(128, 1024))


# Energy.


def test_buffers_follow_the_assumptions():
    found = {name: (one.bits, int(one.port), float(one.capacity))
             for name, one in model.buffers(A.with_changes(gradient_bits=16)).items()}
    assert found == {
        "x": (8, 256, 256), "d": (16, 512, 256), "w": (8, 128, 256), "dw": (32, 512, 1024),
        "state": (32, 512, 1024), "sum": (32, 1024, 128), "mask": (1, 32, 32)}
    assert set(found) == set(ACCESSES.values())
    narrow = model.buffers(A.with_changes(port=8, steps=None))
    assert [int(one.port) for one in narrow.values()] == [64, 64, 64, 64, 64, 64, 32]
    assert narrow["sum"].capacity == 1024


def test_products_cost_a_multiplication_and_an_addition(tmp_path):
    assert only({"products": [1, 1000]}, load("aladdin65"))["mac"].tolist() == [1.43, 1430]
    assert only({"products": 1}, load("aladdin65"), A.with_changes(gradient_bits=32))["mac"] == 4.83
    # 21 bits of a sum over 32 cells lie between 16 and 32: 0.05 * 2 ** log2(21 / 16).
    expected = 0.2 + 0.05 * 21 / 16
    assert only({"products": 1}, load("horowitz45"))["mac"] == pytest.approx(expected)
    # Twice the bits of a product: a quarter of the way, in logarithms, from 0.2 to 3.1.
    expected = 0.2 * 15.5 ** 0.25 + 0.05 * 29 / 16
    found = only({"products": 1}, load("horowitz45"), A.with_changes(gradient_bits=16))["mac"]
    assert found == pytest.approx(expected)
    assert only({"products": 5}, load("eyeriss65"))["mac"] == 5


def test_registers_move_operands_and_sums_through_every_cell(tmp_path):
    table = load(write(tmp_path))
    # 512 cells, 21-bit sums, 26-bit weight gradients; 0.2 pJ a bit moved, 0.1 pJ a bit held.
    assert model.sum_width(A) == 21
    assert model.wgrad_width(A) == 26
    assert only({"slots": 1}, table)["registers"] == pytest.approx(512 * (8 + 21) * 0.2)
    staying = 512 * ((8 + 8) * 0.2 + 26 * 0.1)
    assert only({"slots": 1, "os_slots": 1}, table)["registers"] == pytest.approx(staying)
    both = only({"slots": [2, 30], "os_slots": [1, 10]}, table)["registers"]
    expected = [512 * 29 * 0.2 + staying, 20 * 512 * 29 * 0.2 + 10 * staying]
    assert both == pytest.approx(expected)


@pytest.mark.parametrize(("name", "bits", "read"), [
    ("x_reads", 8, 1), ("packed_reads", 8, 1), ("x_writes", 8, 0), ("packed_writes", 8, 0),
    ("y_writes", 8, 0), ("d_reads", 8, 1), ("dx_writes", 8, 0), ("w_reads", 8, 1),
    ("w_writes", 8, 0), ("dw_reads", 32, 1), ("dw_writes", 32, 0), ("state_reads", 32, 1),
    ("state_writes", 32, 0), ("sum_reads", 32, 1), ("sum_writes", 32, 0), ("mask_reads", 1, 1),
])
def test_accesses_cost_their_bytes_of_a_word(tmp_path, name, bits, read):
    """One byte costs 1 pJ at 1 KiB, 10 at 100, hence sqrt(capacity); writes cost twice."""
    a = A.with_changes(activation_kb=16, gradient_kb=25, weight_kb=9, steps=256)
    component = ACCESSES[name]
    capacity = {"x": 16, "d": 25, "w": 9, "dw": 36, "state": 36, "sum": 32, "mask": 2}[component]
    found = only({name: [1, 24]}, load(write(tmp_path)), a)
    each = bits / 8 * capacity ** 0.5 * (1 if read else 2)
    assert list(found) == [component]
    assert found[component] == pytest.approx([each, 24 * each])


def test_every_access_is_tested_and_priced(tmp_path):
    marks = test_accesses_cost_their_bytes_of_a_word.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(ACCESSES)
    assert set(prices(load(write(tmp_path)), A)) == {
        "products", "slots", "os_slots", "dram_bytes", *ACCESSES}


def test_counts_dram_only_where_its_bytes_are_known(tmp_path):
    table = load(write(tmp_path))
    assert only({}, table, dram_bytes=[1, 10])["dram"].tolist() == [24, 240]
    assert set(energy(table, {}, A)) == set(model.COMPONENTS) - {"dram"}
    assert set(energy(table, {}, A, dram_bytes=0)) == set(model.COMPONENTS)


def test_eyeriss_is_in_words_of_sixteen_bits():
    table = load("eyeriss65")
    assert only({"x_reads": 2}, table) == {"x": 6}
    assert only({}, table, dram_bytes=2) == {"dram": 200}
    assert 16 * table.hop == 2
    assert 16 * table.hold == 1


def test_arrays_of_assumptions_give_what_each_gives(tmp_path):
    """A sweep of machines against layers equals its entries."""
    counts = {name: np.arange(1, 4) * (place + 1)
              for place, name in enumerate(("products", "slots", "os_slots", *ACCESSES))}
    machines = [A.with_changes(rows=rows, columns=columns, gradient_bits=gradient_bits,
                               activation_kb=float(kb), steps=steps, port=port)
                for rows, columns, gradient_bits, kb, steps, port in (
                    (4, 8, 8, 3, 64, 16), (32, 16, 16, 256, 1024, 64), (48, 300, 8, 9000, 7, 999))]
    many: Any = SimpleNamespace(**{
        name: np.array([[getattr(one, name)] for one in machines]) for name in (
            "rows", "columns", "gradient_bits", "sum_bits", "activation_kb", "gradient_kb",
            "weight_kb", "steps", "port")})
    for name in tables():
        table = load(name)
        found = energy(table, counts, many, dram_bytes=np.arange(3))
        for place, one in enumerate(machines):
            single = energy(table, counts, one, dram_bytes=np.arange(3))
            for part, value in single.items():
                assert found[part].shape == (3, 3)
                assert found[part][place] == pytest.approx(value, rel=1e-12)
        shared = energy(table, counts, many, each=prices(table, many))
        assert all(np.array_equal(shared[part], found[part]) for part in shared)


def test_notes_name_what_lies_outside_a_table():
    assert notes(load("aladdin65"), A) == []
    assert notes(load("aladdin65"), A.with_changes(activation_kb=4096.0)) == [
        "x: a buffer of 4096 KiB with 256 bits a word lies outside aladdin65's SRAM; the nearest "
        "there stands for it"]
    assert notes(load("aladdin65"), A.with_changes(columns=512))[-1].startswith(
        "sum: a buffer of 2048 KiB with 16384 bits a word lies outside")
    assert [note[:40] for note in notes(load("eyeriss65"), A)] == [
        "eyeriss65 knows SRAM of 16 bits an acces", "eyeriss65 knows SRAM of one capacity onl"]


def test_a_table_is_a_value(tmp_path):
    table = load(write(tmp_path))
    assert replace(table, hop=1.0) != table
    assert load("horowitz45") is load("horowitz45")
