"""Correlations on vector registers: what forward and backward-data of a convolution are.

Each output pixel is a sum over taps, the pixels of a window in all channels of a group, of weights
times source pixels. As a matrix product: weights, a row a filter, times a matrix with a row a tap
and a column an output pixel. That matrix is never made: two vectors of columns at a time, a panel,
a block of taps is gathered into the first cache, multiplied with all filters, and forgotten [1]_.

Taps are ordered so that gathering is cheap: channels in chunks; in a chunk window after window; for
each window its channels. All channels of a window see the same lines of pixels, so that where a
panel's columns begin and end in lines, in images and beyond their edges is found once for all.

References
----------
.. [1] K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS
   34(3), 2008, on panels, blocks and the register tile.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, simd
from cnnkernels.correlation.plan import BLOCK, SIZES, Correlation

_PANELS = 64
"""Panels of a share, at the most: their source pixels stay in the second cache between windows."""


_SUMS = 128 * 1024
"""Sums of a few panels that stand apart in the output: half of the second cache, at the most."""


def run(
    plan: Correlation, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray
) -> None:
    """Set the pixels of the plan's grid in `out`.

    Parameters
    ----------
    plan : Correlation
    source, w, out : np.ndarray
        C-contiguous, of the plan's dtype.
    start : np.ndarray
        What sums begin with, a value an output channel, and `simd.ROWS` zeros.
    """
    threads = numba.get_num_threads()
    width = simd.VECTORS * simd.lanes(out.itemsize)
    channels, windows = plan.blocks
    panels = -(-plan.batch * plan.grid[0] * plan.grid[1] // width)
    # Threads get whole shares, as alike as can be. Nothing of the result depends on how many.
    shares = min(panels, threads * -(-panels // (threads * _PANELS)))
    parts = min(plan.tiles, -(-threads // (plan.groups * shares)))
    together = max(1, min(-(-panels // shares), _SUMS // (plan.filters * width)))
    # A panel, with room for what is written beyond the ends of its lines, sums, and zeros.
    room = channels * windows * (width + width // simd.VECTORS)
    room += (together * plan.filters + 2) * width
    packed = np.empty(plan.groups * plan.tiles * plan.taps * simd.ROWS, plan.dtype)
    _pack_weights(plan.groups * plan.tiles, plan.dtype, w, packed, *plan.tables, width)
    _correlate(
        plan.groups * shares * parts, plan.dtype, simd.tile_address(plan.dtype), source,
        source.size, packed, start, out, room, shares, parts, *plan.tables, _ramps(width), width,
        together,
    )  # fmt: skip


@functools.cache
def _ramps(width: int) -> np.ndarray:
    """Return where a block's lines begin: of packed weights, and of a panel."""
    lines = simd.ROWS, width + width // simd.VECTORS
    return np.stack([np.arange(BLOCK) * line for line in lines])


