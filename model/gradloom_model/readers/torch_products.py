"""The layers of each PyTorch operator that multiplies, as the dispatcher sees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..layers import Layer
from .products import Axis, attention, contraction, convolution, transposed_convolution

__all__ = ["PRODUCTS", "Trace", "multiplies"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Where a tensor comes from.

    Parameters
    ----------
    stored : bool
        Whether it is a parameter, buffer or constant, or computed of these without products.
    trained : bool
        Whether a parameter lies upstream.
    origin : str
        The parameter or buffer that it is a view of, if it is.
    """

    stored: bool = True
    trained: bool = False
    origin: str = ""


Tracer = Callable[[Any], Trace]
Product = tuple[list[Layer], str]
"""Layers, and the origin of their weights."""


def _contraction(labels: str, first: int = 0) -> Callable[[str, Sequence[Any], Tracer], Product]:
    """Return what makes a layer of an einsum of two arguments, the first of which is given."""
    terms, out = labels.split("->")
    left_labels, right_labels = terms.split(",")

    def layers(name: str, arguments: Sequence[Any], trace: Tracer) -> Product:
        left, right = arguments[first:first + 2]
        return _product(name, (left, right), (left_labels, right_labels), out, trace)
    return layers


def _product(name: str, operands: tuple[Any, Any], labels: tuple[str, str], out: str,
             trace: Tracer) -> Product:
    traces = [trace(operand) for operand in operands]
    stored = [side for side, of in zip(("left", "right"), traces) if of.stored]
    at_weights = 0 if stored == ["left"] else 1
    weights = operands[at_weights]
    kept = list(labels)
    if stored:
        # Weights repeated along an axis are one set of weights for more rows.
        kept[at_weights] = "".join(
            label for label, stride, size in zip(labels[at_weights], weights.stride(),
                                                 weights.shape) if stride or size == 1)
    sizes = {label: size for axes, operand in zip(labels, operands)
             for label, size in zip(axes, operand.shape)}
    layer = contraction(name, kept[0], kept[1], out, sizes, stored=stored,
                        input_gradient=traces[1 - at_weights].trained)
    return [layer], traces[at_weights].origin if stored else ""


def _linear(name: str, arguments: Sequence[Any], trace: Tracer) -> Product:
    data, weights = arguments[:2]
    rows = "abcdefgh"[:data.dim() - 1]
    return _product(name, (data, weights), (rows + "k", "nk"), rows + "n", trace)


def _matmul(name: str, arguments: Sequence[Any], trace: Tracer) -> Product:
    left, right = arguments[:2]
    batch = "abcdefgh"[:max(left.dim(), right.dim(), 2) - 2]
    labels = []
    for operand, matrix in ((left, "mk"), (right, "kn")):
        axes = (batch[len(batch) - max(operand.dim() - 2, 0):]
                + (matrix if operand.dim() > 1 else "k"))
        labels.append(axes)
    return _product(name, (left, right), (labels[0], labels[1]), batch + "mn", trace)


def _convolution(name: str, arguments: Sequence[Any], trace: Tracer) -> Product:
    data, kernel, _, stride, padding, dilation, transposed, _, groups = arguments[:9]
    images, channels, *sizes = data.shape
    taps = kernel.shape[2:]
    stride, padding, dilation = (list(values) * (len(taps) if len(values) == 1 else 1)
                                 for values in (stride, padding, dilation))
    stored, gradient = trace(kernel).stored, trace(data).trained
    if transposed:
        layer = transposed_convolution(
            name, sizes, prod(taps), inputs=channels, outputs=kernel.shape[1] * groups,
            groups=groups, images=images, stored=stored, input_gradient=gradient)
    else:
        axes = [Axis(size=sizes[at], kernel=taps[at], stride=stride[at], dilation=dilation[at],
                     before=padding[at], after=padding[at]) for at in range(len(taps))]
        layer = convolution(name, axes, inputs=channels, outputs=kernel.shape[0], groups=groups,
                            images=images, stored=stored, input_gradient=gradient)
    return [layer], trace(kernel).origin


def _attention(name: str, arguments: Sequence[Any], trace: Tracer) -> Product:
    query, key, value = arguments[:3]
    samples = prod(query.shape[:-3])
    return list(attention(
        name, heads=samples * query.shape[-3], key_heads=samples * key.shape[-3],
        queries=query.shape[-2], keys=key.shape[-2], width=query.shape[-1],
        value_width=value.shape[-1],
        gradients=(trace(query).trained, trace(query).trained or trace(key).trained))), ""


PRODUCTS: dict[str, Callable[[str, Sequence[Any], Tracer], Product]] = {
    "addbmm": _contraction("bmk,bkn->mn", 1),
    "addmm": _contraction("mk,kn->mn", 1),
    "addmv": _contraction("mk,k->m", 1),
    "baddbmm": _contraction("bmk,bkn->bmn", 1),
    "bmm": _contraction("bmk,bkn->bmn"),
    "dot": _contraction("k,k->"),
    "mm": _contraction("mk,kn->mn"),
    "mv": _contraction("mk,k->m"),
    "vdot": _contraction("k,k->"),
    "_addmm_activation": _contraction("mk,kn->mn", 1),
    "_int_mm": _contraction("mk,kn->mn"),
    "_scaled_mm": _contraction("mk,kn->mn"),
    "linear": _linear,
    "matmul": _matmul,
    "convolution": _convolution,
    "_convolution": _convolution,
    "_scaled_dot_product_attention_math": _attention,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
"""By name in aten; those that write to their argument have a "_" behind it."""

MULTIPLIERS = frozenset("""
    _cdist_forward _cudnn_rnn _efficient_attention_forward _flash_attention_forward _grouped_mm
    _native_multi_head_attention _scaled_grouped_mm _sparse_addmm _sparse_mm _spsolve
    _transformer_encoder_layer_fwd _trilinear _triton_multi_head_attention
    _triton_scaled_dot_attention cholesky cholesky_inverse cholesky_solve geqrf inverse lu_solve
    matrix_exp miopen_rnn mkldnn_linear mkldnn_rnn_layer orgqr ormqr sspaddmm triangular_solve
""".split())
FAMILIES = ("_fft_", "fft_", "linalg_", "_linalg_", "quantized_")
ADDERS = frozenset({"_linalg_check_errors", "linalg_cross", "linalg_vector_norm"})


def multiplies(name: str) -> bool:
    """Whether an operator of aten that makes no layers may multiply on the array."""
    return name in MULTIPLIERS or (name.startswith(FAMILIES) and name not in ADDERS)
