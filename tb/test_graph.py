"""Networks as lists of layers: shapes, sources, work, and what does not fit."""

import re

import pytest

from gradloom_host.graph import Add, AveragePool, Conv, Graph, Linear, MaxPool, Shape

INPUT = Shape(3, 9, 8)
LOGITS = Linear(features=10, relu=False)
LAYERS = (
    Conv(channels=4, padding=1), Conv(channels=4, kernel=(1, 3), stride=2, groups=2),
    MaxPool(), Conv(channels=4, padding=1, relu=False), Add(of=2))


def test_shapes_follow_from_the_input():
    layers = (*LAYERS[:2], AveragePool(size=3), LOGITS)
    assert Graph(INPUT, layers).shapes() == [
        Shape(4, 9, 8), Shape(4, 5, 3), Shape(4, 1, 1), Shape(10, 1, 1)]
    assert Graph(INPUT, (*LAYERS, LOGITS)).shapes()[2:] == [
        *[Shape(4, 2, 1)] * 3, Shape(10, 1, 1)]


def test_an_addition_reads_two_layers():
    graph = Graph(INPUT, (*LAYERS, LOGITS))
    assert [graph.sources(index) for index in range(6)] == [
        (-1,), (0,), (1,), (2,), (3, 2), (4,)]


def test_work_is_counted_a_sample():
    graph = Graph(INPUT, (*LAYERS, LOGITS))
    assert graph.macs() == [
        72 * 4 * 9 * 3, 15 * 4 * 3 * 2, 0, 2 * 4 * 9 * 4, 0, 4 * 2 * 10]


@pytest.mark.parametrize(("layers", "message"), [
    ([], "a network ends in a Linear with relu=False: its logits"),
    ([Conv(channels=2)], "a network ends in a Linear with relu=False: its logits"),
    ([Linear(features=2)], "a network ends in a Linear with relu=False: its logits"),
    ([Linear(features=0, relu=False)], "layer 0 (Linear): features must be at least 1, not 0"),
    ([Conv(channels=4, groups=2), LOGITS],
     "layer 0 (Conv): 2 groups must divide 3 and 4 channels"),
    ([Conv(channels=4, stride=0), LOGITS],
     "layer 0 (Conv): kernel and stride must be at least 1, padding at least 0"),
    ([Conv(channels=4, padding=3), LOGITS],
     "layer 0 (Conv): padding 3 must be less than the kernel 3"),
    ([Conv(channels=4, kernel=(1, 9)), LOGITS],
     "layer 0 (Conv): a kernel of (1, 9) exceeds Shape(channels=3, height=9, width=8): pad it "
     "more"),
    ([MaxPool(size=1), LOGITS], "layer 0 (MaxPool): a window must be at least 2, not 1"),
    ([AveragePool(size=9), LOGITS],
     "layer 0 (AveragePool): a window of 9 exceeds Shape(channels=3, height=9, width=8)"),
    ([Conv(channels=4), Conv(channels=4), Add(of=1), LOGITS],
     "layer 2 (Add): `of` must name a layer from 0 to 0, not 1"),
    ([Conv(channels=4), Conv(channels=4), Add(of=0), LOGITS],
     "layer 2 (Add): cannot add Shape(channels=4, height=7, width=6) to Shape(channels=4, "
     "height=5, width=4): make the shapes equal"),
])
def test_what_does_not_fit_is_named(layers, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Graph(INPUT, layers)
