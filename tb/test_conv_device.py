"""Convolutions of any shape on a device are exact, on either backend and with any buffers."""

import numpy as np
import pytest

from gradloom_golden.config import PRESETS
from gradloom_golden.program import Opcode, Region, Schedule
from gradloom_host.conv_device import Convolution
from gradloom_host.device import Device

TINY = PRESETS["tiny"]
MACHINES = {
    "square": TINY,
    "tall": TINY.with_changes(rows=8),
    "wide": TINY.with_changes(columns=16),
    "16-bit gradients": TINY.with_changes(gradient_bits=16),
    "narrow": TINY.with_changes(operand_bits=4, lanes=False, master_bits=12),
    "short sums": TINY.with_changes(accumulator_bits=24, steps_depth=16),
    "no overlap": TINY.with_changes(overlap=False),
    "least buffers": TINY.with_changes(
        activation_depth=16, gradient_depth=16, weight_depth=16, steps_depth=16),
    "much room": PRESETS["base"],
}
LAYERS = {
    # images, inputs, outputs, size, taps, stride, padding, groups
    "plain": (2, 3, 5, (6, 5), (3, 3), (1, 1), (1, 1), 1),
    "one pixel": (1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), 1),
    "matrix": (37, 21, 9, (1, 1), (1, 1), (1, 1), (0, 0), 1),
    "strided": (2, 4, 3, (9, 8), (3, 3), (2, 2), (1, 1), 1),
    "uneven": (1, 2, 6, (7, 10), (2, 4), (3, 2), (0, 3), 1),
    "stride beyond taps": (2, 3, 4, (8, 9), (1, 2), (3, 4), (0, 0), 1),
    "padding beyond taps": (1, 2, 2, (3, 2), (2, 2), (1, 2), (4, 3), 1),
    "taps beyond buffers": (1, 2, 2, (9, 9), (9, 8), (1, 1), (4, 4), 1),
    "many channels": (1, 19, 22, (4, 3), (3, 2), (1, 1), (1, 0), 1),
    "depthwise": (2, 6, 6, (5, 4), (3, 3), (1, 1), (1, 1), 6),
    "depthwise, two outputs": (1, 5, 10, (4, 4), (2, 2), (2, 1), (0, 1), 5),
    "grouped": (1, 12, 9, (5, 5), (3, 3), (2, 2), (1, 1), 3),
}


