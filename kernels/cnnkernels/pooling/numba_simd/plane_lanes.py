"""Max-pooling with a lane per plane, for planes with lines shorter than a vector.

As many planes as a vector has lanes are transposed, so that the values of a pixel in all planes are
adjacent. Tables list the pixels of each window, and the windows of each pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import copies, jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, BackwardCall, ForwardCall, Launch
from cnnkernels.pooling.numba_simd.intrinsics import integer, select_tap, sum_won


def suits(problem: MaxPool2D) -> bool:
    """Return whether lines are short, and there are enough planes."""
    lanes = calls.lanes(problem)
    _, _, p_size, q_size = problem.shapes.y
    return (
        q_size < lanes <= calls.planes(problem)
        and problem.height * problem.width * lanes <= COPY
        and max(p_size * q_size, 2 * lanes) * calls.taps(problem) <= 4 * COPY
    )


def forward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the forward kernel."""
    winner = calls.winner_dtype(problem)
    return _launch(problem, {"uint8": _select_uint8, "int64": _select_int64}[winner], winner)


def backward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the backward kernel; winners are uint8."""
    return _launch(problem, _credit, "uint8")


def _launch(problem: MaxPool2D, kernel: parallel.ParallelKernel, winner: str) -> Launch:
    """Return the launch of a kernel.

    Planes with few windows are joined, until their windows fill the transposed squares.
    """
    lanes, planes = calls.lanes(problem), calls.planes(problem)
    _, _, p_size, q_size = problem.shapes.y
    joined = max(1, min(-(-lanes // (p_size * q_size)), planes // lanes))
    while planes % joined:
        joined -= 1
    planes //= joined
    geometry = calls.one_plane(problem), joined
    return Launch(kernel, _blocking, geometry, planes, -(-planes // lanes), winner)


class Blocking(NamedTuple):
    """The pixels of a plane's windows; the plane may be several joined ones."""

    pixels: int
    """Pixels of a plane."""
    windows: int
    """Windows of a plane."""
    taps: int
    """Taps of a window."""
    lanes: int
    """Planes transposed at once, as many as a vector has elements."""
    pairs: int
    """Pairs of a window and a pixel under one of its taps."""
    scratch: int
    """Elements of scratch memory."""
    tap_places: np.ndarray
    """int64, (windows, taps): index of the pixel under each tap, in the transposed planes.

    Taps beyond the edges have the index of a vector of -inf, stored after the pixels.
    """
    first_taps: np.ndarray
    """int64, (windows,): number of each window's first tap on a pixel."""
    tap_numbers: np.ndarray
    """int32, (taps, lanes): number of each tap, in all lanes."""
    window_places: np.ndarray
    """int64, (pairs,): index of the window in the transposed gradients; sorted by pixel."""
    window_taps: np.ndarray
    """int64, (pairs,): number of the window's tap over the pixel."""
    first_pairs: np.ndarray
    """int64, (pixels + 1,): first of the pairs of each pixel, then `pairs`."""


@memory.BLOCKINGS.cached
def _blocking(geometry: tuple[MaxPool2D, int]) -> records.Record[Blocking]:
    """Return the blocking of some joined planes."""
    problem, joined = geometry
    lanes, taps = calls.lanes(problem), calls.taps(problem)
    rows, cols = problem.kernel_size
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    pixels = problem.height * problem.width
    n, p, q, r, s = np.indices((joined, p_size, q_size, rows, cols))
    h = p * problem.steps[0] + r * problem.dilation[0] - top
    v = q * problem.steps[1] + s * problem.dilation[1] - left
    inside = (h >= 0) & (h < problem.height) & (v >= 0) & (v < problem.width)
    pixel = n * pixels + h * problem.width + v
    pixels *= joined
    tap_places = np.where(inside, pixel, pixels).reshape(-1, taps)
    window, tap = np.nonzero(tap_places < pixels)
    order = np.argsort(tap_places[window, tap], kind="stable")
    windows = len(tap_places)
    return records.record(
        Blocking(
            pixels=pixels,
            windows=windows,
            taps=taps,
            lanes=lanes,
            pairs=order.size,
            scratch=(pixels + 3 * windows + 4 * lanes) * lanes,
            tap_places=tap_places * lanes,
            first_taps=inside.reshape(tap_places.shape).argmax(1),
            tap_numbers=np.repeat(np.arange(taps, dtype=np.int32), lanes),
            window_places=window[order] * lanes,
            window_taps=tap[order],
            first_pairs=np.searchsorted(tap_places[window, tap][order], np.arange(pixels + 1)),
        )
    )


