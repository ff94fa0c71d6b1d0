"""Layers alone: what whole networks on the golden machine do not reach."""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden import gemm, lanes  # noqa: E402
from gradloom_golden.fixed import round_shift, saturate  # noqa: E402
from gradloom_golden.lfsr import Bank  # noqa: E402
from gradloom_study import layers, products  # noqa: E402
from gradloom_study.draws import Generated, Replayed  # noqa: E402
from gradloom_study.products import Geometry  # noqa: E402
from gradloom_study.step import Integers, Step  # noqa: E402


@pytest.mark.parametrize("bits", [4, 2])
def test_a_first_layer_packs_patches(bits):
    # Each pixel comes in many patches and is rounded in each: on the machine, and so here.
    rng = np.random.default_rng(1)
    geometry = Geometry(2, 1)
    layer = layers.Conv(3, 5, (3, 3), geometry, exponent=-7, first=True)
    x = torch.from_numpy(rng.integers(0, 256, (2, 7, 7, 3))).float()
    d = torch.from_numpy(rng.integers(-128, 128, (2, 4, 4, 5))).float()
    random = rng.integers(0, 65536, (2, 16, 27))
    step = Step(batch=2, draws=Replayed({Bank.PACK: [torch.from_numpy(random)]}))
    found = layer.packed_gradient(x, d, 255, 8 // bits, step)
    windows = products.patches(x, (3, 3), geometry).numpy().reshape(32, 27)
    expected = gemm.weight_gradient(
        windows, d.numpy().reshape(32, 5), lanes=8 // bits, shift=8 - bits, unsigned=True,
        random=random.reshape(32, 27))
    np.testing.assert_array_equal(
        found.permute(2, 3, 1, 0).reshape(27, 5).numpy(), expected)


def test_signed_activations_pack_as_signed():
    rng = np.random.default_rng(2)
    layer = layers.Linear(6, 3, exponent=-7)
    x = torch.from_numpy(rng.integers(-128, 128, (8, 1, 1, 6))).float()
    d = torch.from_numpy(rng.integers(-128, 128, (8, 1, 1, 3))).float()
    random = rng.integers(0, 65536, (8, 1, 1, 6))
    step = Step(batch=8, draws=Replayed({Bank.PACK: [torch.from_numpy(random)]}))
    cut = lanes.quantize(x.numpy().astype(np.int64)[:, 0, 0], 4, 4, unsigned=False,
                         random=random[:, 0, 0])
    expected = d.numpy()[:, 0, 0].T @ (cut << 4)
    np.testing.assert_array_equal(layer.packed_gradient(x, d, 128, 2, step).numpy(), expected)


@pytest.mark.parametrize("inputs", [500, 1200])
def test_products_of_wide_layers_are_exact(inputs):
    # 1,200 inputs at their ends exceed float32, as do 1,200 samples; an odd sum shows it.
    layer = layers.Linear(inputs, 2, exponent=-7, bias=False, relu=False)
    layer.master[:] = -32768
    layer.master[0, 0] += 256
    x = torch.full((inputs, 1, 1, inputs), 255.0)
    assert layer._sums(Integers(x, 0, unsigned=True), None)[0].flatten().tolist() == [
        -128 * 255 * inputs + 255, -128 * 255 * inputs]
    d = torch.full((inputs, 1, 1, 2), -128.0)
    d[0, 0, 0, 0] = -127
    assert layer.gradient(x, d, 255)[:, 0].tolist() == [
        -128 * 255 * inputs + 255, -128 * 255 * inputs]
    assert layer._input_gradient(d[:1], x[:1]).flatten()[:2].tolist() == [
        127 * 127 + 128 * 128, 127 * 128 + 128 * 128]


@pytest.mark.parametrize("pixels", [1036, 1037])
def test_weight_gradients_that_golden_would_saturate_are_refused(pixels):
    layer = layers.Conv(1, 1, (1, 1), Geometry(), exponent=-7, bias=False, first=True)
    x = Integers(torch.full((1, 1, pixels, 1), 255.0), 0, unsigned=True)
    layer(x, train=True)
    d = Integers(torch.full((1, 1, pixels, 1), 127.0), 0)
    step = Step(batch=1, draws=Generated(1))
    if 255 * 127 * pixels < 1 << 25:
        layer.backward(d, step)
        return
    with pytest.raises(ValueError, match=r"shape \(1, 1, 1, 1\) grew to 33,583,245, beyond the"):
        layer.backward(d, step)


def test_backward_needs_forward():
    layer = layers.Linear(2, 2, exponent=-7)
    with pytest.raises(AssertionError, match=r"forward\(train=True\) comes before backward"):
        layer.backward(Integers(torch.zeros(1, 1, 1, 2), 0), Step(batch=1, draws=Generated(1)))


@pytest.mark.parametrize(("reach", "steps"), [(0.2, -1), (0.9, 0), (3.0, 1)])
def test_weights_move_their_exponent(reach, steps):
    layer = layers.Linear(64, 4, exponent=-7)
    values = torch.linspace(-reach, reach, 256).double().view(4, 64)
    layer.master = (values * 2 ** 15).round().clamp(-32640, 32639) + 128
    layer.velocity = torch.full((4, 64), 64.0).double()
    before = (layer.master - 128) * 2.0 ** (layer.exponent - 8)
    layer.adapt_weights()
    assert layer.exponent == -7 + steps
    after = (layer.master - 128) * 2.0 ** (layer.exponent - 8)
    assert float((after - before).abs().max()) <= 2.0 ** (layer.exponent - 9)
    assert layer.velocity.unique().tolist() == [64 * 2.0 ** -steps]


def test_a_shortcut_takes_every_second_pixel():
    layer = layers.Shortcut(5, 2)
    x = torch.arange(2 * 5 * 5 * 3).float().view(2, 5, 5, 3)
    y = layer(Integers(x, -4, unsigned=True), train=True)
    assert (y.exponent, y.unsigned) == (-4, True)
    assert torch.equal(y.values[..., :3], x[:, ::2, ::2])
    assert not y.values[..., 3:].any()
    d = torch.randint(-9, 9, (1, 3, 3, 5)).float()
    dx = layer.backward(Integers(d, -2), Step(batch=2, draws=Generated(1)))
    # The gradient is the adjoint: both inner products agree.
    assert float((dx.values[0] * x[0]).sum()) == float((d[0] * y.values[0]).sum())


def test_the_first_of_equal_maxima_gets_the_gradient():
    layer = layers.MaxPool(2)
    x = torch.tensor([[3.0, 7, 0], [7, 7, 0], [9, 9, 9]]).view(1, 3, 3, 1)
    y = layer(Integers(x, -4, unsigned=True, relu=True), train=True)
    assert (y.values.tolist(), y.exponent) == ([[[[7.0]]]], -4)
    d = Integers(torch.full((1, 1, 1, 1), -5.0), -2)
    dx = layer.backward(d, Step(batch=1, draws=Generated(1)))
    assert dx.values.flatten().tolist() == [0, -5, 0, 0, 0, 0, 0, 0, 0]
    assert dx.exponent == -2


def test_sums_of_gradients_round_and_saturate():
    rng = np.random.default_rng(4)
    first, second = rng.integers(-128, 128, (2, 3, 2, 2, 4))
    y = rng.integers(0, 3, (3, 2, 2, 4))
    random = rng.integers(0, 65536, first.shape)
    scale = layers.Scale(-4)
    step = Step(batch=4, draws=Replayed({Bank.VECTOR: [torch.from_numpy(random)]}))
    ones, others, output = (torch.from_numpy(part).float() for part in (first, second, y))
    found = layers.accumulate(
        Integers(ones, -6), Integers(others, -5), Integers(output, 0, unsigned=True, relu=True),
        scale, step)
    total = np.where(y > 0, first + 2 * second, 0)
    np.testing.assert_array_equal(found.values.numpy(), saturate(round_shift(total, 2, random), 8))


@pytest.mark.parametrize("batch", [0, 3, 96])
def test_a_batch_is_a_power_of_two(batch):
    with pytest.raises(ValueError, match=f"batch must be a power of two, which the learning rate "
                                         f"takes in, not {batch}"):
        Step(batch=batch, draws=Generated(1))
