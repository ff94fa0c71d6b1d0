"""Autograd functions: their products are exact, and near those of float tensors."""

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_study.draws import Generated  # noqa: E402
from gradloom_study.functional import conv2d, linear, quantize  # noqa: E402

torch.set_num_threads(1)


def grid(shape, exponent, seed, low=-127):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, 128, shape, generator=generator).float()
    values.view(-1)[0] = 127
    return (values * 2.0 ** exponent).requires_grad_()


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_on_a_grid_they_are_pytorchs(stride, padding):
    # Operands that eight bits hold are cut by nothing; nor is D, on its own grid.
    x, weight = grid((2, 3, 7, 6), -4, 1), grid((4, 3, 3, 3), -6, 2)
    y = conv2d(x, weight, Generated(1), stride=stride, padding=padding)
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), None, stride, padding)
    assert torch.equal(y.double(), expected)
    d = grid(y.shape, -9, 3).detach()
    found = torch.autograd.grad(y, (x, weight), d)
    wanted = torch.autograd.grad(expected, (x, weight), d.double())
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-6, atol=0)


def test_lanes_turn_the_weight_gradient_only():
    x, weight = grid((8, 6), -4, 1), grid((5, 6), -6, 2)
    d = grid((8, 5), -9, 3).detach()
    gradients = {lanes: torch.autograd.grad(
        linear(x, weight, Generated(1), lanes=lanes), (x, weight), d) for lanes in (1, 2, 4)}
    for lanes in (2, 4):
        assert torch.equal(gradients[lanes][0], gradients[1][0])
        similar = torch.nn.functional.cosine_similarity(
            gradients[lanes][1].flatten(), gradients[1][1].flatten(), dim=0)
        assert 0.6 < similar < 0.9999


def test_frozen_inputs_get_no_gradient():
    x, weight = grid((2, 3), -4, 1).detach(), grid((4, 3), -4, 2)
    linear(x, weight, Generated(1)).sum().backward()
    assert weight.grad is not None


def test_quantized_tensors_use_their_bits():
    values, exponent = quantize(torch.tensor([0.5, -1.0, 0.003]), 8)
    assert (values.tolist(), exponent) == ([32, -64, 0], -6)
    assert quantize(torch.zeros(3), 8)[1] == 0
    many = torch.full((20000,), 0.003)
    many[0] = 1
    drawn, exponent = quantize(many, 8, Generated(1))
    assert float(drawn[1:].mean()) * 2.0 ** exponent == pytest.approx(0.003, rel=0.05)
    tiny, exponent = quantize(torch.tensor([0.0, 1e-39, -5e-40]), 8)
    assert (tiny.tolist(), exponent) == ([0, 87, -44], -136)
    with pytest.raises(ValueError, match="an element is inf: only finite numbers"):
        quantize(torch.tensor([float("inf")]), 8)
