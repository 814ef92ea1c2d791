"""Forward with a lane per window: one tap of a vector of windows is a vector of pixels.

Lines of a plane are copied with -inf around them, with rows and columns sorted by the phase of the
stride, so that the pixels under one tap of adjacent windows are adjacent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cnnkernels import copies, jit, memory, parallel, records, simd
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling.numba_simd import calls
from cnnkernels.pooling.numba_simd.calls import COPY, NO_TABLE, ForwardCall, Launch
from cnnkernels.pooling.numba_simd.intrinsics import select_tap


def suits(problem: MaxPool2D) -> bool:
    """Return whether copies pay off and stay in proportion to the images.

    Tap numbers must fit 32 bits.
    """
    sizes = _sizes(problem)
    vectors = sizes.out_height * -(-sizes.out_width // sizes.lanes) * sizes.taps
    sparse = 4 * problem.taps_on_pixels < vectors * sizes.lanes  # few lanes see a pixel
    elements = sizes.copy + 2 * sizes.lanes
    numbers = 2 * (sizes.taps + sizes.phase_count) + sizes.start_count + 4 * sizes.pitch
    fits = sizes.taps < 2**31 and calls.fits(problem, elements, numbers)
    return fits and not (sparse and sizes.taps > 255)


def forward_launch(problem: MaxPool2D) -> Launch:
    """Return the launch of the forward kernel."""
    winner, planes = calls.winner_dtype(problem), calls.planes(problem)
    kernel = {"uint8": _select_uint8, "int64": _select_int64}[winner]
    return Launch(kernel, _blocking, calls.one_plane(problem), planes, planes, winner)


class Blocking(NamedTuple):
    """The copies of a plane's lines, and the positions of taps in a copy.

    Lines are copied in blocks, which stay in L1 or L2. A copy has a part for each phase of the
    stride with a tap. A line of a part contains every step-th pixel of a line of the plane.
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
    top: int
    """Lines of padding above the plane."""
    left: int
    """Pixels of padding before a line."""
    lanes: int
    """Windows of a vector."""
    blocks: int
    """Blocks of the lines of windows."""
    lines: int
    """Lines of a part of a copy."""
    pitch: int
    """Elements of a line of a part."""
    copy: int
    """Elements of a copy, including vectors that reach beyond its end."""
    scratch: int
    """Elements of scratch memory: a copy, and a vector of maxima."""
    top_lines: int
    """Lines of windows that begin on the padding above the plane."""
    period: int
    """Period of `start` in elements: whole lines, at least a vector."""
    taps: int
    """Taps of a window."""
    phase_count: int
    """Phases of the stride with a tap."""
    start_count: int
    """Elements of `start`."""
    offsets: np.ndarray = NO_TABLE
    """int64, (taps,): index in the copy of each tap of the first window."""
    phases: np.ndarray = NO_TABLE
    """int64, (phase_count,): ``row * step_w + column`` of each part's first pixel."""
    start: np.ndarray = NO_TABLE
    """int32, (start_count,): the first tap on a pixel, for the windows of some lines of a part.

    After `top_lines` lines, the line for all lines below is repeated as often as a vector needs.
    """


