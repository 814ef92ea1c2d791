"""Correlations on vector registers, by gathering panels: the driver for any geometry.

Each output pixel is a sum over taps (the window's pixels in all channels of a group) of weights
times source pixels. As a matrix product, it is the weights, with a row per filter, times a matrix
with a row per tap and a column per output pixel. That matrix is never formed as a whole: a panel, a
few vectors of its columns for a block of taps, is gathered into a cache, multiplied by all filters,
and overwritten [1]_.

The order of taps makes gathering cheap: by chunk of channels, then window pixel, then channel. All
channels of a window pixel see the same lines of pixels. So the positions of a panel's columns in
lines, in images and beyond their edges are computed once for all channels.

References
----------
.. [1] K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS
   34(3), 2008, on panels, blocks and the register tile.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cnnkernels import arrays, jit, microkernel, packing, parallel, records, simd
from cnnkernels.convolution.numba_simd.correlation import (
    SECOND_CACHE,
    Correlation,
    Driver,
    Sizes,
    even,
)

_PANELS = 64
"""Maximum panels of a share: their source pixels stay in L2 between window pixels."""


_AHEAD = 256
"""Maximum cache lines to prefetch per channel before gathering."""

_GROUP = SECOND_CACHE // 4
"""Maximum elements of panels that are gathered together."""

_SUMS = 3 * SECOND_CACHE // 4
"""Maximum sums of panels that are not adjacent in the output."""


class _Blocking(NamedTuple):
    """The shares of a correlation's panels, and its blocks of taps."""

    shares: int
    """Shares of a group's panels."""
    parts: int
    """Parts of a group's tiles of filters."""
    width: int
    """Columns of a panel."""
    together: int
    """Panels with adjacent sums."""
    most: int
    """Maximum panels that are gathered together."""
    block_channels: int
    """Channels of a block of taps."""
    block_windows: int
    """Window pixels of a block of taps."""
    room: int
    """Elements of scratch memory."""
    ramp: np.ndarray
    """(taps of a block,), int64: start of each line of a panel."""


