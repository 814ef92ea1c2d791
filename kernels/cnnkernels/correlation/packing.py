"""Weights in the order in which they are multiplied: block after block, tile after tile.

A tile's weights of one tap lie side by side, so that whatever they are multiplied with, they are
one stream.
"""

from __future__ import annotations

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, microkernel, parallel, records, simd
from cnnkernels.correlation.plan import BLOCK, SIZES, Correlation


def pack(plan: Correlation, w: np.ndarray) -> np.ndarray:
    """Return a plan's weights, blocks of `plan.blocks` one after another.

    In a block of a group: for each tile, window by window, for each its channels,
    `microkernel.ROWS` weights, of which a tile of fewer rows leaves the last unset.
    """
    packed = np.empty(elements(plan), plan.dtype)
    lanes = simd.lanes(w.itemsize)
    _pack(plan.groups * plan.tiles, plan.dtype, (w, packed, *plan.tables, lanes))
    return packed


def elements(plan: Correlation) -> int:
    """Return how many elements packed weights have."""
    return plan.groups * plan.tiles * plan.taps * microkernel.ROWS


@parallel.ParallelKernel
def _pack(number, arguments, like):  # type: ignore[no-untyped-def]
    """Pack the weights of one tile of one group."""
    (
        _, groups, filters, channels, _, _, _, _, _, _, _, _, _, _, _, _,
        w_group, w_row, w_channel, windows, block_channels, block_windows,
    ) = to_fixed_tuple(records.array_at(arguments[3], arguments, (SIZES,)), SIZES)  # fmt: skip
    w = records.array_at(arguments[0], like, (groups * w_group,))
    offsets = records.array_at(arguments[2], arguments, (3, windows))[2]
    tiles = (filters + microkernel.ROWS - 1) // microkernel.ROWS
    taps = channels * windows
    packed = records.array_at(arguments[1], like, (groups * tiles * taps * microkernel.ROWS,))
    lanes = arguments[4]
    group, tile = number // tiles, number % tiles
    m0, m1 = tile * filters // tiles, (tile + 1) * filters // tiles
    order = np.empty(BLOCK, np.int64)
    for c0 in range(0, channels, block_channels):
        c1 = min(channels, c0 + block_channels)
        for r0 in range(0, windows, block_windows):
            r1 = min(windows, r0 + block_windows)
            before = c0 * windows + (c1 - c0) * r0
            count = (c1 - c0) * (r1 - r0)
            to = ((group * taps + before) * tiles + tile * count) * microkernel.ROWS
            first = group * w_group + m0 * w_row + c0 * w_channel + offsets[r0]
            contiguous = offsets[r1 - 1] - offsets[r0] == r1 - r0 - 1
            if contiguous and r1 - r0 == windows and w_channel == windows:
                for i in range(count):
                    order[i] = (i % windows * (c1 - c0) + i // windows) * microkernel.ROWS
                _pack_line(packed, to, order, w, first, w_row, m1 - m0, count, lanes)
            elif w_row == 1 and m1 - m0 == microkernel.ROWS:
                for c in range(c1 - c0):
                    at = to + c * microkernel.ROWS
                    for r in range(r0, r1):
                        microkernel.copy_rows(
                            packed, at, w, first + c * w_channel + offsets[r] - offsets[r0]
                        )
                        at += (c1 - c0) * microkernel.ROWS
            elif contiguous and r1 - r0 > 1:
                for i in range(r1 - r0):
                    order[i] = i * (c1 - c0) * microkernel.ROWS
                for c in range(c1 - c0):
                    _pack_line(
                        packed, to + c * microkernel.ROWS, order, w, first + c * w_channel, w_row,
                        m1 - m0, r1 - r0, lanes,
                    )  # fmt: skip
            else:
                for c in range(c1 - c0):
                    at = to + c * microkernel.ROWS
                    for r in range(r0, r1):
                        of = first + c * w_channel + offsets[r] - offsets[r0]
                        for m in range(m1 - m0):
                            packed[at + m] = w[of + m * w_row]
                        at += (c1 - c0) * microkernel.ROWS


@jit.kernel
def _pack_line(packed, to, order, w, first, w_row, rows, count, lanes):  # type: ignore[no-untyped-def]
    """Pack the weights of taps that lie side by side, each to its place in the order of taps."""
    for t in range(0, count, lanes):
        if lanes >= microkernel.ROWS and first + t + (rows - 1) * w_row + lanes <= w.size:
            microkernel.transpose_tile(
                packed, to, order, t, w, first + t, w_row, rows, min(lanes, count - t)
            )
        else:
            for i in range(t, min(count, t + lanes)):
                for m in range(rows):
                    packed[to + order[i] + m] = w[first + i + m * w_row]