@jit.kernel
def _select(number, words, like, winner):  # type: ignore[no-untyped-def]
    """Set the maxima and winners of a share of the planes."""
    call = records.read(ForwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    planes, lanes = call.planes, blocking.lanes
    pixels, windows, taps = blocking.pixels, blocking.windows, blocking.taps
    x = records.array_at(call.x, like, (planes * pixels,))
    y = records.array_at(call.y, like, (planes * windows,))
    winners = records.array_of(winner, call.winners, (planes * windows,))
    tap_places = records.array_at(blocking.tap_places, words, (windows * taps,))
    first_taps = records.array_at(blocking.first_taps, words, (windows,))
    tap_numbers = records.array_of(np.int32, blocking.tap_numbers, (taps * lanes,))
    work = simd.scratch(blocking.scratch, y)
    won = np.empty((windows + lanes) * lanes, integer(like))
    turned = np.empty((windows + lanes) * lanes, integer(like))
    best = (pixels + lanes) * lanes
    groups = (planes + lanes - 1) // lanes
    for group in range(number * groups // call.shares, (number + 1) * groups // call.shares):
        n0 = group * lanes
        rows = min(lanes, planes - n0)
        copies.turn(work, 0, lanes, x, n0 * pixels, pixels, rows, pixels, lanes)
        simd.fill_vector(work, pixels * lanes, -np.inf)
        for window in range(windows):
            select_tap(
                work, best + window * lanes, won, window * lanes, work, 0,
                tap_places, window * taps, taps, tap_numbers, first_taps[window] * lanes,
            )  # fmt: skip
        copies.turn_back(y, n0 * windows, windows, work, best, lanes, rows, windows, lanes)
        copies.turn_back(turned, 0, windows, won, 0, lanes, rows, windows, lanes)
        mine = winners[n0 * windows : (n0 + rows) * windows]
        for i in range(rows * windows):
            mine[i] = turned[i]


@parallel.ParallelKernel
def _select_uint8(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.uint8)


@parallel.ParallelKernel
def _select_int64(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.int64)


@parallel.ParallelKernel
def _credit(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of a share of the planes."""
    call = records.read(BackwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    planes, lanes = call.planes, blocking.lanes
    pixels, windows, pairs = blocking.pixels, blocking.windows, blocking.pairs
    dy = records.array_at(call.dy, like, (planes * windows,))
    winners = records.array_of(np.uint8, call.winners, (planes * windows,))
    dx = records.array_at(call.dx, like, (planes * pixels,))
    window_places = records.array_at(blocking.window_places, words, (pairs,))
    window_taps = records.array_at(blocking.window_taps, words, (pairs,))
    first_pairs = records.array_at(blocking.first_pairs, words, (pixels + 1,))
    work = simd.scratch(blocking.scratch, dx)
    won = np.empty((windows + lanes) * lanes, integer(like))
    turned = np.empty((windows + lanes) * lanes, integer(like))
    sums = (windows + lanes) * lanes
    groups = (planes + lanes - 1) // lanes
    for group in range(number * groups // call.shares, (number + 1) * groups // call.shares):
        n0 = group * lanes
        rows = min(lanes, planes - n0)
        copies.turn(work, 0, lanes, dy, n0 * windows, windows, rows, windows, lanes)
        mine = winners[n0 * windows : (n0 + rows) * windows]
        for i in range(rows * windows):
            turned[i] = mine[i]
        copies.turn(won, 0, lanes, turned, 0, windows, rows, windows, lanes)
        for pixel in range(pixels):
            sum_won(
                work, sums + pixel * lanes, work, won, 0, window_places, window_taps,
                first_pairs[pixel], first_pairs[pixel + 1] - first_pairs[pixel],
            )  # fmt: skip
        copies.turn_back(dx, n0 * pixels, pixels, work, sums, lanes, rows, pixels, lanes)
