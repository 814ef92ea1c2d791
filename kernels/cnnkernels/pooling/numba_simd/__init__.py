"""Max-pooling on vector registers: a vector of windows at a time, each tap read at once.

The lines of a plane are copied with something around them, rows and columns sorted by the phase of
the stride, so that the pixels that windows have under one tap lie side by side; where lines are
shorter than a vector, planes are turned instead, so that a lane is a plane. What is kept for
backward is the number of the winning tap, in one byte where the window has no more than 255 taps.
Backward asks for each pixel which of its windows it has won. Threads take planes, each written by
one alone.

Where such a copy, or its tables, would be out of proportion to the images, windows are taken one by
one: they look at their pixels in place, and give their gradients to those that have won. Backward
does so under windows of more than 255 taps, too, which a pixel would have to ask one after another.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import arrays, geometry, jit, memory, parallel, records, simd
from cnnkernels.contract import FORWARD, ArraySpec, Cache, MaxPool2D
from cnnkernels.pooling.numba_simd.intrinsics import (
    integer,
    select_tap,
    spread_won,
    sum_won,
    sum_won_interleaved,
)

_COPY = 16 * 1024
"""Elements of a copy, about: it stays in the second cache, and half of it in the first."""


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: for each window the number of its winning tap."""
    return ((problem.shapes.y, "uint8" if _taps(problem) <= 255 else "int64"),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare one tap of a vector of windows after another.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    arrays.require("x", x, problem.shapes.x, problem.dtype)
    kernel, plan_of, key, planes, units, winner = _forward_way(problem)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, winner)
    if y.size:
        plan = plan_of(key)
        shares = min(units, 4 * parallel.threads())
        kernel(shares, problem.dtype, (x, y, winners, shares, planes, plan.work, *plan.tables))
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Sum for each pixel the gradients of the windows that it has won.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    kernel, plan_of, key, planes, units, winner = _backward_way(problem)
    arrays.require("dy", dy, problem.shapes.y, problem.dtype)
    arrays.require("cache", winners, problem.shapes.y, winner)
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    if dx.size:
        plan = plan_of(key)
        shares = min(units, 4 * parallel.threads())
        kernel(shares, problem.dtype, (dy, winners, dx, shares, planes, plan.work, *plan.tables))
    return dx


# --------------------------------------------------------------------------------------------
# plans


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a plane is copied and cut; how many there are is no part of it.

    Attributes
    ----------
    numbers : np.ndarray
        int64; sizes, and tables that a kernel reads.
    start : np.ndarray
        int32; for each place of a chunk's windows the first tap that lies on a pixel.
    work : int
        Elements of scratch memory.
    """

    numbers: np.ndarray
    start: np.ndarray
    work: int

    @functools.cached_property
    def tables(self) -> tuple[int, ...]:
        return (
            self.numbers.ctypes.data, self.numbers.size, self.start.ctypes.data, self.start.size,
        )  # fmt: skip


class _Way(NamedTuple):
    """How a problem is computed: by which kernel and plan, and what its batch comes to.

    Attributes
    ----------
    kernel : parallel.ParallelKernel
    plan : function
        Of the key; it returns the plan.
    key : MaxPool2D or tuple
        All that the plan depends on.
    planes, units : int
        How many the plan is for, and parts that the work can be cut in.
    winner : str
        The dtype of the winners.
    """

    kernel: parallel.ParallelKernel
    plan: Callable[[Any], _Plan]
    key: object
    planes: int
    units: int
    winner: str


# These hold a problem's numbers and no tables; plans are kept by their bytes.
@functools.lru_cache(1024)
def _forward_way(problem: MaxPool2D) -> _Way:
    ((_, winner),) = cache_spec(problem)
    plane, planes = _plane(problem), problem.batch * problem.channels
    if _in_lanes(problem):
        kernels = {"uint8": _select_in_lanes, "int64": _select_of_many_in_lanes}
        together, planes, units = _together(problem)
        return _Way(kernels[winner], _lanes_plan, (plane, together), planes, units, winner)
    if _selects_in_copies(problem):
        kernels = {"uint8": _select, "int64": _select_of_many}
        return _Way(kernels[winner], _select_plan, plane, planes, planes, winner)
    kernels = {"uint8": _select_each, "int64": _select_each_of_many}
    units = planes * problem.out_height
    return _Way(kernels[winner], _plain_plan, plane, planes, units, winner)


@functools.lru_cache(1024)
def _backward_way(problem: MaxPool2D) -> _Way:
    ((_, winner),) = cache_spec(problem)
    plane, planes = _plane(problem), problem.batch * problem.channels
    if winner == "int64":
        return _Way(_credit_each_of_many, _plain_plan, plane, planes, planes, winner)
    few = problem.out_width <= simd.lanes(np.dtype(problem.dtype).itemsize) // 4
    if _in_lanes(problem) and (few or not _in_pairs(problem)):
        together, planes, units = _together(problem)
        return _Way(_credit_in_lanes, _lanes_plan, (plane, together), planes, units, winner)
    cut = _credit_cut(problem)
    if _fits(problem, cut.work, 4 * _taps(problem) + cut.kinds):
        return _Way(_credit, _credit_plan, plane, planes, planes, winner)
    return _Way(_credit_each, _plain_plan, plane, planes, planes, winner)


def _taps(problem: MaxPool2D) -> int:
    rows, cols = problem.kernel_size
    return rows * cols


def _plane(problem: MaxPool2D) -> MaxPool2D:
    """Return the problem of one plane."""
    return memory.first_equal(dataclasses.replace(problem, batch=1, channels=1))


def _fits(problem: MaxPool2D, elements: int, numbers: int) -> bool:
    """Return whether elements of scratch memory and int64 of tables are in proportion."""
    needed = elements * np.dtype(problem.dtype).itemsize + numbers * 8
    return needed <= memory.allowed(problem.bytes_moved(FORWARD))


def _in_lanes(problem: MaxPool2D) -> bool:
    """Return whether lanes are planes: lines are short, and there are enough planes."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    _, _, p_size, q_size = problem.shapes.y
    return (
        q_size < lanes <= problem.batch * problem.channels
        and problem.height * problem.width * lanes <= _COPY
        and max(p_size * q_size, 2 * lanes) * _taps(problem) <= 4 * _COPY
    )


