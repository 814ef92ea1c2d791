"""Correlations of tiny images in large batches, with a lane an image.

Where a line of an image is shorter than a vector, lanes are images instead: two vectors of images
are turned so that a pixel's images lie side by side. Every tap of every output pixel is then two
whole vectors, read where they stand: nothing is gathered, and taps beyond the edges are left out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import memory, microkernel, parallel, records, simd
from cnnkernels.correlation.plan import SIZES, Correlation

_COPY = 128 * 1024
"""Elements of the turned images, before and after, at the most: half of the second cache."""


_VECTORS = 2
"""Vectors of images side by side: more would leave too few shares of a batch to the threads."""

_FEW = microkernel.SUMS // (2 * _VECTORS)
"""Filters, at the most, whose tiles have room for twice as many vectors."""


_PRODUCTS = 32
"""Products of vectors in a sum of backward-weights, at the least: its lanes are added up after."""


def suits(plan: Correlation) -> bool:
    """Return whether images are small, and enough for the lanes.

    Of tiny ones a few are enough: the last batch of an epoch should need no other kernels.
    """
    lanes = plan.lanes
    return (
        plan.batch >= (lanes // 8 if plan.grid[0] * plan.grid[1] <= 4 * lanes else lanes)
        and plan.grid[1] < lanes
        and plan.spread == (1, 1)
        and _room(plan) <= _COPY
    )


def _room(plan: Correlation) -> int:
    channels, height, wide = plan.source
    pixels = channels * height * wide + plan.filters * plan.grid[0] * plan.grid[1]
    return (pixels + 1) * _VECTORS * plan.lanes


def needed(plan: Correlation) -> int:
    """Return how many bytes of tables and scratch memory are needed, about."""
    rows, columns = plan.grid
    looking = 9 * (rows + columns) * plan.area  # at which pixels see which windows
    tables = 32 * plan.source[0] * plan.listed + 24 * rows * columns
    return looking + tables + 2 * _room(plan) * np.dtype(plan.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Cut:
    """How a batch is parted.

    Attributes
    ----------
    plan : Correlation
    shares : int
        Of groups and images.
    width : int
        Images of a share, in whole vectors.
    key : tuple
        What the tables depend on.
    """

    plan: Correlation
    shares: int
    width: int
    key: tuple[Correlation, int]


def cut(plan: Correlation, threads: int) -> Cut:
    """Return how a batch is parted for some threads."""
    few = plan.filters <= _FEW and 2 * _room(plan) <= _COPY
    enough = plan.batch * plan.groups >= 2 * _VECTORS * plan.lanes * threads
    width = (2 if few and enough else 1) * _VECTORS * plan.lanes
    return Cut(plan, plan.groups * -(-plan.batch // width), width, (plan.of_one, width))


def run(cut: Cut, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    plan, dtype, tables = cut.plan, cut.plan.dtype, _tables(cut.key)
    _correlate(
        cut.shares, dtype, (microkernel.tile_address(dtype), source, w, w.size, start, out,
        cut.width, plan.lanes, *tables.addresses, plan.tables[1]))  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Tables:
    """What each pixel of the output sees.

    Attributes
    ----------
    pixels : np.ndarray, (3, PQ), int64
        For each pixel of the output: from where it looks, and its first tap and the one after its
        last.
    taps : np.ndarray, (2, taps), int64
        Where each tap's images lie, from where a pixel looks, and where its weight does.
    """

    pixels: np.ndarray
    taps: np.ndarray

    @functools.cached_property
    def addresses(self) -> tuple[int, int, int]:
        return self.pixels.ctypes.data, self.taps.ctypes.data, self.taps.shape[1]


@memory.PLANS.kept
def _tables(key: tuple[Correlation, int]) -> _Tables:
    plan, width = key
    channels, height, wide = plan.source
    down, across, weight = plan.windows
    lines, places = (np.arange(n) * step for n, step in zip(plan.grid, plan.step, strict=True))
    # Pixels that see the same windows have the same taps: window after window, all its channels.
    rows, row = _kinds(np.add.outer(lines, down), height)
    columns, column = _kinds(np.add.outer(places, across), wide)
    c = np.arange(channels)
    looks = np.add.outer(down * wide + across, c * height * wide) * width
    weights = np.add.outer(weight, c * plan.weights[2])
    kinds = [in_row & in_column for in_row in rows for in_column in columns]
    taps = [np.stack((looks[kind].ravel(), weights[kind].ravel())) for kind in kinds]
    firsts = np.cumsum([0, *(some.shape[1] for some in taps)])
    which = np.add.outer(row * len(columns), column).ravel()
    look = np.add.outer(lines * wide, places).ravel()
    return _Tables(
        np.stack((look * width, firsts[which], firsts[which + 1])), np.concatenate(taps, axis=1)
    )


def _kinds(looks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which windows pixels see along an axis, in all ways, and of each pixel which way."""
    kinds, which = np.unique((looks >= 0) & (looks < size), axis=0, return_inverse=True)
    return kinds, which.ravel()


