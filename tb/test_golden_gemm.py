"""The three products against loops, and against the slope of a network's loss."""

import numpy as np
import pytest

from gradloom_golden.fixed import integer_range
from gradloom_golden.gemm import forward, input_gradient, tile_sums, weight_gradient

SCALE = 1 << 24
SHAPES = [(1, 1, 1), (3, 5, 2), (7, 8, 4), (2, 9, 6)]


def looped(a, b, tile, bits):
    """Return a @ b by loops in Python integers; saturates after each tile."""
    low, high = integer_range(bits)
    result = [[0] * b.shape[1] for _ in range(a.shape[0])]
    for row in range(a.shape[0]):
        for column in range(b.shape[1]):
            total = 0
            for start in range(0, a.shape[1], tile):
                part = 0
                for term in range(start, min(start + tile, a.shape[1])):
                    part += int(a[row, term]) * int(b[term, column])
                total = min(max(total + part, low), high)
            result[row][column] = total
    return result


def operands(rng, shape):
    steps, inputs, outputs = shape
    return (rng.integers(-128, 128, (steps, inputs)), rng.integers(-128, 128, (inputs, outputs)),
            rng.integers(-128, 128, (steps, outputs)))


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_loops(shape, tile, bits, rng):
    x, w, d = operands(rng, shape)
    assert forward(x, w, rows=tile, bits=bits).tolist() == looped(x, w, tile, bits)
    assert input_gradient(d, w, columns=tile, bits=bits).tolist() == looped(d, w.T, tile, bits)
    assert weight_gradient(x, d).tolist() == looped(x.T, d, len(x), 62)


def test_sums_saturate_after_each_tile_in_order():
    a = np.array([[100, 100, -100]])
    b = np.ones((3, 1), int)
    assert tile_sums(a, b, 1, 8).tolist() == [[27]]
    assert tile_sums(a, b, 3, 8).tolist() == [[100]]
    assert tile_sums(-a, b, 1, 8).tolist() == [[-28]]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("lanes", "shift"), [(2, 0), (2, 4), (4, 3), (4, 6)])
def test_lanes_cut_the_activations_first(lanes, shift, unsigned, rng):
    low, high = integer_range(8, signed=not unsigned)
    least, most = integer_range(8 // lanes, signed=not unsigned)
    x = rng.integers(low, high, (6, 5), endpoint=True)
    d = rng.integers(-128, 128, (6, 3))
    draws = rng.integers(0, 65536, x.shape)
    cut = [[min(max(((value << 16 >> shift) + draw) >> 16, least), most) << shift
            for value, draw in zip(*pair, strict=True)]
           for pair in zip(x.tolist(), draws.tolist(), strict=True)]
    got = weight_gradient(x, d, lanes=lanes, shift=shift, unsigned=unsigned, random=draws)
    assert got.tolist() == looped(np.array(cut).T, d, len(x), 62)


def loss_of(x, weights, labels, unit):
    """Return the summed cross-entropy of linear, ReLU, linear, and what it passes through."""
    hidden = np.maximum(x @ weights[0], 0)
    z = hidden @ weights[1] * unit
    shifted = z - z.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), labels]).sum(), hidden, p


def slopes(function, point, width):
    """Return the central differences of `function` at each element of `point`."""
    result = np.empty(point.shape)
    for index in np.ndindex(point.shape):
        moved = [point.copy(), point.copy()]
        moved[0][index] += width
        moved[1][index] -= width
        result[index] = (function(moved[0]) - function(moved[1])) / (2 * width)
    return result


def test_gradients_are_the_slopes_of_the_loss(rng):
    x = rng.integers(-20, 21, (6, 5))
    weights = [rng.integers(-20, 21, (5, 4)), rng.integers(-20, 21, (4, 3))]
    labels, unit = np.array([0, 2, 1, 1, 0, 2]), 2.0 ** -12
    _, hidden, p = loss_of(x, weights, labels, unit)
    gap = p - np.eye(3)[labels]
    d2 = np.rint(gap * unit * SCALE * SCALE).astype(np.int64)
    dhidden = input_gradient(d2, weights[1], columns=2, bits=62)
    d1 = np.where(hidden > 0, dhidden, 0)
    got = [weight_gradient(x, d1), weight_gradient(hidden, d2),
           input_gradient(d1, weights[0], columns=2, bits=62)]
    floats = [weight.astype(float) for weight in weights]
    expected = [
        slopes(lambda w: loss_of(x, [w, floats[1]], labels, unit)[0], floats[0], 1e-3),
        slopes(lambda w: loss_of(x, [floats[0], w], labels, unit)[0], floats[1], 1e-3),
        slopes(lambda v: loss_of(v, floats, labels, unit)[0], x.astype(float), 1e-3),
    ]
    for ours, slope in zip(got, expected, strict=True):
        assert np.abs(slope).max() > 1e-3
        np.testing.assert_allclose(ours / SCALE / SCALE, slope, rtol=1e-5, atol=1e-7)