def layer(name):
    """Return the convolution, the shapes of x and w."""
    images, inputs, outputs, size, taps, stride, padding, groups = LAYERS[name]
    conv = Convolution(stride=stride, padding=padding, groups=groups)
    return conv, (images, inputs, *size), (outputs, inputs // groups, *taps)


def out_shape(conv, x, w):
    """Return the shape of Y."""
    size = [(x[2 + axis] + 2 * conv.padding[axis] - w[2 + axis]) // conv.stride[axis] + 1
            for axis in range(2)]
    return (x[0], w[0], *size)


def operands(rng, config, conv, x_shape, w_shape, *, unsigned=False):
    """Return x, w and d, with the ends of their ranges among them."""
    bits, gradient_bits = config.operand_bits, config.gradient_bits
    low = 0 if unsigned else -(1 << bits - 1)
    x = rng.integers(low, low + (1 << bits), x_shape)
    w = rng.integers(-(1 << bits - 1), 1 << bits - 1, w_shape)
    d = rng.integers(-(1 << gradient_bits - 1), 1 << gradient_bits - 1,
                     out_shape(conv, x_shape, w_shape))
    x.flat[0], w.flat[-1], d.flat[0] = low + (1 << bits) - 1, -(1 << bits - 1), -5
    return x, w, d


def reference(conv, x, w, d):
    """Return Y, dX and dW by the definition, tap after tap on a padded image."""
    (step_y, step_x), (pad_y, pad_x) = conv.stride, conv.padding
    height, width = d.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    y, dx, dw = np.zeros_like(d), np.zeros_like(padded), np.zeros_like(w)
    inputs, outputs = w.shape[1], len(w) // conv.groups
    for out in range(len(w)):
        for inner in range(inputs):
            own = out // outputs * inputs + inner
            for tap_y, tap_x in np.ndindex(*w.shape[2:]):
                met = np.s_[:, own, tap_y:tap_y + step_y * height:step_y,
                            tap_x:tap_x + step_x * width:step_x]
                y[:, out] += padded[met] * w[out, inner, tap_y, tap_x]
                dx[met] += d[:, out] * w[out, inner, tap_y, tap_x]
                dw[out, inner, tap_y, tap_x] = (padded[met] * d[:, out]).sum()
    return y, dx[:, :, pad_y:pad_y + x.shape[2], pad_x:pad_x + x.shape[3]], dw


@pytest.fixture(scope="module")
def rtl():
    device = Device(TINY, "rtl", check=True)
    yield device
    device.close()


@pytest.fixture
def golden():
    return Device(TINY, "golden")


def check(device, conv, x, w, d, *, unsigned):
    """Hold every pass against the reference."""
    y, dx, dw = reference(conv, x, w, d)
    np.testing.assert_array_equal(conv.forward(device, x, w, unsigned=unsigned), y)
    for input_gradient, weight_gradient in ((True, True), (True, False), (False, True)):
        found = conv.backward(device, x, w, d, unsigned=unsigned, input_gradient=input_gradient,
                              weight_gradient=weight_gradient)
        for ours, theirs, asked in zip(found, (dx, dw), (input_gradient, weight_gradient)):
            if asked:
                np.testing.assert_array_equal(ours, theirs)
            else:
                assert ours is None


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("machine", MACHINES)
def test_convolutions_are_exact(rng, machine, name, unsigned):
    config = MACHINES[machine]
    conv, x_shape, w_shape = layer(name)
    x, w, d = operands(rng, config, conv, x_shape, w_shape, unsigned=unsigned)
    check(Device(config, "golden"), conv, x, w, d, unsigned=unsigned)


@pytest.mark.parametrize(("size", "taps", "stride", "padding"), [
    ((1, 5000), (1, 3), (1, 1), (0, 1)),                   # an axis longer than a field
    ((9000, 1), (1, 1), (8, 1), (0, 0)),                   # a window longer than a field
    ((1, 9000), (1, 1), (1, 8), (0, 0)),
    ((257, 600), (2, 1), (255, 1), (0, 0)),                # rows that skip farther than a field
    ((3, 600), (1, 300), (1, 1), (0, 255)),                # taps beyond a field
    ((300, 2), (300, 1), (1, 1), (200, 0)),
], ids=str)
def test_fields_of_a_descriptor_are_no_limit(rng, size, taps, stride, padding):
    config = PRESETS["edge"].with_changes(
        steps_depth=1024, activation_depth=1 << 16, gradient_depth=1 << 16, weight_depth=1 << 13)
    conv = Convolution(stride=stride, padding=padding)
    x, w, d = operands(rng, config, conv, (1, 1, *size), (1, 1, *taps))
    check(Device(config, "golden"), conv, x, w, d, unsigned=False)


def test_long_sums_do_not_saturate_within_a_program():
    # Halves of opposite sign: any one descriptor that took the first would saturate.
    config = MACHINES["short sums"].with_changes(
        weight_depth=4096, activation_depth=4096, gradient_depth=4096)
    conv, sign = Convolution(), np.repeat([1, -1], 32)
    x, w = np.full((1, 64, 3, 3), 255), np.full((1, 64, 3, 3), 127) * sign[:, None, None]
    assert conv.forward(Device(config, "golden"), x, w, unsigned=True).item() == 0
    # The middle pixel meets all taps, those of the first row before those of the second.
    x, w = np.ones((1, 1, 3, 17), int), np.full((60, 1, 2, 9), 127)
    w[:, :, 1] = -127
    d = np.full((1, 60, 2, 9), 127)
    check(Device(config, "golden"), conv, x, w, d, unsigned=False)


def test_what_lies_in_the_buffers_does_not_matter(rng, golden):
    for region in (Region.ACTIVATION, Region.GRADIENT, Region.WEIGHT, Region.STATE, Region.SUMS):
        memory = golden._machines[0].memory[region]
        memory[:] = rng.integers(0, 128, memory.shape)
    conv, x_shape, w_shape = layer("strided")
    x, w, d = operands(rng, TINY, conv, x_shape, w_shape)
    check(golden, conv, x, w, d, unsigned=False)


def test_gradients_are_interleaved_only_where_both_are_needed(rng, golden, monkeypatch):
    schedules = []
    run = golden.run

    def spy(descriptors):
        schedules.extend(d.schedule for d in descriptors if d.opcode == Opcode.BACKWARD)
        return run(descriptors)

    monkeypatch.setattr(golden, "run", spy)
    conv, x_shape, w_shape = layer("plain")
    x, w, d = operands(rng, TINY, conv, x_shape, w_shape)
    for asked, schedule in (((True, True), Schedule.INTERLEAVED),
                            ((True, False), Schedule.INPUT_GRADIENT),
                            ((False, True), Schedule.WEIGHT_GRADIENT), ((False, False), None)):
        schedules.clear()
        conv.backward(golden, x, w, d, input_gradient=asked[0], weight_gradient=asked[1])
        assert set(schedules) == ({schedule} - {None})


def test_groups_share_tiles(rng, golden):
    # Six groups of one channel fill one and a half tiles of four.
    conv, x_shape, w_shape = layer("depthwise")
    x, w, _ = operands(rng, TINY, conv, x_shape, w_shape)
    golden.clear_counters()
    conv.forward(golden, x, w)
    steps, taps = x_shape[0] * 5 * 4, 9
    assert golden.counters["forward_slots"] == 2 * steps * taps


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", ["plain", "strided", "uneven", "padding beyond taps",
                                  "many channels", "depthwise"])
