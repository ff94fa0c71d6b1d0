"""A device multiplies matrices of any shape, says what it refuses, and can be held to golden."""

import re

import numpy as np
import pytest

from gradloom_golden.config import PRESETS
from gradloom_golden.cycles import counts, program_cycles
from gradloom_golden.lanes import quantize
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import COUNTERS, Descriptor, Opcode, Region, Register
from gradloom_host import device as device_module
from gradloom_host import layout
from gradloom_host.device import Device, DeviceError, Mismatch

TINY = PRESETS["tiny"]
MACHINES = {
    "square": TINY,
    "tall": TINY.with_changes(rows=8),
    "wide": TINY.with_changes(columns=16),
    "16-bit gradients": TINY.with_changes(gradient_bits=16),
    "narrow": TINY.with_changes(operand_bits=4, lanes=False, master_bits=12),
    "short sums": TINY.with_changes(accumulator_bits=24, weight_depth=4096, activation_depth=4096),
    "no overlap": TINY.with_changes(overlap=False),
    "more steps than words": TINY.with_changes(
        steps_depth=64, activation_depth=16, gradient_depth=16),
}
SHAPES = ((1, 1, 1), (3, 5, 2), (33, 7, 9), (70, 41, 21), (2, 150, 131), (32, 4, 300))
ONE = Descriptor(opcode=Opcode.FORWARD, steps=1, x_stride=1, k_tiles=1, n_tiles=1)
BAD = Descriptor(opcode=Opcode.FORWARD, steps=0, x_stride=1, k_tiles=1, n_tiles=1)


def operands(rng, config, shape, *, unsigned=False):
    """Return x (T, K), w (K, N) and d (T, N), with the ends of their ranges among them."""
    steps, inputs, outputs = shape
    bits, gradient_bits = config.operand_bits, config.gradient_bits
    low = 0 if unsigned else -(1 << bits - 1)
    x = rng.integers(low, low + (1 << bits), (steps, inputs))
    w = rng.integers(-(1 << bits - 1), 1 << bits - 1, (inputs, outputs))
    d = rng.integers(-(1 << gradient_bits - 1), 1 << gradient_bits - 1, (steps, outputs))
    x.flat[0], w.flat[-1], d.flat[0] = low, -(1 << bits - 1), (1 << gradient_bits - 1) - 1
    return x, w, d


@pytest.fixture
def golden():
    return Device(TINY, "golden")


@pytest.fixture(scope="module")
def rtl():
    device = Device(TINY, "rtl", check=True)
    yield device
    device.close()


@pytest.fixture
def pair():
    """Return a device with two golden machines, the second to be tampered with."""
    device = Device(TINY, "golden")
    other = GoldenMachine(TINY)
    device._machines.append(other)
    return device, other


# Products.


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_products_of_any_shape(rng, machine, shape, unsigned):
    config = MACHINES[machine]
    device = Device(config, "golden")
    x, w, d = operands(rng, config, shape, unsigned=unsigned)
    y = device.forward(x, w, unsigned=unsigned)
    dx, dw = device.backward(x, w, d, unsigned=unsigned)
    for ours, theirs in ((y, x @ w), (dx, d @ w.T), (dw, x.T @ d)):
        assert ours.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("machine", ["16-bit gradients", "short sums"])
def test_long_sums_do_not_saturate_within_a_program(machine):
    # Halves of opposite sign: any one descriptor that took the first would saturate.
    config = MACHINES[machine].with_changes(weight_depth=8192, gradient_depth=4096)
    device = Device(config, "golden")
    sign = np.repeat([1, -1], 600)
    x, w = np.full((1, 1200), 255), -127 * sign[:, None]
    assert device.forward(x, w, unsigned=True) == x @ w
    d = ((1 << config.gradient_bits - 1) - 1) * sign[None]
    w = np.full((1, 1200), -128)
    dx, _ = device.backward([[1]], w, d)
    assert dx == d @ w.T