@jit.Shares
def _pack_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Lay a tile's weights side by side, tap after tap, block after block: they are streamed."""
    (
        _, groups, filters, channels, _, _, _, _, _, _, _, _, _, _, _, _,
        w_group, w_row, w_channel, windows, block_channels, block_windows,
    ) = to_fixed_tuple(jit.array_at(arguments[3], arguments, (SIZES,)), SIZES)  # fmt: skip
    w = jit.array_at(arguments[0], like, (groups * w_group,))
    offsets = jit.array_at(arguments[2], arguments, (3, windows))[2]
    tiles = (filters + simd.ROWS - 1) // simd.ROWS
    taps = channels * windows
    packed = jit.array_at(arguments[1], like, (groups * tiles * taps * simd.ROWS,))
    lanes = arguments[4] // simd.VECTORS
    group, tile = number // tiles, number % tiles
    m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
    order = np.empty(BLOCK, np.int64)
    for c0 in range(0, channels, block_channels):
        c1 = min(channels, c0 + block_channels)
        for r0 in range(0, windows, block_windows):
            r1 = min(windows, r0 + block_windows)
            before = c0 * windows + (c1 - c0) * r0
            count = (c1 - c0) * (r1 - r0)
            to = ((group * taps + before) * tiles + tile * count) * simd.ROWS
            first = group * w_group + m0 * w_row + c0 * w_channel + offsets[r0]
            contiguous = offsets[r1 - 1] - offsets[r0] == r1 - r0 - 1
            if contiguous and r1 - r0 == windows and w_channel == windows:
                for i in range(count):
                    order[i] = (i % windows * (c1 - c0) + i // windows) * simd.ROWS
                _pack_line(packed, to, order, w, first, w_row, m1 - m0, count, lanes)
            elif contiguous and r1 - r0 > 1:
                for i in range(r1 - r0):
                    order[i] = i * (c1 - c0) * simd.ROWS
                for c in range(c1 - c0):
                    _pack_line(
                        packed, to + c * simd.ROWS, order, w, first + c * w_channel, w_row,
                        m1 - m0, r1 - r0, lanes,
                    )  # fmt: skip
            else:
                for c in range(c1 - c0):
                    at = to + c * simd.ROWS
                    for r in range(r0, r1):
                        of = first + c * w_channel + offsets[r] - offsets[r0]
                        for m in range(m1 - m0):
                            packed[at + m] = w[of + m * w_row]
                        at += (c1 - c0) * simd.ROWS


@jit.kernel()
def _pack_line(packed, to, order, w, first, w_row, rows, count, lanes):  # type: ignore[no-untyped-def]
    """Pack the weights of taps that lie side by side, each to its place in the order of taps."""
    for t in range(0, count, lanes):
        if lanes >= simd.ROWS and first + t + (rows - 1) * w_row + lanes <= w.size:
            simd.transpose_tile(
                packed, to, order, t, w, first + t, w_row, rows, min(lanes, count - t)
            )
        else:
            for i in range(t, min(count, t + lanes)):
                for m in range(rows):
                    packed[to + order[i] + m] = w[first + i + m * w_row]


@jit.Shares
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set one share of a group's outputs: some panels of some tiles."""
    micro = arguments[0]
    room, shares, parts = arguments[6], arguments[7], arguments[8]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, out_height, out_width,
        step_h, step_w, spread_h, spread_w, corner_h, corner_w,
        _, _, _, windows, block_channels, block_windows,
    ) = to_fixed_tuple(jit.array_at(arguments[10], arguments, (SIZES,)), SIZES)  # fmt: skip
    tiles = (filters + simd.ROWS - 1) // simd.ROWS
    taps = channels * windows
    pixels = batch * p_size * q_size
    out_row = out_height * out_width
    source = jit.array_at(arguments[1], like, (arguments[2],))
    packed = jit.array_at(arguments[3], like, (groups * tiles * taps * simd.ROWS,))
    start = jit.array_at(arguments[4], like, (groups * filters + simd.ROWS,))
    out = jit.array_at(arguments[5], like, (batch * groups * filters * out_row,))
    work = simd.scratch(room, out)
    table = jit.array_at(arguments[9], arguments, (3, windows))
    ramps = jit.array_at(arguments[11], arguments, (2, BLOCK))
    a_ramp, b_ramp = ramps[0], ramps[1]
    width, together = arguments[12], arguments[13]
    lanes = width // simd.VECTORS
    pitch = width + lanes

    group, share, part = number // (shares * parts), number // parts % shares, number % parts
    panels = (pixels + width - 1) // width
    first_panel, last_panel = share * panels // shares, (share + 1) * panels // shares
    first_tile, last_tile = part * tiles // parts, (part + 1) * tiles // parts
    sums = room - (together * filters + 2) * width
    plane = height * wide
    lines = np.empty((width, 5), np.int64)
    runs = np.empty((3 * width + 1, 4), np.int64)
    places = np.empty((width, 3), np.int64)
    nothing = room - 2 * width
    for v in range(nothing, room):
        work[v] = 0
    zeros = (np.int64(work.ctypes.data) - arguments[1]) // out.itemsize + nothing
    image_size = groups * filters * out_row
    corner = group * filters * out_row + corner_h * out_width + corner_w
    for g0 in range(first_panel, last_panel, together):
        g1 = min(last_panel, g0 + together)
        for c0 in range(0, channels, block_channels):
            c1 = min(channels, c0 + block_channels)
            for r0 in range(0, windows, block_windows):
                r1 = min(windows, r0 + block_windows)
                before = c0 * windows + (c1 - c0) * r0
                count = (c1 - c0) * (r1 - r0)
                a_block = (group * taps + before) * tiles * simd.ROWS
                add = before > 0
                for panel in range(g0, g1):
                    begin = panel * width
                    columns = min(width, pixels - begin)
                    vectors = (columns + lanes - 1) // lanes
                    found = _lines(
                        lines, begin, columns, p_size, q_size, step_h, step_w,
                        groups * channels * plane,
                    )  # fmt: skip
                    to = 0
                    for r in range(r0, r1):
                        n = _runs(
                            runs, lines, found, table[0, r], table[1, r], height, wide, step_w,
                            columns, vectors * lanes,
                        )  # fmt: skip
                        _gather(
                            work, to, source, (group * channels + c0) * plane, zeros, runs, n,
                            c1 - c0, plane, step_w, lanes, pitch,
                        )  # fmt: skip
                        to += (c1 - c0) * pitch
                    segments = _places(
                        places, begin, columns, p_size, q_size, image_size, out_width, spread_h,
                        spread_w,
                    )  # fmt: skip
                    in_line = segments == 1 and columns == vectors * lanes and spread_w == 1
                    for tile in range(first_tile, last_tile):
                        m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                        a_first = a_block + tile * count * simd.ROWS
                        value = groups * filters if add else group * filters + m0
                        if in_line:
                            simd.multiply_tile(
                                micro, m1 - m0, vectors, packed, a_first, 1, a_ramp, 0,
                                work, 0, b_ramp, 0, count,
                                out, corner + m0 * out_row + places[0, 2], out_row,
                                start, value, add,
                            )  # fmt: skip
                        else:
                            simd.multiply_tile(
                                micro, m1 - m0, vectors, packed, a_first, 1, a_ramp, 0,
                                work, 0, b_ramp, 0, count,
                                work, sums + ((panel - g0) * filters + m0) * width, width,
                                start, value, add,
                            )  # fmt: skip
                    if not in_line and before + count == taps:
                        m0, m1 = first_tile * filters // tiles, last_tile * filters // tiles
                        _scatter(
                            out, corner + m0 * out_row, out_row,
                            work, sums + ((panel - g0) * filters + m0) * width, width, lanes,
                            m1 - m0, places, segments, spread_w,
                        )  # fmt: skip


