"""Correlations with few filters in a group, or wide lines, on padded copies of planes.

Where few filters use what is gathered, `panels` would spend its time gathering; and where filters
do not fill the lanes, as `filters` needs, but lines do, little is lost in the gaps between lines.
Here the lines of a channel are copied once, with zeros around them, and every tap is read where it
stands in that copy: the sums of a line of output pixels are next to those of the following line, so
that all are made in one go, and those in the gaps between lines are thrown away. For a stride of s
the columns and rows of the copy are sorted by their remainders, so that each tap sees its pixels
side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import microkernel, parallel, records, simd
from cnnkernels.correlation import packing
from cnnkernels.correlation.plan import Correlation

_FEW = 8
"""Filters of a group that are too few for gathering."""

_WIDE = 24
"""Columns of a line, at the least, that is wide: a few columns between lines are a small part."""

_COPY = 48 * 1024
"""Elements of a copy, about: it stays in the second cache."""

_SUMS = 128 * 1024
"""Elements of the sums of a copy's lines, about: they stay there, too."""


@dataclass(frozen=True, eq=False)
class Cut:
    """How the planes of a correlation are copied and cut.

    Attributes
    ----------
    plan : Correlation
    sizes : np.ndarray
        int64; see `_SIZES`.
    taps : np.ndarray, int64
        For each window which plane of a channel's copies it sees; then for each where in it; then
        for each plane what it is of: rows' and columns' remainders.
    work : int
        Elements of scratch memory a thread.
    units, shares : int
        Parts that the work can be cut in, and is.
    """

    plan: Correlation
    sizes: np.ndarray
    taps: np.ndarray
    work: int
    units: int
    shares: int

    @functools.cached_property
    def tables(self) -> tuple[int, int]:
        """Where kernels find taps and sizes."""
        return self.taps.ctypes.data, self.sizes.ctypes.data


_SIZES = 30