@parallel.ParallelKernel
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of one group of as many images as lie in the lanes."""
    micro, width, lanes = arguments[0], arguments[6], arguments[7]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, _, _, _, _,
        _, _, _, _, w_group, w_row, _, _, _, _,
    ) = to_fixed_tuple(records.array_at(arguments[11], arguments, (SIZES,)), SIZES)  # fmt: skip
    lines, pixels = channels * height * wide, p_size * q_size
    source = records.array_at(arguments[1], like, (batch * groups * lines,))
    w = records.array_at(arguments[2], like, (arguments[3],))
    start = records.array_at(arguments[4], like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(arguments[5], like, (batch * groups * filters * pixels,))
    sees = records.array_at(arguments[8], arguments, (3, pixels))
    taps = records.array_at(arguments[9], arguments, (2, arguments[10]))
    looks, weights = taps[0], taps[1]
    # Turning writes up to a vector of lines beyond the last.
    work = simd.scratch((lines + filters * pixels + lanes) * width, out)
    group, first = number % groups, number // groups * width
    images = min(width, batch - first)
    vectors = (images + lanes - 1) // lanes
    simd.turn(
        work, 0, width, source, (first * groups + group) * lines, groups * lines, images, lines,
        lanes,
    )  # fmt: skip
    sums, sums_row = lines * width, pixels * width
    tiles = (filters + microkernel.MOST_ROWS - 1) // microkernel.MOST_ROWS
    for pixel in range(pixels):
        tap, count = sees[1, pixel], sees[2, pixel] - sees[1, pixel]
        for tile in range(tiles):
            m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
            at = sums + pixel * width + m0 * sums_row
            if count:
                microkernel.multiply_tile(
                    micro, m1 - m0, vectors, w, group * w_group + m0 * w_row, w_row, weights, tap,
                    work, sees[0, pixel], looks, tap, count,
                    work, at, sums_row, start, group * filters + m0, 0,
                )  # fmt: skip
            else:
                for m in range(m1 - m0):
                    for lane in range(width):
                        work[at + m * sums_row + lane] = start[group * filters + m0 + m]
    simd.turn_back(
        out, (first * groups + group) * filters * pixels, groups * filters * pixels,
        work, sums, width, images, filters * pixels, lanes,
    )  # fmt: skip


def suits_weights(plan: Correlation) -> bool:
    """Return whether backward-weights of a forward correlation has enough products for a sum."""
    return suits(plan) and plan.grid[0] * plan.grid[1] * _vectors(plan) >= _PRODUCTS


def _vectors(plan: Correlation) -> int:
    """Return how many vectors of images backward-weights takes at a time."""
    most = max(1, _COPY * _VECTORS // _room(plan))
    return min(most, -(-plan.batch // plan.lanes))


@dataclass(frozen=True, eq=False)
class WeightsCut:
    """How backward-weights is cut: parts of a group's filters, and vectors of images at a time."""

    plan: Correlation
    parts: int
    vectors: int


