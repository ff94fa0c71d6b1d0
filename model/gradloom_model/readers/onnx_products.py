"""The layers of each ONNX operator that multiplies."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from onnx import NodeProto, helper

from ..layers import Layer
from .onnx_values import Unknown, Value
from .products import (
    Axis,
    attention,
    contraction,
    convolution,
    per_sample,
    transposed_convolution,
)

__all__ = ["PRODUCTS", "Product"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A node to make layers of.

    Parameters
    ----------
    node : NodeProto
    name : str
        Of the layer.
    inputs : tuple of Value
        Absent ones without type.
    batch : int
        Samples in each tensor.
    """

    node: NodeProto
    name: str
    inputs: tuple[Value, ...]
    batch: int

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, with text decoded."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def has(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < len(self.node.input) and bool(self.node.input[index])


Result = tuple[list[Layer], tuple[int, ...] | None]
"""Layers, and the shape of the first result where onnx does not know the operator."""


def _convolution(at_weights: int) -> Callable[[Product], Result]:
    def layers(product: Product) -> Result:
        data, kernel = product.inputs[0], product.inputs[at_weights]
        images, channels, *sizes = data.shape
        outputs, _, *taps = kernel.shape
        axes = _axes(product, sizes, taps)
        layer = convolution(
            product.name, axes, inputs=channels, outputs=outputs,
            groups=product.attribute("group", 1),
            images=per_sample(product.name, "images", images, product.batch),
            stored=kernel.stored, input_gradient=data.trained)
        return [layer], (images, outputs, *(axis.out for axis in axes))
    return layers


def _axes(product: Product, sizes: Sequence[int], taps: Sequence[int]) -> list[Axis]:
    ones = [1] * len(taps)
    strides = product.attribute("strides", ones)
    dilations = product.attribute("dilations", ones)
    pads = product.attribute("pads", [0, 0] * len(taps))
    auto_pad = product.attribute("auto_pad", "NOTSET")
    axes = []
    for at, (size, kernel, stride, dilation) in enumerate(zip(sizes, taps, strides, dilations)):
        before, after = pads[at], pads[at + len(taps)]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            padding = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            before = padding // 2 if auto_pad == "SAME_UPPER" else padding - padding // 2
            after = padding - before
        axes.append(Axis(size=size, kernel=kernel, stride=stride, dilation=dilation,
                         before=before, after=after))
    return axes


def _transposed(product: Product) -> Result:
    data, kernel = product.inputs[:2]
    images, channels, *sizes = data.shape
    _, outputs, *taps = kernel.shape
    groups = product.attribute("group", 1)
    return [transposed_convolution(
        product.name, sizes, prod(taps), inputs=channels, outputs=outputs * groups, groups=groups,
        images=per_sample(product.name, "images", images, product.batch), stored=kernel.stored,
        input_gradient=data.trained)], None


def _gemm(product: Product) -> Result:
    left, right = product.inputs[:2]
    labels = ("km" if product.attribute("transA", 0) else "mk",
              "nk" if product.attribute("transB", 0) else "kn")
    layer = _contraction(product, (left, right), labels, "mn")
    return [layer], None


def _matmul(at_right: int) -> Callable[[Product], Result]:
    def layers(product: Product) -> Result:
        left, right = product.inputs[0], product.inputs[at_right]
        labels = _matmul_labels(len(left.shape), len(right.shape))
        layer = _contraction(product, (left, right), labels[:2], labels[2])
        return [layer], None
    return layers


def _matmul_labels(left: int, right: int, transposed: tuple[int, int] = (0, 0)) -> tuple[
        str, str, str]:
    """Return the labels of two operands of so many axes, and of their product."""
    batch = string.ascii_uppercase[:max(left, right, 2) - 2]
    matrices = ("k" if left == 1 else "km" if transposed[0] else "mk",
                "k" if right == 1 else "nk" if transposed[1] else "kn")
    return (batch[len(batch) - max(left - 2, 0):] + matrices[0],
            batch[len(batch) - max(right - 2, 0):] + matrices[1],
            batch + ("m" if left > 1 else "") + ("n" if right > 1 else ""))


