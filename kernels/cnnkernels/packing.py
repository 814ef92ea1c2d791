"""Weights in the order in which tiles multiply them: block after block, tile after tile.

A tile's weights of one tap lie side by side, so that whatever they are multiplied with, they are
one stream for `microkernel.multiply_packed_tile`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import jit, microkernel, parallel, records, simd


class Layout(NamedTuple):
    """Where weights stand, and in which blocks of taps they are packed."""

    groups: int
    """Groups of filters that are packed one after another."""
    filters: int
    """Filters of a group."""
    channels: int
    """Channels of a filter."""
    windows: int
    """Weights of a channel: pixels of the window."""
    w_group: int
    """Elements from one group's weights to the next's."""
    w_row: int
    """Elements from one filter's weights to the next's."""
    w_channel: int
    """Elements from one channel's weights to the next's."""
    offsets: np.ndarray
    """(windows,), int64: where the weight of each pixel of the window stands in its channel."""
    block_channels: int
    """Channels of a block."""
    block_windows: int
    """Pixels of the window of a block."""
    tiles: int
    """Tiles of a group's filters."""
    lanes: int
    """Elements of a vector."""


def layout(
    dtype: str,
    groups: int,
    filters: int,
    channels: int,
    strides: tuple[int, int, int],
    offsets: np.ndarray,
    blocks: tuple[int, int],
) -> records.Record[Layout]:
    """Return the layout of weights: see `Layout`; strides are from group, filter and channel."""
    return records.record(
        Layout(
            groups,
            filters,
            channels,
            offsets.size,
            *strides,
            np.ascontiguousarray(offsets),
            *blocks,
            tiles=-(-filters // microkernel.ROWS),
            lanes=simd.lanes(np.dtype(dtype).itemsize),
        )
    )


def elements(layout: Layout) -> int:
    """Return how many elements packed weights have."""
    taps = layout.channels * layout.windows
    return layout.groups * layout.tiles * taps * microkernel.ROWS


def pack(layout: records.Record[Layout], w: np.ndarray) -> np.ndarray:
    """Return weights in the order of a layout, one block after another.

    In a block of a group: for each tile, window by window, for each its channels,
    `microkernel.ROWS` weights. A tile of fewer rows leaves the last unset.
    """
    fields = layout.fields
    packed = np.empty(elements(fields), w.dtype)
    _pack(fields.groups * fields.tiles, w.dtype.name, _Call(w, packed, layout.address))
    return packed


class _Call(NamedTuple):
    """What `_pack` is given."""

    w: np.ndarray
    """Weights, C-contiguous."""
    packed: np.ndarray
    """Where they go."""
    layout: int
    """Address of a `Layout`."""


@parallel.ParallelKernel
def _pack(number, words, like):  # type: ignore[no-untyped-def]
    """Pack the weights of one tile of one group."""
    call = records.read(_Call, words)
    layout = records.read(Layout, call.layout)
    channels, windows, w_row = layout.channels, layout.windows, layout.w_row
    w_channel, block_channels = layout.w_channel, layout.block_channels
    block_windows, tiles = layout.block_windows, layout.tiles
    taps = channels * windows
    w = records.array_at(call.w, like, (layout.groups * layout.w_group,))
    offsets = records.array_at(layout.offsets, words, (windows,))
    packed = records.array_at(call.packed, like, (layout.groups * tiles * taps * microkernel.ROWS,))
    group, tile = number // tiles, number % tiles
    m0, m1 = tile * layout.filters // tiles, (tile + 1) * layout.filters // tiles
    order = np.empty(block_channels * block_windows, np.int64)
    for c0 in range(0, channels, block_channels):
        c1 = min(channels, c0 + block_channels)
        for r0 in range(0, windows, block_windows):
            r1 = min(windows, r0 + block_windows)
            before = c0 * windows + (c1 - c0) * r0
            count = (c1 - c0) * (r1 - r0)
            to = ((group * taps + before) * tiles + tile * count) * microkernel.ROWS
            first = group * layout.w_group + m0 * w_row + c0 * w_channel + offsets[r0]
            contiguous = offsets[r1 - 1] - offsets[r0] == r1 - r0 - 1
            if contiguous and r1 - r0 == windows and w_channel == windows:
                for i in range(count):
                    order[i] = (i % windows * (c1 - c0) + i // windows) * microkernel.ROWS
                _pack_line(packed, to, order, w, first, w_row, m1 - m0, count, layout.lanes)
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
                        m1 - m0, r1 - r0, layout.lanes,
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
