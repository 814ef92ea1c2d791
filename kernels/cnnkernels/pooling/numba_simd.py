"""Max-pooling on vector registers: a vector of windows at a time, each tap read at once.

The lines of a plane are copied with something around them, rows and columns sorted by the phase of
the stride, so that the pixels that windows have under one tap lie side by side; where lines are
shorter than a vector, planes are turned instead, so that a lane is a plane. What is kept for
backward is the number of the winning tap, in one byte where the window has no more than 255 taps.
Backward asks for each pixel which of its windows it has won. Threads take planes, each written by
one alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import contract, jit, simd
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D

_COPY = 16 * 1024
"""Elements of a copy, about: it stays in the second cache, and half of it in the first."""


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: for each window the number of its winning tap."""
    rows, cols = problem.kernel_size
    return ((problem.shapes.y, "uint8" if rows * cols <= 255 else "int64"),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare one tap of a vector of windows after another.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    contract.require("x", x, problem.shapes.x, problem.dtype)
    ((_, index),) = cache_spec(problem)
    y = contract.empty(problem.shapes.y, problem.dtype)
    winners = contract.empty(problem.shapes.y, index)
    if y.size:
        plan, (kernel, of_many) = _forward_plan(problem)
        kernel = kernel if index == "uint8" else of_many
        shares = min(plan.units, 4 * jit.threads())
        kernel(shares, problem.dtype, x, y, winners, shares, plan.work, *plan.tables)
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Sum for each pixel the gradients of the windows that it has won.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    ((shape, index),) = cache_spec(problem)
    contract.require("dy", dy, problem.shapes.y, problem.dtype)
    contract.require("cache", winners, shape, index)
    dx = contract.empty(problem.shapes.x, problem.dtype)
    if dx.size:
        plan, (kernel, of_many) = _backward_plan(problem)
        kernel = kernel if index == "uint8" else of_many
        shares = min(plan.units, 4 * jit.threads())
        kernel(shares, problem.dtype, dy, winners, dx, shares, plan.work, *plan.tables)
    return dx


# --------------------------------------------------------------------------------------------
# plans


@dataclass(frozen=True, eq=False)
class _Plan:
    """How planes are copied and cut.

    Attributes
    ----------
    numbers : np.ndarray
        int64; sizes, and tables that a kernel reads.
    start : np.ndarray
        int32; for each place of a chunk's windows the first tap that lies on a pixel.
    work : int
        Elements of scratch memory.
    units : int
        Parts that the work can be cut in.
    """

    numbers: np.ndarray
    start: np.ndarray
    work: int
    units: int

    @functools.cached_property
    def tables(self) -> tuple[int, ...]:
        return (
            self.numbers.ctypes.data, self.numbers.size, self.start.ctypes.data, self.start.size,
        )  # fmt: skip


_Kernels = tuple[jit.Shares, jit.Shares]
"""For winners of one byte, and of more."""


@functools.lru_cache(1024)
def _forward_plan(problem: MaxPool2D) -> tuple[_Plan, _Kernels]:
    if _in_lanes(problem):
        return _lanes_plan(problem), (_select_in_lanes, _select_of_many_in_lanes)
    return _select_plan(problem), (_select, _select_of_many)


@functools.lru_cache(1024)
def _backward_plan(problem: MaxPool2D) -> tuple[_Plan, _Kernels]:
    few = problem.shapes.y[3] <= simd.lanes(np.dtype(problem.dtype).itemsize) // 4
    if _in_lanes(problem) and (few or not _in_pairs(problem)):
        return _lanes_plan(problem), (_credit_in_lanes, _credit_of_many_in_lanes)
    return _credit_plan(problem), (_credit, _credit_of_many)


def _in_lanes(problem: MaxPool2D) -> bool:
    """Return whether lanes are planes: lines are short, and there are enough planes."""
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    return (
        problem.shapes.y[3] < lanes <= problem.batch * problem.channels
        and problem.height * problem.width * lanes <= _COPY
    )


def _in_pairs(problem: MaxPool2D) -> bool:
    """Return whether each pixel has one window at the most, and two columns each window."""
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.stride
    (dilation_h, dilation_w), (_, _, p_size, q_size) = problem.dilation, problem.shapes.y
    return (
        (rows - 1) * dilation_h < step_h
        and (cols - 1) * dilation_w < step_w == 2
        and problem.padding[0][0] == problem.padding[1][0] == 0
        and (-(-problem.height // step_h), -(-problem.width // step_w)) == (p_size, q_size)
    )


# --------------------------------------------------------------------------------------------
# forward

_SIZES = 16


def _select_plan(problem: MaxPool2D) -> _Plan:
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    rows, cols = problem.kernel_size
    (step_h, step_w), (dilation_h, dilation_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    down, across = r * dilation_h, s * dilation_w
    more_rows = (rows - 1) * dilation_h // step_h
    pitch = q_size + (cols - 1) * dilation_w // step_w
    phases, which = np.unique(down % step_h * step_w + across % step_w, return_inverse=True)
    lines = max(1, min(p_size, _COPY // (phases.size * pitch) - more_rows))
    chunks = -(-p_size // lines)
    lines = -(-p_size // chunks)
    plane = (lines + more_rows) * pitch
    offsets = which * plane + down // step_h * pitch + across // step_w
    copy = -(-phases.size * plane // lanes) * lanes + 2 * lanes
    sizes = (
        problem.batch * problem.channels, problem.height, problem.width, p_size, q_size, step_h,
        step_w, top, left, rows * cols, more_rows, pitch, lines, chunks, lanes, copy,
    )  # fmt: skip
    # The first tap on a pixel, for windows in lines that begin at the top, or, below, elsewhere.
    first_r = [-(-max(0, top - p * step_h) // dilation_h) for p in range(p_size)]
    first_s = [-(-max(0, left - q * step_w) // dilation_w) for q in range(pitch)]
    start = np.add.outer(np.array(first_r) * cols, np.minimum(first_s, cols - 1))
    return _Plan(
        np.concatenate((sizes, offsets, phases)).astype(np.int64),
        np.concatenate((start.ravel(), np.zeros(lanes))).astype(np.int32),
        copy + lanes,
        problem.batch * problem.channels,
    )


@jit.kernel()
def _select_planes(number, arguments, like, index):  # type: ignore[no-untyped-def]
    """Set the outputs and winners of some planes."""
    table = jit.array_at(arguments[5], arguments, (arguments[6],))
    (
        planes, height, wide, p_size, q_size, step_h, step_w, top, left, taps, more_rows, pitch,
        lines, chunks, lanes, copy,
    ) = to_fixed_tuple(table[:_SIZES], _SIZES)  # fmt: skip
    x = jit.array_at(arguments[0], like, (planes * height * wide,))
    y = jit.array_at(arguments[1], like, (planes * p_size * q_size,))
    winners = jit.array_of(index, arguments[2], (planes * p_size * q_size,))
    shares = arguments[3]
    work = simd.scratch(arguments[4], y)
    line_winners = np.empty(lanes, winners.dtype)
    start = jit.array_of(np.int32, arguments[7], (arguments[8],))
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
                end = to + together * q_size
                while to < end and to + lanes <= last:
                    simd.select_tap(
                        y, to, winners, to, work, of, offsets, 0, taps, start, p0 * pitch + of
                    )
                    to += lanes
                    of += lanes
                if to < end:
                    simd.select_tap(
                        work, copy, line_winners, 0, work, of, offsets, 0, taps, start,
                        p0 * pitch + of,
                    )  # fmt: skip
                    for lane in range(end - to):
                        y[to + lane] = work[copy + lane]
                        winners[to + lane] = line_winners[lane]


# --------------------------------------------------------------------------------------------
# backward


_BACKWARD_SIZES = 19


def _credit_plan(problem: MaxPool2D) -> _Plan:
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    rows, cols = problem.kernel_size
    (step_h, step_w), (dilation_h, dilation_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    down, across = r * dilation_h, s * dilation_w
    more_rows = (rows - 1) * dilation_h // step_h
    more_cols = (cols - 1) * dilation_w // step_w
    # Pixel (h, w) is under windows of line u = (h + top) // step_h and before; columns alike.
    u_size, v_size = -(-(problem.height + top) // step_h), -(-(problem.width + left) // step_w)
    pitch = v_size + more_cols
    lines = max(1, min(u_size, _COPY // (2 * pitch) - more_rows))
    chunks = -(-u_size // lines)
    lines = -(-u_size // chunks)
    copy = (lines + more_rows) * pitch + 3 * lanes
    # For each remainder of h + top, and each of w: the taps under which such pixels lie.
    kinds = down % step_h * step_w + (across - left) % step_w
    order = np.argsort(kinds, kind="stable")
    further = ((across - left) % step_w + left) // step_w  # of the column, from w // step_w
    offsets = (more_rows - down // step_h) * pitch + more_cols - across // step_w + further
    firsts = np.searchsorted(kinds[order], np.arange(step_h * step_w + 1))
    columns = -(-problem.width // step_w)
    sizes = (
        problem.batch * problem.channels, problem.height, problem.width, p_size, q_size, step_h,
        step_w, top, rows * cols, more_rows, more_cols, pitch, chunks, u_size, v_size, columns,
        lanes, copy, _in_pairs(problem),
    )  # fmt: skip
    return _Plan(
        np.concatenate((sizes, offsets[order], order, firsts)).astype(np.int64),
        np.zeros(1, np.int32),
        copy + step_w * (columns + 2 * lanes),
        problem.batch * problem.channels,
    )


@jit.kernel()
def _credit_planes(number, arguments, like, index):  # type: ignore[no-untyped-def]
    """Set the gradients of some planes."""
    table = jit.array_at(arguments[5], arguments, (arguments[6],))
    (
        planes, height, wide, p_size, q_size, step_h, step_w, top, taps, more_rows, more_cols,
        pitch, chunks, u_size, v_size, columns, lanes, copy, pairs,
    ) = to_fixed_tuple(table[:_BACKWARD_SIZES], _BACKWARD_SIZES)  # fmt: skip
    dy = jit.array_at(arguments[0], like, (planes * p_size * q_size,))
    winners = jit.array_of(index, arguments[1], (planes * p_size * q_size,))
    dx = jit.array_at(arguments[2], like, (planes * height * wide,))
    shares = arguments[3]
    work = simd.scratch(arguments[4], dx)
    won = np.zeros(copy, winners.dtype)
    offsets = table[_BACKWARD_SIZES : _BACKWARD_SIZES + taps]
    numbers = table[_BACKWARD_SIZES + taps : _BACKWARD_SIZES + 2 * taps]
    firsts = table[_BACKWARD_SIZES + 2 * taps :]
    # Where no two windows share a pixel, and all lines have windows, they are read in place.
    apart = more_rows + more_cols == 0 and u_size == p_size and v_size == q_size
    alone = np.full(2 * step_h, -1, np.int64)  # where no tap lies, nothing is won
    if pairs:
        for kind in range(2 * step_h):
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
            if not (apart and first + (u1 - u0) * pitch + 3 * lanes <= dy.size):
                # dy with zeros around it, and its winners: beyond the edges nothing is won.
                first, to = 0, 0
                inside = min(q_size, v_size)
                for p in range(u0 - more_rows, u1):
                    if 0 <= p < p_size:
                        of = (n * p_size + p) * q_size
                        simd.fill_run(work, to, more_cols, 0, lanes)
                        simd.copy_run(work, to + more_cols, dy, of, inside, lanes, 1)
                        end = to + more_cols + inside
                        simd.fill_run(work, end, to + pitch - end, 0, lanes)
                        line_won = won[to + more_cols : end]
                        line_winners = winners[of : of + inside]
                        for q in range(inside):
                            line_won[q] = line_winners[q]
                    else:
                        simd.fill_run(work, to, pitch, 0, lanes)
                    to += pitch
                gradients, their_winners = work, won
            row, of = 0, first
            for h in range(u0 * step_h - top, min(height, u1 * step_h - top)):
                kinds = firsts[row * step_w :]
                here = of
                row += 1
                if row == step_h:
                    row, of = 0, of + pitch
                if h < 0:
                    continue
                at = (n * height + h) * wide
                # What is written beyond the end of a line is overwritten by the next.
                aside = step_w > 2 or at + wide + 2 * lanes * step_w > last
                line, to = (work, copy) if aside else (dx, at)
                if step_w == 2:
                    for v in range(0, columns, lanes):
                        simd.sum_won_in_turns(
                            line, to + 2 * v, gradients, their_winners, here + v, offsets, numbers,
                            kinds[0], kinds[1] - kinds[0], kinds[2] - kinds[1],
                        )  # fmt: skip
                else:
                    for col in range(step_w):
                        for v in range(0, columns, lanes):
                            simd.sum_won(
                                line, to + v, gradients, their_winners, here + v, offsets, numbers,
                                kinds[col], kinds[col + 1] - kinds[col],
                            )  # fmt: skip
                        to += columns + lanes
                if step_w > 2:
                    for col in range(step_w):
                        for v in range((wide - col + step_w - 1) // step_w):
                            dx[at + v * step_w + col] = work[copy + col * (columns + lanes) + v]
                elif aside:
                    for w in range(wide):
                        dx[at + w] = work[copy + w]


@jit.kernel()
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
                simd.spread_won(dx, to + 2 * q, dy, winners, first + q, tap, other)
            to += wide
        first += q_size


@jit.Shares
def _select(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_planes(number, arguments, like, np.uint8)


@jit.Shares
def _select_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_planes(number, arguments, like, np.int64)


@jit.Shares
def _credit(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_planes(number, arguments, like, np.uint8)


@jit.Shares
def _credit_of_many(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_planes(number, arguments, like, np.int64)


# --------------------------------------------------------------------------------------------
# a lane a plane

_LANES_SIZES = 5


@functools.lru_cache(1024)
def _lanes_plan(problem: MaxPool2D) -> _Plan:
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    rows, cols = problem.kernel_size
    (top, _), (left, _) = problem.padding
    _, _, p_size, q_size = problem.shapes.y
    planes, pixels = problem.batch * problem.channels, problem.height * problem.width
    # Planes of few windows are taken several at a time, as one: so many that they fill squares.
    together = max(1, min(-(-lanes // (p_size * q_size)), planes // lanes))
    while planes % together:
        together -= 1
    n, p, q, r, s = np.indices((together, p_size, q_size, rows, cols))
    h = p * problem.stride[0] + r * problem.dilation[0] - top
    v = q * problem.stride[1] + s * problem.dilation[1] - left
    inside = (h >= 0) & (h < problem.height) & (v >= 0) & (v < problem.width)
    pixel = n * pixels + h * problem.width + v
    planes, pixels = planes // together, pixels * together
    # Where a window's taps are; beyond the edges, a line of -inf that stands after the pixels.
    sees = np.where(inside, pixel, pixels).reshape(-1, rows * cols)
    first = inside.reshape(sees.shape).argmax(1)
    # And for each pixel the windows that see it, and as which of their taps.
    window, tap = np.nonzero(sees < pixels)
    order = np.argsort(sees[window, tap], kind="stable")
    firsts = np.searchsorted(sees[window, tap][order], np.arange(pixels + 1))
    sizes = planes, pixels, len(sees), rows * cols, lanes
    numbers = (sizes, sees.ravel() * lanes, first, window[order] * lanes, tap[order], firsts)
    return _Plan(
        np.concatenate(numbers).astype(np.int64),
        np.repeat(np.arange(rows * cols), lanes).astype(np.int32),
        (pixels + 3 * len(sees) + 4 * lanes) * lanes,
        -(-planes // lanes),
    )


@jit.kernel()
def _select_lanes(number, arguments, like, index, wide):  # type: ignore[no-untyped-def]
    """Set the outputs and winners of some planes; `wide` is an integer as wide as a pixel."""
    table = jit.array_at(arguments[5], arguments, (arguments[6],))
    planes, pixels, windows, taps, lanes = to_fixed_tuple(table[:_LANES_SIZES], _LANES_SIZES)
    x = jit.array_at(arguments[0], like, (planes * pixels,))
    y = jit.array_at(arguments[1], like, (planes * windows,))
    winners = jit.array_of(index, arguments[2], (planes * windows,))
    shares = arguments[3]
    work = simd.scratch(arguments[4], y)
    start = jit.array_of(np.int32, arguments[7], (arguments[8],))
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
            simd.select_tap(
                work, best + window * lanes, won, window * lanes, work, 0,
                sees, window * taps, taps, start, firsts[window] * lanes,
            )  # fmt: skip
        simd.turn_back(y, n0 * windows, windows, work, best, lanes, rows, windows, lanes)
        simd.turn_back(turned, 0, windows, won, 0, lanes, rows, windows, lanes)
        mine = winners[n0 * windows : (n0 + rows) * windows]
        for i in range(rows * windows):
            mine[i] = turned[i]


@jit.kernel()
def _credit_lanes(number, arguments, like, index, wide):  # type: ignore[no-untyped-def]
    """Set the gradients of some planes; `wide` is an integer as wide as a pixel."""
    table = jit.array_at(arguments[5], arguments, (arguments[6],))
    planes, pixels, windows, taps, lanes = to_fixed_tuple(table[:_LANES_SIZES], _LANES_SIZES)
    dy = jit.array_at(arguments[0], like, (planes * windows,))
    winners = jit.array_of(index, arguments[1], (planes * windows,))
    dx = jit.array_at(arguments[2], like, (planes * pixels,))
    shares = arguments[3]
    work = simd.scratch(arguments[4], dx)
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
            simd.sum_won(
                work, sums + pixel * lanes, work, won, 0, sees, numbers, firsts[pixel],
                firsts[pixel + 1] - firsts[pixel],
            )  # fmt: skip
        simd.turn_back(dx, n0 * pixels, pixels, work, sums, lanes, rows, pixels, lanes)


@jit.Shares
def _select_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_lanes(number, arguments, like, np.uint8, simd.integer(like))


@jit.Shares
def _select_of_many_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _select_lanes(number, arguments, like, np.int64, simd.integer(like))


@jit.Shares
def _credit_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_lanes(number, arguments, like, np.uint8, simd.integer(like))


@jit.Shares
def _credit_of_many_in_lanes(number, arguments, like):  # type: ignore[no-untyped-def]
    _credit_lanes(number, arguments, like, np.int64, simd.integer(like))