def test_sixty_five_thousand_terms_are_exact_and_more_are_refused():
    device = Device(TINY.with_changes(weight_depth=4096), "golden")
    x, w = np.full((1, 65_536), 255), np.full((65_536, 1), -128)
    assert device.forward(x, w, unsigned=True) == -255 * 128 * 65_536
    x, w = np.full((1, 65_800), 255), np.full((65_800, 1), -128)
    with pytest.raises(OverflowError, match="y does not fit 32 bits: use fewer terms or smaller"):
        device.forward(x, w, unsigned=True)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 9, 5), (33, 6, 13), (70, 4, 16)], ids=str)
def test_packed_weight_gradient_is_that_of_cut_activations(rng, golden, shape, bits, unsigned):
    x, w, d = operands(rng, TINY, shape, unsigned=unsigned)
    golden.seed(77)
    dx, dw = golden.backward(x, w, d, bits=bits, unsigned=unsigned)
    np.testing.assert_array_equal(dx, d @ w.T)

    lfsr = Lfsr(Bank.PACK, TINY.rows, 77)
    cut = np.zeros_like(x)
    for first in range(0, len(x), TINY.steps_depth):
        steps = slice(first, min(first + TINY.steps_depth, len(x)))
        for k in range(0, x.shape[1], TINY.rows):
            part = x[steps, k:k + TINY.rows]
            random = low_half(lfsr.draw(len(part)))[:, :part.shape[1]]
            cut[steps, k:k + TINY.rows] = quantize(
                part, bits, 8 - bits, unsigned=unsigned, random=random) << 8 - bits
    np.testing.assert_array_equal(dw, cut.T @ d)
    # Stochastic rounding moves an element by less than a step; saturation at the top by up to one.
    assert (np.abs(dw - x.T @ d) <= np.abs(d).sum(axis=0) << 8 - bits).all()


@pytest.mark.parametrize("bits", [4, 2])
def test_packed_copies_have_room_beside_the_activations(rng, bits):
    config = MACHINES["more steps than words"]
    x, w, d = operands(rng, config, (40, 3, 11))
    dx, dw = Device(config, "golden").backward(x, w, d, bits=bits)
    np.testing.assert_array_equal(dx, d @ w.T)
    assert (np.abs(dw - x.T @ d) <= np.abs(d).sum(axis=0) << 8 - bits).all()


def test_packed_gradient_is_right_on_average(golden):
    x, w, d = [[100]], [[1]], [[1]]
    drawn = [golden.backward(x, w, d, bits=2, unsigned=True)[1].item() for _ in range(400)]
    assert set(drawn) == {64, 128}
    # 36/64 of the draws round up; the mean of 400 is within 5 standard deviations, 1.6 each.
    assert abs(np.mean(drawn) - 100) < 8


def test_a_smaller_shift_keeps_low_bits_that_fit(golden):
    x = np.array([[-7, 3], [5, -8]])
    d = np.array([[9], [-4]])
    _, dw = golden.backward(x, [[1], [1]], d, bits=4, shift=0)
    np.testing.assert_array_equal(dw, x.T @ d)


def test_products_do_not_remember_earlier_ones(rng, golden):
    big = operands(rng, TINY, (32, 32, 32))
    golden.backward(*big, bits=2)
    x, w, d = operands(rng, TINY, (2, 3, 2))
    np.testing.assert_array_equal(golden.forward(x, w), x @ w)
    dx, dw = golden.backward(x, w, d)
    np.testing.assert_array_equal(dx, d @ w.T)
    np.testing.assert_array_equal(dw, x.T @ d)


