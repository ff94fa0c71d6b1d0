"""PyTorch layers on a device compute what PyTorch computes with the same quantized operands."""

import copy
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[torch]'")

from torch import nn  # noqa: E402 - only with PyTorch
from torch.nn import functional  # noqa: E402

from gradloom_golden.config import PRESETS  # noqa: E402
from gradloom_host.device import Device  # noqa: E402
from gradloom_host.digits import digits  # noqa: E402
from gradloom_host.missing import MissingExtraError  # noqa: E402
from gradloom_host.torch_bridge import Conv2d, Linear, convert, quantize  # noqa: E402

# On tensors this small more threads only wait for each other.
torch.set_num_threads(1)

TINY = PRESETS["tiny"]
ROOT = Path(__file__).parents[1]

LINEARS = {
    # in, out, bias, input shape
    "batch": (7, 5, True, (6, 7)),
    "one sample": (7, 5, True, (7,)),
    "more axes": (3, 9, False, (2, 4, 3)),
    "more rows than steps": (5, 2, True, (40, 5)),
}
CONVS = {
    # in, out, kernel, other arguments, input shape
    "plain": (3, 5, 3, {}, (2, 3, 6, 5)),
    "one image": (3, 5, 3, {"padding": 1}, (3, 4, 5)),
    "strided": (4, 6, (3, 2), {"stride": (2, 1), "padding": (1, 0)}, (2, 4, 7, 6)),
    "no bias": (2, 3, 1, {"bias": False, "stride": 2}, (2, 2, 5, 5)),
    "grouped": (4, 8, 3, {"groups": 2, "padding": 1}, (2, 4, 5, 5)),
    "depthwise": (6, 6, 3, {"groups": 6, "padding": 1, "stride": 2}, (1, 6, 6, 6)),
}


@pytest.fixture
def golden():
    return Device(TINY, "golden")


@pytest.fixture(scope="module")
def rtl():
    device = Device(TINY, "rtl", check=True)
    yield device
    device.close()


def layers(device, kind, name, dtype=torch.float32):
    """Return a layer on the device, PyTorch's with the same parameters, and a shape of inputs."""
    if kind == "linear":
        inputs, outputs, bias, shape = LINEARS[name]
        ours = Linear(inputs, outputs, bias, device=device, dtype=dtype)
        theirs = nn.Linear(inputs, outputs, bias, dtype=dtype)
    else:
        inputs, outputs, kernel, more, shape = CONVS[name]
        ours = Conv2d(inputs, outputs, kernel, device=device, dtype=dtype, **more)
        theirs = nn.Conv2d(inputs, outputs, kernel, dtype=dtype, **more)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, shape


CASES = [("linear", name) for name in LINEARS] + [("conv", name) for name in CONVS]


def as_used(tensor, bits=8, *, unsigned=False):
    """Return what the device makes of a tensor, float64."""
    found = quantize("it", tensor, bits, unsigned=unsigned)
    return torch.from_numpy(np.ldexp(found.integers.astype(float), found.exponent))


def grad(tensor):
    """Return the gradient of a tensor, which must have one."""
    assert tensor.grad is not None
    return tensor.grad


