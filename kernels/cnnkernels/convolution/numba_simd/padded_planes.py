"""Correlations with few filters in a group, or wide lines, on padded copies of planes.

With few filters, `gathered_panels` would spend most of its time gathering. If filters do not fill
the lanes, as `filter_lanes` needs, but lines do, the gaps between lines cost little. This driver
copies the lines of a channel once, with zeros around them, and reads every tap in place from that
copy. The sums of one line of output pixels are adjacent to those of the next, so that all are
computed in one run; the sums in the gaps between lines are discarded. With a stride s, rows and
columns of the copy are sorted by their remainder modulo s, so that the pixels of each tap are
adjacent.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cnnkernels import copies, microkernel, packing, parallel, records, simd
from cnnkernels.convolution.numba_simd.correlation import (
    SECOND_CACHE,
    Correlation,
    Driver,
    Sizes,
    WeightsDriver,
)

_FEW = 8
"""Maximum filters of a group for which gathering does not pay off."""

_COPY = 3 * SECOND_CACHE // 16
"""Approximate elements of a copy."""

_SUMS = SECOND_CACHE // 2
"""Approximate elements of the sums for a copy's lines."""


class _Blocking(NamedTuple):
    """The copies and chunks of a correlation's planes."""

    in_block: int
    """Channels of a block of taps."""
    in_window: int
    """Window pixels of a block of taps."""
    first_row: int
    """First row of the window, relative to a pixel's origin."""
    first_col: int
    """First column of the window, relative to a pixel's origin."""
    more_rows: int
    """Lines of a phase that the last pixels of a chunk read beyond their own."""
    pitch: int
    """Elements from one line of a copy to the next."""
    gap: int
    """Elements that the last line reads beyond its own."""
    lines: int
    """Maximum lines of pixels in a chunk."""
    chunks: int
    """Chunks of an image's lines."""
    plane: int
    """Elements of the copy of one phase of a channel."""
    used: int
    """Phases with a tap."""
    positions: int
    """Elements of the sums of one filter in a chunk."""
    copy: int
    """Elements of all copies; sums follow them."""
    taps: np.ndarray
    """int64: for each window pixel the index of its phase among those in use; then for each its
    offset in the copy of that phase; then the phases in use, ``row * step_w + column``."""
    room: int
    """Elements of scratch memory of a thread."""
    shares: int
    """Shares of the chunks of all images and groups."""


