"""Correlations of tiny images in large batches, with a lane per image.

If a line of an image is shorter than a vector, lanes are images instead: two vectors of images are
transposed, so that the values of a pixel in all images are adjacent. Every tap of every output
pixel then is two whole vectors, read in place. Nothing is gathered, and taps beyond the edges are
left out.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cnnkernels import copies, memory, microkernel, parallel, records, simd
from cnnkernels.convolution.numba_simd.correlation import (
    SECOND_CACHE,
    Correlation,
    Driver,
    Sizes,
    WeightsDriver,
)

_COPY = SECOND_CACHE // 2
"""Maximum elements of the transposed images plus the transposed outputs."""

_VECTORS = 2
"""Vectors of images per tile; more would leave too few shares for the threads."""

_FEW = microkernel.SUMS // (2 * _VECTORS)
"""Maximum number of filters for which tiles have room for twice as many vectors."""

_PRODUCTS = 32
"""Minimum vector products per sum in backward-weights, to pay for adding up the lanes."""


def suits(correlation: Correlation) -> bool:
    """Return whether images are small, and numerous enough to fill the lanes.

    A few tiny images suffice, so that the last batch of an epoch needs no other kernels.
    """
    lanes = correlation.lanes
    return (
        correlation.batch >= (lanes // 8 if correlation.pixels <= 4 * lanes else lanes)
        and correlation.grid[1] < lanes
        and correlation.spread == (1, 1)
        and _room(correlation) <= _COPY
    )


def _room(correlation: Correlation) -> int:
    channels, height, wide = correlation.source
    pixels = channels * height * wide + correlation.filters * correlation.pixels
    return (pixels + 1) * _VECTORS * correlation.lanes


def needed(correlation: Correlation) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    rows, columns = correlation.grid
    looking = 9 * (rows + columns) * correlation.area  # positions of pixels and windows
    tables = 32 * correlation.source[0] * correlation.listed + 24 * rows * columns
    return looking + tables + 2 * _room(correlation) * np.dtype(correlation.dtype).itemsize


def prepare(correlation: Correlation, threads: int) -> Driver:
    """Return the function that computes a correlation, for a number of threads."""
    few = correlation.filters <= _FEW and 2 * _room(correlation) <= _COPY
    vectors = 2 * _VECTORS
    enough = correlation.batch * correlation.groups >= vectors * correlation.lanes * threads
    width = (vectors if few and enough else _VECTORS) * correlation.lanes
    return functools.partial(_run, correlation, width, (correlation.of_one, width))


class _Tables(NamedTuple):
    """The taps of each output pixel."""

    pixels: np.ndarray
    """(3, PQ), int64: for each output pixel its window, and first and end of its taps."""
    taps: np.ndarray
    """(2, taps), int64: for each tap the offset of its images in the window, and of its weight."""
    n_taps: int
    """Taps in the table."""


@memory.BLOCKINGS.cached
def _tables(key: tuple[Correlation, int]) -> records.Record[_Tables]:
    correlation, width = key
    channels, height, wide = correlation.source
    down, across, weight = correlation.windows
    lines, places = (
        np.arange(n) * step for n, step in zip(correlation.grid, correlation.step, strict=True)
    )
    # Pixels that see the same windows share taps, ordered by window, then channel.
    rows, row = _kinds(np.add.outer(lines, down), height)
    columns, column = _kinds(np.add.outer(places, across), wide)
    c = np.arange(channels)
    looks = np.add.outer(down * wide + across, c * height * wide) * width
    weights = np.add.outer(weight, c * correlation.weights[2])
    kinds = [in_row & in_column for in_row in rows for in_column in columns]
    taps = [np.stack((looks[kind].ravel(), weights[kind].ravel())) for kind in kinds]
    firsts = np.cumsum([0, *(some.shape[1] for some in taps)])
    which = np.add.outer(row * len(columns), column).ravel()
    look = np.add.outer(lines * wide, places).ravel()
    pixels = np.stack((look * width, firsts[which], firsts[which + 1]))
    return records.record(_Tables(pixels, np.concatenate(taps, axis=1), int(firsts[-1])))


def _kinds(looks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct sets of windows that pixels see along an axis, and each pixel's set."""
    kinds, which = np.unique((looks >= 0) & (looks < size), axis=0, return_inverse=True)
    return kinds, which.ravel()


