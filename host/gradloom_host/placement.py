"""Where the tensors of a network lie in the buffers of a machine, and whether they fit.

A tensor of activations or gradients lies as [block][sample][y][x], a word for each pixel of a block
of `lanes` channels; weights lie tile after tile.
"""

from dataclasses import replace

import numpy as np

from gradloom_golden.config import Config
from gradloom_golden.patch import ImageLayout
from gradloom_golden.program import SCALES
from gradloom_golden.program_check import MAX_TILES

from .compiler import Network
from .graph import Add, AveragePool, Conv, Graph, Linear, MaxPool
from .tensors import CompileError, Tensor, Weights, Window

__all__ = ["compile_network", "gradient_rows", "place_network", "tile_matrix"]


def compile_network(config: Config, graph: Graph, batch: int) -> Network:
    """Lay a network out in the buffers of a machine.

    Raises
    ------
    CompileError
        If a buffer is too small, which names the field to raise.
    """
    network = place_network(config, graph, batch)
    used = network.spare_activations
    largest = max(a.stride for a in network.activations)
    if used + largest > config.activation_depth:
        raise CompileError(
            f"activations of {batch} samples take {used + largest} words: raise activation_depth "
            f"{config.activation_depth} or lower the batch")
    own = {id(d): d for d in network.gradients.values()}.values()
    place = sum(d.blocks * d.stride for d in own) + max(d.stride for d in own)
    if place > config.gradient_depth:
        raise CompileError(
            f"gradients of {batch} samples take {place} words: raise gradient_depth "
            f"{config.gradient_depth} or lower the batch")
    if 2 * network.image_words > config.image_depth:
        raise CompileError(
            f"two batches of {batch} images take {2 * network.image_words} words: raise "
            f"image_depth {config.image_depth} or lower the batch")
    if network.weight_rows > config.weight_depth:
        raise CompileError(
            f"the weights take {network.weight_rows} rows: raise weight_depth "
            f"{config.weight_depth}")
    return network