def cut_weights(plan: Correlation, threads: int) -> WeightsCut:
    """Return how backward-weights of a forward correlation is cut for some threads."""
    # A share has some filters and all images, so that no sum depends on how many shares there are.
    parts = min(plan.filters, -(-threads // plan.groups))
    return WeightsCut(plan, parts, _vectors(plan))


def weights(cut: WeightsCut, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set the weights' gradient of what is a correlation forward.

    Parameters
    ----------
    cut : WeightsCut
        Of a correlation that `suits_weights`.
    dy, x, dw : np.ndarray
        C-contiguous, of the correlation's dtype.
    """
    plan, dtype = cut.plan, cut.plan.dtype
    _correlate_weights(
        plan.groups * cut.parts,
        dtype,
        (
            microkernel.lanes_tile_address(dtype),
            x,
            dy,
            dw,
            cut.parts,
            cut.vectors,
            *plan.tables,
            plan.lanes,
        ),
    )


@parallel.ParallelKernel
def _correlate_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some filters of one group."""
    micro, parts, vectors, lanes = arguments[0], arguments[4], arguments[5], arguments[8]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, _, _, step_h, step_w,
        _, _, _, _, w_group, w_row, w_channel, windows, _, _,
    ) = to_fixed_tuple(records.array_at(arguments[7], arguments, (SIZES,)), SIZES)  # fmt: skip
    plane, pixels = height * wide, p_size * q_size
    x = records.array_at(arguments[1], like, (batch * groups * channels * plane,))
    dy = records.array_at(arguments[2], like, (batch * groups * filters * pixels,))
    dw = records.array_at(arguments[3], like, (groups * w_group,))
    table = records.array_at(arguments[6], arguments, (3, windows))
    width = vectors * lanes
    group, part = number // parts, number % parts
    first_filter, last_filter = part * filters // parts, (part + 1) * filters // parts
    rows, columns = channels * plane, (last_filter - first_filter) * pixels
    work = simd.scratch((rows + columns + 2 * lanes) * width, dw)  # turning writes beyond the last
    gradients = (rows + lanes) * width
    of_dy = np.empty(pixels * vectors, np.int64)
    of_x = np.empty(pixels * vectors, np.int64)
    for first in range(0, batch, width):
        images = min(width, batch - first)
        simd.turn(
            work, 0, width, x, (first * groups + group) * rows, groups * rows, images, rows, lanes
        )
        simd.turn(
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
        for r in range(windows):
            count = 0
            for p in range(p_size):
                h = p * step_h + table[0, r]
                for q in range(q_size):
                    v = q * step_w + table[1, r]
                    if 0 <= h < height and 0 <= v < wide:
                        for vector in range(here):
                            of_dy[count] = (p * q_size + q) * width + vector * lanes
                            of_x[count] = (h * wide + v) * width + vector * lanes
                            count += 1
            for m0 in range(first_filter, last_filter, microkernel.ROWS):
                m1 = min(last_filter, m0 + microkernel.ROWS)
                for c0 in range(0, channels, microkernel.VECTORS):
                    c1 = min(channels, c0 + microkernel.VECTORS)
                    to = group * w_group + m0 * w_row + c0 * w_channel + table[2, r]
                    if count:
                        microkernel.multiply_lanes(
                            micro, m1 - m0, c1 - c0,
                            work, gradients + (m0 - first_filter) * pixels * width, pixels * width,
                            of_dy, work, c0 * plane * width, plane * width, of_x, count,
                            dw, to, w_row, w_channel, first > 0,
                        )  # fmt: skip
                    else:
                        for m in range(m1 - m0):
                            for c in range(c1 - c0):
                                dw[to + m * w_row + c * w_channel] = 0
