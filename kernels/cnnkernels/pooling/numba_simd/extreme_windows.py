"""One window after another: for windows that are extreme beside their images.

A window looks at its pixels in place, and gives its gradient to the pixel that has won.
"""

from __future__ import annotations

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import geometry, jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd.calls import Plan
from cnnkernels.pooling.numba_simd.intrinsics import select_tap

_PLAIN_SIZES = 13


@memory.PLANS.kept
def plan(problem: MaxPool2D) -> Plan:
    """Return the geometry, and where the vectors of a line are: nothing is copied."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    (top, _), (left, _) = problem.padding
    sizes = (
        problem.height, problem.width, *problem.shapes.y[2:], *problem.kernel_size, *problem.steps,
        *problem.dilation, top, left, lanes,
    )  # fmt: skip
    return Plan(
        np.concatenate((sizes, np.arange(problem.width // lanes) * lanes)),
        np.zeros(lanes, np.int32),
        lanes,
    )


_tap_range = jit.inlined(geometry.tap_range)


@jit.kernel
def _select_windows(number, arguments, like, index):  # type: ignore[no-untyped-def]
    """Set the outputs and winners of some lines of windows."""
    table = records.array_at(arguments[6], arguments, (arguments[7],))
    (
        height, wide, p_size, q_size, rows, cols, step_h, step_w, dilation_h, dilation_w, top, left,
        lanes,
    ) = to_fixed_tuple(table[:_PLAIN_SIZES], _PLAIN_SIZES)  # fmt: skip
    shares, planes = arguments[3], arguments[4]
    x = records.array_at(arguments[0], like, (planes * height * wide,))
    y = records.array_at(arguments[1], like, (planes * p_size, q_size))
    winners = records.array_of(index, arguments[2], (planes * p_size, q_size))
    work = simd.scratch(arguments[5], y)
    start = records.array_of(np.int32, arguments[8], (arguments[9],))
    vectors = table[_PLAIN_SIZES:]
    chosen = np.empty(lanes, np.int64)
    lines = planes * p_size
    for line in range(number * lines // shares, (number + 1) * lines // shares):
        h0 = line % p_size * step_h - top
        first_r, last_r = _tap_range(rows, height, dilation_h, h0)
        h0 += line // p_size * height
        for q in range(q_size):
            v0 = q * step_w - left
            first_s, last_s = _tap_range(cols, wide, dilation_w, v0)
            v0 += first_s * dilation_w
            for r in range(first_r, last_r):
                pixel, s = _first_greatest(
                    x, (h0 + r * dilation_h) * wide + v0, dilation_w, last_s - first_s, vectors,
                    start, work, chosen, lanes,
                )  # fmt: skip
                if r == first_r or pixel > y[line, q] or np.isnan(pixel):
                    y[line, q] = pixel
                    winners[line, q] = r * cols + first_s + s


@jit.kernel
def _first_greatest(x, first, step, count, vectors, start, work, chosen, lanes):  # type: ignore[no-untyped-def]
    """Return the greatest of every step-th pixel, and which of them it is.

    The first of equals wins, and a NaN always, the last of several.
    """
    best, winner = x[first], 0
    whole = count // lanes if step == 1 else 0
    if whole:
        select_tap(work, 0, chosen, 0, x, first, vectors, 0, whole, start, 0)
        best, winner = work[0], chosen[0] * lanes
        for lane in range(1, lanes):
            pixel, place = work[lane], chosen[lane] * lanes + lane
            wins = pixel > best or (pixel == best and place < winner)
            if np.isnan(pixel):
                wins = place > winner or not np.isnan(best)
            if wins:
                best, winner = pixel, place
    for place in range(whole * lanes, count):
        pixel = x[first + place * step]
        if pixel > best or np.isnan(pixel):
            best, winner = pixel, place
    return best, winner


@jit.kernel
def _credit_windows(number, arguments, like, index):  # type: ignore[no-untyped-def]
    """Set the gradients of some planes: each window gives its own to the pixel that has won."""
    table = records.array_at(arguments[6], arguments, (_PLAIN_SIZES,))
    (
        height, wide, p_size, q_size, _, cols, step_h, step_w, dilation_h, dilation_w, top, left, _,
    ) = to_fixed_tuple(table, _PLAIN_SIZES)  # fmt: skip
    shares, planes = arguments[3], arguments[4]
    dy = records.array_at(arguments[0], like, (planes, p_size, q_size))
    winners = records.array_of(index, arguments[1], (planes, p_size, q_size))
    dx = records.array_at(arguments[2], like, (planes, height, wide))
    for n in range(number * planes // shares, (number + 1) * planes // shares):
        dx[n] = 0
        for p in range(p_size):
            for q in range(q_size):
                winner = np.int64(winners[n, p, q])
                h = p * step_h + winner // cols * dilation_h - top
                dx[n, h, q * step_w + winner % cols * dilation_w - left] += dy[n, p, q]


@parallel.ParallelKernel
def select(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of uint8."""
    _select_windows(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def select_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of int64."""
    _select_windows(number, arguments, like, np.int64)


@parallel.ParallelKernel
def credit(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set gradients; winners are of uint8."""
    _credit_windows(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def credit_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set gradients; winners are of int64."""
    _credit_windows(number, arguments, like, np.int64)
