"""DRAM traffic: cases computed by hand, and loops over pieces of operands in half a buffer."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradloom_model.assumptions import Assumptions
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.memory import (
    GRADIENTS_AGAIN,
    ONCE,
    REASONS,
    RESIDENT,
    ROWS_AGAIN,
    WEIGHTS_AGAIN,
    traffic,
)
from gradloom_model.schedules import SCHEDULES

KIB = 1024
ROOMY = Assumptions(batch=4, skip=0, activation_kb=64, gradient_kb=64, weight_kb=64)


def fc(inputs, outputs, **changes):
    """Return a layer of one row a sample."""
    return Layer(name="fc", kind="linear", inputs=inputs, outputs=outputs, **changes)


def moved(layer, a, schedule="ws"):
    """Return the traffic of a layer by pass; another layer keeps the network out of the buffers."""
    large = fc(1 << 14, 1 << 14)
    found = traffic(geometry(Network("two", [layer, large])), a, SCHEDULES[schedule])
    return {name: (
        {operand: float(np.broadcast_to(value, 2)[0]) for operand, value in one.bytes.items()},
        float(np.broadcast_to(one.again, 2)[0]), int(np.broadcast_to(one.reason, 2)[0]))
        for name, one in found.items()}


def test_what_fits_moves_once():
    assert moved(fc(1024, 512), ROOMY) | {"update": None} == {
        "forward": ({"x": 4096, "w": 512 * KIB, "y": 2048}, 1, ONCE),
        "input gradient": ({"d": 2048, "w": 512 * KIB, "dx": 4096}, 1, ONCE),
        "weight gradient": ({"x": 4096, "d": 0, "dw": 0}, 1, ONCE),
        "update": None,
    }


def test_weights_or_rows_come_again_whichever_is_less():
    # 64 KiB of weights in 8 groups; 64 KiB each of X and Y in 3 windows of at most 50 KiB.
    a = ROOMY.with_changes(batch=256, weight_kb=16)
    layer = fc(256, 256)
    sizes, again, reason = moved(layer, a.with_changes(activation_kb=100))["forward"]
    assert (sizes, again, reason) == ({"x": 64 * KIB, "w": 3 * 64 * KIB, "y": 64 * KIB}, 3,
                                      WEIGHTS_AGAIN)
    # 1 KiB each of X and Y in 2 windows: X comes again for 7 groups, 7 KiB where W takes 64.
    a = ROOMY.with_changes(batch=4, weight_kb=16, activation_kb=2)
    assert moved(layer, a)["forward"] == ({"x": 8 * KIB, "w": 64 * KIB, "y": KIB}, 8, ROWS_AGAIN)


def test_gradients_of_weights_leave_and_come_back():
    # 1 MiB each of X and D in 4 windows; weights in 2 groups, gradients of 4 bytes.
    a = ROOMY.with_changes(batch=16384, activation_kb=512, gradient_kb=512, weight_kb=4)
    sizes, again, reason = moved(fc(64, 64), a)["weight gradient"]
    assert (sizes, again, reason) == (
        {"x": KIB * KIB, "d": KIB * KIB, "dw": 2 * 3 * 4 * 4096}, 4, GRADIENTS_AGAIN)
    # Together the same, and W once more for each further window; D and dX share a buffer.
    sizes, again, reason = moved(fc(64, 64), a, "interleaved")["both gradients"]
    assert (sizes, again, reason) == (
        {"x": KIB * KIB, "d": KIB * KIB, "dx": KIB * KIB, "w": 8 * 4096,
         "dw": 2 * 7 * 4 * 4096}, 8, GRADIENTS_AGAIN)


def test_first_layer_fetches_gradients_of_its_own():
    layer = fc(64, 64, input_gradient=False)
    found = moved(layer, ROOMY)
    assert found["input gradient"][0] == {"d": 0, "w": 0, "dx": 0}
    assert found["weight gradient"][0]["d"] == 4 * 64
    assert moved(layer, ROOMY, "interleaved")["weight gradient"][0] == {
        "x": 256, "d": 256, "dw": 0}


def test_update_moves_weights_and_state():
    w = 256 * 256
    assert moved(fc(256, 256), ROOMY)["update"][0] == {"w": 2 * w, "state": 8 * w}
    roomy = ROOMY.with_changes(weight_kb=128)              # W is still there
    assert moved(fc(256, 256), roomy)["update"][0] == {"w": w, "state": 8 * w}
    assert moved(fc(256, 256), ROOMY, "fused")["update"][0] == {"w": w, "state": 8 * w}
    plain = ROOMY.with_changes(optimizer="sgd")
    assert moved(fc(256, 256), plain, "fused")["update"][0] == {"w": w, "state": 0}
    unused = ROOMY.with_changes(update=False)
    assert moved(fc(256, 256), unused, "fused")["both gradients"][0]["dw"] == 4 * w
    assert moved(fc(256, 256), unused, "ws")["weight gradient"][0]["dw"] == 4 * w
    assert "update" not in moved(fc(256, 256), unused, "fused")


def test_narrow_activations_pay_unless_few_samples_are_kept():
    layer = fc(256, 256)
    a = ROOMY.with_changes(batch=16, lanes=4)
    found = moved(layer, a, "lanes")
    assert found["forward"][0]["x"] == 16 * 256 * 1.25
    assert found["both gradients"][0]["x"] == 16 * 256 / 4
    few = moved(layer, a.with_changes(skip=0.75), "lanes")
    assert few["forward"][0]["x"] == 16 * 256
    assert few["both gradients"][0]["x"] == 4 * 256
    assert few["both gradients"][0]["d"] == 4 * 256


def test_wide_gradients_take_more_bytes():
    found = moved(fc(1024, 512), ROOMY.with_changes(gradient_bits=16))
    assert found["input gradient"][0] == {"d": 4096, "w": 512 * KIB, "dx": 8192}


def test_products_of_activations_have_operands_of_each_sample():
    layer = Layer(name="scores", kind="matmul", inputs=8, outputs=16, size=(4, 1), copies=3)
    found = moved(layer, ROOMY)
    assert found["forward"][0] == {"x": 4 * 96, "w": 4 * 384, "y": 4 * 192}
    assert set(found["update"][0].values()) == {0}


def test_a_network_that_fits_moves_its_images():
    network = Network("small", [fc(1024, 64, input_gradient=False), fc(64, 32)])
    shape = geometry(network)
    # 4 KiB of images and 384 bytes of Y; 384 of D; 66 KiB of weights.
    fits = ROOMY.with_changes(activation_kb=4480 / KIB, gradient_kb=384 / KIB, weight_kb=66)
    for name in ("ws", "interleaved"):
        found = traffic(shape, fits, SCHEDULES[name])
        assert found["forward"].bytes["x"].tolist() == [4096, 0]
        assert sum(one.total.sum() for one in found.values()) == 4096
        assert all(np.all(one.reason == RESIDENT) and np.all(one.again == 1)
                   for one in found.values())
    for less in ({"activation_kb": 4479 / KIB}, {"gradient_kb": 383 / KIB}, {"weight_kb": 65.9}):
        found = traffic(shape, fits.with_changes(**less), SCHEDULES["ws"])
        assert all(not np.any(one.reason == RESIDENT) for one in found.values())


def test_stalls_are_what_memory_takes_beyond_the_cycles():
    one = traffic(geometry(Network("one", [fc(1 << 14, 1 << 14)])), ROOMY, SCHEDULES["ws"])[
        "forward"]
    needed = float(one.total[0])
    assert one.stalls(np.array([1000]), 16).tolist() == [needed / 16 - 1000]
    assert one.stalls(np.array([1 << 40]), 16).tolist() == [0]
    assert one.stalls(np.array([1000]), None).tolist() == [0]


def pieces(amount, room):
    """Return pieces of an operand, as ranges of bytes."""
    size = max(math.floor(room), 1)
    return [range(start, min(start + size, amount))
            for start in range(0, amount, size)] or [range(0)]


def fetched(outer, inner):
    """Return the bytes of both operands fetched by a loop nest, into a half of a buffer each.

    A piece is fetched when it is not the one that is there.
    """
    there, total = [None, None], [0, 0]
    for one in outer:
        for other in inner:
            for index, piece in enumerate((one, other)):
                if there[index] != piece:
                    there[index], total[index] = piece, total[index] + len(piece)
    return total


SIZES = st.integers(1, 12)


@settings(max_examples=300)
@given(SIZES, SIZES, SIZES, st.sampled_from([8, 16, 32, 64]), st.sampled_from([8, 16, 32, 64]))
def test_forward_is_the_better_order_of_loops(batch, inputs, outputs, activations, weights):
    a = ROOMY.with_changes(batch=batch, activation_kb=2 * activations / KIB,
                           weight_kb=2 * weights / KIB)
    sizes, again, reason = moved(fc(inputs, outputs), a)["forward"]
    x, w, y = batch * inputs, inputs * outputs, batch * outputs
    # Windows of rows hold their X and Y; X is cut in proportion.
    windows = len(pieces(x + y, activations))
    rows = np.array_split(np.arange(x), windows)
    # Of more windows than bytes some are empty, and different all the same.
    rows = [range(int(one[0]), int(one[-1]) + 1) if len(one) else range(-i, -i)
            for i, one in enumerate(rows)]
    groups = pieces(w, weights)
    w_first, x_second = fetched(groups, rows)
    x_first, w_second = fetched(rows, groups)
    if len(rows) == 1 or len(groups) == 1:
        assert (sizes["x"], sizes["w"], again, reason) == (x, w, 1, ONCE)
    assert sizes["y"] == y
    assert sizes["x"] + sizes["w"] == min(w_first + x_second, x_first + w_second)
    assert again == max(sizes["x"] / x, sizes["w"] / w)
    assert reason == (ROWS_AGAIN if sizes["x"] > x else WEIGHTS_AGAIN if sizes["w"] > w else ONCE)


@st.composite
def machines(draw):
    """Draw assumptions with buffers from nothing to plenty."""
    sizes = st.sampled_from([0.01, 0.05, 0.2, 1, 4, 64])
    return Assumptions(
        batch=draw(st.integers(1, 64)), skip=draw(st.sampled_from([0, 0.5, 0.9])),
        lanes=draw(st.sampled_from([1, 4])), gradient_bits=draw(st.sampled_from([8, 16])),
        activation_kb=draw(sizes), gradient_kb=draw(sizes), weight_kb=draw(sizes))


LAYERS = st.builds(fc, st.integers(1, 64), st.integers(1, 64), size=st.tuples(
    st.integers(1, 9), st.just(1)), input_gradient=st.booleans())


@settings(max_examples=300)
@given(LAYERS, machines(), st.sampled_from(list(SCHEDULES)),
       st.sampled_from(["activation_kb", "gradient_kb", "weight_kb"]))
def test_traffic_is_compulsory_at_least_and_falls_with_larger_buffers(layer, a, schedule, buffer):
    found = moved(layer, a, schedule)
    larger = moved(layer, a.with_changes(**{buffer: 2 * getattr(a, buffer)}), schedule)
    rows = a.batch * layer.size[0]
    kept = rows * (1 - a.skip if SCHEDULES[schedule].skips else 1)
    wide, w = a.gradient_bits / 8, layer.inputs * layer.outputs
    # Below one sample a step on the average, a step often has none, and nothing to do.
    back = w * min(kept / layer.size[0], 1)
    lanes = a.lanes if SCHEDULES[schedule].lanes else 1
    least = {
        "forward": {"x": rows * layer.inputs, "w": w, "y": rows * layer.outputs},
        "input gradient": {"d": kept * layer.outputs * wide, "w": back,
                           "dx": kept * layer.inputs * wide},
        "weight gradient": {"x": kept * layer.inputs / lanes},
        "both gradients": {"x": kept * layer.inputs / lanes, "d": kept * layer.outputs * wide,
                           "w": back, "dx": kept * layer.inputs * wide},
        "update": {"w": back, "state": 8 * back},
    }
    for name, (sizes, again, reason) in found.items():
        if name in ("input gradient", "both gradients") and not layer.input_gradient:
            assert sum(sizes.values()) == 0
            continue
        if name == "weight gradient" and "both gradients" in found and layer.input_gradient:
            assert sum(sizes.values()) == 0
            continue
        for operand, amount in least[name].items():
            assert sizes[operand] >= amount - 1e-6, (name, operand)
        assert sum(larger[name][0].values()) <= sum(sizes.values()) + 1e-6, name
        # A reason names what comes again, and nothing else does.
        assert (again == 1) == (reason == ONCE), REASONS[reason]
        if reason in (WEIGHTS_AGAIN, GRADIENTS_AGAIN) and "w" in sizes and name != "update":
            assert sizes["w"] == pytest.approx(again * (w if name == "forward" else back))
        assert (sizes.get("dw", 0) > 0) == (reason == GRADIENTS_AGAIN)


def test_skipping_scales_what_moves_backward():
    layer, schedule = fc(64, 32), replace(SCHEDULES["ws"], skips=True)
    shape = geometry(Network("two", [layer, fc(1 << 14, 1 << 14)]))
    found = traffic(shape, ROOMY.with_changes(skip=0.75), schedule)
    assert found["forward"].bytes["x"][0] == 4 * 64
    assert found["input gradient"].bytes["d"][0] == 32
    assert found["input gradient"].bytes["dx"][0] == 64
    assert found["weight gradient"].bytes["x"][0] == 64


def test_heads_and_groups_never_fetch_for_each_other():
    # Of 12 heads and 16 samples each has 12 KiB of a second operand: each fits by itself.
    heads = Layer(name="scores", kind="matmul", inputs=64, outputs=196, size=(196, 1), copies=12)
    found = moved(heads, ROOMY.with_changes(batch=16))
    assert found["forward"][1:] == (1, ONCE)
    assert found["forward"][0]["x"] == 16 * 12 * 196 * 64
    # Four groups of 36 KiB pass one after the other through half of 80 KiB.
    conv = Layer(name="conv", inputs=256, outputs=256, kernel=(3, 3), padding=(1, 1, 1, 1),
                 size=(14, 14), groups=4)
    assert moved(conv, ROOMY.with_changes(weight_kb=80))["forward"][1:] == (1, ONCE)
    whole = replace(conv, groups=1)
    assert moved(whole, ROOMY.with_changes(weight_kb=80))["forward"][2] != ONCE


def test_nothing_moves_backward_where_nothing_is_kept():
    found = moved(fc(256, 256), ROOMY.with_changes(skip=1), "lanes")
    assert found["forward"][0]["w"] == 256 * 256
    assert all(sum(found[name][0].values()) == 0 for name in found if name != "forward")
