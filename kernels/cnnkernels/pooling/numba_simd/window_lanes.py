"""Forward, a lane is a window: a tap of a vector of windows is a vector of pixels.

Lines of a plane are copied with -inf around them, rows and columns sorted by the phase of the
stride, so that the pixels under one tap of adjacent windows lie side by side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, Plan
from cnnkernels.pooling.numba_simd.intrinsics import select_tap


def suits(problem: MaxPool2D) -> bool:
    """Return whether lines of planes are copied: it is worth it, and in proportion.

    Taps are numbered in 32 bits there.
    """
    cut, taps = _select_cut(problem), calls.taps(problem)
    vectors = problem.out_height * -(-problem.out_width // cut.lanes) * taps
    seldom = 4 * problem.taps_on_pixels < vectors * cut.lanes  # lanes see a pixel
    elements = cut.copy + 2 * cut.lanes
    numbers = 2 * (taps + cut.phases) + cut.start + 4 * cut.pitch
    return not (seldom and taps > 255) and taps < 2**31 and calls.fits(problem, elements, numbers)


_SIZES = 17


class _SelectCut(NamedTuple):
    """How lines of a plane are copied: see `plan`."""

    lanes: int
    phases: int
    more_rows: int
    pitch: int
    lines: int
    chunks: int
    copy: int
    edge: int
    period: int
    start: int


def _select_cut(problem: MaxPool2D) -> _SelectCut:
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    dilation_h, dilation_w = problem.dilation
    _, _, p_size, q_size = problem.shapes.y
    phases = min(rows, step_h // math.gcd(step_h, dilation_h))
    phases *= min(cols, step_w // math.gcd(step_w, dilation_w))
    more_rows = (rows - 1) * dilation_h // step_h
    pitch = q_size + (cols - 1) * dilation_w // step_w
    lines = max(1, min(p_size, COPY // (phases * pitch) - more_rows))
    chunks = -(-p_size // lines)
    lines = -(-p_size // chunks)
    copy = -(-phases * (lines + more_rows) * pitch // lanes) * lanes + 2 * lanes
    # Below the lines that begin on the padding, windows of all lines have the same first taps.
    edge = min(p_size, -(-problem.padding[0][0] // step_h))
    period = -(-lanes // pitch) * pitch
    start = edge * pitch + period + lanes
    return _SelectCut(lanes, phases, more_rows, pitch, lines, chunks, copy, edge, period, start)


@memory.PLANS.kept
def plan(problem: MaxPool2D) -> Plan:
    """Return how lines of a plane are copied, and where taps lie in the copy."""
    cut = _select_cut(problem)
    rows, cols = problem.kernel_size
    (step_h, step_w), (dilation_h, dilation_w) = problem.steps, problem.dilation
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    down, across = np.arange(rows) * dilation_h, np.arange(cols) * dilation_w
    row_phases, row_phase = np.unique(down % step_h, return_inverse=True)
    column_phases, column_phase = np.unique(across % step_w, return_inverse=True)
    plane = (cut.lines + cut.more_rows) * cut.pitch
    offsets = np.add.outer(
        row_phase * column_phases.size * plane + down // step_h * cut.pitch,
        column_phase * plane + across // step_w,
    )
    phases = np.add.outer(row_phases * step_w, column_phases)
    sizes = (
        problem.height, problem.width, p_size, q_size, step_h, step_w, top, left, rows * cols,
        cut.more_rows, cut.pitch, cut.lines, cut.chunks, cut.lanes, cut.copy, cut.edge, cut.period,
    )  # fmt: skip
    # The first tap on a pixel, for windows in lines that begin at the top, or, below, elsewhere.
    lines, places = np.arange(-(-cut.start // cut.pitch)), np.arange(cut.pitch)
    first_r = -(-np.maximum(0, top - lines * step_h) // dilation_h) * cols
    first_s = -(-np.maximum(0, left - places * step_w) // dilation_w)
    start = np.add.outer(first_r, np.minimum(first_s, cols - 1), dtype=np.int32)
    return Plan(
        np.concatenate((sizes, offsets.ravel(), phases.ravel())),
        start.ravel(),
        cut.copy + cut.lanes,
    )


@jit.kernel
def _select_planes(number, arguments, like, index):  # type: ignore[no-untyped-def]
    """Set the outputs and winners of some planes."""
    table = records.array_at(arguments[6], arguments, (arguments[7],))
    (
        height, wide, p_size, q_size, step_h, step_w, top, left, taps, more_rows, pitch, lines,
        chunks, lanes, copy, edge, period,
    ) = to_fixed_tuple(table[:_SIZES], _SIZES)  # fmt: skip
    shares, planes = arguments[3], arguments[4]
    x = records.array_at(arguments[0], like, (planes * height * wide,))
    y = records.array_at(arguments[1], like, (planes * p_size * q_size,))
    winners = records.array_of(index, arguments[2], (planes * p_size * q_size,))
    work = simd.scratch(arguments[5], y)
    line_winners = np.empty(lanes, winners.dtype)
    start = records.array_of(np.int32, arguments[8], (arguments[9],))
    repeated = edge * pitch + period
    offsets, phases = table[_SIZES : _SIZES + taps], table[_SIZES + taps :]
    n0, n1 = number * planes // shares, (number + 1) * planes // shares
    last = n1 * p_size * q_size
    for n in range(n0, n1):
        for chunk in range(chunks):
            p0, p1 = chunk * p_size // chunks, (chunk + 1) * p_size // chunks
            simd.copy_phases(
                work, 0, x, n * height * wide, height, wide, p0 * step_h - top, -left,
                lines + more_rows, step_h, step_w, pitch, phases, -np.inf, lanes,
            )  # fmt: skip
            # Windows of a line, or of all lines where there are no gaps between them. What is
            # written beyond the end is overwritten by the next, unless that is another thread's.
            together = p1 - p0 if pitch == q_size else 1
            for p in range(0, p1 - p0, together):
                to, of = (n * p_size + p0 + p) * q_size, p * pitch
                end, first = to + together * q_size, min(p0 + p, edge) * pitch
                while to < end and to + lanes <= last:
                    select_tap(y, to, winners, to, work, of, offsets, 0, taps, start, first)
                    to += lanes
                    of += lanes
                    first += lanes
                    if first >= repeated:
                        first -= period
                if to < end:
                    select_tap(
                        work, copy, line_winners, 0, work, of, offsets, 0, taps, start, first
                    )
                    for lane in range(end - to):
                        y[to + lane] = work[copy + lane]
                        winners[to + lane] = line_winners[lane]


@parallel.ParallelKernel
def select(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of uint8."""
    _select_planes(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def select_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set maxima and winners, of int64."""
    _select_planes(number, arguments, like, np.int64)
