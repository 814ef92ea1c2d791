"""Correlations of tiny images in large batches, with a lane an image.

Where a line of an image is shorter than a vector, lanes are images instead: two vectors of images
are turned so that a pixel's images lie side by side. Every tap of every output pixel is then two
whole vectors, read where they stand: nothing is gathered, and taps beyond the edges are left out.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, simd
from cnnkernels.correlation.plan import SIZES, Correlation

_COPY = 128 * 1024
"""Elements of the turned images, before and after, at the most: half of the second cache."""


_VECTORS = 2
"""Vectors of images side by side: more would leave too few shares of a batch to the threads."""


def suits(plan: Correlation) -> bool:
    """Return whether images are small, and enough for the lanes.

    Of tiny ones a few are enough: the last batch of an epoch should need no other kernels.
    """
    lanes = simd.lanes(np.dtype(plan.dtype).itemsize)
    return (
        plan.batch >= (lanes // 8 if plan.grid[0] * plan.grid[1] <= 4 * lanes else lanes)
        and plan.grid[1] < lanes
        and plan.spread == (1, 1)
        and _room(plan) <= _COPY
    )


@functools.lru_cache(1024)
def _room(plan: Correlation) -> int:
    channels, height, wide = plan.source
    pixels = channels * height * wide + plan.filters * plan.grid[0] * plan.grid[1]
    return (pixels + 1) * _VECTORS * simd.lanes(np.dtype(plan.dtype).itemsize)


def run(
    plan: Correlation, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray
) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    lanes = simd.lanes(out.itemsize)
    _correlate(
        plan.groups * -(-plan.batch // (_VECTORS * lanes)), plan.dtype,
        simd.tile_address(plan.dtype), source, w, w.size, start, out, _room(plan), *plan.tables,
        lanes,
    )  # fmt: skip


@jit.Shares
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of one group of as many images as lie in the lanes."""
    micro = arguments[0]
    room, lanes = arguments[6], arguments[9]
    (
        batch, groups, filters, channels, height, wide, p_size, q_size, _, _, step_h, step_w,
        _, _, _, _, w_group, w_row, w_channel, windows, _, _,
    ) = to_fixed_tuple(jit.array_at(arguments[8], arguments, (SIZES,)), SIZES)  # fmt: skip
    plane, pixels = height * wide, p_size * q_size
    source = jit.array_at(arguments[1], like, (batch * groups * channels * plane,))
    w = jit.array_at(arguments[2], like, (arguments[3],))
    start = jit.array_at(arguments[4], like, (groups * filters + simd.MOST_ROWS,))
    out = jit.array_at(arguments[5], like, (batch * groups * filters * pixels,))
    work = simd.scratch(room + lanes * _VECTORS * lanes, out)  # turning writes beyond the last
    table = jit.array_at(arguments[7], arguments, (3, windows))
    looks = np.empty(channels * windows, np.int64)
    weights = np.empty(channels * windows, np.int64)
    width = _VECTORS * lanes
    group, first = number % groups, number // groups * width
    images = min(width, batch - first)
    vectors = (images + lanes - 1) // lanes
    simd.turn(
        work, 0, width, source, (first * groups + group) * channels * plane,
        groups * channels * plane, images, channels * plane, lanes,
    )  # fmt: skip
    sums = channels * plane * width
    tiles = (filters + simd.MOST_ROWS - 1) // simd.MOST_ROWS
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
                    simd.multiply_tile(
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
