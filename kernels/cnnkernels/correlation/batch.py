"""Correlations of tiny images in large batches, with a lane an image.

Where a line of an image is shorter than a vector, lanes are images instead: two vectors of images
are turned so that a pixel's images lie side by side. Every tap of every output pixel is then two
whole vectors, read where they stand: nothing is gathered, and taps beyond the edges are left out.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, microkernel, simd
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


def run(
    plan: Correlation, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray
) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    shares, micro, room, width = _cut(plan, jit.threads())
    _correlate(
        shares, plan.dtype, micro, source, w, w.size, start, out, room, *plan.tables, plan.lanes,
        width,
    )  # fmt: skip


@functools.lru_cache(1024)
def _cut(plan: Correlation, threads: int) -> tuple[int, int, int, int]:
    """Return how many shares there are, who multiplies, elements of scratch, and of a line."""
    vectors, room = _VECTORS, _room(plan)
    if plan.filters <= _FEW and 2 * room <= _COPY:
        if plan.batch * plan.groups >= 2 * vectors * plan.lanes * threads:
            vectors, room = 2 * vectors, 2 * room
    width = vectors * plan.lanes
    shares = plan.groups * -(-plan.batch // width)
    return shares, microkernel.tile_address(plan.dtype), room, width


@jit.Shares
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of one group of as many images as lie in the lanes."""
    micro = arguments[0]
    room, lanes, width = arguments[6], arguments[9], arguments[10]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, _, _, step_h, step_w,
        _, _, _, _, w_group, w_row, w_channel, windows, _, _,
    ) = to_fixed_tuple(jit.array_at(arguments[8], arguments, (SIZES,)), SIZES)  # fmt: skip
    plane, pixels = height * wide, p_size * q_size
    source = jit.array_at(arguments[1], like, (batch * groups * channels * plane,))
    w = jit.array_at(arguments[2], like, (arguments[3],))
    start = jit.array_at(arguments[4], like, (groups * filters + microkernel.MOST_ROWS,))
    out = jit.array_at(arguments[5], like, (batch * groups * filters * pixels,))
    work = simd.scratch(room + lanes * width, out)  # turning writes beyond the last
    table = jit.array_at(arguments[7], arguments, (3, windows))
    looks = np.empty(channels * windows, np.int64)
    weights = np.empty(channels * windows, np.int64)
    group, first = number % groups, number // groups * width
    images = min(width, batch - first)
    vectors = (images + lanes - 1) // lanes
    simd.turn(
        work, 0, width, source, (first * groups + group) * channels * plane,
        groups * channels * plane, images, channels * plane, lanes,
    )  # fmt: skip
    sums = channels * plane * width
    tiles = (filters + microkernel.MOST_ROWS - 1) // microkernel.MOST_ROWS
    top, bottom = -table[0].min(), height - table[0].max()
    left, right = -table[1].min(), wide - table[1].max()
    count, whole = 0, False  # windows that lie inside have the same taps, from where they look
    for p in range(p_size):
        for q in range(q_size):
            h0, v0 = p * step_h, q * step_w
            inside = top <= h0 < bottom and left <= v0 < right
            if not (inside and whole):
                count, whole = 0, inside
                for r in range(windows):
                    h, v = h0 + table[0, r], v0 + table[1, r]
                    if 0 <= h < height and 0 <= v < wide:
                        look = (table[0, r] * wide + table[1, r]) * width
                        weight = table[2, r]
                        for _ in range(channels):
                            looks[count] = look
                            weights[count] = weight
                            look += plane * width
                            weight += w_channel
                            count += 1
            at = sums + (p * q_size + q) * width
            for tile in range(tiles):
                m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
                if count:
                    microkernel.multiply_tile(
                        micro, m1 - m0, vectors, w, group * w_group + m0 * w_row, w_row, weights, 0,
                        work, (h0 * wide + v0) * width, looks, 0, count,
                        work, at + m0 * pixels * width, pixels * width,
                        start, group * filters + m0, 0,
                    )  # fmt: skip
                else:
                    for m in range(m0, m1):
                        for lane in range(width):
                            work[at + m * pixels * width + lane] = start[group * filters + m]
    simd.turn_back(
        out, (first * groups + group) * filters * pixels, groups * filters * pixels,
        work, sums, width, images, filters * pixels, lanes,
    )  # fmt: skip


def suits_weights(plan: Correlation) -> bool:
    """Return whether backward-weights of a forward correlation has enough products for a sum."""
    if not suits(plan):
        return False
    vectors = min(_chunk(plan), -(-plan.batch // plan.lanes))
    return plan.grid[0] * plan.grid[1] * vectors >= _PRODUCTS


@functools.lru_cache(1024)
def _chunk(plan: Correlation) -> int:
    """Return how many vectors of images backward-weights takes at a time, at the most."""
    return max(1, _COPY * _VECTORS // _room(plan))


def weights(plan: Correlation, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set the weights' gradient of what is a correlation forward.

    Parameters
    ----------
    plan : Correlation
        One that `suits_weights`.
    dy, x, dw : np.ndarray
        C-contiguous, of the plan's dtype.
    """
    # A share has some filters and all images, so that no sum depends on how many shares there are.
    parts = min(plan.filters, -(-jit.threads() // plan.groups))
    lanes = simd.lanes(dw.itemsize)
    vectors = min(_chunk(plan), -(-plan.batch // lanes))
    _correlate_weights(
        plan.groups * parts, plan.dtype, microkernel.lanes_tile_address(plan.dtype), x, dy, dw,
        parts, vectors, *plan.tables, lanes,
    )  # fmt: skip


@jit.Shares
def _correlate_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some filters of one group."""
    micro, parts, vectors, lanes = arguments[0], arguments[4], arguments[5], arguments[8]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, _, _, step_h, step_w,
        _, _, _, _, w_group, w_row, w_channel, windows, _, _,
    ) = to_fixed_tuple(jit.array_at(arguments[7], arguments, (SIZES,)), SIZES)  # fmt: skip
    plane, pixels = height * wide, p_size * q_size
    x = jit.array_at(arguments[1], like, (batch * groups * channels * plane,))
    dy = jit.array_at(arguments[2], like, (batch * groups * filters * pixels,))
    dw = jit.array_at(arguments[3], like, (groups * w_group,))
    table = jit.array_at(arguments[6], arguments, (3, windows))
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
