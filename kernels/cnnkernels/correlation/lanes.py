"""Depthwise convolutions of small images, with a lane a channel.

Planes too small for vectors of pixels are turned, so that each pixel's channels lie side by side.
Then all three directions are sums of products of two such vectors: of pixels and weights, of dy and
weights, of dy and pixels; which go together is a list for each sum.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, simd
from cnnkernels.contract import Conv2D

_COPY = 64 * 1024
"""Elements of turned planes, at the most: the lists of products are larger."""

_STRIDED_COPY = 256 * 1024
"""The same with a stride: lists are shorter, and vectors of pixels would need a copy a phase."""


@functools.lru_cache(1024)
def suits(problem: Conv2D) -> bool:
    """Return whether a problem is depthwise, and its planes small, and enough for the lanes."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    pixels = max(problem.height * problem.width, problem.out_height * problem.out_width)
    most = _COPY if problem.stride == (1, 1) else _STRIDED_COPY
    return (
        problem.groups == problem.in_channels == problem.out_channels >= lanes
        and pixels * lanes <= most
    )


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


@functools.lru_cache(1024)
def _sums(problem: Conv2D) -> tuple[_Sums, _Sums, _Sums]:
    """Return the sums of forward, of backward-data and of backward-weights."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    (top, _), (left, _) = problem.padding
    rows, cols = problem.kernel_size
    p, q, r, s = np.indices((problem.out_height, problem.out_width, rows, cols))
    h = p * problem.stride[0] + r * problem.dilation[0] - top
    v = q * problem.stride[1] + s * problem.dilation[1] - left
    inside = (h >= 0) & (h < problem.height) & (v >= 0) & (v < problem.width)
    pixel = (h * problem.width + v)[inside]
    window = (p * problem.out_width + q)[inside]
    tap = (r * cols + s)[inside]

    def sums(by: np.ndarray, count: int, first: np.ndarray, second: np.ndarray) -> _Sums:
        order = np.argsort(by, kind="stable")
        begins = np.searchsorted(by[order], np.arange(count + 1))
        numbers = np.concatenate((first[order] * lanes, second[order] * lanes, begins))
        return _Sums(numbers.astype(np.int64), by.size, count)

    pixels = problem.height * problem.width
    windows = problem.out_height * problem.out_width
    return (
        sums(window, windows, pixel, tap),
        sums(pixel, pixels, window, tap),
        sums(tap, rows * cols, window, pixel),
    )


def run(
    problem: Conv2D,
    backward: bool,
    source: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
) -> None:
    """Set y from x, or, backward, dx from dy.

    Parameters
    ----------
    problem : Conv2D
        One that `suits`.
    backward : bool
    source, w, out : np.ndarray
        C-contiguous, of the problem's dtype.
    start : np.ndarray
        What sums begin with, a value a channel at the least.
    """
    sums = _sums(problem)[backward]
    lanes = simd.lanes(out.itemsize)
    units = -(-problem.in_channels // lanes) * problem.batch
    shares = min(units, 4 * jit.threads())
    rows, cols = problem.kernel_size
    _correlate(
        shares, problem.dtype, source, w, start, out, shares, problem.batch, problem.in_channels,
        source.size // (problem.batch * problem.in_channels), rows * cols, *sums.table, lanes,
    )  # fmt: skip


@jit.Shares
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set some planes, as many at a time as there are lanes."""
    (shares, batch, channels, pixels, taps, address, products, sums, lanes) = to_fixed_tuple(
        jit.array_at(arguments, arguments, (13,))[4:], 9
    )
    source = jit.array_at(arguments[0], like, (batch * channels * pixels,))
    w = jit.array_at(arguments[1], like, (channels * taps,))
    start = jit.array_at(arguments[2], like, (channels,))
    out = jit.array_at(arguments[3], like, (batch * channels * sums,))
    table = jit.array_at(address, arguments, (2 * products + sums + 1,))
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


def weights(problem: Conv2D, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set the weights' gradient: see `cnnkernels.correlation.weights.run`."""
    sums = _sums(problem)[2]
    lanes = simd.lanes(dw.itemsize)
    groups = -(-problem.in_channels // lanes)
    _correlate_weights(
        groups, problem.dtype, dy, x, dw, problem.batch, problem.in_channels,
        problem.out_height * problem.out_width, problem.height * problem.width, *sums.table, lanes,
    )  # fmt: skip


@jit.Shares
def _correlate_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of as many channels' weights as there are lanes."""
    (batch, channels, windows, pixels, address, products, taps, lanes) = to_fixed_tuple(
        jit.array_at(arguments, arguments, (11,))[3:], 8
    )
    dy = jit.array_at(arguments[0], like, (batch * channels * windows,))
    x = jit.array_at(arguments[1], like, (batch * channels * pixels,))
    dw = jit.array_at(arguments[2], like, (channels * taps,))
    table = jit.array_at(address, arguments, (2 * products + taps + 1,))
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
