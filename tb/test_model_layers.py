"""Layers count what a convolution or a product multiplies, whatever it was made from."""

from dataclasses import replace
from math import prod

import pytest

import model_count
from gradloom_model.layers import Layer, Network, Operator
from gradloom_model.readers.products import (
    Axis,
    Names,
    attention,
    contraction,
    convolution,
    per_sample,
    transposed_convolution,
)

LAYERS = {
    "plain": Layer(name="l", inputs=3, outputs=4, kernel=(3, 3), size=(6, 5)),
    "padded, strided": Layer(name="l", inputs=2, outputs=3, kernel=(3, 2), stride=(2, 3),
                             padding=(1, 0, 2, 1), size=(7, 6)),
    "dilated": Layer(name="l", inputs=2, outputs=2, kernel=(3, 2), dilation=(2, 3), size=(8, 7)),
    "grouped": Layer(name="l", inputs=6, outputs=4, kernel=(2, 2), groups=2, size=(4, 3)),
    "linear": Layer(name="l", kind="linear", inputs=5, outputs=3, size=(4, 1)),
    "product": Layer(name="l", kind="matmul", inputs=5, outputs=3, size=(4, 1), copies=2),
}

ERRORS = {
    "kind": ({"kind": "pool"}, ValueError, "kind must be one of conv, linear, matmul, not 'pool'"),
    "amount": ({"outputs": 0}, ValueError, "outputs must be at least 1, not 0"),
    "no integer": ({"inputs": 2.0}, TypeError, "inputs must be of type int, not 2.0"),
    "pair": ({"size": (3,)}, TypeError, r"size must be 2 integers, not \(3,\)"),
    "padding": ({"padding": (0, -1, 0, 0)}, ValueError, "padding must not be negative"),
    "groups": ({"groups": 2, "outputs": 3}, ValueError, "2 groups do not divide 3 outputs"),
    "linear kernel": ({"kind": "linear", "kernel": (3, 3)}, ValueError, "only a convolution has"),
    "copies": ({"copies": 2}, ValueError, "only a product of activations has copies"),
    "kernel": ({"kernel": (5, 1)}, ValueError, r"exceeds the padded input \(4, 4\)"),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_counts_every_product(layer):
    assert layer.macs == model_count.layer(layer)


def test_weights_are_those_of_all_groups():
    assert LAYERS["grouped"].weights == 4 * 3 * 2 * 2
    assert LAYERS["linear"].weights == 15
    assert LAYERS["product"].weights == 0


@pytest.mark.parametrize(("change", "kind", "words"), ERRORS.values(), ids=ERRORS)
def test_refuses(change, kind, words):
    with pytest.raises(kind, match=words):
        replace(Layer(name="l", inputs=2, outputs=4, size=(4, 4)), **change)


def test_network_adds_up_its_layers():
    network = Network("n", [LAYERS["linear"], LAYERS["product"]],
                      [Operator(name="a", operator="Relu")])
    assert network.macs == 60 + 120
    assert network.weights == 15
    assert network.others[0].known


def test_refuses_a_network_without_layers():
    with pytest.raises(ValueError, match="network 'n' has no layer that multiplies"):
        Network("n", [])


def _random_axis(rng):
    kernel, dilation, stride = (int(rng.integers(1, high)) for high in (4, 3, 4))
    extent = dilation * (kernel - 1) + 1
    return Axis(size=int(rng.integers(max(1, extent - 2), extent + 4)), kernel=kernel,
                stride=stride, dilation=dilation, before=2, after=int(rng.integers(0, 3)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_folding_keeps_every_count(rng, axes):
    for _ in range(60):
        along = [_random_axis(rng) for _ in range(axes)]
        images, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        layer = convolution("l", along, inputs=2 * groups, outputs=3 * groups, groups=groups,
                            images=images)
        counted = images * model_count.convolution(
            [axis.size for axis in along], [axis.kernel for axis in along], inputs=2 * groups,
            outputs=3 * groups, groups=groups, stride=[axis.stride for axis in along],
            dilation=[axis.dilation for axis in along],
            pads=[axis.before for axis in along] + [axis.after for axis in along])
        assert layer.macs == counted == model_count.layer(layer)
        assert layer.taps == prod(axis.kernel for axis in along)
        assert prod(layer.size) == images * prod(axis.size for axis in along)
        assert prod(layer.out_size) == images * prod(axis.out for axis in along)
        assert layer.weights == 3 * groups * 2 * layer.taps


@pytest.mark.parametrize("size", [3, 4])
def test_folding_to_one_output_keeps_every_count(size):
    layer = convolution("l", [Axis(size=size, kernel=3, stride=2), Axis(size=2, kernel=2),
                              Axis(size=1)], inputs=5, outputs=7)
    assert (layer.taps, layer.out_size, prod(layer.size)) == (6, (1, 1), 2 * size)
    assert layer.macs == 5 * 7 * 6


def test_two_axes_stay_as_they_are():
    layer = convolution("l", [Axis(size=9, kernel=3, stride=2, before=1, after=2),
                              Axis(size=8, kernel=2, dilation=3, after=1)], inputs=4, outputs=6)
    assert layer == Layer(name="l", inputs=4, outputs=6, kernel=(3, 2), stride=(2, 1),
                          dilation=(1, 3), padding=(1, 0, 2, 1), size=(9, 8))


def test_computed_kernel_makes_a_product_of_patches():
    layer = convolution("l", [Axis(size=6, kernel=3)], inputs=4, outputs=6, groups=2, images=5,
                        stored=False)
    assert layer == Layer(name="l", kind="matmul", copies=2, size=(20, 1), inputs=6, outputs=3)


@pytest.mark.parametrize("axes", [0, 4])
def test_refuses_other_numbers_of_axes(axes):
    with pytest.raises(ValueError, match=f"Layer 'l': a convolution has 1 to 3 axes, not {axes}"):
        convolution("l", [Axis(size=1)] * axes, inputs=1, outputs=1)


def test_refuses_a_kernel_beyond_its_input():
    with pytest.raises(ValueError, match="kernel of 3 with dilation 2 exceeds the 3 inputs padded"):
        convolution("l", [Axis(size=3, kernel=3, dilation=2, before=1)], inputs=1, outputs=1)


def test_transposed_convolution_multiplies_each_pixel_by_each_tap():
    layer = transposed_convolution("l", [3, 4], 6, inputs=4, outputs=8, groups=2)
    assert layer.macs == 3 * 4 * 6 * 2 * 8
    assert layer.weights == 2 * 8 * 6


CONTRACTIONS = {
    # einsum, shapes, stored, expected
    "linear": ("mk,kn->mn", [(4, 5), (5, 3)], ["right"],
               {"kind": "linear", "size": (4, 1), "inputs": 5, "outputs": 3}),
    "weights first": ("nk,km->nm", [(3, 5), (5, 4)], ["left"],
                      {"kind": "linear", "size": (4, 1), "inputs": 5, "outputs": 3}),
    "more rows": ("abk,nk->abn", [(2, 3, 5), (4, 5)], ["right"],
                  {"kind": "linear", "size": (6, 1), "inputs": 5, "outputs": 4}),
    "more inputs": ("abk,kbn->an", [(2, 3, 5), (5, 3, 4)], ["right"],
                    {"kind": "linear", "size": (2, 1), "inputs": 15, "outputs": 4}),
    "weights of groups": ("gmk,gkn->gmn", [(2, 3, 5), (2, 5, 4)], ["right"],
                          {"kind": "conv", "size": (3, 1), "groups": 2, "inputs": 10,
                           "outputs": 8}),
    "heads": ("hmk,hnk->hmn", [(2, 3, 5), (2, 4, 5)], [],
              {"kind": "matmul", "size": (3, 1), "copies": 2, "inputs": 5, "outputs": 4}),
    "shared keys": ("hmk,kn->hmn", [(2, 3, 5), (5, 4)], [],
                    {"kind": "matmul", "size": (6, 1), "inputs": 5, "outputs": 4}),
    "outer": ("m,n->mn", [(3,), (4,)], [],
              {"kind": "matmul", "size": (3, 1), "inputs": 1, "outputs": 4}),
}


@pytest.mark.parametrize(("equation", "shapes", "stored", "expected"), CONTRACTIONS.values(),
                         ids=CONTRACTIONS)
def test_contraction(equation, shapes, stored, expected):
    terms, out = equation.split("->")
    left, right = terms.split(",")
    sizes = dict(zip(left + right, shapes[0] + shapes[1]))
    layer = contraction("l", left, right, out, sizes, stored=stored)
    assert layer == Layer(name="l", **expected)
    assert layer.macs == model_count.einsum(equation, *shapes)


@pytest.mark.parametrize(("sizes", "expected"), [
    ({"h": 6, "m": 4, "n": 5, "k": 2}, (2, 4, 5)),
    ({"h": 4, "m": 6, "n": 5, "k": 2}, (4, 2, 5)),
    ({"h": 4, "m": 5, "n": 6, "k": 2}, (4, 5, 2)),
], ids=["copies", "rows", "outputs"])
def test_product_is_divided_among_samples(sizes, expected):
    layer = contraction("l", "hmk", "hkn", "hmn", sizes, batch=3)
    assert (layer.copies, layer.size[0], layer.outputs) == expected


def test_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match=r"batch of 4 does not divide its 6 rows.*batch=None"):
        per_sample("l", "rows", 6, 4)


def test_attention_is_two_products_with_shared_heads_as_rows():
    scores, values = attention("a", heads=6, key_heads=2, queries=5, keys=7, width=3,
                               value_width=4, gradients=(False, True))
    assert scores == Layer(name="a.scores", kind="matmul", copies=2, size=(15, 1), inputs=3,
                           outputs=7, input_gradient=False)
    assert values == Layer(name="a.values", kind="matmul", copies=2, size=(15, 1), inputs=7,
                           outputs=4)


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="4 heads of keys do not divide 6 heads of queries"):
        attention("a", heads=6, key_heads=4, queries=1, keys=1, width=1)


def test_names_are_unique():
    names = Names()
    assert [names.unique(name) for name in ("a", "b", "a", "a#2", "a")] == [
        "a", "b", "a#2", "a#2#2", "a#3"]