def check(device, kind, name, dtype=torch.float64, *, positive=False):
    """Hold forward and backward against PyTorch in float64, given the operands that we use."""
    torch.manual_seed(1)
    config = device.config
    ours, theirs, shape = layers(device, kind, name, dtype)
    x = torch.randn(shape, dtype=dtype)
    x = (x.abs() if positive else x).requires_grad_()
    y = ours(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)

    theirs = theirs.double()
    with torch.no_grad():
        theirs.weight.copy_(as_used(ours.weight, config.operand_bits))
    their_x = as_used(x, config.operand_bits, unsigned=True).requires_grad_()
    their_y = theirs(their_x)
    used = as_used(gradient, config.gradient_bits)
    their_y.backward(used)

    # Products are exact: in float64 only the bias is added with a rounding.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for found, expected in ((y, their_y), (grad(x), grad(their_x)),
                            (grad(ours.weight), grad(theirs.weight))):
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), expected, rtol=tolerance, atol=tolerance)
    if ours.bias is not None:
        # Biases see the gradient as it is.
        features = 1 if kind == "conv" and y.ndim == 4 else 0 if kind == "conv" else y.ndim - 1
        others = [axis for axis in range(y.ndim) if axis != features]
        summed = gradient.double().sum(dim=others) if others else gradient.double()
        torch.testing.assert_close(
            grad(ours.bias).double(), summed, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_layers_are_exact_in_their_operands(golden, kind, name, positive):
    check(golden, kind, name, positive=positive)


@pytest.mark.parametrize(("kind", "name"), [("linear", "batch"), ("conv", "strided")])
@pytest.mark.parametrize("changes", [
    {"gradient_bits": 16}, {"operand_bits": 4, "lanes": False, "master_bits": 12}], ids=str)
def test_operands_have_the_bits_of_the_machine(kind, name, changes):
    check(Device(TINY.with_changes(**changes), "golden"), kind, name)


@pytest.mark.parametrize(("kind", "name"), [("linear", "more axes"), ("conv", "plain")])
def test_results_have_the_type_of_the_input(golden, kind, name):
    check(golden, kind, name, torch.float32)


@pytest.mark.parametrize(("kind", "name"), [("linear", "batch"), ("conv", "strided")])
def test_layers_run_on_the_rtl(rtl, kind, name):
    before = rtl.simulated_cycles
    check(rtl, kind, name, positive=True)
    rtl.compare_counters(name)
    assert rtl.simulated_cycles > before


@pytest.mark.parametrize(("kind", "name"), [("linear", "batch"), ("conv", "plain")])
def test_only_gradients_that_are_needed_are_computed(golden, kind, name):
    layer, _, shape = layers(golden, kind, name)
    x = torch.randn(shape)
    for needs_x, needs_w in ((True, True), (True, False), (False, True)):
        own = x.clone().requires_grad_(needs_x)
        layer.weight.requires_grad_(needs_w)
        layer.weight.grad = None
        golden.clear_counters()
        layer(own).sum().backward()
        assert (own.grad is not None, layer.weight.grad is not None) == (needs_x, needs_w)
        counters = golden.counters
        assert (counters["ws_slots"] > 0, counters["os_products"] > 0) == (needs_x, needs_w)


def test_the_backward_pass_uses_the_operands_of_the_forward_pass(golden):
    layer, _, shape = layers(golden, "linear", "batch")
    x = torch.randn(shape)
    y = layer(x)
    expected = as_used(torch.ones_like(y)).T @ as_used(x, unsigned=True)
    x.zero_()
    y.sum().backward()
    torch.testing.assert_close(grad(layer.weight).double(), expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_gradients_are_refused(golden):
    layer, _, shape = layers(golden, "linear", "batch")
    x = torch.randn(shape, requires_grad=True)
    first, = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# Quantization.


@pytest.mark.parametrize(("values", "unsigned", "integers", "exponent"), [
    ([127.0, -3.0], False, [127, -3], 0),
    ([128.0, 0.0], False, [64, 0], 1),                     # 127 is the most
    ([-128.0, 1.0], False, [-128, 1], 0),
    ([-129.0, 2.0], False, [-64, 1], 1),
    ([1.0, 0.5], False, [64, 32], -6),
    ([255.0, 1.0], False, [64, 0], 2),
    ([255.0, 1.0], True, [255, 1], 0),
    ([255.0, -1.0], True, [64, 0], 2),                     # not all are positive
    ([0.0, 0.0], True, [0, 0], 0),
    ([1e-40, 0.0], False, [70, 0], -139),                  # below the least normal number
])
def test_the_finest_power_of_two_that_holds_all(values, unsigned, integers, exponent):
    found = quantize("it", torch.tensor(values), 8, unsigned=unsigned)
    assert found.integers.tolist() == integers
    assert found.exponent == exponent
    assert found.unsigned == (unsigned and min(values) >= 0)


@given(values=st.lists(st.floats(-1e30, 1e30), min_size=1), bits=st.sampled_from([4, 8, 16]),
       unsigned=st.booleans())
def test_quantization_is_nearest_and_no_coarser_than_it_must(values, bits, unsigned):
    tensor = torch.tensor(values, dtype=torch.float64)
    found = quantize("it", tensor, bits, unsigned=unsigned)
    high = (1 << bits - (not found.unsigned)) - 1
    low = 0 if found.unsigned else -high - 1
    assert low <= found.integers.min() <= found.integers.max() <= high
    scaled = np.ldexp(tensor.numpy(), -found.exponent)
    assert (np.abs(scaled - found.integers) <= 0.5).all()
    if tensor.any():
        finer = 2 * scaled
        assert finer.max() > high or finer.min() < low


# Modules.


def test_state_is_that_of_pytorch(golden):
    for kind, name in CASES:
        torch.manual_seed(3)
        ours, _, _ = layers(golden, kind, name)
        torch.manual_seed(3)
        theirs = (nn.Linear(*LINEARS[name][:3]) if kind == "linear"
                  else nn.Conv2d(*CONVS[name][:3], **CONVS[name][3]))
        state = theirs.state_dict()
        assert list(ours.state_dict()) == list(state)
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


class Derived(nn.Linear):
    """A layer of a class of its own."""


def test_convert_keeps_everything_but_where_products_run(golden):
    shared = nn.Linear(6, 6)
    nested = nn.Sequential(nn.Linear(12, 6), shared, shared)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(), nn.Flatten(), nested, Derived(6, 2))
    names, parameters = list(model.state_dict()), list(model.parameters())
    called = []
    shared.register_forward_hook(lambda *_: called.append(True))
    x = torch.randn(2, 2, 4, 4)
    before = model(x)
    assert convert(model, golden) is model
    assert list(model.state_dict()) == names
    assert all(new is old for new, old in zip(model.parameters(), parameters))
    assert [type(layer) for layer in (*model, *nested)] == [
        Conv2d, nn.ReLU, nn.Flatten, nn.Sequential, Derived, Linear, Linear, Linear]
    assert nested[1] is nested[2] is shared
    called.clear()
    golden.clear_counters()
    torch.testing.assert_close(model(x), before, rtol=0, atol=0.05)
    assert len(called) == 2
    assert golden.counters["macs"] > 0
    root = nn.Linear(2, 2)
    assert isinstance(convert(root, golden), Linear)


def test_a_model_that_cannot_be_converted_stays_as_it_was(golden):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2)))
    with pytest.raises(ValueError, match=re.escape(
            "layer '1.0': dilation (2, 2) is not computed: use 1")):
        convert(model, golden)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ValueError, match="layer 'Conv2d': padding 'same' is a name: give numbers"):
        convert(nn.Conv2d(1, 1, 3, padding="same"), golden)
    with pytest.raises(ValueError, match="padding_mode 'reflect' is not computed: use 'zeros'"):
        convert(nn.Conv2d(1, 1, 3, padding_mode="reflect"), golden)
    with pytest.raises(ValueError, match="layer 'Conv2d': stride must be two numbers from 1 to"):
        convert(nn.Conv2d(1, 1, 3, stride=300), golden)


