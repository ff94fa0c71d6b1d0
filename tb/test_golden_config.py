"""What a configuration refuses, what it derives, and that it survives JSON."""

import json
import re
from dataclasses import fields, replace

import pytest

from gradloom_golden.config import PRESETS, Config, ceil_log2, preset

EDGE = preset("edge")
POWERS = [("rows", 4, 256), ("columns", 4, 256), ("activation_depth", 16, 65536),
          ("gradient_depth", 16, 65536), ("weight_depth", 16, 65536), ("steps_depth", 16, 1024),
          ("descriptor_depth", 2, 1024), ("image_depth", 16, 65536), ("bias_depth", 2, 256)]


def expect(message, kind: type[Exception] = ValueError, /, **changes):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        EDGE.with_changes(**changes)


@pytest.mark.parametrize(("name", "low", "high"), POWERS)
def test_sizes_are_powers_of_two_in_range(name, low, high):
    for value in (0, -low, low // 2, low + 1, high - 1, high * 2):
        expect(f"{name} must be a power of two from {low} to {high}, not {value}",
               **{name: value})


@pytest.mark.parametrize(("name", "taken", "listed", "refused"), [
    ("operand_bits", (4, 8), "4, 8", (3, 5, 16)),
    ("gradient_bits", (8, 16), "8, 16", (4, 12, 32)),
    ("accumulator_bits", range(24, 33), "24, 25, 26, 27, 28, 29, 30, 31, 32", (23, 33)),
    ("master_bits", range(12, 17), "12, 13, 14, 15, 16", (11, 17)),
    ("banks", (1, 2, 4), "1, 2, 4", (0, 3, 8)),
    ("axi_data_bits", (64, 128, 256), "64, 128, 256", (32, 100, 512)),
    ("axi_address_bits", (32, 40, 64), ", ".join(map(str, range(32, 65))), (31, 65)),
])
def test_widths_are_chosen_from_a_list(name, taken, listed, refused):
    for value in taken:
        assert getattr(EDGE.with_changes(lanes=False, **{name: value}), name) == value
    for value in refused:
        expect(f"{name} must be one of {listed}, not {value}", **{name: value})


@pytest.mark.parametrize(("name", "value", "kind"), [
    ("rows", 8.0, "int"), ("rows", True, "int"), ("columns", "8", "int"), ("lanes", 1, "bool"),
    ("overlap", None, "bool"),
])
def test_kinds_are_exact(name, value, kind):
    expect(f"{name} must be of type {kind}, not {value!r}", TypeError, **{name: value})


def test_fields_must_agree():
    expect("lanes split an 8-bit word: with operand_bits 4 set lanes to false", operand_bits=4)
    expect("weight_depth 16 must hold at least two tiles of 16 rows", weight_depth=16, rows=16)
    assert EDGE.with_changes(weight_depth=32, rows=16)
    expect("steps_depth 1024 lets a weight gradient grow to 34 bits: use at most 256",
           steps_depth=1024, gradient_bits=16)
    expect("steps_depth 512 lets a weight gradient grow to 33 bits: use at most 256",
           steps_depth=512, gradient_bits=16)
    assert EDGE.with_changes(steps_depth=256, gradient_bits=16).wgrad_bits == 32
    expect("accumulator_bits must be at least the 27 bits of a partial sum, not 26",
           gradient_bits=16, accumulator_bits=26)
    assert EDGE.with_changes(gradient_bits=16, accumulator_bits=27)


def test_unknown_fields_are_named():
    known = ", ".join(sorted(field.name for field in fields(Config)))
    expect(f"'depth' is not a configuration field; choose from {known}", depth=3)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    assert Config.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["rows"] == config.rows
    assert config.to_json().endswith("}\n")


def test_every_field_survives_json():
    changed = Config(
        rows=4, columns=16, operand_bits=4, gradient_bits=16, accumulator_bits=31, master_bits=13,
        lanes=False, overlap=False, activation_depth=64, gradient_depth=32, weight_depth=128,
        steps_depth=64, descriptor_depth=8, banks=4, image_depth=64, bias_depth=16,
        axi_data_bits=64, axi_address_bits=33)
    for field in fields(Config):
        assert getattr(changed, field.name) != getattr(EDGE, field.name)
    assert Config.from_json(changed.to_json()) == changed
    assert Config.from_json('{"rows": 8, "columns": 8}') == EDGE


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2]", "a configuration is a JSON object, not list"),
    ('{"columns": 8}', "the configuration lacks 'rows': add it"),
    ('{"rows": 8}', "the configuration lacks 'columns': add it"),
    ('{"rows": 8, "columns": 6}', "columns must be a power of two from 4 to 256, not 6"),
])
def test_bad_json_is_explained(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Config.from_json(text)


def test_an_unknown_preset_is_named_beside_the_known():
    with pytest.raises(ValueError, match=r"^unknown preset 'huge'; choose from tiny, edge, "):
        preset("huge")


def test_an_unknown_field_in_json_is_named():
    with pytest.raises(ValueError, match=r"^'speed' is not a configuration field; "):
        Config.from_json('{"rows": 8, "columns": 8, "speed": 9}')


@pytest.mark.parametrize("config", [
    *PRESETS.values(), replace(EDGE, rows=4, columns=16, gradient_bits=16, accumulator_bits=32),
    replace(EDGE, operand_bits=4, lanes=False),
])
def test_widths_hold_the_extremes(config):
    operand, gradient = 1 << config.operand_bits, 1 << config.gradient_bits - 1
    lane_count = max(config.rows, config.columns)
    assert config.lane_count == lane_count
    product = max((operand - 1) * gradient, (operand - 1) * (operand >> 1))
    assert product <= 1 << config.product_bits - 1
    assert product * lane_count <= 1 << config.sum_bits - 1
    assert product * config.steps_depth <= 1 << config.wgrad_bits - 1
    assert config.sum_bits <= config.accumulator_bits
    assert config.wgrad_bits <= config.state_bits
    assert config.residue_bits + 16 <= config.state_bits
    norm = (1 << 2 * (config.wgrad_bits - 1)) * config.columns * config.weight_depth
    assert norm <= 1 << config.dot_bits - 1
    assert config.max_lanes == (4 if config.lanes else 1)


@pytest.mark.parametrize(("value", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3)])
def test_ceil_log2(value, bits):
    assert ceil_log2(value) == bits
