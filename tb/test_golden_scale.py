"""Shifts equal the formulas written out, and exponents adapt as shifts do, down to no shift."""

from dataclasses import replace

import numpy as np
import pytest

from gradloom_golden.fixed import better_shift, integer_range
from gradloom_golden.program import SCALES, Descriptor, Function, Opcode
from gradloom_golden.scale import FORMULAS, Scales, better_exponent


def clamp(value, low, high):
    return min(max(value, low), high)


def expected(d, e):
    """Return the shifts of a descriptor, from exponents by name."""
    x, d_, w, out, bias = (e[name] for name in ("x", "d", "w", "out", "bias"))
    low = min(x, d_)
    gradient = {"gradient_shift": clamp(d.rate + w - x - d_, 0, 31)}
    if d.opcode != Opcode.VECTOR:
        return {
            Opcode.FORWARD: {"out_shift": clamp(out - x - w, 0, 31)},
            Opcode.BACKWARD: {"out_shift": clamp(out - d_ - w, 0, 31), **gradient},
            Opcode.UPDATE: gradient,
        }.get(d.opcode, {})
    return {
        Function.ADD: {
            "out_shift": clamp(out - low, 0, 31), "gradient_shift": clamp(x - low, 0, 15),
            "rate_shift": clamp(d_ - low, 0, 15),
        },
        Function.AVERAGE: {"out_shift": clamp(out - x + d.out_shift, 0, 31)},
        Function.AVERAGE_GRADIENT: {"out_shift": clamp(out - d_ + d.out_shift, 0, 31)},
        Function.MAXIMUM_GRADIENT: {"out_shift": clamp(out - d_, 0, 31)},
        Function.BIAS_UPDATE: {"gradient_shift": clamp(d.rate + bias - d_, 0, 31)},
    }.get(d.function, {})


def least_out(d, e):
    """Return the exponent of the output for which the shift is zero, if it has one."""
    if d.opcode == Opcode.FORWARD:
        return e["x"] + e["w"]
    if d.opcode == Opcode.BACKWARD:
        return e["d"] + e["w"]
    if d.opcode != Opcode.VECTOR:
        return None
    return {
        Function.ADD: min(e["x"], e["d"]), Function.AVERAGE: e["x"] - d.out_shift,
        Function.AVERAGE_GRADIENT: e["d"] - d.out_shift, Function.MAXIMUM_GRADIENT: e["d"],
    }.get(d.function)


def descriptors(rng, count):
    for _ in range(count):
        for opcode in Opcode:
            for function in Function if opcode == Opcode.VECTOR else (0,):
                yield Descriptor(
                    opcode=opcode, function=function, scaled=1, measure=int(rng.integers(2)),
                    rate=int(rng.integers(-20, 40)),
                    out_shift=int(rng.integers(0, 8)), gradient_shift=7, rate_shift=9,
                    **dict(zip(("x_scale", "d_scale", "w_scale", "out_scale", "bias_scale"),
                               rng.choice(SCALES, 5, replace=False).tolist(), strict=True)))


@pytest.mark.parametrize("spread", [3, 12, 128])
def test_resolves_every_shift(spread, rng):
    scales = Scales()
    changed, raised = set(), set()
    for d in descriptors(rng, 100):
        scales.exponents[:] = rng.integers(-spread, spread, SCALES)
        table = scales.exponents.copy()
        e = {name: int(scales.exponents[getattr(d, f"{name}_scale")])
             for name in ("x", "d", "w", "out", "bias")}
        found = scales.resolve(d)
        assert found.descriptor == replace(d, **expected(d, e))
        assert found.exponent == e["x"]
        bias_shift = clamp(e["bias"] - e["x"] - e["w"], -15, 15)
        assert found.bias_shift == (bias_shift if d.opcode == Opcode.FORWARD else 0)
        if found.descriptor != d:
            changed.add((d.opcode, d.function))
        np.testing.assert_array_equal(scales.exponents, table)
        least = least_out(d, e)
        if d.measure and least is not None and least > e["out"]:
            table[d.out_scale] = min(least, 127)
            raised.add((d.opcode, d.function))
        assert found.out_exponent == table[d.out_scale]
        scales.begin(found)
        np.testing.assert_array_equal(scales.exponents, table)
        plain = scales.resolve(replace(d, scaled=0))
        assert (plain.descriptor, plain.bias_shift, plain.exponent) == (replace(d, scaled=0), 0, 0)
        scales.begin(plain)
        np.testing.assert_array_equal(scales.exponents, table)
    assert changed == {(opcode, function or 0) for opcode, function in FORMULAS}
    assert raised == {
        (opcode, function or 0) for (opcode, function), shifts in FORMULAS.items()
        if "out_shift" in shifts}