# Both backends.


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 37, 18)], ids=str)
def test_backends_agree(rng, rtl, golden, shape, bits):
    x, w, d = operands(rng, TINY, shape)
    for device in (rtl, golden):
        device.seed(5)
        device.clear_counters()
    np.testing.assert_array_equal(rtl.forward(x, w), golden.forward(x, w))
    for ours, theirs in zip(rtl.backward(x, w, d, bits=bits), golden.backward(x, w, d, bits=bits)):
        np.testing.assert_array_equal(ours, theirs)
    assert rtl.counters == golden.counters
    rtl.compare_counters("products")
    for region, words in ((Region.SUMS, TINY.steps_depth), (Region.STATE, TINY.weight_depth)):
        rtl.compare(region, 0, words, "products")
    assert (rtl.simulated_cycles > 0, golden.simulated_cycles) == (True, 0)


@pytest.mark.parametrize("backend", ["rtl", "golden"])
def test_counters_are_the_sums_over_all_descriptors(rng, request, backend, monkeypatch):
    device = request.getfixturevalue(backend)
    x, w, d = operands(rng, TINY, (33, 9, 7))
    programs = []
    run = device.run

    def spy(descriptors):
        programs.append(list(descriptors))
        return run(descriptors)

    monkeypatch.setattr(device, "run", spy)
    device.clear_counters()
    device.forward(x, w)
    device.backward(x, w, d, bits=4)
    expected: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    for program in programs:
        for descriptor in program:
            for name, value in counts(TINY, descriptor).items():
                expected[name] += value
    expected["cycles"] = sum(program_cycles(TINY, program) for program in programs)
    expected["macs"] = 3 * 33 * 12 * 8                     # three passes, K and N in whole tiles
    assert device.counters == expected
    device.clear_counters()
    assert set(device.counters.values()) == {0}


def test_a_long_program_is_split(golden):
    many = [ONE] * (2 * TINY.descriptor_depth + 3)
    full = [ONE] * TINY.descriptor_depth
    assert golden.run(many) == 2 * program_cycles(TINY, full) + program_cycles(TINY, [ONE] * 3)
    assert golden.counters["descriptors"] == len(many)
    assert golden.run([]) == 0


# Refusals.


@pytest.mark.parametrize("backend", ["rtl", "golden"])
def test_a_refused_descriptor_is_named(request, backend):
    device = request.getfixturevalue(backend)
    with pytest.raises(DeviceError, match=re.escape(f"refuses descriptor 2 ({BAD}): steps")):
        device.run([ONE, ONE, BAD, ONE])
    far = Descriptor(opcode=Opcode.FORWARD, steps=1, x_stride=1, k_tiles=1, n_tiles=1, x_base=9999)
    with pytest.raises(DeviceError, match=r"refuses descriptor 0 .*: activation range$"):
        device.run([far])
    device.run([ONE])                                      # an error does not last


def test_a_refused_descriptor_counts_from_the_start_of_the_list(golden):
    index = TINY.descriptor_depth + 1
    with pytest.raises(DeviceError, match=f"refuses descriptor {index} "):
        golden.run([ONE] * index + [BAD])


X, W, D = np.zeros((3, 5), int), np.zeros((5, 2), int), np.zeros((3, 2), int)


@pytest.mark.parametrize(("call", "words"), [
    (lambda d: d.forward(X, D), "x has 5 columns, w has 3 rows: they must agree"),
    (lambda d: d.forward(X + 128, W), r"x\[0, 0\] is 128: scale it into -128 to 127"),
    (lambda d: d.forward(X, W - 129), r"w\[0, 0\] is -129: scale it into -128 to 127"),
    (lambda d: d.forward(X - 1, W, unsigned=True), r"x\[0, 0\] is -1: scale it into 0 to 255"),
    (lambda d: d.forward(X[0], W), r"x must have 2 axes and elements, not shape \(5,\)"),
    (lambda d: d.backward(X, W, D[:2]), "x has 3 rows, d has 2 rows: they must agree"),
    (lambda d: d.backward(X, W[:4], D),
     r"w has shape \(4, 2\): x and d ask for \(5, 2\)"),
    (lambda d: d.backward(X, W, D + 200), r"d\[0, 0\] is 200: scale it into -128 to 127"),
    (lambda d: d.backward(X, W, D, bits=3), "bits must be 2, 4 or 8, not 3"),
])
def test_bad_operands_are_named(golden, call, words):
    with pytest.raises(ValueError, match=words):
        call(golden)


