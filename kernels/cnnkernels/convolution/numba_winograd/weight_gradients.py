"""Backward-weights: sums of products of tiles in the transform domain.

A gradient of 3 x 3 weights is F(3 x 3, m x m): the same t x t products as forward, of transformed
tiles of images and of dy, summed over all tiles before they are transformed back. Lanes are
channels, so that lines of pixels are turned first, and tiles read where they stand then. A share is
a block of channels and filters, and a part of the tiles where there are few blocks; parts depend on
the problem alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import copies, jit, microkernel, parallel, records, simd
from cnnkernels.convolution.numba_winograd import vector_code
from cnnkernels.convolution.numba_winograd.correlation import Correlation, Sizes, list_runs
from cnnkernels.winograd.transforms import TAPS

_VECTORS = 4
"""Vectors of channels in a block, at the most."""

_FILTERS = 64
"""Filters in a block, at the most."""

_TILES = 32
"""Tiles that are transformed before they are multiplied."""

_SHARES = 4
"""Shares of a problem, at the least, where its tiles allow."""


class _Call(NamedTuple):
    """What the kernels are given."""

    tile: int
    """Address of the micro-kernel."""
    sizes: int
    """Address of the `Sizes` of the forward correlation."""
    x: np.ndarray
    """(N, C, H, W)."""
    dy: np.ndarray
    """(N, K, P, Q)."""
    dw: np.ndarray
    """(K, C/groups, 3, 3)."""
    sums: np.ndarray
    """Sums of the parts, where there are several."""
    channels: int
    """Channels of a block, whole vectors."""
    filters: int
    """Filters of a block."""
    channel_blocks: int
    """Blocks of a group."""
    filter_blocks: int
    parts: int
    """Parts of the tiles."""
    units: int
    """Units of all tiles."""


def run(correlation: Correlation, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set dw, of a forward correlation with at least one image."""
    dtype, lanes = correlation.dtype, correlation.sizes.lanes
    sizes = correlation.sizes
    vectors = -(-sizes.channels // lanes)
    blocks = -(-vectors // _VECTORS)
    channels = -(-vectors // blocks) * lanes
    filter_blocks = -(-sizes.filters // _FILTERS)
    filters = -(-sizes.filters // filter_blocks)
    units = -(-correlation.tiles // _TILES)
    shares = sizes.groups * blocks * filter_blocks
    parts = max(1, min(units, _SHARES // shares))
    products = (sizes.outputs + TAPS - 1) ** 2
    of_parts = shares * parts * products * filters * channels if parts > 1 else 0
    call = _Call(
        tile=microkernel.tile_address(dtype), sizes=correlation.record.address, x=x, dy=dy, dw=dw,
        sums=np.empty(of_parts, dtype), channels=channels, filters=filters,
        channel_blocks=blocks, filter_blocks=filter_blocks, parts=parts, units=units,
    )  # fmt: skip
    _sum_tiles(shares * parts, dtype, call)
    if parts > 1:
        _add_parts(shares, dtype, call)


@jit.kernel
def _turn_lines(to, width, columns, lines, source, plane, wide, high, h, left, first, count, lanes):  # type: ignore[no-untyped-def]
    """Turn lines of pixels of some planes: a pixel's planes side by side, zeros beyond the edges.

    Lines `h` to ``h + lines - 1``, and `columns` pixels of each from `left` on, of planes of
    `high` lines of `wide` pixels; the first begins at `first`.
    """
    begin = min(columns, max(0, -left))
    end = max(begin, min(columns, wide - left))
    for i in range(lines):
        line = i * columns * width
        inside = 0 <= h + i < high
        last = end if inside else 0
        start = begin if inside else 0
        to[line : line + start * width] = 0
        if last > start:
            of = first + (h + i) * wide + left + start
            copies.turn(
                to, line + start * width, width, source, of, plane, count, last - start, lanes
            )
        to[line + last * width : line + columns * width] = 0


@jit.kernel
def _accumulate(call, sizes, x, dy, sums, s_first, group, filter_block, channel_block, first, last):  # type: ignore[no-untyped-def]
    """Set the sums of a block over the tiles of some units."""
    m, t, lanes = sizes.outputs, sizes.outputs + 2, sizes.lanes
    c0, k0 = channel_block * call.channels, filter_block * call.filters
    channels = min(call.channels, sizes.channels - c0)
    filters = min(call.filters, sizes.filters - k0)
    vectors = (channels + lanes - 1) // lanes
    x_width, y_width = call.channels, (call.filters + lanes - 1) // lanes * lanes
    x_line, y_line = _TILES * x_width + lanes, _TILES * y_width + lanes
    most = (lanes - 1) * m  # pixels of a run
    lines = simd.scratch((t * (most + 2) + lanes) * x_width + lanes, x)
    gradients = simd.scratch((m * most + lanes) * y_width + lanes, x)
    of_x, of_y = simd.scratch(t * t * x_line, x), simd.scratch(t * t * y_line, x)
    x_tiles, y_tiles = np.arange(_TILES) * x_width, np.arange(_TILES) * y_width
    zeros = np.zeros(microkernel.MOST_ROWS, x.dtype)
    found = np.empty((_TILES, 5), np.int64)
    plane, out_plane = sizes.height * sizes.width, sizes.out_height * sizes.out_width
    rows = min(microkernel.MOST_ROWS, microkernel.SUMS // vectors)
    for unit in range(first, last):
        count, tiles = list_runs(sizes, unit * _TILES, (unit + 1) * _TILES, found)
        for number in range(count):
            image, down, across = found[number, 0], found[number, 1], found[number, 2]
            tile, length = found[number, 3], found[number, 4]
            columns, out_columns = length * m + 2, length * m
            of = ((image * sizes.groups + group) * sizes.channels + c0) * plane
            _turn_lines(
                lines, x_width, columns, t, x, plane, sizes.width, sizes.height,
                down * m - sizes.top, across * m - sizes.left, of, channels, lanes,
            )  # fmt: skip
            of = ((image * sizes.groups + group) * sizes.filters + k0) * out_plane
            _turn_lines(
                gradients, y_width, out_columns, m, dy, out_plane, sizes.out_width,
                sizes.out_height, down * m, across * m, of, filters, lanes,
            )  # fmt: skip
            for j in range(length):
                for lane in range(0, channels, lanes):
                    vector_code.transform_images(
                        m, lines, j * m * x_width + lane, columns * x_width, x_width,
                        of_x, (tile + j) * x_width + lane, t * x_line, x_line,
                    )  # fmt: skip
                for lane in range(0, filters, lanes):
                    vector_code.transform_gradients(
                        m, gradients, j * m * y_width + lane, out_columns * y_width, y_width,
                        of_y, (tile + j) * y_width + lane, t * y_line, y_line,
                    )  # fmt: skip
        for k in range(0, filters, rows):
            for number in range(t * t):
                microkernel.multiply_tile(
                    call.tile, rows=min(rows, filters - k), vectors=vectors,
                    a=of_y, a_first=number * y_line + k, a_row=1, a_offsets=y_tiles, a_from=0,
                    b=of_x, b_first=number * x_line, b_offsets=x_tiles, b_from=0,
                    count=tiles,
                    c=sums, c_first=s_first + (number * call.filters + k) * x_width,
                    c_row=x_width, start=zeros, start_first=0, add=unit > first,
                )  # fmt: skip


@jit.kernel
def _finish(call, sizes, sums, s_first, dw, group, filter_block, channel_block):  # type: ignore[no-untyped-def]
    """Transform the sums of a block back."""
    t, lanes, width = sizes.outputs + 2, sizes.lanes, call.channels
    c0, k0 = channel_block * call.channels, filter_block * call.filters
    channels = min(call.channels, sizes.channels - c0)
    product = call.filters * width
    taps = simd.scratch(9 * width, dw)
    filters = min(call.filters, sizes.filters - k0)
    for k in range(filters):
        for lane in range(0, channels, lanes):
            vector_code.transform_weights_back(
                sizes.outputs, sums, s_first + k * width + lane, t * product, product,
                taps, lane, 3 * width, width,
            )  # fmt: skip
        to = group * sizes.w_group + (k0 + k) * sizes.w_filter + c0 * sizes.w_channel
        for c in range(channels):
            for tap in range(9):
                dw[to + c * 9 + tap] = taps[tap * width + c]


@jit.inlined
def _block(call, number):  # type: ignore[no-untyped-def]
    """Return group, block of filters and block of channels of a share."""
    blocks = call.filter_blocks * call.channel_blocks
    block = number % blocks
    return number // blocks, block // call.channel_blocks, block % call.channel_blocks


@parallel.ParallelKernel
def _sum_tiles(number, words, like):  # type: ignore[no-untyped-def]
    """Sum a block over a part of the tiles; transform it back if there is one part only."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    pixels, out_pixels = sizes.height * sizes.width, sizes.out_height * sizes.out_width
    x = records.array_at(call.x, like, (sizes.batch * sizes.groups * sizes.channels * pixels,))
    dy = records.array_at(call.dy, like, (sizes.batch * sizes.groups * sizes.filters * out_pixels,))
    dw = records.array_at(call.dw, like, (sizes.groups * sizes.w_group,))
    size = (sizes.outputs + 2) ** 2 * call.filters * call.channels
    share, part = number // call.parts, number % call.parts
    group, filter_block, channel_block = _block(call, share)
    first, last = part * call.units // call.parts, (part + 1) * call.units // call.parts
    if call.parts == 1:
        sums, s_first = simd.scratch(size, dw), 0
    else:
        shares = sizes.groups * call.filter_blocks * call.channel_blocks
        sums = records.array_at(call.sums, like, (shares * call.parts * size,))
        s_first = number * size
    _accumulate(call, sizes, x, dy, sums, s_first, group, filter_block, channel_block, first, last)
    if call.parts == 1:
        _finish(call, sizes, sums, s_first, dw, group, filter_block, channel_block)


@parallel.ParallelKernel
def _add_parts(number, words, like):  # type: ignore[no-untyped-def]
    """Add up the parts of a block, and transform it back."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    dw = records.array_at(call.dw, like, (sizes.groups * sizes.w_group,))
    size = (sizes.outputs + 2) ** 2 * call.filters * call.channels
    shares = sizes.groups * call.filter_blocks * call.channel_blocks
    sums = records.array_at(call.sums, like, (shares * call.parts * size,))
    first = number * call.parts * size
    total = sums[first : first + size]
    for part in range(1, call.parts):
        total += sums[first + part * size : first + (part + 1) * size]
    group, filter_block, channel_block = _block(call, number)
    _finish(call, sizes, sums, first, dw, group, filter_block, channel_block)