def _blocking(correlation: Correlation, threads: int) -> _Blocking:
    """Return the blocking for a number of threads; results do not depend on it."""
    width = microkernel.VECTORS * correlation.lanes
    channels, windows = correlation.blocks
    panels = -(-correlation.batch * correlation.grid[0] * correlation.grid[1] // width)
    # Threads get whole shares, as equal as possible.
    shares = min(panels, threads * -(-panels // (threads * _PANELS)))
    parts = min(correlation.tiles, -(-threads // (correlation.groups * shares)))
    rows = -(-correlation.tiles // parts) * microkernel.ROWS
    together = even(-(-panels // shares), max(1, _SUMS // (rows * width)))
    fitting = max(1, _GROUP // (channels * windows * width))
    most = min(together, fitting) if correlation.pointwise else 1
    room = (most * channels * windows + together * rows) * width
    ramp = np.arange(channels * windows) * width
    return _Blocking(shares, parts, width, together, most, channels, windows, room, ramp)


def suits(correlation: Correlation) -> bool:
    """Return True: every correlation is supported."""
    del correlation
    return True


def needed(correlation: Correlation) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    itemsize = np.dtype(correlation.dtype).itemsize
    elements = _blocking(correlation.merged, 1).room + packing.elements(correlation.layout.fields)
    return 80 * correlation.area + itemsize * elements


def prepare(correlation: Correlation, threads: int) -> Driver:
    """Return the function that computes a correlation, for a number of threads."""
    correlation = correlation.merged
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
    dtype, shared = correlation.dtype, blocking.fields
    tile, packed = microkernel.packed_tile_address(dtype), packing.pack(correlation.layout, w)
    _correlate(
        correlation.groups * shared.shares * shared.parts,
        dtype,
        _Call(tile, source, packed, start, out, correlation.sizes.address, blocking.address),
    )


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set one share of a group's outputs: some panels of some tiles."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    blocking = records.read(_Blocking, call.blocking)
    batch, groups, filters, channels = sizes.batch, sizes.groups, sizes.filters, sizes.channels
    height, wide, p_size, q_size = sizes.height, sizes.width, sizes.p_size, sizes.q_size
    out_width, step_w, spread_w = sizes.out_width, sizes.step_w, sizes.spread_w
    windows, lanes = sizes.windows, sizes.lanes
    shares, parts, width, most = blocking.shares, blocking.parts, blocking.width, blocking.most
    block_channels, block_windows = blocking.block_channels, blocking.block_windows
    tiles = (filters + microkernel.ROWS - 1) // microkernel.ROWS
    taps = channels * windows
    pixels = batch * p_size * q_size
    out_row = sizes.out_height * out_width
    source = records.array_at(call.source, like, (batch * groups * channels * height * wide,))
    packed = records.array_at(call.packed, like, (groups * tiles * taps * microkernel.ROWS,))
    start = records.array_at(call.start, like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(call.out, like, (batch * groups * filters * out_row,))
    work = simd.scratch(blocking.room, out)
    table = records.array_at(sizes.reach, words, (3, windows))
    ramp = records.array_at(blocking.ramp, words, (block_channels * block_windows,))

    group, share, part = number // (shares * parts), number // parts % shares, number % parts
    panels = (pixels + width - 1) // width
    first_panel, last_panel = share * panels // shares, (share + 1) * panels // shares
    first_tile, last_tile = part * tiles // parts, (part + 1) * tiles // parts
    first_row = first_tile * filters // tiles
    rows = last_tile * filters // tiles - first_row
    sums = most * block_channels * block_windows * width
    plane = height * wide
    lines = np.empty((width, 5), np.int64)
    runs = np.empty((width, 3), np.int64)
    places = np.empty((width, 3), np.int64)
    ahead = np.zeros(_AHEAD, np.int64)
    image_size = groups * filters * out_row
    corner = group * filters * out_row + sizes.corner_h * out_width + sizes.corner_w
    for g0 in range(first_panel, last_panel, blocking.together):
        g1 = min(last_panel, g0 + blocking.together)
        for c0 in range(0, channels, block_channels):
            c1 = min(channels, c0 + block_channels)
            for r0 in range(0, windows, block_windows):
                r1 = min(windows, r0 + block_windows)
                before = c0 * windows + (c1 - c0) * r0
                count = (c1 - c0) * (r1 - r0)
                a_block = (group * taps + before) * tiles * microkernel.ROWS
                add = before > 0
                panel = g0
                while panel < g1:
                    begin = panel * width
                    columns = min(width, pixels - begin)
                    many = _many(begin, min(most, g1 - panel), q_size, width)
                    last_ahead, between = 0, 0
                    if windows == 1:  # prefetch the next panels during the products
                        after, c2 = panel + many, c0
                        if after >= g1:
                            after, c2 = (g0, c1) if c1 < channels else (g1, 0)
                        if after < last_panel:
                            then = after * width
                            wanted = width * _many(then, min(most, g1 - after), q_size, width)
                            found = _lines(
                                lines, then, wanted, p_size, q_size, sizes.step_h, step_w,
                                groups * channels * plane,
                            )  # fmt: skip
                            n = _runs(
                                runs, lines, found, table[0, 0], table[1, 0], height, wide, step_w
                            )
                            first = (group * channels + c2) * plane
                            last_ahead = _look_ahead(
                                ahead, runs, n, first, step_w, arrays.LINE // source.itemsize
                            )
                            between = plane
                    if many > 1:
                        image, pixel = begin // q_size, begin % q_size
                        channel = (image * groups + group) * channels + c0
                        _gather_lines(
                            work, source, channel * plane + pixel, many, c1 - c0, plane, lanes,
                            width, count * width,
                        )  # fmt: skip
                        # A tile's lines in several panels are adjacent; write in this order.
                        for tile in range(first_tile, last_tile):
                            m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                            for q in range(many):
                                asked = min((tile - first_tile) * many + q, last_ahead)
                                value = groups * filters if add else group * filters + m0
                                microkernel.multiply_packed_tile(
                                    call.tile, rows=m1 - m0, vectors=microkernel.VECTORS,
                                    count=count, add=add,
                                    a=packed, a_first=a_block + tile * count * microkernel.ROWS,
                                    b=work, b_first=q * count * width, b_offsets=ramp, b_from=0,
                                    c=out, c_first=corner + image * image_size + m0 * out_row
                                    + pixel + q * width, c_row=out_row,
                                    start=start, start_first=value,
                                    ahead=source, ahead_first=ahead[asked], ahead_row=between,
                                )  # fmt: skip
                        panel += many
                        continue
                    vectors = (columns + lanes - 1) // lanes
                    found = _lines(
                        lines, begin, columns, p_size, q_size, sizes.step_h, step_w,
                        groups * channels * plane,
                    )  # fmt: skip
                    to = 0
                    for r in range(r0, r1):
                        n = _runs(
                            runs, lines, found, table[0, r], table[1, r], height, wide, step_w
                        )
                        _gather(
                            work, to, source, (group * channels + c0) * plane, runs, n, c1 - c0,
                            plane, step_w, lanes, width, vectors,
                        )  # fmt: skip
                        to += (c1 - c0) * width
                    segments = _places(
                        places, begin, columns, p_size, q_size, image_size, out_width,
                        sizes.spread_h, spread_w,
                    )  # fmt: skip
                    in_line = segments == 1 and columns == vectors * lanes and spread_w == 1
                    apart = sums + (panel - g0) * rows * width
                    for tile in range(first_tile, last_tile):
                        m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                        a_first = a_block + tile * count * microkernel.ROWS
                        value = groups * filters if add else group * filters + m0
                        asked = min(tile - first_tile, last_ahead)
                        if in_line:
                            microkernel.multiply_packed_tile(
                                call.tile, rows=m1 - m0, vectors=vectors, count=count, add=add,
                                a=packed, a_first=a_first,
                                b=work, b_first=0, b_offsets=ramp, b_from=0,
                                c=out, c_first=corner + m0 * out_row + places[0, 2], c_row=out_row,
                                start=start, start_first=value,
                                ahead=source, ahead_first=ahead[asked], ahead_row=between,
                            )  # fmt: skip
                        else:
                            microkernel.multiply_packed_tile(
                                call.tile, rows=m1 - m0, vectors=vectors, count=count, add=add,
                                a=packed, a_first=a_first,
                                b=work, b_first=0, b_offsets=ramp, b_from=0,
                                c=work, c_first=apart + (m0 - first_row) * width, c_row=width,
                                start=start, start_first=value,
                                ahead=source, ahead_first=ahead[asked], ahead_row=between,
                            )  # fmt: skip
                    if not in_line and before + count == taps:
                        _scatter(
                            out, corner + first_row * out_row, out_row, work, apart, width, lanes,
                            rows, places, segments, spread_w,
                        )  # fmt: skip
                    panel += 1


@jit.kernel
def _lines(lines, begin, columns, p_size, q_size, step_h, step_w, image_size):  # type: ignore[no-untyped-def]
    """List the lines of a panel's columns: column, length, image, and origin in the source."""
    line, q = begin // q_size, begin % q_size
    found, column = 0, 0
    while column < columns:
        length = min(q_size - q, columns - column)
        lines[found, 0] = column
        lines[found, 1] = length
        lines[found, 2] = line // p_size * image_size
        lines[found, 3] = line % p_size * step_h
        lines[found, 4] = q * step_w
        found += 1
        column += length
        line, q = line + 1, 0
    return found


@jit.kernel
def _many(begin, most, q_size, width):  # type: ignore[no-untyped-def]
    """Return the number of panels to gather together: those within one image, at least one."""
    return max(1, min(most, (q_size - begin % q_size) // width)) if most > 1 else 1


@jit.kernel
def _look_ahead(ahead, runs, n, first, step, line):  # type: ignore[no-untyped-def]
    """List the cache lines of a channel's runs; return the index of the last."""
    count = 0
    for i in range(n):
        end = runs[i, 2] + (runs[i, 1] - 1) * step
        for at in range(runs[i, 2], end + line, line):
            if count < ahead.size:
                ahead[count] = first + min(at, end)
                count += 1
    return max(0, count - 1)


@jit.kernel
def _runs(runs, lines, found, down, across, height, wide, step_w):  # type: ignore[no-untyped-def]
    """List the runs of source pixels under a panel: column, length, offset; zeros lie between."""
    n = 0
    for i in range(found):
        length = lines[i, 1]
        h, w = lines[i, 3] + down, lines[i, 4] + across
        if 0 <= h < height:
            left = min(length, max(0, -(w // step_w)))
            right = min(length, (wide - w + step_w - 1) // step_w)
            if right > left:
                runs[n, 0] = lines[i, 0] + left
                runs[n, 1] = right - left
                runs[n, 2] = lines[i, 2] + h * wide + w + left * step_w
                n += 1
    return n


@jit.kernel
def _gather(panel, to, source, first, runs, n, channels, plane, step, lanes, width, vectors):  # type: ignore[no-untyped-def]
    """Copy the runs of each channel into a line of the panel.

    Loop over vectors of columns, then over the runs that overlap each vector. The lanes of a run in
    a vector are the same for all channels.
    """
    run = 0
    for v in range(vectors):
        begin, keep = v * lanes, 0
        while run < n and runs[run, 0] < begin + lanes:
            column, length = runs[run, 0], runs[run, 1]
            at, of = to + begin, first + runs[run, 2] + (begin - column) * step
            left, right = max(0, column - begin), min(lanes, column + length - begin)
            inside = of >= 0 and of + (channels - 1) * plane + lanes * step <= source.size
            if inside and step == 1:
                for _ in range(channels):
                    simd.blend_vector(panel, at, source, of, left, right, keep)
                    at += width
                    of += plane
            elif inside and step == 2:
                for _ in range(channels):
                    simd.blend_every_second(panel, at, source, of, left, right, keep)
                    at += width
                    of += plane
            else:
                for _ in range(channels):
                    if not keep:
                        simd.fill_vector(panel, at, 0)
                    for lane in range(left, right):
                        panel[at + lane] = source[of + lane * step]
                    at += width
                    of += plane
            keep = 1
            if column + length > begin + lanes:
                break
            run += 1
        if not keep:
            for c in range(channels):
                simd.fill_vector(panel, to + begin + c * width, 0)


@jit.kernel
def _gather_lines(  # type: ignore[no-untyped-def]
    panel, source, first, panels, channels, plane, lanes, width, size,
):  # fmt: skip
    """Copy adjacent pixels of each channel into several panels of equal size."""
    for c in range(channels):
        of = first + c * plane
        for number in range(panels):
            to = number * size + c * width
            for v in range(0, width, lanes):
                simd.copy_vector(panel, to + v, source, of + v)
            of += width


@jit.kernel
def _places(  # type: ignore[no-untyped-def]
    places, begin, columns, p_size, q_size, image_size, out_width, spread_h, spread_w,
):  # fmt: skip
    """List the runs of a panel's columns in one row of the output: column, length, offset."""
    line, q = begin // q_size, begin % q_size
    found, column = 0, 0
    while column < columns:
        length = min(q_size - q, columns - column)
        image, p = line // p_size, line % p_size
        place = image * image_size + p * spread_h * out_width + q * spread_w
        last = found - 1
        if found and spread_w == 1 and places[last, 2] + places[last, 1] == place:
            places[last, 1] += length
        else:
            places[found, 0] = column
            places[found, 1] = length
            places[found, 2] = place
            found += 1
        column += length
        line, q = line + 1, 0
    return found


@jit.kernel
def _scatter(  # type: ignore[no-untyped-def]
    out, row, out_row, sums, first, width, lanes, rows, places, segments, step,
):  # fmt: skip
    """Set the outputs of a panel's columns."""
    for i in range(segments):
        whole = places[i, 1] // lanes * lanes if step == 1 else 0
        for m in range(rows):
            of = first + m * width + places[i, 0]
            at = row + m * out_row + places[i, 2]
            for v in range(0, whole, lanes):
                simd.copy_vector(out, at + v, sums, of + v)
            for v in range(whole, places[i, 1]):
                out[at + v * step] = sums[of + v]
