"""Convolutions and products of any shape as layers: what the readers of networks share."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..layers import Layer

__all__ = ["Axis", "Names", "attention", "contraction", "convolution", "per_sample",
           "transposed_convolution"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis along which a convolution moves; zeros come before and after."""

    size: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def out(self) -> int:
        """Positions of the kernel; none, or fewer, where it exceeds the axis."""
        free = self.size + self.before + self.after - self.dilation * (self.kernel - 1) - 1
        return free // self.stride + 1


class Names:
    """Give names that no layer had before: the second "conv" is "conv#2"."""

    def __init__(self):
        self._taken: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """Return the name, or its first variant that is free."""
        while True:
            self._taken[name] += 1
            if self._taken[name] == 1:
                return name
            name = f"{name}#{self._taken[name]}"


def per_sample(name: str, what: str, amount: int, batch: int) -> int:
    """Divide what a batch needs among its samples.

    Raises
    ------
    ValueError
        If the batch does not divide it.
    """
    if amount % batch:
        raise ValueError(
            f"Layer {name!r}: a batch of {batch} does not divide its {amount} {what}. The batch is "
            "the first dimension of the first input: pass batch=None if the inputs have none, or "
            "export the network with a batch of 1")
    return amount // batch


def convolution(name: str, axes: Sequence[Axis], *, inputs: int, outputs: int, groups: int = 1,
                images: int = 1, stored: bool = True, input_gradient: bool = True) -> Layer:
    """Return a convolution along one to three axes, of one or more images a sample.

    A layer has two axes: what has more (three axes, or frames that share the weights) is folded
    along one of them. Products, taps, weights, inputs and outputs stay exact; stride and padding
    become what makes the sizes come out.

    Parameters
    ----------
    name : str
    axes : sequence of Axis
        The only one becomes the height.
    inputs, outputs : int
        Channels of all groups.
    groups : int
    images : int
        Per sample.
    stored : bool
        If not, the kernel is computed from the sample, and the layer a product of its patches.
    input_gradient : bool

    Raises
    ------
    ValueError
        If there are no axes or more than three, or the kernel exceeds the input.
    """
    if not 1 <= len(axes) <= 3:
        raise ValueError(f"Layer {name!r}: a convolution has 1 to 3 axes, not {len(axes)}")
    for axis in axes:
        if axis.out < 1:
            raise ValueError(f"Layer {name!r}: a kernel of {axis.kernel} with dilation "
                             f"{axis.dilation} exceeds the {axis.size} inputs padded by "
                             f"{axis.before} and {axis.after}")
    if not stored:
        return Layer(name=name, kind="matmul", copies=groups,
                     size=(images * prod(axis.out for axis in axes), 1),
                     inputs=inputs // groups * prod(axis.kernel for axis in axes),
                     outputs=outputs // groups, input_gradient=input_gradient)
    folded = [Axis(size=images)] if images > 1 else []
    folded += axes
    while len(folded) > 2:
        kernels = [folded[at].kernel * folded[at + 1].kernel for at in range(len(folded) - 1)]
        at = kernels.index(min(kernels))
        folded[at:at + 2] = [_merged(folded[at], folded[at + 1])]
    if len(folded) == 1:
        folded.append(Axis(size=1))
    high, wide = folded
    return Layer(name=name, inputs=inputs, outputs=outputs, groups=groups,
                 kernel=(high.kernel, wide.kernel), stride=(high.stride, wide.stride),
                 dilation=(high.dilation, wide.dilation), size=(high.size, wide.size),
                 padding=(high.before, wide.before, high.after, wide.after),
                 input_gradient=input_gradient)


def _merged(outer: Axis, inner: Axis) -> Axis:
    """Return an axis with the product of both axes' inputs, taps and outputs."""
    size, kernel, out = (outer.size * inner.size, outer.kernel * inner.kernel,
                         outer.out * inner.out)
    if out == 1:
        return Axis(size=size, kernel=kernel, stride=max(1, size - kernel + 1),
                    after=max(0, kernel - size))
    stride = max(outer.stride * inner.stride, -(-(size - kernel) // (out - 1)))
    padding = (out - 1) * stride + kernel - size
    return Axis(size=size, kernel=kernel, stride=stride, before=padding // 2,
                after=padding - padding // 2)


def transposed_convolution(name: str, sizes: Sequence[int], taps: int, *, inputs: int,
                           outputs: int, groups: int = 1, images: int = 1, stored: bool = True,
                           input_gradient: bool = True) -> Layer:
    """Return the product in a transposed convolution: each input pixel times all taps.

    That is a 1x1 convolution to `outputs` x `taps` channels, whose results are then added up
    where they overlap. Its products are those of the convolution that it transposes, padding
    included: what it cuts off is computed first.
    """
    return convolution(name, [Axis(size=size) for size in sizes], inputs=inputs,
                       outputs=outputs * taps, groups=groups, images=images, stored=stored,
                       input_gradient=input_gradient)


def contraction(name: str, left: str, right: str, out: str, sizes: Mapping[str, int], *,
                stored: Collection[str] = (), input_gradient: bool = True,
                batch: int = 1) -> Layer:
    """Return the layer of a product over labelled axes, as in an einsum ``left,right->out``.

    Labels of both operands are copies if they are in the result, and inputs if they are not. The
    others are the rows of the left operand and the outputs of the right one; a label that only
    one operand has and the result lacks is summed before, without products.

    Parameters
    ----------
    name : str
    left, right, out : str
        One letter an axis, each at most once in an operand; axes that are broadcast are left out.
    sizes : mapping
        Of each letter.
    stored : collection of {"left", "right"}
        Which operands are weights; of two, the right one is taken for the weights.
    input_gradient : bool
        Whether the operand that is no weight, or else the left one, needs its gradient.
    batch : int
        Samples in the operands.

    Returns
    -------
    Layer
        "matmul" if nothing is stored, "linear" if weights are; with copies of weights, of which
        each has its own rows, a 1x1 convolution in groups.
    """
    if "left" in stored and "right" not in stored:
        left, right = right, left
    copies = prod(sizes[label] for label in left if label in right and label in out)
    inputs = prod(sizes[label] for label in left if label in right and label not in out)
    rows = prod(sizes[label] for label in left if label not in right and label in out)
    outputs = prod(sizes[label] for label in right if label not in left and label in out)
    if stored:
        rows = per_sample(name, "rows", rows, batch)
        if copies > 1:
            return Layer(name=name, inputs=copies * inputs, outputs=copies * outputs,
                         groups=copies, size=(rows, 1), input_gradient=input_gradient)
        return Layer(name=name, kind="linear", inputs=inputs, outputs=outputs, size=(rows, 1),
                     input_gradient=input_gradient)
    if copies % batch == 0:
        copies //= batch
    elif outputs % batch == 0 and rows % batch:
        outputs //= batch
    else:
        rows = per_sample(name, f"rows of {copies} products", rows, batch)
    return Layer(name=name, kind="matmul", inputs=inputs, outputs=outputs, size=(rows, 1),
                 copies=copies, input_gradient=input_gradient)


def attention(name: str, *, heads: int, queries: int, keys: int, width: int,
              value_width: int | None = None, key_heads: int | None = None,
              gradients: tuple[bool, bool] = (True, True)) -> tuple[Layer, Layer]:
    """Return the two products of attention: of queries and keys, and of weights and values.

    Heads that share keys and values are rows of one product.

    Parameters
    ----------
    name : str
        "name.scores" and "name.values" are the layers.
    heads, queries, keys : int
        Of one sample, masked ones included.
    width, value_width : int
        Features of a head's queries and keys, and of its values if not as many.
    key_heads : int, optional
        Fewer heads of keys and values than of queries.
    gradients : (bool, bool)
        Whether the queries, and the weights of the values, need their gradient.

    Raises
    ------
    ValueError
        If the heads of keys do not divide those of queries.
    """
    copies = heads if key_heads is None else key_heads
    if heads % copies:
        raise ValueError(
            f"Layer {name!r}: {copies} heads of keys do not divide {heads} heads of queries")
    size = (heads // copies * queries, 1)
    return (Layer(name=f"{name}.scores", kind="matmul", copies=copies, size=size, inputs=width,
                  outputs=keys, input_gradient=gradients[0]),
            Layer(name=f"{name}.values", kind="matmul", copies=copies, size=size, inputs=keys,
                  outputs=width if value_width is None else value_width,
                  input_gradient=gradients[1]))