def _pitch(correlation: Correlation) -> tuple[int, int]:
    """Return how far apart lines of a copy are, and what a line sees of the next.

    Zeros before a line are those after the line before it, too: as many as do for both.
    """
    across, step = correlation.windows[1], correlation.step[1]
    first, wide = int(across.min()), correlation.source[2]
    seen = correlation.grid[1] + int(np.ptp(across)) // step
    columns = np.unique(first + (across - first) % step)  # where each phase begins
    zeros = int(np.maximum(-(columns // step), 0).min())
    pixels = int((-((columns - wide) // step)).max())
    pitch = min(seen, max(pixels, seen - zeros))
    return pitch, seen - pitch


def cut(correlation: Correlation, threads: int) -> Cut:
    """Return how the planes of a correlation are copied and cut for some threads."""
    (channels, height, wide), (p_size, q_size) = correlation.source, correlation.grid
    down, across, _ = correlation.windows
    step_h, step_w = correlation.step
    first_row, first_col = int(down.min()), int(across.min())
    more_rows = (int(np.ptp(down))) // step_h
    pitch, gap = _pitch(correlation)
    phases = (down - first_row) % step_h * step_w + (
        across - first_col
    ) % step_w  # of rows and of columns
    place = (down - first_row) // step_h * pitch + (across - first_col) // step_w
    in_block = correlation.blocks[0]
    used = np.unique(phases)
    # Lines of a chunk: as many as the copy has room for, but enough chunks for all threads.
    line = in_block * used.size * pitch
    images = correlation.batch * correlation.groups
    fitting = min(_COPY // line - more_rows, _SUMS // (correlation.filters * pitch))
    lines = max(1, min(p_size, fitting, -(-p_size * images // (4 * threads))))
    chunks = -(-p_size // lines)
    lines = -(-p_size // chunks)
    plane = (lines + more_rows) * pitch
    width = 8 * correlation.lanes
    positions = -(-((lines - 1) * pitch + q_size) // width) * width
    copy = in_block * used.size * plane + 2 * width + pitch + gap
    taps = np.concatenate((np.searchsorted(used, phases), place, used))
    sizes = (
        correlation.batch, correlation.groups, correlation.filters, channels, height, wide, p_size,
        q_size, *correlation.out, step_h, step_w, *correlation.spread, *correlation.corner,
        down.size, *correlation.blocks, first_row, first_col, more_rows, pitch, lines,
        chunks, plane, used.size, positions, copy, gap,
    )  # fmt: skip
    units = images * chunks
    return Cut(
        plan=correlation,
        sizes=np.array(sizes, np.int64),
        taps=taps,
        work=-(-(copy + correlation.filters * (positions + pitch) + width) // 32) * 32,
        units=units,
        shares=min(units, 4 * threads),
    )


def needed(correlation: Correlation) -> int:
    """Return how many bytes of tables and scratch memory are needed, about."""
    itemsize = np.dtype(correlation.dtype).itemsize
    work = cut(correlation, 1).work + packing.elements(correlation)
    return 80 * correlation.area + itemsize * work


def suits(correlation: Correlation) -> bool:
    """Return whether filters are few, or several taps share wide lines."""
    wide = correlation.grid[1] >= _WIDE and correlation.spread == (1, 1)
    several = correlation.windows.shape[1] > 1
    return correlation.filters <= _FEW or (wide and several)


def run(cut: Cut, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    plan, dtype = cut.plan, cut.plan.dtype
    _correlate(
        cut.shares, dtype, (microkernel.packed_tile_address(dtype), source, source.size,
        packing.pack(plan, w), plan.tiles, start, out, cut.work, cut.shares, *cut.tables,
        cut.taps.size, plan.lanes))  # fmt: skip


@parallel.ParallelKernel
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of some chunks of lines of some images' groups."""
    micro = arguments[0]
    room, shares, lanes = arguments[7], arguments[8], arguments[12]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, out_height, out_width,
        step_h, step_w, spread_h, spread_w, corner_h, corner_w, windows, in_block, in_window,
        first_row, first_col, more_rows, pitch, lines, chunks, plane, used, positions, copy, gap,
    ) = to_fixed_tuple(records.array_at(arguments[10], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    out_row = out_height * out_width
    source = records.array_at(arguments[1], like, (arguments[2],))
    tiles = arguments[4]
    packed = records.array_at(
        arguments[3], like, (groups * tiles * channels * windows * microkernel.ROWS,)
    )
    start = records.array_at(arguments[5], like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(arguments[6], like, (batch * groups * filters * out_row,))
    work = simd.scratch(room, out)
    taps = records.array_at(arguments[9], arguments, (arguments[11],))
    phases = taps[2 * windows :]
    looks = np.empty(in_block * windows, np.int64)
    widest = microkernel.widest((filters + tiles - 1) // tiles)
    units = batch * groups * chunks
    for unit in range(number * units // shares, (number + 1) * units // shares):
        image, group, chunk = unit // (groups * chunks), unit // chunks % groups, unit % chunks
        p0, p1 = chunk * p_size // chunks, (chunk + 1) * p_size // chunks
        count = (p1 - p0 - 1) * pitch + q_size
        for c0 in range(0, channels, in_block):
            c1 = min(channels, c0 + in_block)
            for c in range(c1 - c0):
                simd.copy_phases(
                    work, c * used * plane, source,
                    ((image * groups + group) * channels + c0 + c) * height * wide, height, wide,
                    p0 * step_h + first_row, first_col, lines + more_rows, step_h, step_w, pitch,
                    phases, 0, lanes,
                )  # fmt: skip
            simd.fill_run(work, (c1 - c0) * used * plane, gap, 0, lanes)
            for r0 in range(0, windows, in_window):
                r1 = min(windows, r0 + in_window)
                before, many = c0 * windows + (c1 - c0) * r0, (c1 - c0) * (r1 - r0)
                for r in range(r0, r1):
                    for c in range(c1 - c0):
                        looks[(r - r0) * (c1 - c0) + c] = (c * used + taps[r]) * plane + taps[
                            windows + r
                        ]
                a_block = (group * channels * windows + before) * tiles * microkernel.ROWS
                at = 0
                while at < count:
                    vectors = microkernel.covering(count - at, lanes, widest)
                    for tile in range(tiles):
                        m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                        microkernel.multiply_packed_tile(
                            micro, m1 - m0, vectors, packed,
                            a_block + tile * many * microkernel.ROWS,
                            work, at, looks, 0, many,
                            work, copy + m0 * positions + at, positions,
                            start, groups * filters if before else group * filters + m0, before > 0,
                            source, 0, 0,
                        )  # fmt: skip
                    at += vectors * lanes
        for m in range(filters):
            row = ((image * groups + group) * filters + m) * out_row + corner_h * out_width
            row += corner_w + p0 * spread_h * out_width
            end = row + (p1 - p0 - 1) * spread_h * out_width + q_size
            of = copy + m * positions
            for _ in range(p1 - p0):
                if spread_h == 1 and spread_w == 1 and row + q_size + lanes <= end:
                    # What is written beyond the end of this line is overwritten by the next.
                    simd.copy_run(out, row, work, of, q_size, lanes, 1)
                else:
                    for q in range(q_size):
                        out[row + q * spread_w] = work[of + q]
                row += spread_h * out_width
                of += pitch


def weights(cut: Cut, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set the weights' gradient of a depthwise convolution.

    Parameters
    ----------
    cut : Cut
        Of what forward is, with one channel a group, for one thread: how lines are cut orders sums.
    dy, x, dw : np.ndarray
        C-contiguous, of the correlation's dtype.
    """
    plan = cut.plan
    shares = min(plan.groups, 4 * parallel.threads())
    _sum_weights(
        shares, plan.dtype, (x, x.size, dy, dw, cut.work, shares, *cut.tables, cut.taps.size,
        plan.lanes))  # fmt: skip


@parallel.ParallelKernel
def _sum_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some groups' weights, summed over all images."""
    room, shares, lanes = arguments[4], arguments[5], arguments[9]
    (
        batch, groups, filters, _, height, wide, p_size, q_size, _, _, step_h, step_w,
        _, _, _, _, windows, _, _, first_row, first_col, more_rows, pitch, lines, chunks, plane, _,
        _, copy, gap,
    ) = to_fixed_tuple(records.array_at(arguments[7], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    source = records.array_at(arguments[0], like, (arguments[1],))
    dy = records.array_at(arguments[2], like, (batch * groups * filters * p_size * q_size,))
    dw = records.array_at(arguments[3], like, (groups * filters * windows,))
    work = simd.scratch(room, dw)
    taps = records.array_at(arguments[6], arguments, (arguments[8],))
    phases = taps[2 * windows :]
    for group in range(number * groups // shares, (number + 1) * groups // shares):
        for j in range(group * filters * windows, (group + 1) * filters * windows):
            dw[j] = 0
        for image in range(batch):
            for chunk in range(chunks):
                p0, p1 = chunk * p_size // chunks, (chunk + 1) * p_size // chunks
                simd.copy_phases(
                    work, 0, source, (image * groups + group) * height * wide, height, wide,
                    p0 * step_h + first_row, first_col, lines + more_rows, step_h, step_w, pitch,
                    phases, 0, lanes,
                )  # fmt: skip
                simd.fill_run(work, (lines + more_rows) * pitch * phases.size, gap, 0, lanes)
                count = (p1 - p0 - 1) * pitch + q_size
                for m in range(filters):
                    of = (((image * groups + group) * filters + m) * p_size + p0) * q_size
                    to = copy
                    for _ in range(p1 - p0):  # dy with gaps of zeros between its lines
                        simd.copy_run(work, to, dy, of, q_size, lanes, 1)
                        simd.fill_run(work, to + q_size, pitch - q_size, 0, lanes)
                        of += q_size
                        to += pitch
                    gradient = work[copy : copy + count]
                    for r in range(windows):
                        at = taps[r] * plane + taps[windows + r]
                        pixels = work[at : at + count]
                        total = dw.dtype.type(0)
                        for v in range(count):
                            total += gradient[v] * pixels[v]
                        dw[(group * filters + m) * windows + r] += total
