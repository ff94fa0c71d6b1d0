"""Random networks train on the RTL behind its AXI ports as in the golden machine, bit for bit."""

from functools import cache

import numpy as np
import pytest

from gradloom import generate
from gradloom_golden.config import PRESETS, Config
from gradloom_golden.program import Region, Register, memory_shape
from gradloom_host.system import System
from random_networks import random_case, training
from rtl_bench import seed

TINY = PRESETS["tiny"].with_changes(
    activation_depth=4096, gradient_depth=4096, weight_depth=2048, image_depth=2048,
    bias_depth=64, steps_depth=256)
USUAL = {
    "tiny": TINY,
    "narrow_bus": TINY.with_changes(axi_data_bits=64, overlap=False, gradient_bits=16, banks=4),
}
EXTRA = {
    "no_lanes": TINY.with_changes(lanes=False, banks=1),
    "short_sums": TINY.with_changes(accumulator_bits=24, steps_depth=64, master_bits=12),
    "eight": TINY.with_changes(rows=8, columns=8, axi_data_bits=256),
}
FEW, FEW_FLAT, MANY = 25, 8, 125
STALLS = (0.0, 0.02, 0.2, 0.5)
LATENCIES = (1, 5, 20, 100)
READ_BACK = (Region.SCALE, Region.KEEP)
MOST_CYCLES = 1 << 24
"""More than any of these networks needs: reached only if the machine hangs."""


@pytest.fixture(autouse=True)
def generate_once(monkeypatch):
    """Generate the Verilog of a configuration once, not for every network."""
    monkeypatch.setattr(generate, "shell_verilog", _verilog)
    monkeypatch.setattr("gradloom_host.system.CYCLE_LIMIT", MOST_CYCLES)


@cache
def _verilog(config: Config, build=generate.shell_verilog) -> str:
    return build(config)


def train(config: Config, number: int, *, flat: bool = False) -> int:
    """Train one network on both machines, compare all that they leave, return the RTL's cycles."""
    rng = np.random.default_rng([seed(), number])
    case = random_case(rng, config, flat=flat)
    plan = training(rng, case)
    stall, latency = float(rng.choice(STALLS)), int(rng.choice(LATENCIES))
    told = f"network {number}: {case.network.graph}, batch {case.network.batch}, {case.policy}"
    system = System(config, "rtl", memory_bytes=plan.memory_bytes, latency=latency, check=True,
                    stall=stall, seed=number)
    try:
        for address, values in plan.contents:
            system.store(address, values)
        system.store_list(plan.list_address, plan.descriptors)
        system.write(Region.CONTROL, Register.SEED, [number])
        system.write(Region.SCALE, 0, plan.exponents)
        cycles = system.run(plan.list_address, len(plan.descriptors))
        for region in READ_BACK:
            system.read(region, 0, memory_shape(config, region)[0])
        system.read(Region.CONTROL, Register.KEPT)
        system.read(Region.CONTROL, Register.LOSS, 3)
        ran = system.counters()["descriptors"]         # without what had no sample to do
        assert 0 < ran <= len(plan.descriptors)
    except Exception as error:
        raise AssertionError(f"{told}, stall {stall}, latency {latency}: {error}") from error
    finally:
        system.close()
    return cycles


@pytest.mark.parametrize("name", USUAL)
def test_random_networks_equal_the_golden_machine(name):
    for number in range(FEW):
        assert train(USUAL[name], number) > 1000


@pytest.mark.parametrize("name", USUAL)
def test_networks_without_a_first_convolution_equal_the_golden_machine(name):
    for number in range(FEW_FLAT):
        assert train(USUAL[name], number, flat=True) > 500


@pytest.mark.slow
@pytest.mark.parametrize("name", USUAL | EXTRA)
def test_many_random_networks_equal_the_golden_machine(name):
    for number in range(FEW, FEW + MANY):
        assert train((USUAL | EXTRA)[name], number) > 1000
    for number in range(FEW_FLAT, 5 * FEW_FLAT):
        assert train((USUAL | EXTRA)[name], number, flat=True) > 500
