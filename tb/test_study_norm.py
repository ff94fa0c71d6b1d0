"""Batch normalization by the host, between eight-bit tensors, against PyTorch's in float64."""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_study.draws import Generated  # noqa: E402
from gradloom_study.norm import EPSILON, BatchNorm  # noqa: E402
from gradloom_study.step import Integers, Step  # noqa: E402

COUNT = 12
SHAPE = (COUNT, 4, 4, 5)


def made(seed=1, relu=False):
    rng = np.random.default_rng(seed)
    layer = BatchNorm(5, relu=relu)
    layer.gain.copy_(torch.from_numpy(rng.uniform(0.5, 2, 5)))
    layer.offset.copy_(torch.from_numpy(rng.uniform(-1, 1, 5)))
    layer.scales["y"].exponent = -5
    layer.scales["d"].exponent = -9
    x = Integers(torch.from_numpy(rng.integers(-128, 128, SHAPE)).float(), -4)
    d = Integers(torch.from_numpy(rng.integers(-128, 128, SHAPE)).float(), -8)
    return layer, x, d


def normalized(layer, values):
    """Return values (n, height, width, channels) as PyTorch normalizes them, n as one batch."""
    y = torch.nn.functional.batch_norm(values.permute(0, 3, 1, 2), None, None, layer.gain.double(),
                                       layer.offset.double(), training=True, eps=EPSILON)
    return y.permute(0, 2, 3, 1)


def real(some):
    return some.values.double() * 2.0 ** some.exponent


def test_forward_rounds_to_nearest():
    layer, x, _ = made()
    y = layer(x, train=True)
    expected = normalized(layer, real(x)) * 2.0 ** 5
    assert float((y.values - expected.clamp(-128, 127)).abs().max()) <= 0.5 + 1e-3
    layer, x, _ = made(relu=True)
    y = layer(x, train=True)
    assert (y.unsigned, y.relu) == (True, True)
    assert float((y.values - expected.clamp(0, 255)).abs().max()) <= 0.5 + 1e-3


@pytest.mark.parametrize("kept", [COUNT, 5, 1])
def test_backward_takes_the_kept_for_the_batch(kept):
    layer, x, d = made()
    keep = torch.randperm(COUNT, generator=torch.Generator().manual_seed(kept))[:kept].sort().values
    errors = real(d)[keep]
    values = real(x)[keep].requires_grad_()
    # Forward, all samples were divided by the deviation of all.
    narrower = values.detach().std((0, 1, 2)) / real(x).std((0, 1, 2))
    narrower *= ((1 - 1 / values[..., 0].numel()) / (1 - 1 / x.values[..., 0].numel())) ** 0.5
    [dx] = torch.autograd.grad(normalized(layer, values), values, errors)
    dx *= narrower
    before = layer.gain.clone(), layer.offset.clone()
    by_gain = errors * (normalized(layer, real(x))[keep] - before[1]) / before[0]
    layer(x, train=True)
    found = layer.backward(Integers(d.values[keep], d.exponent), Step(
        batch=16, draws=Generated(1), rate=2, momentum=None,
        keep=None if kept == COUNT else keep))
    # Stochastic rounding is off by less than one.
    wanted = (dx * 2.0 ** 9).clamp(-128, 127)
    assert float((found.values - wanted).abs().max()) < 1 + 1e-3
    assert float((found.values - wanted).mean().abs()) < 0.1
    for was, now, gradient in zip(before, (layer.gain, layer.offset), (by_gain, errors)):
        torch.testing.assert_close(now, (was - gradient.sum((0, 1, 2)) / 4 / 16).float())


@pytest.mark.parametrize("kept", [COUNT, 5, 1])
def test_gradients_have_no_part_that_normalization_hides(kept):
    layer, x, d = made()
    layer(x, train=True)
    layer.scales["d"].exponent = -8                         # nothing saturates
    found = layer.backward(Integers(d.values[:kept], d.exponent), Step(
        batch=16, draws=Generated(1), stochastic=False,
        keep=None if kept == COUNT else torch.arange(kept)))
    pixels = kept * SHAPE[1] * SHAPE[2]
    assert float(found.values.abs().mean()) > 10
    for hidden in (torch.ones_like(x.values[:kept]), x.values[:kept] / 74):
        part = (found.values * hidden).sum((0, 1, 2)) / pixels
        assert float(part.abs().max()) < 0.5


def test_without_a_kept_sample_nothing_is_learned():
    layer, x, _ = made()
    layer(x, train=True)
    found = layer.backward(Integers(torch.zeros(0, *SHAPE[1:]), -8), Step(
        batch=16, draws=Generated(1), keep=torch.zeros(0, dtype=torch.long)))
    assert found.values.shape == (0, *SHAPE[1:])


def test_running_statistics_settle_on_those_of_the_batch():
    layer, x, _ = made()
    trained = layer(x, train=True)
    for _ in range(80):
        layer(x, train=True)
    tested = layer(x)
    assert float((trained.values - tested.values).abs().max()) <= 1
    values = x.values.double() * 2.0 ** x.exponent
    torch.testing.assert_close(layer.mean.double(), values.mean((0, 1, 2)), atol=1e-2, rtol=0)
    torch.testing.assert_close(layer.variance.double(), values.var((0, 1, 2)), rtol=1e-2, atol=0)


def test_momentum_keeps_the_velocity():
    layer, x, d = made()
    before = layer.offset.clone()
    for _ in range(2):
        layer(x, train=True)
        before = layer.offset.clone()
        layer.backward(d, Step(batch=16, draws=Generated(1), rate=2, momentum=3))
    gradient = d.values.sum((0, 1, 2)) * 2.0 ** d.exponent / 16 / 4
    torch.testing.assert_close(before - layer.offset, gradient * (1 + 7 / 8), rtol=1e-4, atol=1e-6)
