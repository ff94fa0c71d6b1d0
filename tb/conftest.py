"""What every test shares: one seed, both simulators, and tools that do not vary by machine."""

import os

import hypothesis
import numpy as np
import pytest

from rtl_bench import seed

# The Yosys that pip installed, not whichever is on PATH, writes the Verilog.
os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")

# A deadline would measure the machine's load; the same examples everywhere make a failure in CI
# one that can be seen at home.
hypothesis.settings.register_profile("gradloom", deadline=None, derandomize=True)
hypothesis.settings.load_profile("gradloom")


def pytest_report_header():
    return f"GRADLOOM_SEED={seed()}"


@pytest.fixture(params=[pytest.param("icarus", marks=pytest.mark.icarus), "verilator"])
def sim(request):
    """Name of a simulator: a test that asks for it runs once with each."""
    return request.param


@pytest.fixture
def rng():
    """Return a NumPy generator that starts from the tests' seed."""
    return np.random.default_rng(seed())
