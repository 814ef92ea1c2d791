"""Backward with a lane per pixel, which sums the gradients of the windows that it wins.

Pixels of a line with the same phase of the stride lie under the same taps of adjacent windows. So a
vector of such pixels compares each of these taps with a vector of winners, and adds a vector of dy
in the lanes that match.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import copies, jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, NO_TABLE, BackwardCall, Launch
from cnnkernels.pooling.numba_simd.intrinsics import spread_won, sum_won, sum_won_interleaved


def suits(problem: MaxPool2D) -> bool:
    """Return whether copies and tables stay in proportion to the images."""
    sizes = _sizes(problem, _axis(problem, 0), _axis(problem, 1))
    numbers = 4 * calls.taps(problem) + sizes.phases_h * sizes.phases_w
    return calls.fits(problem, sizes.scratch, numbers)


def backward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the backward kernel; winners are uint8."""
    planes = calls.planes(problem)
    return Launch(_credit, _blocking, calls.one_plane(problem), planes, planes, "uint8")


def in_pairs(problem: MaxPool2D) -> bool:
    """Return whether windows share no pixel, and two columns of pixels belong to each."""
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    (dilation_h, dilation_w), (_, _, p_size, q_size) = problem.dilation, problem.shapes.y
    return (
        (rows - 1) * dilation_h < step_h
        and (cols - 1) * dilation_w < step_w == 2
        and problem.padding[0][0] == problem.padding[1][0] == 0
        and (-(-problem.height // step_h), -(-problem.width // step_w)) == (p_size, q_size)
    )


class _Axis(NamedTuple):
    """The windows that contain the pixels of an axis.

    A pixel's own window has the pixel's number divided by the stride.
    """

    size: int
    """Maximum number of pixels of one phase of the stride."""
    phases: int
    """Number of phases of pixels."""
    before: int
    """Windows before its own that a pixel may lie under."""
    after: int
    """Windows after its own that a pixel may lie under."""
    inside: bool
    """Whether all these windows exist, for every pixel."""
    seen: np.ndarray
    """bool, (kernel,): whether a tap lies on pixels at all."""
    phase: np.ndarray
    """int64, (kernel,): phase of the pixels under a tap."""
    shift: np.ndarray
    """int64, (kernel,): number of a tap's window, relative to the pixel's own window."""


def _axis(problem: MaxPool2D, axis: int) -> _Axis:
    """Return an axis: pixel u * step + phase lies under the tap of window u + shift."""
    pixels, out = problem.shapes.x[2 + axis], problem.shapes.y[2 + axis]
    step = problem.steps[axis]
    place = np.arange(problem.kernel_size[axis]) * problem.dilation[axis] - problem.padding[axis][0]
    phase, shift = place % step, -(place // step)
    count = np.maximum(0, -((phase - pixels) // step))
    seen = np.maximum(0, -shift) < np.minimum(count, out - shift)
    return _Axis(
        size=-(-pixels // step),
        phases=max(min(step, pixels), min(step, 2)),  # two columns are summed at once
        before=max(0, -int(shift[seen].min())),
        after=max(0, int(shift[seen].max())),
        inside=bool(((shift >= 0) & (count + shift <= out))[count > 0].all()),
        seen=seen,
        phase=phase,
        shift=shift,
    )


class Blocking(NamedTuple):
    """The copies of dy, and the taps over each kind of pixels.

    A kind of pixels is a pair of phases, of line and column. Lines are processed in blocks, so that
    copies stay in L1 or L2. A copy contains lines of dy, with zeros around them for windows that do
    not exist. If all windows exist, dy itself is read.
    """

    height: int
    """Lines of a plane."""
    width: int
    """Pixels of a line."""
    out_height: int
    """Lines of windows."""
    out_width: int
    """Windows of a line."""
    step_h: int
    """Lines from a window to the one below."""
    step_w: int
    """Pixels from a window to the one beside."""
    lanes: int
    """Pixels of a vector."""
    in_pairs: int
    """Whether windows share no pixel, and two columns of pixels belong to each: see `in_pairs`."""
    in_place: int
    """Whether dy is read in place, except where vectors would reach beyond its end."""
    blocks: int
    """Blocks of the lines of a plane."""
    phases_h: int
    """Phases of the stride that lines have."""
    phases_w: int
    """Phases of the stride that columns have."""
    phase_height: int
    """Maximum lines of one phase."""
    phase_width: int
    """Maximum pixels of one phase in a line."""
    above: int
    """Lines of windows above its own that a pixel may lie under."""
    below: int
    """Lines of windows below its own that a pixel may lie under."""
    before: int
    """Windows before its own, in a line, that a pixel may lie under."""
    after: int
    """Windows after its own, in a line, that a pixel may lie under."""
    pitch: int
    """Elements of a line of dy, or of its copy."""
    copy: int
    """Elements of a copy, including vectors that reach beyond its end."""
    scratch: int
    """Elements of scratch memory: a copy, and a line of pixels."""
    taps: int = 0
    """Taps that lie on pixels."""
    offsets: np.ndarray = NO_TABLE
    """int64, (taps,), sorted by kind: place of the tap's window, from the first of a copy on."""
    numbers: np.ndarray = NO_TABLE
    """int64, (taps,), sorted by kind: the tap's number."""
    first_taps: np.ndarray = NO_TABLE
    """int64, (phases_h * phases_w + 1,): first of the taps of each kind, then `taps`."""


def _sizes(problem: MaxPool2D, rows: _Axis, columns: _Axis) -> Blocking:
    """Return the blocking of a plane, without its tables."""
    lanes = calls.lanes(problem)
    in_place = rows.inside and columns.inside
    pitch = problem.out_width if in_place else columns.before + columns.size + columns.after
    more_lines = rows.before + rows.after
    lines = max(1, min(rows.size, COPY // (2 * pitch) - more_lines))
    blocks = -(-rows.size // lines)
    copy = (-(-rows.size // blocks) + more_lines) * pitch + 3 * lanes
    return Blocking(
        height=problem.height,
        width=problem.width,
        out_height=problem.out_height,
        out_width=problem.out_width,
        step_h=problem.steps[0],
        step_w=problem.steps[1],
        lanes=lanes,
        in_pairs=in_pairs(problem),
        in_place=in_place,
        blocks=blocks,
        phases_h=rows.phases,
        phases_w=columns.phases,
        phase_height=rows.size,
        phase_width=columns.size,
        above=rows.before,
        below=rows.after,
        before=columns.before,
        after=columns.after,
        pitch=pitch,
        copy=copy,
        scratch=copy + 2 * (columns.size + 2 * lanes),
    )


@memory.BLOCKINGS.cached
def _blocking(problem: MaxPool2D) -> records.Record[Blocking]:
    """Return the blocking of a plane."""
    rows, columns = _axis(problem, 0), _axis(problem, 1)
    sizes = _sizes(problem, rows, columns)
    r, s = np.flatnonzero(rows.seen), np.flatnonzero(columns.seen)
    kinds = np.add.outer(rows.phase[r] * columns.phases, columns.phase[s]).ravel()
    offsets = np.add.outer(
        (rows.before + rows.shift[r]) * sizes.pitch, columns.before + columns.shift[s]
    ).ravel()
    numbers = np.add.outer(r * problem.kernel_size[1], s).ravel()
    order = np.argsort(kinds, kind="stable")
    first_taps = np.searchsorted(kinds[order], np.arange(sizes.phases_h * sizes.phases_w + 1))
    return records.record(
        sizes._replace(
            taps=kinds.size,
            offsets=offsets[order],
            numbers=numbers[order],
            first_taps=first_taps,
        )
    )


@parallel.ParallelKernel
def _credit(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of a share of the planes."""
    call = records.read(BackwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    height, width = blocking.height, blocking.width
    step_h, step_w = blocking.step_h, blocking.step_w
    p_size, q_size, lanes = blocking.out_height, blocking.out_width, blocking.lanes
    phases_h, phases_w, taps = blocking.phases_h, blocking.phases_w, blocking.taps
    u_size, v_size, blocks = blocking.phase_height, blocking.phase_width, blocking.blocks
    above, below, before = blocking.above, blocking.below, blocking.before
    pitch, copy, pairs = blocking.pitch, blocking.copy, blocking.in_pairs
    planes, shares = call.planes, call.shares
    dy = records.array_at(call.dy, like, (planes * p_size * q_size,))
    winners = records.array_of(np.uint8, call.winners, (planes * p_size * q_size,))
    dx = records.array_at(call.dx, like, (planes * height * width,))
    offsets = records.array_at(blocking.offsets, words, (taps,))
    numbers = records.array_at(blocking.numbers, words, (taps,))
    first_taps = records.array_at(blocking.first_taps, words, (phases_h * phases_w + 1,))
    work = simd.scratch(blocking.scratch, dx)
    copied_winners = np.zeros(copy, winners.dtype)
    alone = np.full(2 * phases_h, -1, np.int64)  # no tap: such pixels win nothing
    if pairs:
        for kind in range(2 * phases_h):
            if first_taps[kind] < first_taps[kind + 1]:
                alone[kind] = numbers[first_taps[kind]]
    n0, n1 = number * planes // shares, (number + 1) * planes // shares
    last = n1 * height * width
    for n in range(n0, n1):
        beyond = (n + 1) * height * width + 2 * lanes > last
        if pairs and not beyond and (n + 1) * p_size * q_size + lanes <= dy.size:
            _spread_plane(
                dx, n * height * width, height, width, dy, winners, n * p_size * q_size, q_size,
                step_h, alone, lanes,
            )  # fmt: skip
            continue
        for block in range(blocks):
            u0, u1 = block * u_size // blocks, (block + 1) * u_size // blocks
            first = (n * p_size + u0) * q_size
            gradients, their_winners = dy, winners
            if not (blocking.in_place and first + (u1 - u0 + below) * pitch + 3 * lanes <= dy.size):
                # Copy dy with zeros around it, and its winners: beyond the edges no pixel wins.
                first, to = 0, 0
                inside = min(q_size, v_size + blocking.after)
                for p in range(u0 - above, u1 + below):
                    if 0 <= p < p_size:
                        of = (n * p_size + p) * q_size
                        copies.fill_run(work, to, before, 0, lanes)
                        copies.copy_run(work, to + before, dy, of, inside, lanes, 1)
                        end = to + before + inside
                        copies.fill_run(work, end, to + pitch - end, 0, lanes)
                        line_copy = copied_winners[to + before : end]
                        line_winners = winners[of : of + inside]
                        for q in range(inside):
                            line_copy[q] = line_winners[q]
                    else:
                        copies.fill_run(work, to, pitch, 0, lanes)
                    to += pitch
                gradients, their_winners = work, copied_winners
            row, here = 0, first
            for h in range(u0 * step_h, min(height, u1 * step_h)):
                kinds = first_taps[row * phases_w :]
                at = (n * height + h) * width
                # Vectors reach beyond the end of a line; the next line overwrites that.
                aside = step_w > 2 or at + width + 2 * lanes * step_w > last
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
                            for v in range((width - col + step_w - 1) // step_w):
                                dx[at + v * step_w + col] = work[copy + v]
                if aside and step_w <= 2:
                    for w in range(width):
                        dx[at + w] = work[copy + w]
                row += 1
                if row == step_h:
                    row, here = 0, here + pitch


@jit.kernel
def _spread_plane(  # type: ignore[no-untyped-def]
    dx, to, height, width, dy, winners, first, q_size, step_h, taps, lanes,
):  # fmt: skip
    """Set the gradients of a plane that satisfies `in_pairs`.

    Up to two vectors are written beyond its end; the next plane overwrites them.
    """
    for h in range(0, height, step_h):
        for row in range(min(step_h, height - h)):
            tap, other = taps[2 * row], taps[2 * row + 1]
            for q in range(0, q_size, lanes):
                spread_won(dx, to + 2 * q, dy, winners, first + q, tap, other)
            to += width
        first += q_size