@jit.kernel()
def _lines(lines, begin, columns, p_size, q_size, step_h, step_w, image_size):  # type: ignore[no-untyped-def]
    """List the lines that a panel's columns lie in: column, length, image, and where they look."""
    image, pixel = begin // (p_size * q_size), begin % (p_size * q_size)
    p, q = pixel // q_size, pixel % q_size
    found, column = 0, 0
    while column < columns:
        length = min(q_size - q, columns - column)
        lines[found, 0] = column
        lines[found, 1] = length
        lines[found, 2] = image * image_size
        lines[found, 3] = p * step_h
        lines[found, 4] = q * step_w
        found += 1
        column += length
        p, q = p + 1, 0
        if p == p_size:
            image, p = image + 1, 0
    return found


@jit.kernel()
def _runs(runs, lines, found, down, across, height, wide, step_w, columns, width):  # type: ignore[no-untyped-def]
    """List the runs of source pixels, or of zeros, under a panel: column, length, where, zeros."""
    n = 0
    for i in range(found):
        column, length = lines[i, 0], lines[i, 1]
        h, w = lines[i, 3] + down, lines[i, 4] + across
        left, right = length, length
        if 0 <= h < height:
            left = min(length, max(0, -(w // step_w)))
            right = max(left, min(length, (wide - w + step_w - 1) // step_w))
        if left > 0:
            n = _add_zeros(runs, n, column, left)
        if right > left:
            runs[n, 0] = column + left
            runs[n, 1] = right - left
            runs[n, 2] = lines[i, 2] + h * wide + w + left * step_w
            runs[n, 3] = 0
            n += 1
        if right < length:
            n = _add_zeros(runs, n, column + right, length - right)
    if columns < width:
        n = _add_zeros(runs, n, columns, width - columns)
    return n


@jit.kernel()
def _add_zeros(runs, n, column, length):  # type: ignore[no-untyped-def]
    if n > 0 and runs[n - 1, 3]:
        runs[n - 1, 1] += length
        return n
    runs[n, 0] = column
    runs[n, 1] = length
    runs[n, 2] = 0
    runs[n, 3] = 1
    return n + 1


@jit.kernel()
def _gather(  # type: ignore[no-untyped-def]
    panel, to, source, first, zeros, runs, n, channels, plane, step, lanes, pitch,
):  # fmt: skip
    """Copy the runs of each channel into a line of the panel.

    Whole vectors are written from left to right: what is written beyond the end of a run is
    overwritten by the next, and beyond the last there is room for it. `zeros` is where a vector of
    them is, as seen from the source.
    """
    for i in range(n):
        column, end = to + runs[i, 0], to + runs[i, 0] + runs[i, 1]
        of, ahead = first + runs[i, 2], plane
        if runs[i, 3]:
            of, ahead = zeros, 0
        last = of + (channels - 1) * ahead + (runs[i, 1] + lanes) * step
        if not runs[i, 3] and (step > 2 or last > source.size):
            for c in range(channels):
                for v in range(runs[i, 1]):
                    panel[column + c * pitch + v] = source[of + c * plane + v * step]
            continue
        while column < end:
            at, place = column, of
            if step == 1 or runs[i, 3]:
                for _ in range(channels):
                    simd.copy_vector(panel, at, source, place)
                    simd.prefetch(source, place + 2 * lanes)
                    at += pitch
                    place += ahead
            else:
                for _ in range(channels):
                    simd.copy_every_second(panel, at, source, place)
                    at += pitch
                    place += ahead
            column += lanes
            of += (lanes * step) if ahead else 0


@jit.kernel()
def _places(  # type: ignore[no-untyped-def]
    places, begin, columns, p_size, q_size, image_size, out_width, spread_h, spread_w,
):  # fmt: skip
    """List where a panel's columns stand in the output, in one row: column, length, place."""
    image, pixel = begin // (p_size * q_size), begin % (p_size * q_size)
    whole = spread_h == 1 and spread_w == 1  # lines follow one another, an image is one line
    found, column = 0, 0
    while column < columns:
        p, q = pixel // q_size, pixel % q_size
        length = min((p_size * q_size - pixel) if whole else q_size - q, columns - column)
        places[found, 0] = column
        places[found, 1] = length
        places[found, 2] = image * image_size + p * spread_h * out_width + q * spread_w
        found += 1
        column += length
        pixel += length
        if pixel == p_size * q_size:
            image, pixel = image + 1, 0
    return found


@jit.kernel()
def _scatter(  # type: ignore[no-untyped-def]
    out, row, out_row, sums, first, width, lanes, rows, places, segments, step,
):  # fmt: skip
    """Set the outputs where a panel's columns stand."""
    for i in range(segments):
        whole = places[i, 1] // lanes * lanes if step == 1 else 0
        for m in range(rows):
            of = first + m * width + places[i, 0]
            at = row + m * out_row + places[i, 2]
            for v in range(0, whole, lanes):
                simd.copy_vector(out, at + v, sums, of + v)
            for v in range(whole, places[i, 1]):
                out[at + v * step] = sums[of + v]