def test_other_errors_are_named(golden):
    with pytest.raises(TypeError, match="w must hold integers, not float64"):
        golden.forward(X, W * 1.0)
    with pytest.raises(ValueError, match="bits 4 needs packed lanes: configure lanes=true"):
        Device(TINY.with_changes(lanes=False), "golden").backward(X, W, D, bits=4)
    with pytest.raises(ValueError, match="unknown backend 'fpga'; choose from rtl, golden"):
        Device(TINY, "fpga")
    with pytest.raises(ValueError, match="golden model: use backend 'rtl'"):
        Device(TINY, "golden", check=True)


# The check can fail.


def test_the_first_difference_in_a_buffer_is_named(pair):
    device, other = pair
    row = [[1, 2, 3, 4]]
    device.write(Region.ACTIVATION, 6, layout.to_words(TINY, Region.ACTIVATION, row * 2))
    device.compare(Region.ACTIVATION, 0, TINY.activation_depth, "layer 2 forward")
    other.memory[Region.ACTIVATION][7, 2] = 0x80
    other.memory[Region.ACTIVATION][7, 3] = 0
    with pytest.raises(Mismatch, match=re.escape(
            "layer 2 forward: activation word 7 element 2 is 3 in the RTL, -128 in the golden")):
        device.compare(Region.ACTIVATION, 6, 2, "layer 2 forward")
    device.compare(Region.ACTIVATION, 6, 1, "the row before")


def test_a_different_counter_is_named(pair):
    device, other = pair
    device.compare_counters("epoch 1")
    other.counters["d_reads"] += 1 << 40
    with pytest.raises(Mismatch, match=r"epoch 1: counter d_reads is 0 in the RTL, 1099511627776"):
        device.compare_counters("epoch 1")


def test_a_different_register_is_named(pair):
    device, other = pair
    device.compare_register(Register.BITS, "layer 1 precision")
    other._picked_bits = 2
    with pytest.raises(Mismatch, match="layer 1 precision: register bits is 8 in the RTL, 2 in"):
        device.compare_register(Register.BITS, "layer 1 precision")


def test_a_tampered_golden_machine_is_caught_in_a_result(rng, rtl):
    x, w, d = operands(rng, TINY, (5, 4, 4))
    rtl.seed(9)
    rtl.forward(x, w)
    rtl.compare(Region.SUMS, 0, 5, "forward")
    golden = rtl._machines[1]
    golden.memory[Region.WEIGHT][2, 1] ^= 1
    rtl.run([Descriptor(opcode=Opcode.FORWARD, steps=5, x_stride=5, k_tiles=1, n_tiles=1,
                        keep_sums=1)])
    with pytest.raises(Mismatch, match=r"^forward: sums word 0 element 1 is "):
        rtl.compare(Region.SUMS, 0, 5, "forward")
    rtl.backward(x, w, d)                                  # writes both weights anew


def test_nothing_is_compared_without_a_second_machine(golden):
    assert not golden.checking
    golden.compare(Region.SUMS, 0, 1, "alone")
    golden.compare_counters("alone")
    golden.compare_register(Register.BITS, "alone")


def test_closing_frees_only_what_can_be_freed(golden, monkeypatch):
    closed = []

    class Closable:
        def write(self, address, words):
            pass

        def close(self):
            closed.append(self)

    monkeypatch.setattr(device_module, "_machine", lambda *_: Closable())
    Device(TINY, "rtl", check=True).close()
    golden.close()
    assert len(closed) == 1