def test_rtl_agrees(rng, rtl, name, unsigned):
    conv, x_shape, w_shape = layer(name)
    x, w, d = operands(rng, TINY, conv, x_shape, w_shape, unsigned=unsigned)
    rtl.clear_counters()
    check(rtl, conv, x, w, d, unsigned=unsigned)
    rtl.compare_counters(name)
    rtl.compare(Region.SUMS, 0, TINY.steps_depth, name)
    rtl.compare(Region.STATE, 0, TINY.weight_depth, name)


X, W, D = np.zeros((2, 4, 5, 5), int), np.zeros((6, 4, 3, 3), int), np.zeros((2, 6, 3, 3), int)


@pytest.mark.parametrize(("call", "words"), [
    (lambda g: Convolution(stride=(0, 1)),
     r"stride must be two numbers from 1 to 255, not \(0, 1\)"),
    (lambda g: Convolution(stride=(1, 256)), r"stride must be .* not \(1, 256\)"),
    (lambda g: Convolution(padding=(1, -1)),
     r"padding must be two numbers from 0 to 255, not \(1, -1\)"),
    (lambda g: Convolution(groups=0), "groups must be at least 1, not 0"),
    (lambda g: Convolution(groups=2).forward(g, X, W),
     "x has 4 channels, w takes 4 in each of 2 groups: they must agree"),
    (lambda g: Convolution(groups=4).forward(g, X, W[:, :1]),
     "w has 6 outputs: make them a multiple of the 4 groups"),
    (lambda g: Convolution(padding=(0, 9)).forward(g, X[:, :, :2], W),
     r"w has \(3, 3\) taps: pad x \(2, 5\) to no less than that, not by \(0, 9\)"),
    (lambda g: Convolution(padding=(0, 0)).forward(g, X, np.zeros((1, 4, 1, 2048), int)),
     r"w has \(1, 2048\) taps: use at most 2047 along an axis"),
    (lambda g: Convolution().forward(g, X[0], W), r"x must have 4 axes and elements, not shape"),
    (lambda g: Convolution().forward(g, X - 129, W), "is -129: scale it into -128 to 127"),
    (lambda g: Convolution().forward(g, X - 1, W, unsigned=True), "is -1: scale it into 0 to 255"),
    (lambda g: Convolution().forward(g, X, W + 128), "is 128: scale it into -128 to 127"),
    (lambda g: Convolution().backward(g, X, W, D[:, :, 1:]),
     r"d has shape \(2, 6, 2, 3\): x and w ask for \(2, 6, 3, 3\)"),
    (lambda g: Convolution().backward(g, X, W, D + 128), "is 128: scale it into -128 to 127"),
])
def test_bad_operands_are_named(golden, call, words):
    with pytest.raises(ValueError, match=words):
        call(golden)


def test_fractions_are_refused(golden):
    with pytest.raises(TypeError, match="x must hold integers, not float64"):
        Convolution().forward(golden, X * 1.0, W)
