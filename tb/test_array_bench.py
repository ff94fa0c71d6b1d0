"""The array as Verilog, in both simulators, equals the golden products in the promised cycles."""

from functools import cache

import pytest

from coverage import Coverage
from gradloom.array import Array
from gradloom.emit import to_verilog
from gradloom_golden.config import PRESETS, Config
from rtl_bench import run_bench

TINY = PRESETS["tiny"]
CONFIGS = [
    pytest.param(TINY, id="tiny"),
    pytest.param(
        TINY.with_changes(rows=8, gradient_depth=256, gradient_bits=16, overlap=False), id="tall"
    ),
    pytest.param(
        TINY.with_changes(columns=8, operand_bits=4, lanes=False), id="wide", marks=pytest.mark.slow
    ),
]
LAYERS = 34


@cache
def verilog(config: Config) -> str:
    return to_verilog(Array(config), "array")


@pytest.mark.parametrize("config", CONFIGS)
def test_random_layers(config, sim, tmp_path):
    counts = tmp_path / "coverage.json"
    params = {"config": config.to_json(), "layers": LAYERS, "coverage": str(counts)}
    ran = run_bench(verilog(config), top="array", bench="benches.array", sim=sim, params=params)
    assert ran == 1
    coverage = Coverage.load(counts)
    print(coverage.report())
    assert not coverage.missing()
