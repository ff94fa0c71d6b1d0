"""Exponents adapt, and shifts follow from them, as in the golden scale table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.program import Descriptor, Function, Opcode  # noqa: E402
from gradloom_golden.scale import Scales  # noqa: E402
from gradloom_study.fixed import BLOCK  # noqa: E402
from gradloom_study.scale import Scale, resolve, resolve_into  # noqa: E402


@given(seed=st.integers(0, 1 << 16), signed=st.booleans(), ends=st.integers(0, 30),
       largest=st.integers(1, 130))
def test_exponents_adapt_as_golden_ones(seed, signed, ends, largest):
    rng = np.random.default_rng(seed)
    low, high = (-128, 127) if signed else (0, 255)
    table, scale = Scales(), Scale(0, width=4)
    for _ in range(3):
        for _ in range(2):
            values = np.clip(rng.integers(-largest, largest, (90, 6)), low, high)
            values.flat[rng.integers(0, values.size, ends)] = rng.choice([low, high], ends)
            padded = np.zeros((90, 8), np.int64)
            padded[:, :6] = values
            table.measure(0, padded, 8, signed=signed)
            scale.measure(torch.from_numpy(values).float(), 8, signed=signed)
        table.rescale()
        scale.rescale()
        assert scale.exponent == table.exponents[0]


def test_what_is_not_measured_stays():
    scale = Scale(3)
    scale.measure(torch.zeros(0, 16), 8)
    scale.rescale()
    assert scale.exponent == 3


def test_clipped_elements_of_many_blocks_are_counted():
    values = torch.zeros(4 * BLOCK, 1)
    share = len(values) // 256
    values[:share] = 127
    for more, exponent in ((0, 0), (1, 1)):
        values[share:share + more] = -128
        scale = Scale(0, width=1)
        scale.measure(values, 8)
        scale.rescale()
        assert scale.exponent == exponent


def test_shifts_are_those_of_a_descriptor():
    table = Scales()
    table.exponents[[10, 20, 30]] = -7, -5, 2
    d = Descriptor(opcode=Opcode.BACKWARD, scaled=1, x_scale=10, d_scale=20, w_scale=30, rate=4)
    expected = table.resolve(d).descriptor.gradient_shift
    found = resolve(Opcode.BACKWARD, x=-7, d=-5, w=2, rate=4).descriptor.gradient_shift
    assert found == expected == 18


@pytest.mark.parametrize(("before", "after"), [(-9, -4), (-4, -4), (-2, -2)])
def test_an_exponent_without_a_shift_left_is_raised(before, after):
    scale = Scale(before)
    d = resolve_into(scale, Opcode.VECTOR, Function.ADD, x=-3, d=-4).descriptor
    assert scale.exponent == after
    assert d.out_shift == after + 4
