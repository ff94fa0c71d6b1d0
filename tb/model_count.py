"""Multiplications counted one by one, without any formula of the cost model."""

import itertools

from gradloom_model.layers import Layer

__all__ = ["convolution", "einsum", "layer"]


def convolution(sizes, kernel, *, inputs, outputs, stride=None, dilation=None, pads=None,
                groups=1):
    """Count the products of a convolution along any axes, those with padding included."""
    axes = len(sizes)
    stride, dilation = stride or [1] * axes, dilation or [1] * axes
    pads = pads or [0] * 2 * axes
    starts = [range(0, pads[axis] + sizes[axis] + pads[axes + axis], stride[axis])
              for axis in range(axes)]
    ends = [pads[axis] + sizes[axis] + pads[axes + axis] for axis in range(axes)]
    count = 0
    for start in itertools.product(*starts):
        last = [start[axis] + dilation[axis] * (kernel[axis] - 1) for axis in range(axes)]
        if any(last[axis] >= ends[axis] for axis in range(axes)):
            continue
        for output, _tap in itertools.product(range(outputs),
                                              itertools.product(*map(range, kernel))):
            group = output // (outputs // groups)
            count += sum(1 for channel in range(inputs) if channel // (inputs // groups) == group)
    return count


def einsum(equation, *shapes):
    """Count the products of an einsum of two operands, by its definition."""
    terms = equation.split("->")[0].split(",")
    sizes = {label: size for term, shape in zip(terms, shapes)
             for label, size in zip(term, shape)}
    return sum(1 for _ in itertools.product(*(range(size) for size in sizes.values())))


def layer(given: Layer):
    """Count the products of a layer, one at a time."""
    if given.kind == "conv":
        return convolution(given.size, given.kernel, inputs=given.inputs, outputs=given.outputs,
                           stride=given.stride, dilation=given.dilation, pads=given.padding,
                           groups=given.groups)
    return einsum("crk,cko->cro", (given.copies, given.size[0] * given.size[1], given.inputs),
                  (given.copies, given.inputs, given.outputs))
