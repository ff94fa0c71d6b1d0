"""Descriptors of whole networks, run on the golden machine, against loops over every pixel."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from conv_reference import convolve, convolve_back
from gradloom_golden.config import PRESETS
from gradloom_golden.fixed import round_shift, saturate, sign_extend
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    OFFSET_BITS,
    SCALES,
    Descriptor,
    Drain,
    Error,
    Opcode,
    Region,
    Schedule,
)
from gradloom_golden.program_check import check
from gradloom_host.graph import Add, AveragePool, Conv, Graph, Linear, MaxPool, Shape
from gradloom_host.placement import compile_network, tile_matrix
from gradloom_host.tensors import CompileError, Policy

CONFIG = PRESETS["tiny"].with_changes(
    activation_depth=4096, gradient_depth=4096, weight_depth=2048, image_depth=2048,
    bias_depth=64, steps_depth=256, gradient_bits=16)
BATCH = 4
EVERY = Policy(fused=False, momentum=None, stochastic=False)
LOGITS = Linear(features=3, relu=False)

# The layer that is looked at is the second; what comes first gives it signed or unsigned input.
LAYERS = {
    "plain": Conv(channels=5, kernel=3, relu=False),
    "padded": Conv(channels=6, kernel=3, padding=1),
    "padded twice": Conv(channels=3, kernel=3, padding=2, relu=False),
    "strided": Conv(channels=5, kernel=3, padding=1, stride=2),
    "stride beyond the kernel": Conv(channels=4, kernel=2, stride=3),
    "uneven kernel": Conv(channels=5, kernel=(1, 3), stride=2),
    "point": Conv(channels=9, kernel=1),
    "grouped": Conv(channels=6, kernel=3, padding=1, groups=2),
    "grouped and strided": Conv(channels=12, kernel=3, padding=1, stride=2, groups=3),
    "depthwise": Conv(channels=6, kernel=3, padding=1, groups=6, relu=False),
    "linear": Linear(features=7),
    "linear without bias": Linear(features=5, bias=False, relu=False),
}
FIRSTS = {
    "unsigned": Conv(channels=6, kernel=3, padding=1),
    "signed": Conv(channels=6, kernel=2, stride=1, relu=False),
    "strided": Conv(channels=6, kernel=3, stride=2, padding=1, bias=False),
}
INPUT = Shape(2, 7, 6)


class Bench:
    """A network on a golden machine with random weights; tensors as arrays (N, y, x, channel)."""

    def __init__(self, graph: Graph, rng: np.random.Generator, *, config=CONFIG, batch=BATCH):
        self.network = compile_network(config, graph, batch)
        self.config, self.graph, self.batch, self.rng = config, graph, batch, rng
        self.machine = GoldenMachine(config)
        self.exponents = np.zeros(SCALES, np.int64)
        self.weights, self.biases = {}, {}
        self.images = rng.integers(0, 256, (batch, *self._size(graph.input)))
        words = self.network.image.words(self.images)
        self.machine.memory[Region.IMAGE][:len(words)] = words
        for index, placed in self.network.weights.items():
            self.weights[index] = self._draw_weights(index)
            tiled = tile_matrix(self.network, index, self.weights[index])
            self.machine.memory[Region.WEIGHT][placed.base:placed.base + len(tiled)] = tiled & 255
            outputs = self.weights[index].shape[-1]
            self.biases[index] = np.zeros(outputs, np.int64)
            if placed.bias_base >= 0:
                self.biases[index] = rng.integers(-3000, 3000, outputs)
                row = np.zeros(placed.tiles[3] * config.columns, np.int64)
                row[:outputs] = self.biases[index] & 0xFFFF
                self.machine.memory[Region.BIAS][
                    placed.bias_base:placed.bias_base + placed.tiles[3]] = row.reshape(
                        -1, config.columns)
        # Sums of a few hundred products of eight bits keep to eight bits.
        for index, tensor in enumerate(self.network.activations):
            if not isinstance(graph.layers[index], MaxPool):   # it shares that of its input
                self.scale(tensor.scale, 10 * (index + 1))
            for place in (self.network.gradients[index].scale, self.network.raw_scales[index]):
                self.scale(place, 0)

    def scale(self, place: int, exponent: int) -> None:
        self.exponents[place] = exponent
        self.machine.write(Region.SCALE << OFFSET_BITS, self.exponents & 0xFF)

    @staticmethod
    def _size(shape: Shape) -> tuple[int, int, int]:
        return shape.height, shape.width, shape.channels

    def given(self, index: int) -> Shape:
        return self.network.activations[index - 1].shape if index else self.graph.input

    def _draw_weights(self, index: int) -> np.ndarray:
        layer, given = self.graph.layers[index], self.given(index)
        taps = layer.taps if isinstance(layer, Conv) else (given.height, given.width)
        outputs = layer.channels if isinstance(layer, Conv) else layer.features
        dense = self.rng.integers(-100, 101, (*taps, given.channels, outputs))
        groups = getattr(layer, "groups", 1)
        of_input = np.arange(given.channels) * groups // given.channels
        of_output = np.arange(outputs) * groups // outputs
        return np.where(of_input[:, None] == of_output, dense, 0)

    def rule(self, index: int) -> dict[str, int]:
        """Return the geometry of a layer for the reference."""
        layer = self.graph.layers[index]
        if isinstance(layer, Linear):
            return {"stride": 1, "pad": 0, "groups": 1}
        return {"stride": layer.stride, "pad": layer.padding, "groups": layer.groups}

    def run(self, descriptors: list[Descriptor]) -> None:
        for d in descriptors:
            assert check(self.config, d.encode()) == Error.NONE
            self.machine._step(0, d.encode())
            assert not self.machine._error

    def forward(self) -> None:
        for index in range(len(self.graph.layers)):
            self.run(self.network.forward(index))

    def tensor(self, tensor, region: Region) -> np.ndarray:
        """Return a tensor of the batch as it lies in its buffer, signed as it is."""
        words = self.machine.memory[region]
        shape = tensor.shape
        blocks = [words[start:start + tensor.stride] for start in range(
            tensor.base, tensor.base + tensor.blocks * tensor.stride, tensor.stride)]
        values = np.concatenate(blocks, axis=1)[:, :shape.channels]
        bits = self.config.gradient_bits if region == Region.GRADIENT else 8
        if not (region == Region.ACTIVATION and tensor.unsigned):
            values = sign_extend(values, bits)
        return values.reshape(self.batch, shape.height, shape.width, shape.channels)

    def activation(self, index: int) -> np.ndarray:
        if index < 0:
            return self.images
        return self.tensor(self.network.activations[index], Region.ACTIVATION)

    def gradient(self, index: int) -> np.ndarray:
        return self.tensor(self.network.gradients[index], Region.GRADIENT)

    def put_gradient(self, index: int, values: np.ndarray, images: int) -> None:
        """Put a gradient, (N, y, x, channel), of which the first `images` are kept."""
        tensor = self.network.gradients[index]
        words = self.machine.memory[Region.GRADIENT]
        words[:] = 0x55                                    # of skipped samples nothing may be used
        flat, edge = values[:images].reshape(-1, tensor.shape.channels), self.config.lane_count
        for block in range(tensor.blocks):
            lanes = flat[:, block * edge:block * edge + edge] & (1 << self.config.gradient_bits) - 1
            rows = slice(tensor.base + block * tensor.stride,
                         tensor.base + block * tensor.stride + len(flat))
            words[rows] = 0
            words[rows, :lanes.shape[1]] = lanes

    def keep(self, samples: list[int]) -> None:
        self.machine.memory[Region.KEEP][:len(samples), 0] = samples
        self.machine._kept = len(samples)

    def stored(self, index: int) -> np.ndarray:
        """Return the weight gradient that lies in the spare rows, shaped as the weights."""
        placed = self.network.weights[index]
        raw = self.machine.memory[Region.STATE][
            placed.spare:placed.spare + placed.count * self.config.rows]
        # Each place of the tiles holds the number of its weight, or that it has none.
        dense = self.weights[index]
        numbers = tile_matrix(self.network, index, np.arange(dense.size).reshape(dense.shape), -1)
        found = np.zeros(dense.size, np.int64)
        found[numbers[numbers >= 0]] = sign_extend(raw, self.config.state_bits)[numbers >= 0]
        return found.reshape(dense.shape)


def expected_forward(bench: Bench, index: int) -> np.ndarray:
    """Return what a layer with weights gives, from what lies in the buffers before it."""
    network, layer = bench.network, bench.graph.layers[index]
    x_scale = network.scales["input"] if index == 0 else network.activations[index - 1].scale
    placed = network.weights[index]
    given, below = bench.exponents, bench.exponents[x_scale] + bench.exponents[placed.scale]
    total = convolve(bench.activation(index - 1), bench.weights[index], **bench.rule(index))
    shift = np.clip(given[placed.bias_scale] - below, -15, 15)
    bias = bench.biases[index]
    total += bias << shift if shift >= 0 else bias >> -shift
    out = round_shift(total, int(np.clip(given[network.activations[index].scale] - below, 0, 31)))
    return saturate(np.maximum(out, 0) if layer.relu else out, 8, signed=not layer.relu)


def pair(first: str, second: str) -> Graph:
    return Graph(INPUT, [FIRSTS[first], LAYERS[second], LOGITS])


@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("second", LAYERS)
def test_forward_equals_loops_over_pixels(first, second, rng):
    bench = Bench(pair(first, second), rng)
    bench.scale(bench.network.weights[1].bias_scale, 3)
    bench.forward()
    for index in bench.network.weights:
        np.testing.assert_array_equal(bench.activation(index), expected_forward(bench, index))
    assert len(np.unique(bench.activation(1))) > 1


@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.SEQUENTIAL])
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [1, 3], [2]], ids=str)
@pytest.mark.parametrize("second", LAYERS)
def test_backward_equals_loops_over_pixels(second, kept, schedule, rng):
    bench = Bench(pair("unsigned", second), rng)
    bench.forward()
    d = rng.integers(-40, 41, bench.activation(1).shape)
    bench.put_gradient(1, d, len(kept))
    bench.keep(kept)
    bench.scale(bench.network.raw_scales[0], 5)
    bench.run([each for each in bench.network.backward(1, replace(EVERY, schedule=schedule))
               if each.opcode == Opcode.BACKWARD])
    x = bench.activation(0)[kept]
    of_x, of_w = convolve_back(x, bench.weights[1], d[:len(kept)], **bench.rule(1))
    np.testing.assert_array_equal(bench.stored(1), of_w)
    assert of_w.any()
    mask = x > 0
    expected = saturate(round_shift(np.where(mask, of_x, 0), 5), CONFIG.gradient_bits)
    found = bench.gradient(0)[:len(kept)]
    reached = _reached(bench.graph.layers[1], bench.given(1))
    np.testing.assert_array_equal(found[:, reached], expected[:, reached])


def _reached(layer, given: Shape) -> np.ndarray:
    """Return which input pixels any tap meets; others have no pass, so no gradient is written."""
    if isinstance(layer, Linear):
        return np.ones((given.height, given.width), bool)
    ones = np.ones((1, given.height, given.width, 1), np.int64)
    taps = np.ones((*layer.taps, 1, 1), np.int64)
    out = convolve(ones, taps, stride=layer.stride, pad=layer.padding)
    met = convolve_back(ones, taps, np.ones_like(out), stride=layer.stride, pad=layer.padding)[0]
    return met[0, :, :, 0] > 0


POOLED = Graph(INPUT, [
    Conv(channels=6, kernel=3, padding=1), MaxPool(size=2), AveragePool(size=3), LOGITS])
RESIDUAL = Graph(INPUT, [
    Conv(channels=6, kernel=3, padding=1), Conv(channels=6, kernel=3, padding=1, relu=False),
    Add(of=0), LOGITS])


def windows(x, size):
    """Return the elements of whole windows, shape (N, y, x, taps, channels)."""
    height, width = x.shape[1] // size, x.shape[2] // size
    cut = x[:, :height * size, :width * size]
    split = cut.reshape(len(x), height, size, width, size, x.shape[3])
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), height, width, size * size, -1)


def test_pooling_equals_windows(rng):
    bench = Bench(POOLED, rng)
    bench.scale(bench.network.activations[2].scale, 10)
    bench.forward()
    np.testing.assert_array_equal(bench.activation(1), windows(bench.activation(0), 2).max(axis=3))
    # One ninth is a multiple of 2**-11; eight bits of it.
    total = windows(bench.activation(1), 3).sum(axis=3)
    np.testing.assert_array_equal(bench.activation(2), round_shift(total * 228, 11))
    assert bench.activation(2).any()


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 3]], ids=str)
def test_pooled_gradients_reach_the_first_maximum(kept, rng):
    bench = Bench(POOLED, rng)
    bench.forward()
    d = rng.integers(-90, 91, bench.activation(1).shape)
    bench.put_gradient(1, d, len(kept))
    bench.keep(kept)
    bench.run(bench.network.backward(1, EVERY))
    x = bench.activation(0)[kept]
    expected = np.zeros_like(x)
    for sample, oy, ox, channel in np.ndindex(d[:len(kept)].shape):
        window = x[sample, 2 * oy:2 * oy + 2, 2 * ox:2 * ox + 2, channel]
        y, along = divmod(int(window.argmax()), 2)
        # The mask of the layer before is applied here.
        if window[y, along] > 0:
            expected[sample, 2 * oy + y, 2 * ox + along, channel] = d[sample, oy, ox, channel]
    np.testing.assert_array_equal(bench.gradient(0)[:len(kept)], expected)
    assert expected.any()


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [1, 2]], ids=str)
def test_residual_gradients_add_up(kept, rng):
    bench = Bench(RESIDUAL, rng)
    bench.scale(bench.network.activations[0].scale, 20)
    bench.forward()
    x, y = bench.activation(0), bench.activation(1)
    total = saturate(np.maximum(x + y, 0), 8, signed=False)
    np.testing.assert_array_equal(bench.activation(2), total)
    d = rng.integers(-40, 41, total.shape)
    bench.put_gradient(2, d, len(kept))
    bench.keep(kept)
    bench.scale(bench.network.raw_scales[0], 4)
    bench.scale(bench.network.gradients[0].scale, 4)
    found = [each for index in (2, 1) for each in bench.network.backward(index, EVERY)]
    bench.run([each for each in found if each.opcode != Opcode.UPDATE])
    x, d = x[kept], d[:len(kept)]
    of_x, _ = convolve_back(x, bench.weights[1], d, stride=1, pad=1)
    convolved = saturate(round_shift(np.where(x > 0, of_x, 0), 4), CONFIG.gradient_bits)
    # Both are given in units of one; their sum in units of sixteen.
    expected = np.where(x > 0, round_shift((convolved << 4) + d, 4), 0)
    np.testing.assert_array_equal(
        bench.gradient(0)[:len(kept)], saturate(expected, CONFIG.gradient_bits))


# Shape of the images, and rows and columns of the array. At 4 rows the last has 196 tiles.
WHOLE = {
    "digits": (Shape(1, 8, 8), 4), "colours": (Shape(3, 5, 7), 4), "point": (Shape(2, 1, 1), 4),
    "mnist": (Shape(1, 28, 28), 4), "mnist on eight": (Shape(1, 28, 28), 8),
}


@pytest.mark.parametrize("layers", [
    [Linear(features=6), LOGITS], [Linear(features=5, bias=False, relu=False), LOGITS], [LOGITS]],
    ids=["relu", "plain", "alone"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_first_linear_sees_whole_images(name, layers, rng):
    shape, edge = WHOLE[name]
    config = CONFIG.with_changes(rows=edge, columns=edge, weight_depth=4096)
    bench = Bench(Graph(shape, layers), rng, config=config)
    bench.forward()
    x = bench.images.reshape(BATCH, -1)
    total = x @ bench.weights[0].reshape(x.shape[1], -1)
    total += bench.biases[0]                               # all are given in units of one
    scale = bench.exponents[bench.network.activations[0].scale]
    signed = not layers[0].relu
    y = saturate(round_shift(total if signed else np.maximum(total, 0), int(scale)), 8,
                 signed=signed)
    np.testing.assert_array_equal(bench.activation(0).reshape(BATCH, -1), y)
    assert len(np.unique(y)) > 1
    kept = [1, 3]
    d = rng.integers(-40, 41, bench.activation(0).shape)
    bench.put_gradient(0, d, len(kept))
    bench.keep(kept)
    bench.run([each for each in bench.network.backward(0, EVERY) if each.opcode == Opcode.BACKWARD])
    expected = x[kept].T @ d[:len(kept)].reshape(len(kept), -1)
    np.testing.assert_array_equal(bench.stored(0).reshape(expected.shape), expected)
    assert expected.any()


def test_packed_images_that_do_not_fit_are_named():
    """The machine takes as many packed words as it has, and the compiler tells of one more."""
    config = CONFIG.with_changes(activation_depth=64, weight_depth=1 << 13)
    policy = replace(EVERY, lanes=(4,))
    taken, refused = (compile_network(config, Graph(Shape(1, 8, 8), [
        Linear(features=features, relu=False)]), 1) for features in (192, 193))
    # 16 tiles are packed to a word each; activations take a word for 4 features.
    for d in taken.backward(0, policy):
        assert check(config, d.encode()) == Error.NONE
    with pytest.raises(CompileError, match=(
            r"^packed inputs of layer 0 need 16 words behind the activations: raise "
            r"activation_depth 64, lower the batch or use one lane$")):
        refused.backward(0, policy)


@pytest.mark.parametrize(("layer", "tiles"), [
    (Linear(features=4, relu=False), 257), (Linear(features=1025, relu=False), 257)])
def test_more_tiles_than_a_machine_takes_are_refused(layer, tiles):
    wide = 1028 if layer.features == 4 else 4
    config = CONFIG.with_changes(image_depth=1 << 14, activation_depth=1 << 14,
                                 gradient_depth=1 << 14, weight_depth=1 << 14, bias_depth=256)
    with pytest.raises(CompileError, match=rf"^layer 0 takes {tiles} tiles along an edge, and a "):
        compile_network(config, Graph(Shape(4, wide // 4, 1), [layer]), BATCH)


def test_chunks_store_then_add(rng):
    """Images that do not fit the sums buffer together give one gradient all the same."""
    config = CONFIG.with_changes(steps_depth=64)
    bench = Bench(pair("unsigned", "plain"), rng, config=config)
    bench.forward()
    np.testing.assert_array_equal(bench.activation(1), expected_forward(bench, 1))
    d = rng.integers(-40, 41, bench.activation(1).shape)
    bench.put_gradient(1, d, BATCH)
    bench.keep([0, 1, 2, 3])
    passes = [each for each in bench.network.backward(1, EVERY) if each.opcode == Opcode.BACKWARD]
    assert [each.drain for each in passes] == [Drain.STORE] + [Drain.ACCUMULATE] * 3
    bench.run(passes)
    of_w = convolve_back(bench.activation(0), bench.weights[1], d, **bench.rule(1))[1]
    np.testing.assert_array_equal(bench.stored(1), of_w)


def test_no_two_tensors_overlap():
    graph = Graph(INPUT, [
        Conv(channels=6), Conv(channels=6, padding=1, relu=False), Add(of=0), MaxPool(size=2),
        LOGITS])
    network = compile_network(CONFIG, graph, BATCH)
    own = {id(t): t for t in network.gradients.values()}.values()
    for tensors in (network.activations, own):
        spans = sorted((t.base, t.base + t.blocks * t.stride) for t in tensors)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    rows = sorted((w.base, w.base + w.count * CONFIG.rows) for w in network.weights.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(rows))
    assert all(w.spare >= rows[-1][1] for w in network.weights.values())
    # An Add hands its gradient on as it is.
    assert network.gradients[1] is network.gradients[2]


@pytest.mark.parametrize(("changes", "batch", "message"), [
    ({"columns": 8}, 4, "networks are compiled for square arrays, not 4 x 8"),
    ({}, 3, "the batch must be a power of two up to steps_depth 256, not 3"),
    ({}, 512, "the batch must be a power of two up to steps_depth 256, not 512"),
    ({"activation_depth": 256}, 4,
     "activations of 4 samples take 668 words: raise activation_depth 256 or lower the batch"),
    ({"gradient_depth": 256}, 4,
     "gradients of 4 samples take 668 words: raise gradient_depth 256 or lower the batch"),
    ({"image_depth": 128}, 4,
     "two batches of 4 images take 328 words: raise image_depth 128 or lower the batch"),
    ({"weight_depth": 64}, 4, "the weights take 344 rows: raise weight_depth 64"),
    ({"bias_depth": 2}, 4, "the biases take 5 rows: raise bias_depth 2"),
])
def test_what_does_not_fit_is_named(changes, batch, message):
    graph = pair("unsigned", "plain")
    with pytest.raises(CompileError, match=f"^{re.escape(message)}$"):
        compile_network(CONFIG.with_changes(**changes), graph, batch)


def test_images_larger_than_the_sums_are_refused():
    network = compile_network(CONFIG.with_changes(steps_depth=16), pair("unsigned", "plain"), 4)
    with pytest.raises(CompileError, match=r"^an image of 42 pixels exceeds steps_depth 16: "):
        network.forward(0)


@pytest.mark.parametrize("first", [MaxPool(size=2), Conv(channels=4, groups=2)])
def test_the_first_layer_reads_images(first):
    with pytest.raises(CompileError, match=r"^the first layer must be a Linear or a Conv with one"):
        compile_network(CONFIG, Graph(INPUT, [first, LOGITS]), 4)


def test_what_an_add_takes_has_no_relu():
    graph = Graph(INPUT, [Conv(channels=6), Conv(channels=6, padding=1), Add(of=0), LOGITS])
    with pytest.raises(CompileError, match=r"^layer 1 stands before an Add: give it relu=False"):
        compile_network(CONFIG, graph, 4)


def test_maxima_hand_on_the_exponent_of_their_gradient():
    # The machine passes the values unshifted, and what is not rounded is not measured.
    graph = Graph(Shape(2, 6, 6), [Conv(channels=4, kernel=3, padding=1), MaxPool(size=2), LOGITS])
    network = compile_network(CONFIG, graph, BATCH)
    assert network.raw_scales[0] == network.gradients[0].scale == network.gradients[1].scale
    [d] = network.own_backward(1, EVERY)
    assert (d.out_scale, d.measure) == (d.d_scale, 0)