CPU: Any = "cpu"
NOTHING: Any = None


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda g: Linear(2, 2, device=CPU), TypeError,
     "device must be a gradloom_host.Device, not 'cpu': tensors stay on the CPU"),
    (lambda g: Conv2d(2, 2, 1, device=NOTHING), TypeError, "device must be .* not None"),
    (lambda g: convert(nn.Linear(2, 2), CPU), TypeError, "device must be .* not 'cpu'"),
    (lambda g: Conv2d(2, 2, 1, padding="valid", device=g), ValueError,
     "^padding 'valid' is a name: give numbers"),
    (lambda g: Linear(2, 2, device=g)(torch.ones(1, 2, device="meta")), TypeError,
     "the input lies on meta: move it and the model to the CPU, from where the device reads"),
    (lambda g: Linear(2, 2, device=g)(torch.ones(1, 2, dtype=torch.float16)), TypeError,
     "the input holds torch.float16: convert it and the model to torch.float32"),
    (lambda g: Linear(2, 2, device=g).bfloat16()(torch.ones(1, 2)), TypeError,
     "the weight holds torch.bfloat16: convert it and the model to torch.float32"),
    (lambda g: Linear(2, 2, device=g)(torch.tensor([[1, float("nan")]])), ValueError,
     "the input holds infinities or NaN: lower the learning rate, or scale it"),
    (lambda g: (Linear(2, 2, device=g)(torch.ones(1, 2)) * float("inf")).sum().backward(),
     ValueError, "the gradient holds infinities or NaN"),
    (lambda g: Linear(3, 2, device=g)(torch.ones(1, 2)), ValueError, "x has 2 channels, w takes 3"),
    (lambda g: Conv2d(2, 2, 1, device=g)(torch.ones(2, 2)), ValueError,
     r"the input has shape \(2, 2\): give \(N, C, H, W\), or \(C, H, W\) for one image"),
])
def test_what_cannot_run_is_named(golden, call, error, words):
    with pytest.raises(error, match=words):
        call(golden)


def test_without_pytorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "gradloom_host.torch_bridge")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'gradloom[torch]'")):
        import gradloom_host.torch_bridge  # noqa: F401, PLC0415 - anew, without PyTorch


# Training.


def train(model, images, labels, epochs):
    """Return the loss of each step."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return np.array(losses)


def test_training_follows_that_of_pytorch():
    data = digits()
    images = torch.tensor(data.train_images[:256] / 256, dtype=torch.float32)
    images, labels = images.reshape(-1, 1, 8, 8), torch.tensor(data.train_labels[:256])
    torch.manual_seed(4)
    plain = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    ours = convert(copy.deepcopy(plain), Device(PRESETS["base"], "golden"))
    expected = train(plain, images, labels, epochs=6)
    found = train(ours, images, labels, epochs=6)
    assert found[0] == pytest.approx(expected[0], abs=0.02)
    assert found[-8:].mean() < found[0] / 3
    assert found[-8:].mean() == pytest.approx(expected[-8:].mean(), abs=0.1)


def test_the_example_runs(monkeypatch, capsys):
    example = ROOT / "examples" / "pytorch_mnist_like.py"
    monkeypatch.setattr(sys, "argv", [str(example), "--epochs", "1", "--samples", "64"])
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(r"epoch 1: loss \d\.\d+, test accuracy .*%\nthe machine took [\d,]+ cycles",
                     capsys.readouterr().out)
