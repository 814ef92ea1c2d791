"""Depthwise convolutions of small images, with a lane a channel.

Planes too small for vectors of pixels are turned, so that each pixel's channels lie side by side.
Then all three directions are sums of products of two such vectors: of pixels and weights, of dy and
weights, of dy and pixels; which go together is a list for each sum.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import memory, parallel, records, simd
from cnnkernels.contract import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Conv2D, Direction

_COPY = 64 * 1024
"""Elements of turned planes, at the most: the lists of products are larger."""

_STRIDED_COPY = 256 * 1024
"""The same with a stride: lists are shorter, and vectors of pixels would need a copy a phase."""


def suits(problem: Conv2D) -> bool:
    """Return whether a problem is depthwise, and its planes small, and enough for the lanes."""
    lanes = _lanes(problem)
    pixels = max(problem.height * problem.width, problem.out_height * problem.out_width)
    most = _COPY if problem.steps == (1, 1) else _STRIDED_COPY
    return (
        problem.groups == problem.in_channels == problem.out_channels >= lanes
        and pixels * lanes <= most
    )


def needed(problem: Conv2D) -> int:
    """Return how many bytes of tables and scratch memory are needed, about."""
    (rows, cols), (p_size, q_size) = problem.kernel_size, problem.shapes.y[2:]
    lanes, itemsize = _lanes(problem), np.dtype(problem.dtype).itemsize
    tables = 40 * problem.taps_on_pixels + 40 * (p_size * rows + q_size * cols)
    turned = problem.height * problem.width + p_size * q_size + rows * cols + 3 * lanes
    return tables + turned * lanes * itemsize


def _lanes(problem: Conv2D) -> int:
    return simd.lanes(np.dtype(problem.dtype).itemsize)


@dataclass(frozen=True, eq=False)
class Cut:
    """How a direction is cut.

    Attributes
    ----------
    problem : Conv2D
    direction : str
    units : int
        Parts that the work can be cut in.
    key : tuple
        What the sums depend on.
    """

    problem: Conv2D
    direction: Direction
    units: int
    key: tuple[Conv2D, Direction]


def cut(problem: Conv2D, direction: Direction) -> Cut:
    """Return the cut of a direction: sums are those of one channel of one image."""
    one = dataclasses.replace(problem, batch=1, in_channels=1, out_channels=1, groups=1, bias=False)
    units = -(-problem.in_channels // _lanes(problem))
    if direction != BACKWARD_WEIGHTS:
        units *= problem.batch
    return Cut(problem, direction, units, (memory.first_equal(one), direction))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Which pixels, and which weights, each of some sums is of.

    Attributes
    ----------
    numbers : np.ndarray
        int64; for each product the place of its first factor; of its second; then for each sum
        where its products begin, and where the last ends.
    products, sums : int
    """

    numbers: np.ndarray
    products: int
    sums: int

    @functools.cached_property
    def table(self) -> tuple[int, int, int]:
        return self.numbers.ctypes.data, self.products, self.sums


_WINDOW, _TAP, _PIXEL = range(3)
"""What a product has one of, each along both axes."""

_SUMS = {
    FORWARD: (_WINDOW, _PIXEL, _TAP),
    BACKWARD_DATA: (_PIXEL, _WINDOW, _TAP),
    BACKWARD_WEIGHTS: (_TAP, _WINDOW, _PIXEL),
}
"""Of what a direction has a sum each, and of what products are."""


@memory.PLANS.kept
def _sums(key: tuple[Conv2D, Direction]) -> _Sums:
    """Return the sums of a direction."""
    problem, direction = key
    planes = problem.shapes.y[2:], problem.kernel_size, problem.shapes.x[2:]
    rows, columns = (_products(problem, axis) for axis in (0, 1))

    def places(what: int) -> np.ndarray:
        """Return where that is in its plane, of all products; there may be many."""
        lines = (rows[what] * planes[what][1]).astype(np.int32)
        return np.add.outer(lines, columns[what].astype(np.int32)).ravel()

    by, *factors = _SUMS[direction]
    where, sums = places(by), math.prod(planes[by])
    order, products = np.argsort(where, kind="stable"), where.size
    numbers = np.zeros(2 * products + sums + 1, np.int64)
    np.cumsum(np.bincount(where, minlength=sums), out=numbers[2 * products + 1 :])
    del where
    for begin, factor in zip((0, products), factors, strict=True):
        turned = numbers[begin : begin + products]
        np.multiply(places(factor)[order], _lanes(problem), out=turned, dtype=np.int64)
    return _Sums(numbers, products, sums)


