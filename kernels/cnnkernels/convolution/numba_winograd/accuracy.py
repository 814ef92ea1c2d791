"""How large the numbers between inputs and results can be, and with them the error.

An element's error is at most gamma_n times its magnitude [1]_: what the algorithm gives if all
inputs, and all numbers of its transforms, are replaced by their absolute values. n is the number of
roundings on the longest way from an input to a result. The bound holds in any order of summation,
and nothing in it is tuned. Where inputs are such that all numbers in between are integers, results
are exact as long as magnitudes are integers that the type holds.

References
----------
.. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, ch. 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnnkernels.contract import Conv2D
from cnnkernels.convolution.numba_winograd.transforms import TAPS, Matrix, transforms


class Magnitudes(NamedTuple):
    """The magnitude of each element of y, dx and dw, float64, in their shapes."""

    y: np.ndarray
    dx: np.ndarray
    dw: np.ndarray


def integral(outputs: int) -> int:
    """Return the number whose multiples give integers throughout, as weights or as dy.

    Forward and backward-data are exact if the weights are multiples of it, backward-weights if dy
    is.
    """
    return int(max(transforms(outputs).denominators)) ** 2


def roundings(problem: Conv2D, outputs: int) -> tuple[int, int, int]:
    """Return how many roundings there are on the longest way to an element of y, dx and dw."""
    given = transforms(outputs)
    image, weights, output, gradient, back = (
        _steps(matrix)
        for matrix in (
            given.image, given.weights, given.output, given.gradient, given.weights_back,
        )
    )  # fmt: skip
    divided = 2  # the factor of a division is rounded, and so is its result
    forward = 2 * (image + weights + output) + divided
    tiles = _tiles(problem.out_height, outputs) * _tiles(problem.out_width, outputs)
    return (
        problem.in_channels // problem.groups + forward + problem.bias,
        problem.out_channels // problem.groups + forward,
        problem.batch * tiles + 2 * (image + gradient + back) + divided,
    )


def magnitudes(
    problem: Conv2D, outputs: int, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
) -> Magnitudes:
    """Return the magnitudes of the results for some inputs; b may be empty."""
    groups = problem.groups
    w = np.abs(w.astype(np.float64)).reshape(groups, -1, *w.shape[1:])
    x, dy = (_in_groups(array, groups) for array in (x, dy))
    (top, _), (left, _) = problem.padding
    y = _correlated(outputs, x, w, (top, left), dy.shape[3:])
    y = y.reshape(problem.shapes.y) + (np.abs(b.astype(np.float64))[:, None, None] if b.size else 0)
    turned = w.swapaxes(1, 2)[..., ::-1, ::-1]
    around = (TAPS - 1 - top, TAPS - 1 - left)
    dx = _correlated(outputs, dy, turned, around, x.shape[3:]).reshape(problem.shapes.x)
    given = transforms(outputs)
    scale = _scale(outputs)
    images = _both(given.image, _tiled(outputs, x, (top, left), dy.shape[3:], TAPS - 1))
    gradients = _both(given.gradient, _tiled(outputs, dy, (0, 0), dy.shape[3:], 0))
    sums = np.einsum("ngcpqij,ngkpqij->gkcij", images, gradients, optimize=True) * scale
    return Magnitudes(y, dx, _both(given.weights_back, sums).reshape(problem.shapes.w))


def _correlated(
    outputs: int,
    images: np.ndarray,
    w: np.ndarray,
    padding: tuple[int, int],
    size: tuple[int, ...],
) -> np.ndarray:
    """Return the magnitudes of a correlation, (N, groups, K, P, Q)."""
    given = transforms(outputs)
    tiles = _both(given.image, _tiled(outputs, images, padding, size, TAPS - 1))
    weights = _both(given.weights, w) * _scale(outputs)
    products = np.einsum("ngcpqij,gkcij->ngkpqij", tiles, weights, optimize=True)
    y = _both(given.output, products).swapaxes(4, 5)  # (N, groups, K, p, m, q, m)
    y = y.reshape(*y.shape[:3], y.shape[3] * outputs, y.shape[5] * outputs)
    return np.asarray(y[..., : size[0], : size[1]])


def _in_groups(array: np.ndarray, groups: int) -> np.ndarray:
    """Return absolute values, (N, groups, channels, H, W)."""
    batch, channels, height, width = array.shape
    return np.abs(array.astype(np.float64)).reshape(
        batch, groups, channels // groups, height, width
    )


def _tiled(
    outputs: int,
    images: np.ndarray,
    padding: tuple[int, int],
    size: tuple[int, ...],
    overlap: int,
) -> np.ndarray:
    """Return tiles that overlap, (..., down, across, side, side), with zeros around the images."""
    around = [(0, 0)] * (images.ndim - 2)
    for axis in (0, 1):
        covered = _tiles(size[axis], outputs) * outputs + overlap
        before = padding[axis]
        after = max(0, covered - before - images.shape[axis - 2])
        around.append((before, after))
    windows = sliding_window_view(np.pad(images, around), (outputs + overlap,) * 2, axis=(-2, -1))
    down, across = (_tiles(n, outputs) for n in size)
    return windows[..., ::outputs, ::outputs, :, :][..., :down, :across, :, :]


def _tiles(size: int, outputs: int) -> int:
    return -(-size // outputs)


def _both(matrix: Matrix, array: np.ndarray) -> np.ndarray:
    """Transform both of the last axes by a matrix's absolute values."""
    values = np.array([[abs(float(value)) for value in row] for row in matrix])
    return np.asarray(values @ array @ values.T)


def _scale(outputs: int) -> np.ndarray:
    inverse = np.array([1 / float(value) for value in transforms(outputs).denominators])
    tiles: np.ndarray = np.multiply.outer(inverse, inverse)
    return tiles


def _steps(matrix: Matrix) -> int:
    """Return how many roundings a product with a matrix takes, along one axis."""
    return max(sum(value != 0 for value in row) for row in matrix)
