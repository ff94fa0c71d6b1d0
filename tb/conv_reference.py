"""A convolution by its definition, loop by loop: what forward and backward passes are held to."""

from itertools import product

import numpy as np

__all__ = ["convolve", "convolve_back"]


def _meetings(shape, kernel, stride, pad, out_shape):
    """Yield every output pixel, tap, and the input pixel that they meet inside the image."""
    for oy, ox in product(*(range(size) for size in out_shape)):
        for ky, kx in product(*(range(size) for size in kernel)):
            y, x = oy * stride + ky - pad, ox * stride + kx - pad
            if 0 <= y < shape[0] and 0 <= x < shape[1]:
                yield oy, ox, ky, kx, y, x


def _groups(inputs: int, outputs: int, groups: int):
    for group in range(groups):
        yield (slice(group * inputs // groups, (group + 1) * inputs // groups),
               slice(group * outputs // groups, (group + 1) * outputs // groups))


def convolve(images, weights, *, stride: int, pad: int, groups: int = 1) -> np.ndarray:
    """Return the outputs, int array (N, out height, out width, outputs).

    Parameters
    ----------
    images : int array (N, height, width, inputs)
    weights : int array (taps_y, taps_x, inputs, outputs)
        Only those inside a group are used.
    stride, pad, groups : int
    """
    taps_y, taps_x, inputs, outputs = weights.shape
    count, height, width, _ = images.shape
    out_shape = (height + 2 * pad - taps_y) // stride + 1, (width + 2 * pad - taps_x) // stride + 1
    result = np.zeros((count, *out_shape, outputs), np.int64)
    for oy, ox, ky, kx, y, x in _meetings(
            (height, width), (taps_y, taps_x), stride, pad, out_shape):
        for k, n in _groups(inputs, outputs, groups):
            result[:, oy, ox, n] += images[:, y, x, k] @ weights[ky, kx, k, n]
    return result


def convolve_back(images, weights, gradients, *, stride: int, pad: int,
                  groups: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of images and weights; shapes as of `convolve`.

    Parameters
    ----------
    gradients : int array (N, out height, out width, outputs)
    """
    taps_y, taps_x, inputs, outputs = weights.shape
    _, height, width, _ = images.shape
    of_images, of_weights = np.zeros_like(images), np.zeros_like(weights)
    for oy, ox, ky, kx, y, x in _meetings(
            (height, width), (taps_y, taps_x), stride, pad, gradients.shape[1:3]):
        for k, n in _groups(inputs, outputs, groups):
            d = gradients[:, oy, ox, n]
            of_images[:, y, x, k] += d @ weights[ky, kx, k, n].T
            of_weights[ky, kx, k, n] += images[:, y, x, k].T @ d
    return of_images, of_weights
