"""One training step of a fully connected network on integers, with every intermediate in sight.

It defines what a program for a network computes, and in which order the three banks of LFSRs draw.
Each bank has one user, so only the order within a bank matters. From the last layer to the first:

- `Bank.PACK`, with packed lanes: a draw a kept sample, row tile after row tile;
- `Bank.REQUANTIZE`, in all layers but the first: a draw a kept sample, row tile after row tile;
- `Bank.UPDATE`: a draw a row of a tile, row tiles in the outer loop, column tiles in the inner.

The forward pass rounds to nearest and draws nothing. Without a kept sample there is no backward
pass: nothing is drawn and the weights, also with momentum, stay as they are.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from . import confidence, gemm, lanes, loss, optimizer
from .config import Config
from .fixed import HALF, round_shift, saturate
from .lfsr import Bank, Lfsr, high_half, low_half

__all__ = [
    "Layer", "LayerStep", "Step", "Weights", "fit", "forward_layer", "input_gradient_layer",
    "lfsr_banks", "pad_weights", "train_step", "update_layer",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Shifts and choices of one layer.

    Parameters
    ----------
    out_shift : int
        Low bits that the forward pass drops.
    input_gradient_shift : int
        Low bits that dX loses; of no use in the first layer, which computes no dX.
    lanes : int
        Activations in a word of the weight gradient: 1, 2 or 4.
    x_shift : int
        Low bits that packing drops: 0 to 8 - 8 / lanes.
    rule : optimizer.Rule
    """

    out_shift: int
    input_gradient_shift: int = 0
    lanes: int = 1
    x_shift: int = 0
    rule: optimizer.Rule


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Master weights and velocities of one layer, int64 (K, N), both padded to whole tiles."""

    master: np.ndarray
    velocity: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerStep:
    """What one layer computed; K and N are padded to whole tiles, B is the samples kept.

    Parameters
    ----------
    x : int64 array (T, K)
        Activations that enter.
    y : int64 array (T, N)
        Activations that leave; of the last layer the logits.
    d : int64 array (B, N)
        Gradient of `y`.
    quantized_x : int64 array (B, K)
        The kept rows of `x` as the weight gradient sees them, on the scale of `x`.
    weight_gradient : int64 array (K, N)
        Exact.
    input_gradient : int64 array (B, K), or None in the first layer
        Rounded, and zero where the ReLU before the layer was off.
    weights : Weights
        After the update.
    """

    x: np.ndarray
    y: np.ndarray
    d: np.ndarray
    quantized_x: np.ndarray
    weight_gradient: np.ndarray
    input_gradient: np.ndarray | None
    weights: Weights


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """One training step.

    Parameters
    ----------
    logits : int64 array (T, classes)
    keep : int64 array (B,)
        Indices of the samples that got a gradient, in order.
    error : int64 array (B, classes)
        D of the logits.
    layers : tuple of LayerStep
        From the first layer to the last.
    banks : dict of Bank to Lfsr
        As the step left them.
    """

    logits: np.ndarray
    keep: np.ndarray
    error: np.ndarray
    layers: tuple[LayerStep, ...]
    banks: dict[Bank, Lfsr]


def lfsr_banks(config: Config, seed: int = 0) -> dict[Bank, Lfsr]:
    """Return the LFSRs of a machine that was seeded with `seed`."""
    return {
        Bank.REQUANTIZE: Lfsr(Bank.REQUANTIZE, config.lane_count, seed),
        Bank.PACK: Lfsr(Bank.PACK, config.rows, seed),
        Bank.UPDATE: Lfsr(Bank.UPDATE, config.columns, seed),
    }


def fit(matrix, width: int) -> np.ndarray:
    """Return the first `width` columns of an int array (T, any), zeros where there are none."""
    matrix = np.asarray(matrix, np.int64)
    fitted = np.zeros((len(matrix), width), np.int64)
    common = min(width, matrix.shape[1])
    fitted[:, :common] = matrix[:, :common]
    return fitted


def pad_weights(config: Config, master) -> Weights:
    """Return master weights, int array (K, N), padded to whole tiles and at rest.

    The padding is the master weight that the array sees as zero and the update leaves alone.
    """
    master = np.asarray(master, np.int64)
    inputs, outputs = master.shape
    padded = np.full(
        (inputs + -inputs % config.rows, outputs + -outputs % config.columns),
        1 << config.residue_bits >> 1, np.int64)
    padded[:inputs, :outputs] = master
    return Weights(padded, np.zeros_like(padded))


def forward_layer(config: Config, x, master, out_shift: int, *, relu: bool) -> np.ndarray:
    """Return the activations that leave a layer, int64 (T, N).

    With `relu` they are clipped below zero and unsigned, else they are signed.
    """
    weight, _ = optimizer.split(master, config.residue_bits)
    total = gemm.forward(x, weight, rows=config.rows, bits=config.accumulator_bits)
    value = round_shift(total, out_shift)
    if relu:
        value = np.maximum(value, 0)
    return saturate(value, config.operand_bits, signed=not relu)


def input_gradient_layer(config: Config, d, master, shift: int, lfsr: Lfsr, *,
                         active) -> np.ndarray:
    """Return dX, int64 (B, K), rounded stochastically; advance `lfsr` of `Bank.REQUANTIZE`.

    Parameters
    ----------
    d : int array (B, N)
    master : int array (K, N)
    active : bool array (B, K)
        False where the ReLU was off.
    """
    weight, _ = optimizer.split(master, config.residue_bits)
    total = gemm.input_gradient(
        d, weight, columns=config.columns, bits=config.accumulator_bits)
    random = _draw_row_tiles(lfsr, len(total), total.shape[1], config.rows)
    rounded = round_shift(np.where(active, total, 0), shift, random)
    return saturate(rounded, config.gradient_bits)


def update_layer(config: Config, weights: Weights, gradient, rule: optimizer.Rule,
                 lfsr: Lfsr) -> Weights:
    """Return the weights after a step along `gradient`; advance `lfsr` of `Bank.UPDATE`."""
    inputs, outputs = weights.master.shape
    rows, columns = config.rows, config.columns
    states = lfsr.draw(inputs * outputs // columns)
    tiles = states.reshape(inputs // rows, outputs // columns, rows, columns)
    random = tiles.transpose(0, 2, 1, 3).reshape(inputs, outputs)
    return Weights(*optimizer.update(
        weights.master, weights.velocity, gradient, rule, master_bits=config.master_bits,
        random_gradient=low_half(random), random_step=high_half(random)))


def train_step(config: Config, layers: Sequence[Layer], weights: Sequence[Weights], x, labels, *,
               classes: int, threshold: int, exponent: int, banks: Mapping[Bank, Lfsr],
               x_unsigned: bool = False, error_random=HALF) -> Step:
    """Return a training step; no argument is changed.

    Parameters
    ----------
    config : Config
    layers : sequence of Layer
    weights : sequence of Weights
        One a layer. Between layers is a ReLU; the logits have none.
    x : int array (T, features)
        Signed, or unsigned, of `operand_bits`; padded with zeros to the first layer's width.
    labels : int array (T,)
    classes : int
        Logits that count; the last layer may be wider by padding.
    threshold : int
        Margin from which a sample is skipped; `confidence.NEVER` keeps all.
    exponent : int
        A logit is in units of ``2**exponent``.
    banks : mapping of Bank to Lfsr
        From `lfsr_banks`, or a step before.
    x_unsigned : bool
    error_random : int array, broadcast against the kept (B, classes)
        16-bit draws that round D; `HALF` rounds to nearest.

    Raises
    ------
    ValueError
        If a shape does not fit the machine, or a label names no class.
    """
    x, labels = np.asarray(x, np.int64), np.asarray(labels, np.int64)
    _check(config, layers, weights, x, labels, classes)
    banks = dict(deepcopy(banks))

    entering, leaving = [], []
    for index, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        entering.append(fit(leaving[-1] if leaving else x, len(weight.master)))
        leaving.append(forward_layer(
            config, entering[-1], weight.master, layer.out_shift, relu=index < len(layers) - 1))
    logits = leaving[-1][:, :classes]
    keep = confidence.keep_list(logits, labels, threshold)
    error = loss.error(
        logits[keep], labels[keep], exponent, bits=config.gradient_bits, random=error_random)

    done: list[LayerStep] = []
    arriving = error
    for index in reversed(range(len(layers))):
        unsigned = x_unsigned or index > 0
        done.append(_backward_layer(
            config, layers[index], weights[index], entering[index], leaving[index], keep,
            arriving, banks, unsigned=unsigned, first=index == 0))
        arriving = done[-1].input_gradient
    return Step(logits=logits, keep=keep, error=error, layers=tuple(reversed(done)), banks=banks)


def _backward_layer(config, layer, weights, x, y, keep, arriving, banks, *, unsigned, first):
    d = fit(arriving, weights.master.shape[1])
    kept_x = x[keep]
    dx = None
    if not first:
        dx = input_gradient_layer(
            config, d, weights.master, layer.input_gradient_shift, banks[Bank.REQUANTIZE],
            active=kept_x > 0)
    if layer.lanes > 1:
        random = _draw_row_tiles(
            banks[Bank.PACK], len(keep), kept_x.shape[1], config.rows)
        kept_x = lanes.quantize(kept_x, 8 // layer.lanes, layer.x_shift, unsigned=unsigned,
                                random=random) << layer.x_shift
    gradient = gemm.weight_gradient(kept_x, d)
    if len(keep):
        weights = update_layer(config, weights, gradient, layer.rule, banks[Bank.UPDATE])
    return LayerStep(x=x, y=y, d=d, quantized_x=kept_x, weight_gradient=gradient,
                     input_gradient=dx, weights=weights)


def _draw_row_tiles(lfsr: Lfsr, steps: int, width: int, rows: int) -> np.ndarray:
    """Return 16 random bits for each element of (steps, width), drawn row tile by row tile."""
    parts = [low_half(lfsr.draw(steps))[:, :rows] for _ in range(width // rows)]
    return np.concatenate(parts, axis=1)


def _check(config, layers, weights, x, labels, classes):
    if not layers or len(layers) != len(weights):
        raise ValueError(
            f"A network needs weights for each of its layers, at least one, not {len(weights)} "
            f"for {len(layers)}")
    for index, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        if layer.lanes > config.max_lanes:
            raise ValueError(
                f"Layer {index} asks for {layer.lanes} lanes: the machine has "
                f"{config.max_lanes}")
        inputs, outputs = weight.master.shape
        if inputs % config.rows or outputs % config.columns:
            raise ValueError(
                f"Weights of layer {index} are {inputs}x{outputs}, not whole tiles of "
                f"{config.rows}x{config.columns}: use pad_weights")
    if not 1 <= len(x) <= config.steps_depth:
        raise ValueError(
            f"A step takes 1 to {config.steps_depth} samples, not {len(x)}: split the batch")
    if x.shape[1] > len(weights[0].master):
        raise ValueError(
            f"The first layer takes at most {len(weights[0].master)} features, not {x.shape[1]}: "
            "give it more weights")
    if not 2 <= classes <= weights[-1].master.shape[1]:
        raise ValueError(
            f"classes must be 2 to the last layer's {weights[-1].master.shape[1]} outputs, "
            f"not {classes!r}")
    if labels.shape != (len(x),):
        raise ValueError(f"{len(x)} samples need as many labels, not {labels.shape}")
    for label in labels:
        if not 0 <= label < classes:
            raise ValueError(f"A label lies between 0 and {classes - 1}, not {label}")
