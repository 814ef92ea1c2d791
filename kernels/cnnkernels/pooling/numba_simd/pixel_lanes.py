"""Backward, a lane is a pixel: each sums the gradients of the windows that it has won.

The pixels of one phase of the stride lie under the same taps, of windows that are side by side. So
such pixels of a line, a vector of them at a time, compare vectors of winners with those taps, and
add the vectors of dy that they select.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, Plan
from cnnkernels.pooling.numba_simd.intrinsics import spread_won, sum_won, sum_won_interleaved


def suits(problem: MaxPool2D) -> bool:
    """Return whether copies and tables are in proportion to the images."""
    cut = _credit_cut(problem)
    return calls.fits(problem, cut.work, 4 * calls.taps(problem) + cut.kinds)


def in_pairs(problem: MaxPool2D) -> bool:
    """Return whether each pixel has one window at the most, and two columns each window."""
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    (dilation_h, dilation_w), (_, _, p_size, q_size) = problem.dilation, problem.shapes.y
    return (
        (rows - 1) * dilation_h < step_h
        and (cols - 1) * dilation_w < step_w == 2
        and problem.padding[0][0] == problem.padding[1][0] == 0
        and (-(-problem.height // step_h), -(-problem.width // step_w)) == (p_size, q_size)
    )


_BACKWARD_SIZES = 21


class _Axis(NamedTuple):
    """Under which windows pixels lie along an axis.

    Attributes
    ----------
    size, phases : int
        Pixels of one phase of the stride, at the most, and how many phases pixels have.
    before, after : int
        Windows before and after a pixel's own that it may lie under.
    inside : bool
        Whether all of those exist, for all pixels.
    seen : np.ndarray, (kernel,), bool
        Which taps lie on pixels at all.
    phase, shift : np.ndarray, (kernel,), int64
        For each tap the phase of its pixels, and how far from a pixel's own its window is.
    """

    size: int
    phases: int
    before: int
    after: int
    inside: bool
    seen: np.ndarray
    phase: np.ndarray
    shift: np.ndarray


def _axis(problem: MaxPool2D, axis: int) -> _Axis:
    """Return under which windows pixels lie: pixel u * step + phase under windows u + shift."""
    pixels, out = problem.shapes.x[2 + axis], problem.shapes.y[2 + axis]
    step = problem.steps[axis]
    place = np.arange(problem.kernel_size[axis]) * problem.dilation[axis] - problem.padding[axis][0]
    phase, shift = place % step, -(place // step)
    count = np.maximum(0, -((phase - pixels) // step))
    seen = np.maximum(0, -shift) < np.minimum(count, out - shift)
    return _Axis(
        size=-(-pixels // step),
        phases=max(min(step, pixels), min(step, 2)),  # two columns are always done together
        before=max(0, -int(shift[seen].min())),
        after=max(0, int(shift[seen].max())),
        inside=bool(((shift >= 0) & (count + shift <= out))[count > 0].all()),
        seen=seen,
        phase=phase,
        shift=shift,
    )


class _CreditCut(NamedTuple):
    """How lines of dy are copied: see `plan`.

    Attributes
    ----------
    rows, columns : _Axis
    apart : bool
        Whether lines can be read in place, where nothing is around them.
    lanes, pitch, chunks : int
    copy, work, kinds : int
        Elements of a copy, and of all scratch memory; kinds of pixels.
    """

    rows: _Axis
    columns: _Axis
    apart: bool
    lanes: int
    pitch: int
    chunks: int
    copy: int
    work: int
    kinds: int


def _credit_cut(problem: MaxPool2D) -> _CreditCut:
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    rows, columns = _axis(problem, 0), _axis(problem, 1)
    apart = rows.inside and columns.inside
    pitch = problem.out_width if apart else columns.before + columns.size + columns.after
    more_rows = rows.before + rows.after
    lines = max(1, min(rows.size, COPY // (2 * pitch) - more_rows))
    chunks = -(-rows.size // lines)
    copy = (-(-rows.size // chunks) + more_rows) * pitch + 3 * lanes
    work = copy + 2 * (columns.size + 2 * lanes)
    kinds = rows.phases * columns.phases
    return _CreditCut(rows, columns, apart, lanes, pitch, chunks, copy, work, kinds)


@memory.PLANS.kept
def plan(problem: MaxPool2D) -> Plan:
    """Return how lines of dy are copied, and where the windows of each kind of pixels lie there."""
    cut = _credit_cut(problem)
    rows, columns = cut.rows, cut.columns
    r, s = np.flatnonzero(rows.seen), np.flatnonzero(columns.seen)
    # For each phase of rows, and each of columns: the taps under which such pixels lie.
    kinds = np.add.outer(rows.phase[r] * columns.phases, columns.phase[s]).ravel()
    offsets = np.add.outer(
        (rows.before + rows.shift[r]) * cut.pitch, columns.before + columns.shift[s]
    ).ravel()
    numbers = np.add.outer(r * problem.kernel_size[1], s).ravel()
    order = np.argsort(kinds, kind="stable")
    firsts = np.searchsorted(kinds[order], np.arange(cut.kinds + 1))
    sizes = (
        problem.height, problem.width, *problem.shapes.y[2:], *problem.steps, kinds.size,
        rows.before, rows.after, columns.before, columns.after, rows.phases, columns.phases,
        cut.pitch, cut.chunks, rows.size, columns.size, cut.lanes, cut.copy, cut.apart,
        in_pairs(problem),
    )  # fmt: skip
    return Plan(
        np.concatenate((sizes, offsets[order], numbers[order], firsts)).astype(np.int64),
        np.zeros(1, np.int32),
        cut.work,
    )


@jit.kernel
def _credit_planes(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some planes."""
    table = records.array_at(arguments[6], arguments, (arguments[7],))
    (
        height, wide, p_size, q_size, step_h, step_w, taps, above, below, before, after, phases_h,
        phases_w, pitch, chunks, u_size, v_size, lanes, copy, apart, pairs,
    ) = to_fixed_tuple(table[:_BACKWARD_SIZES], _BACKWARD_SIZES)  # fmt: skip
    shares, planes = arguments[3], arguments[4]
    dy = records.array_at(arguments[0], like, (planes * p_size * q_size,))
    winners = records.array_of(np.uint8, arguments[1], (planes * p_size * q_size,))
    dx = records.array_at(arguments[2], like, (planes * height * wide,))
    work = simd.scratch(arguments[5], dx)
    won = np.zeros(copy, winners.dtype)
    offsets = table[_BACKWARD_SIZES : _BACKWARD_SIZES + taps]
    numbers = table[_BACKWARD_SIZES + taps : _BACKWARD_SIZES + 2 * taps]
    firsts = table[_BACKWARD_SIZES + 2 * taps :]
    alone = np.full(2 * phases_h, -1, np.int64)  # where no tap lies, nothing is won
    if pairs:
        for kind in range(2 * phases_h):
            if firsts[kind] < firsts[kind + 1]:
                alone[kind] = numbers[firsts[kind]]
    n0, n1 = number * planes // shares, (number + 1) * planes // shares
    last = n1 * height * wide
    for n in range(n0, n1):
        beyond = (n + 1) * height * wide + 2 * lanes > last
        if pairs and not beyond and (n + 1) * p_size * q_size + lanes <= dy.size:
            _spread_plane(
                dx, n * height * wide, height, wide, dy, winners, n * p_size * q_size, q_size,
                step_h, alone, lanes,
            )  # fmt: skip
            continue
        for chunk in range(chunks):
            u0, u1 = chunk * u_size // chunks, (chunk + 1) * u_size // chunks
            first = (n * p_size + u0) * q_size
            gradients, their_winners = dy, winners
            if not (apart and first + (u1 - u0 + below) * pitch + 3 * lanes <= dy.size):
                # dy with zeros around it, and its winners: beyond the edges nothing is won.
                first, to = 0, 0
                inside = min(q_size, v_size + after)
                for p in range(u0 - above, u1 + below):
                    if 0 <= p < p_size:
                        of = (n * p_size + p) * q_size
                        simd.fill_run(work, to, before, 0, lanes)
                        simd.copy_run(work, to + before, dy, of, inside, lanes, 1)
                        end = to + before + inside
                        simd.fill_run(work, end, to + pitch - end, 0, lanes)
                        line_won = won[to + before : end]
                        line_winners = winners[of : of + inside]
                        for q in range(inside):
                            line_won[q] = line_winners[q]
                    else:
                        simd.fill_run(work, to, pitch, 0, lanes)
                    to += pitch
                gradients, their_winners = work, won
            row, here = 0, first
            for h in range(u0 * step_h, min(height, u1 * step_h)):
                kinds = firsts[row * phases_w :]
                at = (n * height + h) * wide
                # What is written beyond the end of a line is overwritten by the next.
                aside = step_w > 2 or at + wide + 2 * lanes * step_w > last
                line, to = (work, copy) if aside else (dx, at)
                if step_w == 2:
                    for v in range(0, v_size, lanes):
                        sum_won_interleaved(
                            line, to + 2 * v, gradients, their_winners, here + v, offsets, numbers,
                            kinds[0], kinds[1] - kinds[0], kinds[2] - kinds[1],
                        )  # fmt: skip
                else:
                    for col in range(phases_w):
                        for v in range(0, v_size, lanes):
                            sum_won(
                                line, to + v, gradients, their_winners, here + v, offsets, numbers,
                                kinds[col], kinds[col + 1] - kinds[col],
                            )  # fmt: skip
                        if step_w > 2:
                            for v in range((wide - col + step_w - 1) // step_w):
                                dx[at + v * step_w + col] = work[copy + v]
                if aside and step_w <= 2:
                    for w in range(wide):
                        dx[at + w] = work[copy + w]
                row += 1
                if row == step_h:
                    row, here = 0, here + pitch


@jit.kernel
def _spread_plane(  # type: ignore[no-untyped-def]
    dx, to, height, wide, dy, winners, first, q_size, step_h, taps, lanes,
):  # fmt: skip
    """Set the gradients of a plane of windows that share no pixel, two columns or fewer wide.

    What is written beyond its end, up to two vectors, is for the next to overwrite.
    """
    for h in range(0, height, step_h):
        for row in range(min(step_h, height - h)):
            tap, other = taps[2 * row], taps[2 * row + 1]
            for q in range(0, q_size, lanes):
                spread_won(dx, to + 2 * q, dy, winners, first + q, tap, other)
            to += wide
        first += q_size


@parallel.ParallelKernel
def credit(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set gradients; winners are of uint8."""
    _credit_planes(number, arguments, like)