def test_small_sums_do_not_let_an_exponent_drift():
    """What is added is exact: its exponent must say what it means, however small it stays."""
    scales = Scales()
    scales.exponents[:3] = -4, -3, -4
    add = Descriptor(opcode=Opcode.VECTOR, function=Function.ADD, scaled=1, measure=1, x_scale=0,
                     d_scale=1, out_scale=2)
    for _ in range(10):
        resolved = scales.resolve(add)
        scales.begin(resolved)
        shifts = resolved.descriptor
        assert (shifts.gradient_shift, shifts.rate_shift, shifts.out_shift) == (0, 1, 0)
        assert scales.exponents[2] == -4
        scales.measure(2, [60], 8)
        scales.rescale()


def elements(rng, bits, signed):
    """Yield arrays with some elements around every limit."""
    low, high = integer_range(bits, signed=signed)
    for _ in range(40):
        top = int(rng.integers(1, high + 1))
        values = rng.integers(max(low, -top), top, rng.integers(1, 600), endpoint=True)
        for _ in range(rng.integers(0, 4)):
            values[rng.integers(len(values))] = rng.choice([low, high, (high + 1) // 2])
        yield values
    half = (high + 1) // 2
    for limit in (half, half - 1, *((-half, 1 - half) if signed else ())):
        yield np.array([0, limit])
    for length in (255, 256, 257, 511, 512, 513):
        for ends in ((high,), (high, high), (low, high)):
            yield np.concatenate([np.zeros(length - len(ends), np.int64), ends])


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (8, False), (4, True), (16, True)])
def test_adapts_as_a_shift_would(bits, signed, rng):
    steps = set()
    for values in elements(rng, bits, signed):
        scales = Scales()
        scales.exponents[5] = -7
        for part in np.array_split(values, 3):
            scales.measure(5, part, bits, signed=signed)
        scales.rescale()
        wanted = better_shift(-7, values, bits, signed=signed)
        assert scales.exponents[5] == wanted
        steps.add(wanted + 7)
    assert steps == {-1, 0, 1}


def test_counts_each_scale_apart_and_forgets_when_it_adapts():
    scales = Scales()
    scales.measure(1, [127] * 4, 8)
    scales.measure(2, [64] * 4, 8)
    scales.measure(3, [63] * 4, 8)
    scales.measure(1, [127] * 4, 8)
    scales.measure(4, [], 8)
    scales.rescale()
    assert scales.exponents[:6].tolist() == [0, 1, 0, -1, 0, 0]
    scales.rescale()
    assert scales.exponents[:6].tolist() == [0, 1, 0, -1, 0, 0]


@pytest.mark.parametrize(("exponent", "clipped", "large", "better"), [
    (0, 1, True, 0), (0, 2, True, 1), (0, 1, False, -1), (63, 9, True, 63), (-64, 0, False, -64),
    (-64, 9, True, -63), (127, 0, False, 63), (-128, 9, True, -64),
])
def test_an_exponent_moves_by_one_within_its_range(exponent, clipped, large, better):
    assert better_exponent(exponent, 256, clipped, large) == better


def test_counts_wrap():
    scales = Scales()
    scales.counts[0], scales.clipped[0] = (1 << 32) - 1, (1 << 32) - 2
    scales.measure(0, [127, 127], 8)
    assert (scales.counts[0], scales.clipped[0]) == (1, 0)
