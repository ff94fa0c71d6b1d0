"""Products of integers in floating point are exact, at the ends of the operands and beyond."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from conv_reference import convolve, convolve_back  # noqa: E402
from gradloom_study import products  # noqa: E402
from gradloom_study.products import Geometry  # noqa: E402

torch.set_num_threads(1)


def torch_weights(weights):
    return torch.from_numpy(weights.transpose(3, 2, 0, 1)).float().contiguous()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), unfold=st.booleans(), extreme=st.booleans())
def test_convolutions_equal_loops(data, unfold, extreme):
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16)))
    taps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    stride, pad = data.draw(st.integers(1, 3)), data.draw(st.integers(0, min(taps) - 1))
    size = data.draw(st.integers(max(taps), 7)), data.draw(st.integers(max(taps), 7))
    inputs, outputs = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    images = rng.integers(0, 256, (2, *size, inputs))
    weights = rng.integers(-128, 128, (*taps, inputs, outputs))
    geometry = Geometry(stride, pad)
    out = geometry.size(size[0], taps[0]), geometry.size(size[1], taps[1])
    d = rng.integers(-128, 128, (2, *out, outputs))
    if extreme:
        images[:], weights[:], d[:] = 255, -128, -128
    x, w = torch.from_numpy(images).float(), torch_weights(weights)
    gradients = torch.from_numpy(d).float()
    y = products.forward(x, w, geometry, 255, unfold=unfold)
    np.testing.assert_array_equal(y.numpy(), convolve(images, weights, stride=stride, pad=pad))
    dx, dw = convolve_back(images, weights, d, stride=stride, pad=pad)
    found = products.input_gradient(gradients, w, geometry, size, 128, unfold=unfold)
    np.testing.assert_array_equal(found.numpy(), dx)
    found = products.weight_gradient(x, gradients, taps, geometry, 255, unfold=unfold)
    np.testing.assert_array_equal(found.numpy(), dw.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("channels", [56, 57, 64, 300])
@pytest.mark.parametrize("odd", [0, 1])
def test_sums_at_and_beyond_float32(channels, odd):
    # 9 x 57 x 255 x 128 exceeds 2**24; an odd sum there is no float32.
    x = torch.full((1, 3, 3, channels), 255.0)
    weight = torch.full((2, channels, 3, 3), -128.0)
    weight[0, 0, 0, 0] += odd
    y = products.forward(x, weight, Geometry(), 255)
    total = -255 * 128 * 9 * channels
    assert y.flatten().tolist() == [total + 255 * odd, total]
    assert y.dtype == (torch.float32 if abs(total) <= 1 << 24 else torch.float64)


def test_a_start_counts():
    x, weight = torch.ones(1, 1, 1, 1), torch.ones(2, 1, 1, 1)
    start = torch.tensor([1 << 24, 5], dtype=torch.float64)
    y = products.forward(x, weight, Geometry(), 1, start=start)
    assert y.flatten().tolist() == [(1 << 24) + 1, 6]


@pytest.mark.parametrize("unfold", [False, True])
def test_weight_gradients_of_many_pixels(unfold):
    # 40 x 400 pixels of 255 x 127: images go through in parts, and one is too much for float32.
    rng = np.random.default_rng(3)
    x = torch.full((40, 20, 20, 2), 255.0)
    d = torch.from_numpy(rng.integers(-5, 6, (40, 20, 20, 3))).float()
    x[7, 0, 0, 0], d[7] = 254.0, 127.0
    d[7, 3:, :, 1] = 0
    found = products.weight_gradient(x, d, (1, 1), Geometry(), 255, unfold=unfold)[:, :, 0, 0]
    expected = torch.einsum("bhwn,bhwc->nc", d.double(), x.double())
    assert torch.equal(found, expected)
    large = torch.full((1, 30, 30, 1), 127.0)
    odd = torch.full((1, 30, 30, 1), 255.0)
    odd[0, 0, 0, 0] = 254.0
    [[[[found]]]] = products.weight_gradient(
        odd, large, (1, 1), Geometry(), 255, unfold=unfold).tolist()
    assert found == 127 * (255 * 900 - 1)
    assert found > 1 << 24
    # A sum may be small and not what adds up on the way to it.
    both = torch.cat([large, -large], 1)
    some = torch.from_numpy(rng.integers(200, 256, both.shape)).float()
    [[[[found]]]] = products.weight_gradient(
        some, both, (1, 1), Geometry(), 255, unfold=unfold).tolist()
    assert found == float((some.double() * both.double()).sum())


def test_nothing_kept_gives_zeros():
    empty = torch.zeros(0, 4, 4, 2)
    found = products.weight_gradient(empty, torch.zeros(0, 4, 4, 3), (3, 3), Geometry(1, 1), 255)
    assert found.shape == (3, 2, 3, 3)
    assert not found.any()


def test_sums_that_golden_would_saturate_are_refused():
    x, weight = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    start = torch.tensor([float(1 << 31)], dtype=torch.float64)
    with pytest.raises(ValueError, match="sums could grow to 2,147,483,649, beyond the 32 bits of "
                                         "the machine's: use smaller biases or fewer inputs"):
        products.forward(x, weight, Geometry(), 1, start=start)


def test_a_device_that_rounds_is_refused(monkeypatch):
    products.check_device("cpu")
    exact = torch.nn.functional.conv2d

    def rounding(x, weight, *rest):
        return exact(x.bfloat16(), weight.bfloat16(), *rest).float()

    monkeypatch.setattr(products.functional, "conv2d", rounding)
    with pytest.raises(RuntimeError, match=r"cpu multiplies integers inexactly.*call "
                                           r"torch.set_float32_matmul_precision"):
        products.check_device("cpu")