def _contraction(product: Product, operands: tuple[Value, Value], labels: Sequence[str],
                 out: str) -> Layer:
    sizes: dict[str, int] = {}
    kept = ["", ""]
    for at, (value, axes) in enumerate(zip(operands, labels)):
        if len(axes) != len(value.shape):
            raise Unknown(f"of {len(value.shape)} axes for {axes!r}")
        # An axis of 1 is broadcast, or makes no difference.
        kept[at] = "".join(axis for axis, size in zip(axes, value.shape) if size > 1)
        sizes |= {axis: size for axis, size in zip(axes, value.shape) if size > 1}
    stored = [side for side, value in zip(("left", "right"), operands) if value.stored]
    data = operands[1] if stored == ["left"] else operands[0]
    return contraction(product.name, kept[0], kept[1], out, sizes, stored=stored,
                       batch=product.batch, input_gradient=data.trained)


def _fused_matmul(product: Product) -> Result:
    if product.attribute("transBatchA", 0) or product.attribute("transBatchB", 0):
        raise Unknown("with transBatchA or transBatchB")
    left, right = product.inputs[:2]
    labels = _matmul_labels(len(left.shape), len(right.shape),
                            (product.attribute("transA", 0), product.attribute("transB", 0)))
    sizes: dict[str, int] = {}
    for axes, value in zip(labels, (left, right)):
        for axis, size in zip(axes, value.shape):
            sizes[axis] = max(sizes.get(axis, 1), size)
    return ([_contraction(product, (left, right), labels[:2], labels[2])],
            tuple(sizes[axis] for axis in labels[2]))


def _packed_matmul(product: Product) -> Result:
    """MatMulNBits: the weights are packed, their shape is in attributes."""
    *rows, inputs = product.inputs[0].shape
    outputs = product.attribute("N")
    rows_of_sample = per_sample(product.name, "rows", prod(rows), product.batch)
    return [Layer(name=product.name, kind="linear", inputs=inputs, outputs=outputs,
                  size=(rows_of_sample, 1), input_gradient=product.inputs[0].trained)], (
                      *rows, outputs)


def _integer_matmul(product: Product) -> Result:
    layers, _ = _matmul(1)(product)
    left, right = (value.shape for value in product.inputs[:2])
    return layers, (*left[:-1], right[-1]) if len(right) == 2 else None


