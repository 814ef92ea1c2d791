"""Winograd's convolution in NumPy, in all three directions, for any matrices and inputs.

With the absolute values of matrices and inputs, it gives the magnitudes in error bounds; with
faulty matrices, faulty kernels that the checks must catch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnnkernels.problem import Conv2D
from cnnkernels.winograd.transforms import TAPS, transforms

_TILES = 128
"""Tiles whose products are computed at once, if images are that small."""


class Matrices(NamedTuple):
    """The matrices of `transforms.Transforms`, float64."""

    image: np.ndarray
    weights: np.ndarray
    output: np.ndarray
    gradient: np.ndarray
    weights_back: np.ndarray
    denominators: np.ndarray

    @property
    def outputs(self) -> int:
        """Outputs of a tile along an axis."""
        return len(self.output)


class Correlation(NamedTuple):
    """The operands of a correlation.

    Attributes
    ----------
    images : array, (N, groups * C, H, W)
    w : array, (groups, K, C, 3, 3)
    padding : tuple of int
        Rows above and columns left of an image; negative ones leave out pixels.
    size : tuple of int
        Rows and columns of the result.
    """

    images: np.ndarray
    w: np.ndarray
    padding: tuple[int, int]
    size: tuple[int, ...]


@functools.cache
def matrices(outputs: int) -> Matrices:
    """Return the matrices of F(outputs, 3)."""
    given = transforms(outputs)
    return Matrices(*(np.array(getattr(given, name), np.float64) for name in Matrices._fields))


def tiles_along(size: int, outputs: int) -> int:
    """Return how many tiles cover an axis of the output."""
    return -(-size // outputs)


def of_forward(problem: Conv2D, x: np.ndarray, w: np.ndarray) -> Correlation:
    """Return the correlation that is a problem's forward."""
    (top, _), (left, _) = problem.padding
    return Correlation(x, _in_groups(problem, w), (top, left), problem.shapes.y[2:])


def of_backward_data(problem: Conv2D, dy: np.ndarray, w: np.ndarray) -> Correlation:
    """Return the correlation that is a problem's backward-data, of turned filters."""
    (top, _), (left, _) = problem.padding
    turned = _in_groups(problem, w).swapaxes(1, 2)[..., ::-1, ::-1]
    return Correlation(dy, turned, (TAPS - 1 - top, TAPS - 1 - left), problem.shapes.x[2:])


def _in_groups(problem: Conv2D, w: np.ndarray) -> np.ndarray:
    filters, *others = w.shape
    return w.reshape(problem.groups, filters // problem.groups, *others)


def correlated(
    given: Matrices,
    correlation: Correlation,
    stored: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Return a correlation of images with filters, (N, groups * K, ``*size``), float64.

    `stored` rounds transformed images and weights as they are stored.
    """
    images, w, padding, size = correlation
    m = given.outputs
    groups, filters = w.shape[:2]
    weights = stored(_divided(given, _both(given.weights, w.transpose(3, 4, 0, 1, 2))))
    down, across = (tiles_along(n, m) for n in size)
    y = np.empty((len(images), groups * filters, *size))
    for some in _blocks(len(images), down * across):
        tiles = _both(given.image, _tiles_of(images[some], m, groups, padding, size, TAPS - 1))
        outputs = _both(given.output, weights @ stored(tiles))
        outputs = outputs.reshape(m, m, groups * filters, -1, down, across)
        outputs = outputs.transpose(3, 2, 4, 0, 5, 1)
        whole = outputs.reshape(*outputs.shape[:2], down * m, across * m)
        y[some] = whole[..., : size[0], : size[1]]
    return y


def weight_gradients(given: Matrices, problem: Conv2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the gradient of the weights, (K, C / groups, 3, 3), float64."""
    groups, ((top, _), (left, _)) = problem.groups, problem.padding
    m, size = given.outputs, dy.shape[2:]
    channels = (dy.shape[1] // groups, x.shape[1] // groups)
    sums = np.zeros((len(given.image), len(given.image), groups, *channels))
    for some in _blocks(len(x), tiles_along(size[0], m) * tiles_along(size[1], m)):
        tiles = _both(given.image, _tiles_of(x[some], m, groups, (top, left), size, TAPS - 1))
        of_y = _both(given.gradient, _tiles_of(dy[some], m, groups, (0, 0), size, 0))
        sums += of_y @ tiles.swapaxes(3, 4)
    dw = _both(given.weights_back, _divided(given, sums))
    return dw.transpose(2, 3, 4, 0, 1).reshape(dy.shape[1], channels[1], TAPS, TAPS)


def _blocks(images: int, tiles: int) -> Iterator[slice]:
    """Yield slices of images: few, to save memory, but with tiles enough for a fast product."""
    step = max(1, _TILES // max(1, tiles))
    return (slice(first, first + step) for first in range(0, images, step))


def _tiles_of(
    images: np.ndarray,
    outputs: int,
    groups: int,
    padding: tuple[int, int],
    size: tuple[int, ...],
    overlap: int,
) -> np.ndarray:
    """Return images' overlapping tiles, (side, side, groups, C, N * tiles), zeros around them."""
    around = [(0, 0), (0, 0)]
    # A negative padding leaves out pixels: dx of padding that is wider than the filter.
    images = images[..., max(0, -padding[0]) :, max(0, -padding[1]) :]
    for axis in (0, 1):
        covered = tiles_along(size[axis], outputs) * outputs + overlap
        before = max(0, padding[axis])
        after = max(0, covered - before - images.shape[axis + 2])
        around.append((before, after))
    side = outputs + overlap
    windows = sliding_window_view(np.pad(images, around), (side, side), axis=(2, 3))
    down, across = (tiles_along(n, outputs) for n in size)
    tiles = windows[:, :, ::outputs, ::outputs][:, :, :down, :across].transpose(4, 5, 1, 0, 2, 3)
    number, channels = images.shape[:2]
    return tiles.reshape(side, side, groups, channels // groups, number * down * across)


def _both(matrix: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Transform both leading axes of tiles."""
    rows, columns = matrix.shape
    flat = tiles.reshape(columns * columns, -1)
    both: np.ndarray = np.kron(matrix, matrix) @ flat
    return both.reshape(rows, rows, *tiles.shape[2:])


def _divided(given: Matrices, tiles: np.ndarray) -> np.ndarray:
    """Divide by the denominators of both axes; multiples give integers exactly."""
    both = np.multiply.outer(given.denominators, given.denominators)
    divided: np.ndarray = tiles / both[:, :, None, None, None]
    return divided
