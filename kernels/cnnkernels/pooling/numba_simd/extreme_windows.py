"""Driver for windows far larger than the images, and for backward with many taps.

It processes windows one by one. A window reads its pixels in place, and adds its gradient to the
winning pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import geometry, jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import BackwardCall, ForwardCall, Launch
from cnnkernels.pooling.numba_simd.intrinsics import select_tap


def forward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the forward kernel."""
    winner, planes = calls.winner_dtype(problem), calls.planes(problem)
    kernel = {"uint8": _select_uint8, "int64": _select_int64}[winner]
    units = planes * problem.out_height
    return Launch(kernel, _blocking, calls.one_plane(problem), planes, units, winner)


def backward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the backward kernel."""
    winner, planes = calls.winner_dtype(problem), calls.planes(problem)
    kernel = {"uint8": _credit_uint8, "int64": _credit_int64}[winner]
    return Launch(kernel, _blocking, calls.one_plane(problem), planes, planes, winner)


class Blocking(NamedTuple):
    """The geometry of a plane; its lines are cut in vectors."""

    height: int
    """Lines of a plane."""
    width: int
    """Pixels of a line."""
    out_height: int
    """Lines of windows."""
    out_width: int
    """Windows of a line."""
    rows: int
    """Rows of a window's taps."""
    cols: int
    """Columns of a window's taps."""
    step_h: int
    """Lines from a window to the one below."""
    step_w: int
    """Pixels from a window to the one beside."""
    dilation_h: int
    """Lines from a tap to the one below."""
    dilation_w: int
    """Pixels from a tap to the one beside."""
    top: int
    """Lines of padding above the plane."""
    left: int
    """Pixels of padding before a line."""
    lanes: int
    """Pixels of a vector."""
    vectors: np.ndarray
    """int64, (width // lanes,): where each vector of a line begins."""
    scratch: int
    """Elements of scratch memory: a vector."""


@memory.BLOCKINGS.cached
def _blocking(problem: MaxPool2D) -> records.Record[Blocking]:
    """Return the blocking of a plane: nothing is copied."""
    lanes = calls.lanes(problem)
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    (dilation_h, dilation_w), ((top, _), (left, _)) = problem.dilation, problem.padding
    return records.record(
        Blocking(
            height=problem.height,
            width=problem.width,
            out_height=problem.out_height,
            out_width=problem.out_width,
            rows=rows,
            cols=cols,
            step_h=step_h,
            step_w=step_w,
            dilation_h=dilation_h,
            dilation_w=dilation_w,
            top=top,
            left=left,
            lanes=lanes,
            vectors=np.arange(problem.width // lanes) * lanes,
            scratch=lanes,
        )
    )


_tap_range = jit.inlined(geometry.tap_range)


@jit.kernel
def _select(number, words, like, winner):  # type: ignore[no-untyped-def]
    """Set the maxima and winners of a share of the lines of windows."""
    call = records.read(ForwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    height, width, lanes = blocking.height, blocking.width, blocking.lanes
    dilation_h, dilation_w = blocking.dilation_h, blocking.dilation_w
    lines = call.planes * blocking.out_height
    x = records.array_at(call.x, like, (call.planes * height * width,))
    y = records.array_at(call.y, like, (lines, blocking.out_width))
    winners = records.array_of(winner, call.winners, (lines, blocking.out_width))
    vectors = records.array_at(blocking.vectors, words, (width // lanes,))
    work = simd.scratch(blocking.scratch, y)
    start = np.zeros(lanes, np.int32)
    chosen = np.empty(lanes, np.int64)
    for line in range(number * lines // call.shares, (number + 1) * lines // call.shares):
        h0 = line % blocking.out_height * blocking.step_h - blocking.top
        first_r, last_r = _tap_range(blocking.rows, height, dilation_h, h0)
        h0 += line // blocking.out_height * height
        for q in range(blocking.out_width):
            v0 = q * blocking.step_w - blocking.left
            first_s, last_s = _tap_range(blocking.cols, width, dilation_w, v0)
            v0 += first_s * dilation_w
            for r in range(first_r, last_r):
                pixel, s = _first_greatest(
                    x, (h0 + r * dilation_h) * width + v0, dilation_w, last_s - first_s, vectors,
                    start, work, chosen, lanes,
                )  # fmt: skip
                if r == first_r or pixel > y[line, q] or np.isnan(pixel):
                    y[line, q] = pixel
                    winners[line, q] = r * blocking.cols + first_s + s


@jit.kernel
def _first_greatest(x, first, step, count, vectors, start, work, chosen, lanes):  # type: ignore[no-untyped-def]
    """Return the greatest of every step-th pixel, and its number among them.

    The first of equal pixels wins; a NaN wins, the last of several.
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
def _credit(number, words, like, winner):  # type: ignore[no-untyped-def]
    """Set the gradients of a share of the planes: add each window's gradient to its winner."""
    call = records.read(BackwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    p_size, q_size, cols = blocking.out_height, blocking.out_width, blocking.cols
    planes, shares = call.planes, call.shares
    dy = records.array_at(call.dy, like, (planes, p_size, q_size))
    winners = records.array_of(winner, call.winners, (planes, p_size, q_size))
    dx = records.array_at(call.dx, like, (planes, blocking.height, blocking.width))
    for n in range(number * planes // shares, (number + 1) * planes // shares):
        dx[n] = 0
        for p in range(p_size):
            for q in range(q_size):
                tap = np.int64(winners[n, p, q])
                h = p * blocking.step_h + tap // cols * blocking.dilation_h - blocking.top
                v = q * blocking.step_w + tap % cols * blocking.dilation_w - blocking.left
                dx[n, h, v] += dy[n, p, q]


@parallel.ParallelKernel
def _select_uint8(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.uint8)


@parallel.ParallelKernel
def _select_int64(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.int64)


@parallel.ParallelKernel
def _credit_uint8(number, words, like):  # type: ignore[no-untyped-def]
    _credit(number, words, like, np.uint8)


@parallel.ParallelKernel
def _credit_int64(number, words, like):  # type: ignore[no-untyped-def]
    _credit(number, words, like, np.int64)
