"""Depthwise convolutions of small images, with a lane per channel.

Planes too small for vectors of pixels are transposed, so that the channels of each pixel are
adjacent. Then each direction is a sum of products of two such vectors: of pixels and weights, of dy
and weights, or of dy and pixels. Each sum has a list of its products.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnnkernels import copies, memory, parallel, records, simd
from cnnkernels.contract import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Conv2D, Direction
from cnnkernels.convolution.numba_simd.correlation import SECOND_CACHE, Driver, WeightsDriver

_COPY = SECOND_CACHE // 4
"""Maximum elements of transposed planes; the lists of products are larger."""

_STRIDED_COPY = SECOND_CACHE
"""The same with a stride: lists are shorter, and the alternative needs a copy per phase."""


def suits(problem: Conv2D) -> bool:
    """Return whether a problem is depthwise, with small planes, enough to fill the lanes."""
    lanes = _lanes(problem)
    pixels = max(problem.height * problem.width, problem.out_height * problem.out_width)
    most = _COPY if problem.steps == (1, 1) else _STRIDED_COPY
    return (
        problem.groups == problem.in_channels == problem.out_channels >= lanes
        and pixels * lanes <= most
    )


def needed(problem: Conv2D) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    (rows, cols), (p_size, q_size) = problem.kernel_size, problem.shapes.y[2:]
    lanes, itemsize = _lanes(problem), np.dtype(problem.dtype).itemsize
    tables = 40 * problem.taps_on_pixels + 40 * (p_size * rows + q_size * cols)
    turned = problem.height * problem.width + p_size * q_size + rows * cols + 3 * lanes
    return tables + turned * lanes * itemsize


def _lanes(problem: Conv2D) -> int:
    return simd.lanes(np.dtype(problem.dtype).itemsize)


class _Blocking(NamedTuple):
    """Sizes of a direction."""

    shares: int
    """Shares of the work."""
    batch: int
    """Images."""
    channels: int
    """Channels, one per group."""
    of_first: int
    """Elements of a plane of first factors: of the source, or of dy in backward-weights."""
    of_second: int
    """Elements of a plane of second factors: of the weights, or of x in backward-weights."""
    lanes: int
    """Elements of a vector."""


_Key = tuple[Conv2D, Direction]
"""A convolution of one channel of one image, and a direction; they determine the sums."""


def _key(problem: Conv2D, direction: Direction) -> _Key:
    one = dataclasses.replace(problem, batch=1, in_channels=1, out_channels=1, groups=1, bias=False)
    return memory.first_equal(one), direction


def prepare(problem: Conv2D, direction: Direction, threads: int) -> Driver:
    """Return the function for forward or backward-data, for a number of threads."""
    source = problem.shapes.x if direction == FORWARD else problem.shapes.y
    lanes = _lanes(problem)
    blocking = _Blocking(
        shares=min(problem.batch * -(-problem.in_channels // lanes), 4 * threads),
        batch=problem.batch,
        channels=problem.in_channels,
        of_first=math.prod(source[2:]),
        of_second=math.prod(problem.kernel_size),
        lanes=lanes,
    )
    return functools.partial(
        _run, problem.dtype, records.record(blocking), _key(problem, direction)
    )


def prepare_weights(problem: Conv2D) -> WeightsDriver:
    """Return the function that computes backward-weights."""
    lanes = _lanes(problem)
    blocking = _Blocking(
        shares=-(-problem.in_channels // lanes),
        batch=problem.batch,
        channels=problem.in_channels,
        of_first=math.prod(problem.shapes.y[2:]),
        of_second=math.prod(problem.shapes.x[2:]),
        lanes=lanes,
    )
    key = _key(problem, BACKWARD_WEIGHTS)
    return functools.partial(_run_weights, problem.dtype, records.record(blocking), key)


@dataclass(frozen=True, eq=False)
class _Sums:
    """The products of each sum.

    Attributes
    ----------
    numbers : np.ndarray
        int64: the index of each product's first factor, then of its second factor; then the start
        of each sum's products, and the end of the last.
    products, sums : int
        Number of products and of sums.
    """

    numbers: np.ndarray
    products: int
    sums: int


_WINDOW, _TAP, _PIXEL = range(3)
"""The three planes that a product belongs to."""

_SUMS = {
    FORWARD: (_WINDOW, _PIXEL, _TAP),
    BACKWARD_DATA: (_PIXEL, _WINDOW, _TAP),
    BACKWARD_WEIGHTS: (_TAP, _WINDOW, _PIXEL),
}
"""For each direction, the plane of the sums, and the planes of their factors."""


@memory.BLOCKINGS.cached
def _sums(key: tuple[Conv2D, Direction]) -> _Sums:
    """Return the sums of a direction."""
    problem, direction = key
    planes = problem.shapes.y[2:], problem.kernel_size, problem.shapes.x[2:]
    rows, columns = (_products(problem, axis) for axis in (0, 1))

    def places(what: int) -> np.ndarray:
        """Return the index in a plane for each product; there may be many."""
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
    """Return the (window, tap, pixel) triples along an axis."""
    p, r = np.indices((problem.shapes.y[2 + axis], problem.kernel_size[axis]))
    h = p * problem.steps[axis] + r * problem.dilation[axis] - problem.padding[axis][0]
    inside = (h >= 0) & (h < problem.shapes.x[2 + axis])
    return p[inside], r[inside], h[inside]


class _Call(NamedTuple):
    """The arguments of `_correlate`."""

    source: np.ndarray
    """x, or dy backward."""
    w: np.ndarray
    """Weights."""
    start: np.ndarray
    """Initial sum of each channel."""
    out: np.ndarray
    """y, or dx backward."""
    blocking: int
    """Address of a `_Blocking`."""
    table: np.ndarray
    """See `_Sums.numbers`."""
    products: int
    """Products of a plane."""
    sums: int
    """Sums of a plane."""


def _run(
    dtype: str,
    blocking: records.Record[_Blocking],
    key: _Key,
    source: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
) -> None:
    sums = _sums(key)
    call = _Call(source, w, start, out, blocking.address, sums.numbers, sums.products, sums.sums)
    _correlate(blocking.fields.shares, dtype, call)


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set some planes, as many as lanes at a time."""
    call = records.read(_Call, words)
    blocking = records.read(_Blocking, call.blocking)
    batch, channels, lanes = blocking.batch, blocking.channels, blocking.lanes
    pixels, taps = blocking.of_first, blocking.of_second
    products, sums = call.products, call.sums
    source = records.array_at(call.source, like, (batch * channels * pixels,))
    w = records.array_at(call.w, like, (channels * taps,))
    start = records.array_at(call.start, like, (channels,))
    out = records.array_at(call.out, like, (batch * channels * sums,))
    table = records.array_at(call.table, words, (2 * products + sums + 1,))
    begins = table[2 * products :]
    work = simd.scratch((pixels + taps + sums + 3 * lanes) * lanes, out)
    weights = (pixels + lanes) * lanes
    results = weights + (taps + lanes) * lanes
    turned, seconds = work[weights:], table[products:]
    given = np.zeros(lanes, work.dtype)
    groups = (channels + lanes - 1) // lanes
    units, shares = groups * batch, blocking.shares
    for unit in range(number * units // shares, (number + 1) * units // shares):
        image, c0 = unit // groups, unit % groups * lanes
        rows = min(lanes, channels - c0)
        first = (image * channels + c0) * pixels
        copies.turn(work, 0, lanes, source, first, pixels, rows, pixels, lanes)
        copies.turn(work, weights, lanes, w, c0 * taps, taps, rows, taps, lanes)
        for lane in range(rows):
            given[lane] = start[c0 + lane]
        for i in range(sums):
            to = results + i * lanes
            simd.copy_vector(work, to, given, 0)
            simd.sum_products(
                work, to, work, table, turned, seconds, begins[i], begins[i + 1] - begins[i]
            )
        to = (image * channels + c0) * sums
        copies.turn_back(out, to, sums, work, results, lanes, rows, sums, lanes)


class _WeightsCall(NamedTuple):
    """The arguments of `_correlate_weights`."""

    dy: np.ndarray
    """Gradient of the outputs."""
    x: np.ndarray
    """Images."""
    dw: np.ndarray
    """Gradient of the weights."""
    blocking: int
    """Address of a `_Blocking`."""
    table: np.ndarray
    """See `_Sums.numbers`."""
    products: int
    """Products of a plane."""
    sums: int
    """Sums of a plane: taps."""


def _run_weights(
    dtype: str,
    blocking: records.Record[_Blocking],
    key: _Key,
    dy: np.ndarray,
    x: np.ndarray,
    dw: np.ndarray,
) -> None:
    sums = _sums(key)
    call = _WeightsCall(dy, x, dw, blocking.address, sums.numbers, sums.products, sums.sums)
    _correlate_weights(blocking.fields.shares, dtype, call)


@parallel.ParallelKernel
def _correlate_weights(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of the weights of as many channels as lanes."""
    call = records.read(_WeightsCall, words)
    blocking = records.read(_Blocking, call.blocking)
    batch, channels, lanes = blocking.batch, blocking.channels, blocking.lanes
    windows, pixels = blocking.of_first, blocking.of_second
    products, taps = call.products, call.sums
    dy = records.array_at(call.dy, like, (batch * channels * windows,))
    x = records.array_at(call.x, like, (batch * channels * pixels,))
    dw = records.array_at(call.dw, like, (channels * taps,))
    table = records.array_at(call.table, words, (2 * products + taps + 1,))
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
        copies.turn(work, 0, lanes, dy, first * windows, windows, rows, windows, lanes)
        copies.turn(work, seen, lanes, x, first * pixels, pixels, rows, pixels, lanes)
        for i in range(taps):
            simd.sum_products(
                work, results + i * lanes, work, table, turned, seconds, begins[i],
                begins[i + 1] - begins[i],
            )  # fmt: skip
    copies.turn_back(dw, c0 * taps, taps, work, results, lanes, rows, taps, lanes)