def place_network(config: Config, graph: Graph, batch: int) -> Network:
    """Lay a network out one tensor after the other, as if buffers had no end but that of biases.

    Raises
    ------
    CompileError
        If the machine cannot run it with buffers of any size, or lacks scales or biases.
    """
    if config.rows != config.columns:
        raise CompileError(
            f"networks are compiled for square arrays, not {config.rows} x {config.columns}")
    if batch < 1 or batch & batch - 1 or batch > config.steps_depth:
        raise CompileError(
            f"the batch must be a power of two up to steps_depth {config.steps_depth}, "
            f"not {batch!r}")
    kernel, step, pad = _image_window(graph)
    shapes = graph.shapes()
    scales: dict[str, int] = {"input": 0}

    def scale(name: str) -> int:
        return scales.setdefault(name, len(scales))

    edge = config.rows
    activations: list[Tensor] = []
    used = 0
    for index, (layer, shape) in enumerate(zip(graph.layers, shapes)):
        blocks = -(-shape.channels // edge)
        stride = batch * shape.pixels
        relu = getattr(layer, "relu", False)
        unsigned = relu
        name = f"y{index}"
        if isinstance(layer, MaxPool | AveragePool):
            unsigned = activations[-1].unsigned
            if isinstance(layer, MaxPool):
                name = next(key for key, place in scales.items()
                            if place == activations[-1].scale)
        activations.append(Tensor(
            shape=shape, base=used, stride=stride, blocks=blocks, scale=scale(name),
            unsigned=unsigned, relu=relu))
        used += blocks * stride
    gradients, raw_scales = _place_gradients(graph, shapes, edge, batch, scale)
    image = ImageLayout(
        height=graph.input.height, width=graph.input.width, channels=graph.input.channels,
        kernel=kernel, stride=step, pad=pad, rows=config.rows, lanes=config.lane_count)
    image_words = batch * image.x_image // config.lane_count
    weights = _place_weights(config, graph, shapes, image, scale)
    if len(scales) > SCALES:
        raise CompileError(f"the network needs {len(scales)} scales, the machine has {SCALES}")
    return Network(
        config=config, graph=graph, batch=batch, activations=activations, gradients=gradients,
        weights=weights, image=image, scales=scales, spare_activations=used,
        image_words=image_words, raw_scales=raw_scales, window=Window(images=batch))


def _image_window(graph: Graph) -> tuple[tuple[int, int], int, int]:
    """Return kernel, stride and padding of the first layer; a Linear sees an image at once."""
    first = graph.layers[0]
    if isinstance(first, Linear):
        return (graph.input.height, graph.input.width), 1, 0
    if not isinstance(first, Conv) or first.groups != 1:
        raise CompileError(
            "the first layer must be a Linear or a Conv with one group: it reads the images")
    return first.taps, first.stride, first.padding


def _place_gradients(graph, shapes, edge, batch, scale):
    """Return the gradients by layer, and the scales in which they are first written."""
    sources = {layer.of for layer in graph.layers if isinstance(layer, Add)}
    gradients: dict[int, Tensor] = {}
    raw_scales: dict[int, int] = {}
    place = 0
    for index in reversed(range(len(shapes))):
        after = graph.layers[index + 1] if index + 1 < len(shapes) else None
        if isinstance(after, Add):
            if getattr(graph.layers[index], "relu", False) or index in sources:
                raise CompileError(
                    f"layer {index} stands before an Add: give it relu=False, and let no other Add "
                    "name it")
            gradients[index] = gradients[index + 1]
            raw_scales[index] = raw_scales[index + 1]
            continue
        shape = shapes[index]
        stride, blocks = batch * shape.pixels, -(-shape.channels // edge)
        # The machine hands gradients to maxima as they are.
        raw_scales[index] = (gradients[index + 1].scale if isinstance(after, MaxPool)
                             else scale(f"d{index}"))
        summed = scale(f"s{index}") if index in sources else raw_scales[index]
        gradients[index] = Tensor(
            shape=shape, base=place, stride=stride, blocks=blocks, scale=summed)
        place += blocks * stride
    return gradients, raw_scales


def _place_weights(config, graph, shapes, image, scale) -> dict[int, Weights]:
    weights: dict[int, Weights] = {}
    row = bias_row = 0
    for index, layer in enumerate(graph.layers):
        if not isinstance(layer, Conv | Linear):
            continue
        given = shapes[index - 1] if index else graph.input
        blocks = -(-given.channels // config.rows)
        if index == 0:
            blocks, taps_y, taps_x = image.k_tiles, 1, 1
        elif isinstance(layer, Conv):
            taps_y, taps_x = layer.taps
        else:
            taps_y, taps_x = given.height, given.width
        n_tiles = -(-shapes[index].channels // config.columns)
        if max(blocks, n_tiles) > MAX_TILES:
            raise CompileError(
                f"layer {index} takes {max(blocks, n_tiles)} tiles along an edge, and a machine at "
                f"most {MAX_TILES}: make the array larger")
        placed = Weights(
            index=index, tiles=(blocks, taps_y, taps_x, n_tiles), base=row,
            spare=-1, scale=scale(f"w{index}"),
            bias_base=bias_row if layer.bias else -1,
            bias_scale=scale(f"b{index}") if layer.bias else 0)
        weights[index] = placed
        row += placed.count * config.rows
        bias_row += n_tiles * layer.bias
    if bias_row > config.bias_depth:
        raise CompileError(f"the biases take {bias_row} rows: raise bias_depth {config.bias_depth}")
    # Behind the weights the state buffer has room for gradients, of one layer at a time.
    for index, placed in weights.items():
        if row + gradient_rows(config, graph, placed) <= config.weight_depth:
            weights[index] = replace(placed, spare=row)
    return weights


def gradient_rows(config: Config, graph: Graph, weights: Weights) -> int:
    """Return the rows behind `spare` that the stored gradient of a layer takes.

    The phases of a stride begin at tiles of their own, and each is checked for the extent of all.
    """
    phases = getattr(graph.layers[weights.index], "stride", 1) > 1
    return (weights.count + phases * weights.block_tiles) * config.rows


def tile_matrix(network: Network, index: int, dense: np.ndarray, fill: int = 0) -> np.ndarray:
    """Return a layer's values, shape (taps_y, taps_x, inputs, outputs), as rows of the buffers.

    A fully connected layer has a tap for each pixel. Grouped layers are given dense, zero where
    there is no weight. What pads a tile is `fill`.
    """
    config = network.config
    blocks, taps_y, taps_x, n_tiles = network.weights[index].tiles
    rows, columns = config.rows, config.columns
    if index == 0:
        dense = dense.reshape(1, 1, -1, dense.shape[-1])
    padded = np.full((taps_y, taps_x, blocks * rows, n_tiles * columns), fill, np.int64)
    padded[:, :, :dense.shape[2], :dense.shape[3]] = dense
    tiles = padded.reshape(taps_y, taps_x, blocks, rows, n_tiles, columns)
    return tiles.transpose(2, 0, 1, 4, 3, 5).reshape(-1, columns)