def _together(problem: MaxPool2D) -> tuple[int, int, int]:
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


def _in_pairs(problem: MaxPool2D) -> bool:
    """Return whether each pixel has one window at the most, and two columns each window."""
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    (dilation_h, dilation_w), (_, _, p_size, q_size) = problem.dilation, problem.shapes.y
    return (
        (rows - 1) * dilation_h < step_h
        and (cols - 1) * dilation_w < step_w == 2
        and problem.padding[0][0] == problem.padding[1][0] == 0
        and (-(-problem.height // step_h), -(-problem.width // step_w)) == (p_size, q_size)
    )


def _selects_in_copies(problem: MaxPool2D) -> bool:
    """Return whether lines of planes are copied: it is worth it, and in proportion.

    Taps are numbered in 32 bits there.
    """
    cut, taps = _select_cut(problem), _taps(problem)
    vectors = problem.out_height * -(-problem.out_width // cut.lanes) * taps
    seldom = 4 * problem.taps_on_pixels < vectors * cut.lanes  # lanes see a pixel
    elements = cut.copy + 2 * cut.lanes
    numbers = 2 * (taps + cut.phases) + cut.start + 4 * cut.pitch
    return not (seldom and taps > 255) and taps < 2**31 and _fits(problem, elements, numbers)


# --------------------------------------------------------------------------------------------
# forward

_SIZES = 17


class _SelectCut(NamedTuple):
    """How lines of a plane are copied: see `_select_plan`."""

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
    lines = max(1, min(p_size, _COPY // (phases * pitch) - more_rows))
    chunks = -(-p_size // lines)
    lines = -(-p_size // chunks)
    copy = -(-phases * (lines + more_rows) * pitch // lanes) * lanes + 2 * lanes
    # Below the lines that begin on the padding, windows of all lines have the same first taps.
    edge = min(p_size, -(-problem.padding[0][0] // step_h))
    period = -(-lanes // pitch) * pitch
    start = edge * pitch + period + lanes
    return _SelectCut(lanes, phases, more_rows, pitch, lines, chunks, copy, edge, period, start)


@memory.PLANS.kept
def _select_plan(problem: MaxPool2D) -> _Plan:
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
    return _Plan(
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


# --------------------------------------------------------------------------------------------
# backward


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
    """How lines of dy are copied: see `_credit_plan`.

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
    lines = max(1, min(rows.size, _COPY // (2 * pitch) - more_rows))
    chunks = -(-rows.size // lines)
    copy = (-(-rows.size // chunks) + more_rows) * pitch + 3 * lanes
    work = copy + 2 * (columns.size + 2 * lanes)
    kinds = rows.phases * columns.phases
    return _CreditCut(rows, columns, apart, lanes, pitch, chunks, copy, work, kinds)


@memory.PLANS.kept
def _credit_plan(problem: MaxPool2D) -> _Plan:
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
        _in_pairs(problem),
    )  # fmt: skip
    return _Plan(
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
def _select(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_planes(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def _select_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_planes(number, arguments, like, np.int64)


@parallel.ParallelKernel
def _credit(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_planes(number, arguments, like)


# --------------------------------------------------------------------------------------------
# a lane a plane

_LANES_SIZES = 4


@memory.PLANS.kept
def _lanes_plan(key: tuple[MaxPool2D, int]) -> _Plan:
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
    return _Plan(
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
def _select_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_lanes(number, arguments, like, np.uint8, integer(like))


@parallel.ParallelKernel
def _select_of_many_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_lanes(number, arguments, like, np.int64, integer(like))


@parallel.ParallelKernel
def _credit_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_lanes(number, arguments, like, integer(like))


# --------------------------------------------------------------------------------------------
# a window after another

_PLAIN_SIZES = 13


@memory.PLANS.kept
def _plain_plan(problem: MaxPool2D) -> _Plan:
    """Return the geometry, and where the vectors of a line are: nothing is copied."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    (top, _), (left, _) = problem.padding
    sizes = (
        problem.height, problem.width, *problem.shapes.y[2:], *problem.kernel_size, *problem.steps,
        *problem.dilation, top, left, lanes,
    )  # fmt: skip
    return _Plan(
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
def _select_each(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_windows(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def _select_each_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_windows(number, arguments, like, np.int64)


@parallel.ParallelKernel
def _credit_each(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_windows(number, arguments, like, np.uint8)


@parallel.ParallelKernel
def _credit_each_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_windows(number, arguments, like, np.int64)
