"""A lane is a plane: for planes whose lines are shorter than a vector.

As many planes as a vector has lanes are turned, so that each pixel's values in all of them lie side
by side. Tables say which pixels a window sees, and which windows see a pixel.
"""

from __future__ import annotations

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, Plan
from cnnkernels.pooling.numba_simd.intrinsics import integer, select_tap, sum_won


def suits(problem: MaxPool2D) -> bool:
    """Return whether lanes are planes: lines are short, and there are enough planes."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    _, _, p_size, q_size = problem.shapes.y
    return (
        q_size < lanes <= problem.batch * problem.channels
        and problem.height * problem.width * lanes <= COPY
        and max(p_size * q_size, 2 * lanes) * calls.taps(problem) <= 4 * COPY
    )


def together(problem: MaxPool2D) -> tuple[int, int, int]:
    """Return planes that are taken as one, how many such there are, and parts for threads.

    Planes of few windows are taken several at a time: so many that they fill squares.
    """
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    _, _, p_size, q_size = problem.shapes.y
    planes = problem.batch * problem.channels
    together = max(1, min(-(-lanes // (p_size * q_size)), planes // lanes))
    while planes % together:
        together -= 1
    planes //= together
    return together, planes, -(-planes // lanes)


_LANES_SIZES = 4


@memory.PLANS.kept
def plan(key: tuple[MaxPool2D, int]) -> Plan:
    """Return which pixels windows see, and which windows pixels, of some planes as one."""
    problem, together = key
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    rows, cols = problem.kernel_size
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    pixels = problem.height * problem.width
    n, p, q, r, s = np.indices((together, p_size, q_size, rows, cols))
    h = p * problem.steps[0] + r * problem.dilation[0] - top
    v = q * problem.steps[1] + s * problem.dilation[1] - left
    inside = (h >= 0) & (h < problem.height) & (v >= 0) & (v < problem.width)
    pixel = n * pixels + h * problem.width + v
    pixels *= together
    # Where a window's taps are; beyond the edges, a line of -inf that stands after the pixels.
    sees = np.where(inside, pixel, pixels).reshape(-1, rows * cols)
    first = inside.reshape(sees.shape).argmax(1)
    # And for each pixel the windows that see it, and as which of their taps.
    window, tap = np.nonzero(sees < pixels)
    order = np.argsort(sees[window, tap], kind="stable")
    firsts = np.searchsorted(sees[window, tap][order], np.arange(pixels + 1))
    sizes = pixels, len(sees), rows * cols, lanes
    numbers = (sizes, sees.ravel() * lanes, first, window[order] * lanes, tap[order], firsts)
    return Plan(
        np.concatenate(numbers).astype(np.int64),
        np.repeat(np.arange(rows * cols), lanes).astype(np.int32),
        (pixels + 3 * len(sees) + 4 * lanes) * lanes,
    )


@jit.kernel
def _select_lanes(number, arguments, like, index, wide):  # type: ignore[no-untyped-def]
    """Set the outputs and winners of some planes; `wide` is an integer as wide as a pixel."""
    table = records.array_at(arguments[6], arguments, (arguments[7],))
    pixels, windows, taps, lanes = to_fixed_tuple(table[:_LANES_SIZES], _LANES_SIZES)
    shares, planes = arguments[3], arguments[4]
    x = records.array_at(arguments[0], like, (planes * pixels,))
    y = records.array_at(arguments[1], like, (planes * windows,))
    winners = records.array_of(index, arguments[2], (planes * windows,))
    work = simd.scratch(arguments[5], y)
    start = records.array_of(np.int32, arguments[8], (arguments[9],))
    sees = table[_LANES_SIZES:]
    firsts = table[_LANES_SIZES + windows * taps :]
    won = np.empty((windows + lanes) * lanes, wide)
    turned = np.empty((windows + lanes) * lanes, wide)
    best = (pixels + lanes) * lanes
    groups = (planes + lanes - 1) // lanes
    for group in range(number * groups // shares, (number + 1) * groups // shares):
        n0 = group * lanes
        rows = min(lanes, planes - n0)
        simd.turn(work, 0, lanes, x, n0 * pixels, pixels, rows, pixels, lanes)
        simd.fill_vector(work, pixels * lanes, -np.inf)
        for window in range(windows):
            select_tap(
                work, best + window * lanes, won, window * lanes, work, 0,
                sees, window * taps, taps, start, firsts[window] * lanes,
            )  # fmt: skip
        simd.turn_back(y, n0 * windows, windows, work, best, lanes, rows, windows, lanes)
        simd.turn_back(turned, 0, windows, won, 0, lanes, rows, windows, lanes)
        mine = winners[n0 * windows : (n0 + rows) * windows]
        for i in range(rows * windows):
            mine[i] = turned[i]


@jit.kernel
def _credit_lanes(number, arguments, like, wide):  # type: ignore[no-untyped-def]
    """Set the gradients of some planes; `wide` is an integer as wide as a pixel."""
    table = records.array_at(arguments[6], arguments, (arguments[7],))
    pixels, windows, taps, lanes = to_fixed_tuple(table[:_LANES_SIZES], _LANES_SIZES)
    shares, planes = arguments[3], arguments[4]
    dy = records.array_at(arguments[0], like, (planes * windows,))
    winners = records.array_of(np.uint8, arguments[1], (planes * windows,))
    dx = records.array_at(arguments[2], like, (planes * pixels,))
    work = simd.scratch(arguments[5], dx)
    firsts = table[table.size - pixels - 1 :]
    credits = firsts[pixels]
    sees = table[_LANES_SIZES + windows * taps + windows :]
    numbers = table[_LANES_SIZES + windows * taps + windows + credits :]
    won = np.empty((windows + lanes) * lanes, wide)
    turned = np.empty((windows + lanes) * lanes, wide)
    sums = (windows + lanes) * lanes
    groups = (planes + lanes - 1) // lanes
    for group in range(number * groups // shares, (number + 1) * groups // shares):
        n0 = group * lanes
        rows = min(lanes, planes - n0)
        simd.turn(work, 0, lanes, dy, n0 * windows, windows, rows, windows, lanes)
        mine = winners[n0 * windows : (n0 + rows) * windows]
        for i in range(rows * windows):
            turned[i] = mine[i]
        simd.turn(won, 0, lanes, turned, 0, windows, rows, windows, lanes)
        for pixel in range(pixels):
            sum_won(
                work, sums + pixel * lanes, work, won, 0, sees, numbers, firsts[pixel],
                firsts[pixel + 1] - firsts[pixel],
            )  # fmt: skip
        simd.turn_back(dx, n0 * pixels, pixels, work, sums, lanes, rows, pixels, lanes)


@parallel.ParallelKernel
def select(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of uint8."""
    _select_lanes(number, arguments, like, np.uint8, integer(like))


@parallel.ParallelKernel
def select_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of int64."""
    _select_lanes(number, arguments, like, np.int64, integer(like))


@parallel.ParallelKernel
def credit(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set gradients; winners are of uint8."""
    _credit_lanes(number, arguments, like, integer(like))