class _Call(NamedTuple):
    """The arguments of `_correlate`."""

    tile: int
    """Address of the micro-kernel."""
    source: np.ndarray
    """(N, channels of all groups, height, width)."""
    w: np.ndarray
    """Weights."""
    start: np.ndarray
    """Initial sum of each filter, followed by `microkernel.MOST_ROWS` zeros."""
    out: np.ndarray
    """(N, filters of all groups, height, width)."""
    sizes: int
    """Address of the correlation's `Sizes`."""
    width: int
    """Images of a share, in whole vectors."""
    tables: int
    """Address of the `_Tables`."""


def _run(
    correlation: Correlation,
    width: int,
    key: tuple[Correlation, int],
    source: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
) -> None:
    dtype = correlation.dtype
    tile, sizes, tables = microkernel.tile_address(dtype), correlation.sizes, _tables(key)
    # No keywords: they would cost 0.4 us of a small layer's 20 us.
    call = _Call(tile, source, w, start, out, sizes.address, width, tables.address)
    _correlate(correlation.groups * -(-correlation.batch // width), dtype, call)


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set the outputs of one group for as many images as fill the lanes."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    tables = records.read(_Tables, call.tables)
    width = call.width
    batch, groups, filters, lanes = sizes.batch, sizes.groups, sizes.filters, sizes.lanes
    lines, pixels = sizes.channels * sizes.height * sizes.width, sizes.p_size * sizes.q_size
    source = records.array_at(call.source, like, (batch * groups * lines,))
    w = records.array_at(call.w, like, (groups * sizes.w_group,))
    start = records.array_at(call.start, like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(call.out, like, (batch * groups * filters * pixels,))
    sees = records.array_at(tables.pixels, words, (3, pixels))
    taps = records.array_at(tables.taps, words, (2, tables.n_taps))
    looks, weights, w_row = taps[0], taps[1], sizes.w_row
    # Transposing writes up to a vector of lines beyond the last.
    work = simd.scratch((lines + filters * pixels + lanes) * width, out)
    group, first = number % groups, number // groups * width
    images = min(width, batch - first)
    vectors = (images + lanes - 1) // lanes
    copies.turn(
        work, 0, width, source, (first * groups + group) * lines, groups * lines, images, lines,
        lanes,
    )  # fmt: skip
    sums, sums_row = lines * width, pixels * width
    parts = (filters + microkernel.MOST_ROWS - 1) // microkernel.MOST_ROWS
    for pixel in range(pixels):
        tap, count = sees[1, pixel], sees[2, pixel] - sees[1, pixel]
        for part in range(parts):
            m0, m1 = part * filters // parts, (part + 1) * filters // parts
            at = sums + pixel * width + m0 * sums_row
            if count:
                microkernel.multiply_tile(
                    call.tile, rows=m1 - m0, vectors=vectors, count=count, add=0,
                    a=w, a_first=group * sizes.w_group + m0 * w_row, a_row=w_row,
                    a_offsets=weights, a_from=tap,
                    b=work, b_first=sees[0, pixel], b_offsets=looks, b_from=tap,
                    c=work, c_first=at, c_row=sums_row,
                    start=start, start_first=group * filters + m0,
                )  # fmt: skip
            else:
                for m in range(m1 - m0):
                    for lane in range(width):
                        work[at + m * sums_row + lane] = start[group * filters + m0 + m]
    copies.turn_back(
        out, (first * groups + group) * filters * pixels, groups * filters * pixels,
        work, sums, width, images, filters * pixels, lanes,
    )  # fmt: skip


def suits_weights(correlation: Correlation) -> bool:
    """Return whether backward-weights has enough products per sum, for a forward correlation."""
    return suits(correlation) and correlation.pixels * _vectors(correlation) >= _PRODUCTS


def _vectors(correlation: Correlation) -> int:
    """Return the vectors of images that backward-weights processes at a time."""
    most = max(1, _COPY * _VECTORS // _room(correlation))
    return min(most, -(-correlation.batch // correlation.lanes))


class _WeightsCall(NamedTuple):
    """The arguments of `_correlate_weights`."""

    tile: int
    """Address of the micro-kernel."""
    x: np.ndarray
    """Images."""
    dy: np.ndarray
    """Gradient of the outputs."""
    dw: np.ndarray
    """Gradient of the weights."""
    parts: int
    """Parts of a group's filters; a share is one part for all images."""
    vectors: int
    """Vectors of images at a time."""
    sizes: int
    """Address of the `Sizes` of the forward correlation."""


def prepare_weights(correlation: Correlation, threads: int) -> WeightsDriver:
    """Return the function that computes backward-weights of a forward correlation.

    The correlation must satisfy `suits_weights`.
    """
    # A share has all images, so that no sum depends on the number of shares.
    parts = min(correlation.filters, -(-threads // correlation.groups))
    return functools.partial(_run_weights, correlation, parts, _vectors(correlation))


def _run_weights(
    correlation: Correlation,
    parts: int,
    vectors: int,
    dy: np.ndarray,
    x: np.ndarray,
    dw: np.ndarray,
) -> None:
    tile = microkernel.lanes_tile_address(correlation.dtype)
    call = _WeightsCall(tile, x, dy, dw, parts, vectors, correlation.sizes.address)
    _correlate_weights(correlation.groups * parts, correlation.dtype, call)


@parallel.ParallelKernel
def _correlate_weights(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some filters of one group."""
    call = records.read(_WeightsCall, words)
    sizes = records.read(Sizes, call.sizes)
    batch, groups, filters, channels = sizes.batch, sizes.groups, sizes.filters, sizes.channels
    wide, q_size, w_row, w_channel = sizes.width, sizes.q_size, sizes.w_row, sizes.w_channel
    lanes = sizes.lanes
    parts, vectors = call.parts, call.vectors
    plane, pixels = sizes.height * wide, sizes.p_size * q_size
    x = records.array_at(call.x, like, (batch * groups * channels * plane,))
    dy = records.array_at(call.dy, like, (batch * groups * filters * pixels,))
    dw = records.array_at(call.dw, like, (groups * sizes.w_group,))
    table = records.array_at(sizes.reach, words, (3, sizes.windows))
    width = vectors * lanes
    group, part = number // parts, number % parts
    first_filter, last_filter = part * filters // parts, (part + 1) * filters // parts
    rows, columns = channels * plane, (last_filter - first_filter) * pixels
    # Transposing writes beyond the last line.
    work = simd.scratch((rows + columns + 2 * lanes) * width, dw)
    gradients = (rows + lanes) * width
    of_dy = np.empty(pixels * vectors, np.int64)
    of_x = np.empty(pixels * vectors, np.int64)
    for first in range(0, batch, width):
        images = min(width, batch - first)
        copies.turn(
            work, 0, width, x, (first * groups + group) * rows, groups * rows, images, rows, lanes
        )
        copies.turn(
            work, gradients, width, dy,
            ((first * groups + group) * filters + first_filter) * pixels,
            groups * filters * pixels, images, columns, lanes,
        )  # fmt: skip
        here = (images + lanes - 1) // lanes
        for lane in range(images, here * lanes):
            for line in range(rows):
                work[line * width + lane] = 0
            for line in range(columns):
                work[gradients + line * width + lane] = 0
        for r in range(sizes.windows):
            count = 0
            for p in range(sizes.p_size):
                h = p * sizes.step_h + table[0, r]
                for q in range(q_size):
                    v = q * sizes.step_w + table[1, r]
                    if 0 <= h < sizes.height and 0 <= v < wide:
                        for vector in range(here):
                            of_dy[count] = (p * q_size + q) * width + vector * lanes
                            of_x[count] = (h * wide + v) * width + vector * lanes
                            count += 1
            for m0 in range(first_filter, last_filter, microkernel.ROWS):
                m1 = min(last_filter, m0 + microkernel.ROWS)
                for c0 in range(0, channels, microkernel.VECTORS):
                    c1 = min(channels, c0 + microkernel.VECTORS)
                    to = group * sizes.w_group + m0 * w_row + c0 * w_channel + table[2, r]
                    if count:
                        microkernel.multiply_lanes(
                            call.tile, rows=m1 - m0, columns=c1 - c0, count=count, add=first > 0,
                            a=work, a_first=gradients + (m0 - first_filter) * pixels * width,
                            a_row=pixels * width, a_offsets=of_dy,
                            b=work, b_first=c0 * plane * width, b_row=plane * width, b_offsets=of_x,
                            c=dw, c_first=to, c_row=w_row, c_column=w_channel,
                        )  # fmt: skip
                    else:
                        for m in range(m1 - m0):
                            for c in range(c1 - c0):
                                dw[to + m * w_row + c * w_channel] = 0