def _pitch(correlation: Correlation) -> tuple[int, int]:
    """Return the pitch of a copy's lines, and the elements that a line reads of the next.

    The zeros between two lines serve both; there are just enough of them.
    """
    across, step = correlation.windows[1], correlation.step[1]
    first, wide = int(across.min()), correlation.source[2]
    seen = correlation.grid[1] + int(np.ptp(across)) // step
    columns = np.unique(first + (across - first) % step)  # first column of each phase
    zeros = int(np.maximum(-(columns // step), 0).min())
    pixels = int((-((columns - wide) // step)).max())
    pitch = min(seen, max(pixels, seen - zeros))
    return pitch, seen - pitch


def _blocking(correlation: Correlation, threads: int) -> _Blocking:
    """Return the blocking for a number of threads."""
    (p_size, q_size), (step_h, step_w) = correlation.grid, correlation.step
    down, across, _ = correlation.windows
    first_row, first_col = int(down.min()), int(across.min())
    more_rows = int(np.ptp(down)) // step_h
    pitch, gap = _pitch(correlation)
    phases = (down - first_row) % step_h * step_w + (across - first_col) % step_w
    place = (down - first_row) // step_h * pitch + (across - first_col) // step_w
    in_block = correlation.blocks[0]
    used = np.unique(phases)
    # A chunk has as many lines as fit the copy, but there must be chunks for all threads.
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
    return _Blocking(
        *correlation.blocks,
        first_row=first_row,
        first_col=first_col,
        more_rows=more_rows,
        pitch=pitch,
        gap=gap,
        lines=lines,
        chunks=chunks,
        plane=plane,
        used=used.size,
        positions=positions,
        copy=copy,
        taps=taps,
        room=-(-(copy + correlation.filters * (positions + pitch) + width) // 32) * 32,
        shares=min(images * chunks, 4 * threads),
    )


def needed(correlation: Correlation) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    itemsize = np.dtype(correlation.dtype).itemsize
    elements = _blocking(correlation, 1).room + packing.elements(correlation.layout.fields)
    return 80 * correlation.area + itemsize * elements


def suits(correlation: Correlation) -> bool:
    """Return whether a group has few filters, or several taps share wide lines."""
    return correlation.filters <= _FEW or correlation.wide


def prepare(correlation: Correlation, threads: int) -> Driver:
    """Return the function that computes a correlation, for a number of threads."""
    return functools.partial(_run, correlation, records.record(_blocking(correlation, threads)))


class _Call(NamedTuple):
    """The arguments of `_correlate`."""

    tile: int
    """Address of the micro-kernel."""
    source: np.ndarray
    """(N, channels of all groups, height, width)."""
    packed: np.ndarray
    """Weights in the order of `Correlation.layout`."""
    start: np.ndarray
    """Initial sum of each filter, followed by `microkernel.MOST_ROWS` zeros."""
    out: np.ndarray
    """(N, filters of all groups, height, width)."""
    sizes: int
    """Address of the correlation's `Sizes`."""
    blocking: int
    """Address of a `_Blocking`."""


def _run(
    correlation: Correlation,
    blocking: records.Record[_Blocking],
    source: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
) -> None:
    dtype, sizes = correlation.dtype, correlation.sizes.address
    tile, packed = microkernel.packed_tile_address(dtype), packing.pack(correlation.layout, w)
    call = _Call(tile, source, packed, start, out, sizes, blocking.address)
    _correlate(blocking.fields.shares, dtype, call)


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set the outputs of some chunks of lines of some images' groups."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    blocking = records.read(_Blocking, call.blocking)
    batch, groups, filters, channels = sizes.batch, sizes.groups, sizes.filters, sizes.channels
    height, wide, q_size, out_width = sizes.height, sizes.width, sizes.q_size, sizes.out_width
    spread_h, windows, lanes = sizes.spread_h, sizes.windows, sizes.lanes
    in_block, pitch, chunks = blocking.in_block, blocking.pitch, blocking.chunks
    plane, used, positions = blocking.plane, blocking.used, blocking.positions
    out_row = sizes.out_height * out_width
    source = records.array_at(call.source, like, (batch * groups * channels * height * wide,))
    tiles = (filters + microkernel.ROWS - 1) // microkernel.ROWS
    packed = records.array_at(
        call.packed, like, (groups * tiles * channels * windows * microkernel.ROWS,)
    )
    start = records.array_at(call.start, like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(call.out, like, (batch * groups * filters * out_row,))
    work = simd.scratch(blocking.room, out)
    step_h, step_w, lines = sizes.step_h, sizes.step_w, blocking.lines + blocking.more_rows
    taps = records.array_at(blocking.taps, words, (2 * windows + used,))
    phases = taps[2 * windows :]
    looks = np.empty(in_block * windows, np.int64)
    widest = microkernel.widest((filters + tiles - 1) // tiles)
    units = batch * groups * chunks
    for unit in range(number * units // blocking.shares, (number + 1) * units // blocking.shares):
        image, group, chunk = unit // (groups * chunks), unit // chunks % groups, unit % chunks
        p0, p1 = chunk * sizes.p_size // chunks, (chunk + 1) * sizes.p_size // chunks
        count = (p1 - p0 - 1) * pitch + q_size
        for c0 in range(0, channels, in_block):
            c1 = min(channels, c0 + in_block)
            for c in range(c1 - c0):
                copies.copy_phases(
                    work, c * used * plane, source,
                    ((image * groups + group) * channels + c0 + c) * height * wide, height, wide,
                    p0 * step_h + blocking.first_row, blocking.first_col, lines, step_h, step_w,
                    pitch, phases, 0, lanes,
                )  # fmt: skip
            copies.fill_run(work, (c1 - c0) * used * plane, blocking.gap, 0, lanes)
            for r0 in range(0, windows, blocking.in_window):
                r1 = min(windows, r0 + blocking.in_window)
                before, many = c0 * windows + (c1 - c0) * r0, (c1 - c0) * (r1 - r0)
                for r in range(r0, r1):
                    for c in range(c1 - c0):
                        at = (c * used + taps[r]) * plane + taps[windows + r]
                        looks[(r - r0) * (c1 - c0) + c] = at
                a_block = (group * channels * windows + before) * tiles * microkernel.ROWS
                at = 0
                while at < count:
                    vectors = microkernel.covering(count - at, lanes, widest)
                    for tile in range(tiles):
                        m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                        value = groups * filters if before else group * filters + m0
                        microkernel.multiply_packed_tile(
                            call.tile, rows=m1 - m0, vectors=vectors, count=many, add=before > 0,
                            a=packed, a_first=a_block + tile * many * microkernel.ROWS,
                            b=work, b_first=at, b_offsets=looks, b_from=0,
                            c=work, c_first=blocking.copy + m0 * positions + at, c_row=positions,
                            start=start, start_first=value,
                            ahead=source, ahead_first=0, ahead_row=0,
                        )  # fmt: skip
                    at += vectors * lanes
        for m in range(filters):
            row = ((image * groups + group) * filters + m) * out_row + sizes.corner_h * out_width
            row += sizes.corner_w + p0 * spread_h * out_width
            end = row + (p1 - p0 - 1) * spread_h * out_width + q_size
            of = blocking.copy + m * positions
            for _ in range(p1 - p0):
                if spread_h == 1 and sizes.spread_w == 1 and row + q_size + lanes <= end:
                    # The next line overwrites what is written beyond the end of this one.
                    copies.copy_run(out, row, work, of, q_size, lanes, 1)
                else:
                    for q in range(q_size):
                        out[row + q * sizes.spread_w] = work[of + q]
                row += spread_h * out_width
                of += pitch


def prepare_weights(correlation: Correlation, threads: int) -> WeightsDriver:
    """Return the function that computes backward-weights of a depthwise convolution.

    The correlation is that of forward, with one channel per group.
    """
    shares = min(correlation.groups, 4 * threads)
    # Chunks determine the order of sums, so use those of one thread for any number.
    blocking = records.record(_blocking(correlation, 1))
    return functools.partial(_run_weights, correlation, blocking, shares)


class _WeightsCall(NamedTuple):
    """The arguments of `_sum_weights`."""

    x: np.ndarray
    """Images."""
    dy: np.ndarray
    """Gradient of the outputs."""
    dw: np.ndarray
    """Gradient of the weights."""
    shares: int
    """Shares of the groups."""
    sizes: int
    """Address of the correlation's `Sizes`."""
    blocking: int
    """Address of a `_Blocking`."""


def _run_weights(
    correlation: Correlation,
    blocking: records.Record[_Blocking],
    shares: int,
    dy: np.ndarray,
    x: np.ndarray,
    dw: np.ndarray,
) -> None:
    call = _WeightsCall(x, dy, dw, shares, correlation.sizes.address, blocking.address)
    _sum_weights(shares, correlation.dtype, call)


@parallel.ParallelKernel
def _sum_weights(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some groups' weights, summed over all images."""
    call = records.read(_WeightsCall, words)
    sizes = records.read(Sizes, call.sizes)
    blocking = records.read(_Blocking, call.blocking)
    batch, groups, filters, height = sizes.batch, sizes.groups, sizes.filters, sizes.height
    wide, p_size, q_size, windows = sizes.width, sizes.p_size, sizes.q_size, sizes.windows
    lanes = sizes.lanes
    pitch, chunks, copy = blocking.pitch, blocking.chunks, blocking.copy
    source = records.array_at(call.x, like, (batch * groups * height * wide,))
    dy = records.array_at(call.dy, like, (batch * groups * filters * p_size * q_size,))
    dw = records.array_at(call.dw, like, (groups * filters * windows,))
    work = simd.scratch(blocking.room, dw)
    step_h, step_w, lines = sizes.step_h, sizes.step_w, blocking.lines + blocking.more_rows
    taps = records.array_at(blocking.taps, words, (2 * windows + blocking.used,))
    phases = taps[2 * windows :]
    for group in range(number * groups // call.shares, (number + 1) * groups // call.shares):
        for j in range(group * filters * windows, (group + 1) * filters * windows):
            dw[j] = 0
        for image in range(batch):
            for chunk in range(chunks):
                p0, p1 = chunk * p_size // chunks, (chunk + 1) * p_size // chunks
                copies.copy_phases(
                    work, 0, source, (image * groups + group) * height * wide, height, wide,
                    p0 * step_h + blocking.first_row, blocking.first_col, lines, step_h, step_w,
                    pitch, phases, 0, lanes,
                )  # fmt: skip
                copies.fill_run(work, lines * pitch * phases.size, blocking.gap, 0, lanes)
                count = (p1 - p0 - 1) * pitch + q_size
                for m in range(filters):
                    of = (((image * groups + group) * filters + m) * p_size + p0) * q_size
                    to = copy
                    for _ in range(p1 - p0):  # dy with gaps of zeros between its lines
                        copies.copy_run(work, to, dy, of, q_size, lanes, 1)
                        copies.fill_run(work, to + q_size, pitch - q_size, 0, lanes)
                        of += q_size
                        to += pitch
                    gradient = work[copy : copy + count]
                    for r in range(windows):
                        at = taps[r] * blocking.plane + taps[windows + r]
                        pixels = work[at : at + count]
                        total = dw.dtype.type(0)
                        for v in range(count):
                            total += gradient[v] * pixels[v]
                        dw[(group * filters + m) * windows + r] += total