def _products(problem: Conv2D, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which windows, by which taps, see which pixels along an axis."""
    p, r = np.indices((problem.shapes.y[2 + axis], problem.kernel_size[axis]))
    h = p * problem.steps[axis] + r * problem.dilation[axis] - problem.padding[axis][0]
    inside = (h >= 0) & (h < problem.shapes.x[2 + axis])
    return p[inside], r[inside], h[inside]


def run(cut: Cut, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    """Set y from x, or, backward, dx from dy.

    Parameters
    ----------
    cut : Cut
        Of a problem that `suits`.
    source, w, out : np.ndarray
        C-contiguous, of the problem's dtype.
    start : np.ndarray
        What sums begin with, a value a channel at the least.
    """
    problem, sums = cut.problem, _sums(cut.key)
    shares = min(cut.units, 4 * parallel.threads())
    rows, cols = problem.kernel_size
    _correlate(
        shares,
        problem.dtype,
        (
            source,
            w,
            start,
            out,
            shares,
            problem.batch,
            problem.in_channels,
            source.size // (problem.batch * problem.in_channels),
            rows * cols,
            *sums.table,
            simd.lanes(out.itemsize),
        ),
    )


@parallel.ParallelKernel
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set some planes, as many at a time as there are lanes."""
    (shares, batch, channels, pixels, taps, address, products, sums, lanes) = to_fixed_tuple(
        records.array_at(arguments, arguments, (13,))[4:], 9
    )
    source = records.array_at(arguments[0], like, (batch * channels * pixels,))
    w = records.array_at(arguments[1], like, (channels * taps,))
    start = records.array_at(arguments[2], like, (channels,))
    out = records.array_at(arguments[3], like, (batch * channels * sums,))
    table = records.array_at(address, arguments, (2 * products + sums + 1,))
    begins = table[2 * products :]
    work = simd.scratch((pixels + taps + sums + 3 * lanes) * lanes, out)
    weights = (pixels + lanes) * lanes
    results = weights + (taps + lanes) * lanes
    turned, seconds = work[weights:], table[products:]
    given = np.zeros(lanes, work.dtype)
    groups = (channels + lanes - 1) // lanes
    for unit in range(number * groups * batch // shares, (number + 1) * groups * batch // shares):
        image, c0 = unit // groups, unit % groups * lanes
        rows = min(lanes, channels - c0)
        first = (image * channels + c0) * pixels
        simd.turn(work, 0, lanes, source, first, pixels, rows, pixels, lanes)
        simd.turn(work, weights, lanes, w, c0 * taps, taps, rows, taps, lanes)
        for lane in range(rows):
            given[lane] = start[c0 + lane]
        for i in range(sums):
            to = results + i * lanes
            simd.copy_vector(work, to, given, 0)
            simd.sum_products(
                work, to, work, table, turned, seconds, begins[i], begins[i + 1] - begins[i]
            )
        to = (image * channels + c0) * sums
        simd.turn_back(out, to, sums, work, results, lanes, rows, sums, lanes)


def weights(cut: Cut, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set the weights' gradient: see `cnnkernels.correlation.weights.run`."""
    problem, sums = cut.problem, _sums(cut.key)
    _correlate_weights(
        cut.units,
        problem.dtype,
        (
            dy,
            x,
            dw,
            problem.batch,
            problem.in_channels,
            problem.out_height * problem.out_width,
            problem.height * problem.width,
            *sums.table,
            simd.lanes(dw.itemsize),
        ),
    )


@parallel.ParallelKernel
def _correlate_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of as many channels' weights as there are lanes."""
    (batch, channels, windows, pixels, address, products, taps, lanes) = to_fixed_tuple(
        records.array_at(arguments, arguments, (11,))[3:], 8
    )
    dy = records.array_at(arguments[0], like, (batch * channels * windows,))
    x = records.array_at(arguments[1], like, (batch * channels * pixels,))
    dw = records.array_at(arguments[2], like, (channels * taps,))
    table = records.array_at(address, arguments, (2 * products + taps + 1,))
    begins = table[2 * products :]
    work = simd.scratch((windows + pixels + taps + 3 * lanes) * lanes, dw)
    seen = (windows + lanes) * lanes
    results = seen + (pixels + lanes) * lanes
    turned, seconds = work[seen:], table[products:]
    c0 = number * lanes
    rows = min(lanes, channels - c0)
    for i in range(taps * lanes):
        work[results + i] = 0
    for image in range(batch):
        first = image * channels + c0
        simd.turn(work, 0, lanes, dy, first * windows, windows, rows, windows, lanes)
        simd.turn(work, seen, lanes, x, first * pixels, pixels, rows, pixels, lanes)
        for i in range(taps):
            simd.sum_products(
                work, results + i * lanes, work, table, turned, seconds, begins[i],
                begins[i + 1] - begins[i],
            )  # fmt: skip
    simd.turn_back(dw, c0 * taps, taps, work, results, lanes, rows, taps, lanes)