def _einsum(product: Product) -> Result:
    equation = product.attribute("equation").replace(" ", "")
    terms, arrow, out = equation.partition("->")
    operands = terms.split(",")
    if len(operands) == 1:
        return [], None
    if len(operands) != 2:
        raise Unknown(f"of {len(operands)} operands: {equation}")
    broadcast = "".join(letter for letter in string.ascii_letters if letter not in equation)
    axes = [_spelled(term, len(value.shape), broadcast)
            for term, value in zip(operands, product.inputs)]
    if any(len(set(labels)) < len(labels) for labels in axes):
        raise Unknown(f"with a diagonal: {equation}")
    longest = max(len(labels) - len(term.replace("...", ""))
                  for term, labels in zip(operands, axes))
    ellipsis = broadcast[:longest][::-1]
    if not arrow:
        out = "..." + "".join(sorted(
            label for label in set(terms) if label.isalpha() and terms.count(label) == 1))
    out = out.replace("...", ellipsis)
    layer = _contraction(product, (product.inputs[0], product.inputs[1]), axes, out)
    shared = set(axes[0]) & set(axes[1])
    if shared <= set(out) and 1 in (prod(layer.size), layer.outputs // layer.groups):
        return [], None  # multiplied element by element
    return [layer], None


def _spelled(term: str, axes: int, broadcast: str) -> str:
    """Return the labels of an operand with letters, the last axis first, for an ellipsis."""
    return term.replace("...", broadcast[:axes - len(term.replace("...", ""))][::-1])


def _attention(product: Product) -> Result:
    query, key, value = product.inputs[:3]
    if len(query.shape) == 4:
        samples, heads, queries, width = query.shape
    else:
        samples, queries, features = query.shape
        heads = product.attribute("q_num_heads")
        width = features // heads
    if len(key.shape) == 4:
        _, key_heads, keys, _ = key.shape
        value_width = value.shape[-1]
    else:
        keys = key.shape[1]
        key_heads = product.attribute("kv_num_heads")
        value_width = value.shape[2] // key_heads
    keys += product.inputs[4].shape[2] if product.has(4) else 0
    samples = per_sample(product.name, "samples", samples, product.batch)
    return list(attention(
        product.name, heads=samples * heads, key_heads=samples * key_heads, queries=queries,
        keys=keys, width=width, value_width=value_width,
        gradients=(query.trained, query.trained or key.trained))), None


def _microsoft_attention(product: Product) -> Result:
    """The projections of queries, keys and values in one product, then attention."""
    data, weights = product.inputs[:2]
    samples, rows, inputs = data.shape
    outputs = weights.shape[1]
    heads = product.attribute("num_heads")
    widths = product.attribute("qkv_hidden_sizes") or [outputs // 3] * 3
    past = product.inputs[4].shape[3] if product.has(4) else 0
    samples_of_one = per_sample(product.name, "samples", samples, product.batch)
    return [
        Layer(name=f"{product.name}.projections", kind="linear", inputs=inputs, outputs=outputs,
              size=(samples_of_one * rows, 1), input_gradient=data.trained),
        *attention(product.name, heads=samples_of_one * heads, queries=rows, keys=rows + past,
                   width=widths[0] // heads, value_width=widths[2] // heads),
    ], (samples, rows, widths[2])


def _multi_head_attention(product: Product) -> Result:
    query = product.inputs[0]
    heads = product.attribute("num_heads")
    if len(query.shape) == 5:
        samples, queries, _, _, width = query.shape
        keys, value_width = queries, width
    else:
        samples, queries, features = query.shape
        width = features // heads
        key = product.inputs[1].shape
        if len(key) == 5:
            keys, value_width = key[1], key[4]
        else:
            value = product.inputs[2].shape
            keys = key[2] if len(key) == 4 else key[1]
            value_width = value[3] if len(value) == 4 else value[2] // heads
    keys += product.inputs[6].shape[2] if product.has(6) else 0
    samples_of_one = per_sample(product.name, "samples", samples, product.batch)
    return list(attention(
        product.name, heads=samples_of_one * heads, queries=queries, keys=keys, width=width,
        value_width=value_width,
        gradients=(query.trained, any(value.trained for value in product.inputs[:2])))), (
            samples, queries, heads * value_width)


def _recurrent(gates: int) -> Callable[[Product], Result]:
    def layers(product: Product) -> Result:
        data, weights = product.inputs[:2]
        first, second, inputs = data.shape  # steps and samples, in either layout
        directions, outputs, _ = weights.shape
        hidden = outputs // gates
        rows = per_sample(product.name, "rows", first * second, product.batch)
        sizes = {"d": directions, "t": rows, "k": hidden, "n": outputs}
        return [
            Layer(name=f"{product.name}.inputs", kind="linear", inputs=inputs,
                  outputs=directions * outputs, size=(rows, 1), input_gradient=data.trained),
            contraction(f"{product.name}.states", "dtk", "dkn", "dtn", sizes, stored=["right"]),
        ], None
    return layers


PRODUCTS: dict[tuple[str, str], Callable[[Product], Result]] = {
    ("", "Conv"): _convolution(1),
    ("", "ConvInteger"): _convolution(1),
    ("", "QLinearConv"): _convolution(3),
    ("", "DeformConv"): _convolution(1),
    ("", "ConvTranspose"): _transposed,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul(1),
    ("", "MatMulInteger"): _matmul(1),
    ("", "QLinearMatMul"): _matmul(3),
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    ("", "RNN"): _recurrent(1),
    ("", "GRU"): _recurrent(3),
    ("", "LSTM"): _recurrent(4),
    ("com.microsoft", "FusedConv"): _convolution(1),
    ("com.microsoft", "FusedMatMul"): _fused_matmul,
    ("com.microsoft", "TransposeMatMul"): _fused_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _integer_matmul,
    ("com.microsoft", "DynamicQuantizeMatMul"): _integer_matmul,
    ("com.microsoft", "MatMulNBits"): _packed_matmul,
    ("com.microsoft", "Attention"): _microsoft_attention,
    ("com.microsoft", "MultiHeadAttention"): _multi_head_attention,
}
"""By domain and operator."""