def _sizes(problem: MaxPool2D) -> Blocking:
    """Return the blocking of a plane, without its tables."""
    lanes, taps = calls.lanes(problem), calls.taps(problem)
    (rows, cols), (step_h, step_w) = problem.kernel_size, problem.steps
    (dilation_h, dilation_w), ((top, _), (left, _)) = problem.dilation, problem.padding
    _, _, p_size, q_size = problem.shapes.y
    phase_count = min(rows, step_h // math.gcd(step_h, dilation_h))
    phase_count *= min(cols, step_w // math.gcd(step_w, dilation_w))
    more_lines = (rows - 1) * dilation_h // step_h  # of a part, that windows reach below their own
    pitch = q_size + (cols - 1) * dilation_w // step_w
    lines = max(1, min(p_size, COPY // (phase_count * pitch) - more_lines))
    blocks = -(-p_size // lines)
    lines = -(-p_size // blocks) + more_lines
    copy = -(-phase_count * lines * pitch // lanes) * lanes + 2 * lanes
    top_lines = min(p_size, -(-top // step_h))
    period = -(-lanes // pitch) * pitch
    return Blocking(
        height=problem.height,
        width=problem.width,
        out_height=p_size,
        out_width=q_size,
        step_h=step_h,
        step_w=step_w,
        top=top,
        left=left,
        lanes=lanes,
        blocks=blocks,
        lines=lines,
        pitch=pitch,
        copy=copy,
        scratch=copy + lanes,
        top_lines=top_lines,
        period=period,
        taps=taps,
        phase_count=phase_count,
        start_count=top_lines * pitch + period + lanes,
    )


@memory.BLOCKINGS.cached
def _blocking(problem: MaxPool2D) -> records.Record[Blocking]:
    """Return the blocking of a plane."""
    sizes = _sizes(problem)
    (rows, cols), pitch = problem.kernel_size, sizes.pitch
    (step_h, step_w), (dilation_h, dilation_w) = problem.steps, problem.dilation
    down, across = np.arange(rows) * dilation_h, np.arange(cols) * dilation_w
    row_phases, row_phase = np.unique(down % step_h, return_inverse=True)
    column_phases, column_phase = np.unique(across % step_w, return_inverse=True)
    part = sizes.lines * pitch
    offsets = np.add.outer(
        row_phase * column_phases.size * part + down // step_h * pitch,
        column_phase * part + across // step_w,
    )
    phases = np.add.outer(row_phases * step_w, column_phases)
    lines, places = np.arange(-(-sizes.start_count // pitch)), np.arange(pitch)
    first_r = -(-np.maximum(0, sizes.top - lines * step_h) // dilation_h) * cols
    first_s = -(-np.maximum(0, sizes.left - places * step_w) // dilation_w)
    start = np.add.outer(first_r, np.minimum(first_s, cols - 1), dtype=np.int32)
    return records.record(
        sizes._replace(
            offsets=offsets.ravel(),
            phases=phases.ravel(),
            start=start.ravel()[: sizes.start_count],
        )
    )


@jit.kernel
def _select(number, words, like, winner):  # type: ignore[no-untyped-def]
    """Set the maxima and winners of a share of the planes."""
    call = records.read(ForwardCall, words)
    blocking = records.read(Blocking, call.blocking)
    height, width = blocking.height, blocking.width
    step_h, step_w = blocking.step_h, blocking.step_w
    p_size, q_size, taps = blocking.out_height, blocking.out_width, blocking.taps
    lanes, blocks, pitch, copy = blocking.lanes, blocking.blocks, blocking.pitch, blocking.copy
    planes, shares = call.planes, call.shares
    x = records.array_at(call.x, like, (planes * height * width,))
    y = records.array_at(call.y, like, (planes * p_size * q_size,))
    winners = records.array_of(winner, call.winners, (planes * p_size * q_size,))
    offsets = records.array_at(blocking.offsets, words, (taps,))
    phases = records.array_at(blocking.phases, words, (blocking.phase_count,))
    start = records.array_of(np.int32, blocking.start, (blocking.start_count,))
    work = simd.scratch(blocking.scratch, y)
    line_winners = np.empty(lanes, winners.dtype)
    repeated = blocking.top_lines * pitch + blocking.period
    n0, n1 = number * planes // shares, (number + 1) * planes // shares
    last = n1 * p_size * q_size
    for n in range(n0, n1):
        for block in range(blocks):
            p0, p1 = block * p_size // blocks, (block + 1) * p_size // blocks
            copies.copy_phases(
                work, 0, x, n * height * width, height, width, p0 * step_h - blocking.top,
                -blocking.left, blocking.lines, step_h, step_w, pitch, phases, -np.inf, lanes,
            )  # fmt: skip
            # Windows of a line, or of all lines where no gaps are between them. Vectors reach
            # beyond the end; the next vectors overwrite that, unless they are another thread's.
            together = p1 - p0 if pitch == q_size else 1
            for p in range(0, p1 - p0, together):
                to, of = (n * p_size + p0 + p) * q_size, p * pitch
                end, first = to + together * q_size, min(p0 + p, blocking.top_lines) * pitch
                while to < end and to + lanes <= last:
                    select_tap(y, to, winners, to, work, of, offsets, 0, taps, start, first)
                    to += lanes
                    of += lanes
                    first += lanes
                    if first >= repeated:
                        first -= blocking.period
                if to < end:
                    select_tap(
                        work, copy, line_winners, 0, work, of, offsets, 0, taps, start, first
                    )
                    for lane in range(end - to):
                        y[to + lane] = work[copy + lane]
                        winners[to + lane] = line_winners[lane]


@parallel.ParallelKernel
def _select_uint8(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.uint8)


@parallel.ParallelKernel
def _select_int64(number, words, like):  # type: ignore[no-untyped-def]
    _select(number, words, like, np.int64)
