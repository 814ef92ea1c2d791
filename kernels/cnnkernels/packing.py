"""Packing of weights in the order in which tiles read them: by block, then by tile.

A tile's weights of one tap are adjacent, so that `microkernel.multiply_packed_tile` always reads
weights as one contiguous stream.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkernels import jit, microkernel, parallel, records, simd


class Layout(NamedTuple):
    """The strides of weights, and the blocks of taps in which they are packed."""

    groups: int
    """Groups of filters, packed one after another."""
    filters: int
    """Filters of a group."""
    channels: int
    """Channels of a filter."""
    windows: int
    """Weights of a channel, one per pixel of the window."""
    w_group: int
    """Elements from one group's weights to the next's."""
    w_row: int
    """Elements from one filter's weights to the next's."""
    w_channel: int
    """Elements from one channel's weights to the next's."""
    offsets: np.ndarray
    """(windows,), int64: offset in its channel of the weight of each pixel of the window."""
    block_channels: int
    """Channels of a block."""
    block_windows: int
    """Pixels of the window in a block."""
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
    """Return a `Layout`; `strides` are those of group, filter and channel."""
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
    """Return the number of elements of packed weights."""
    taps = layout.channels * layout.windows
    return layout.groups * layout.tiles * taps * microkernel.ROWS


def pack(layout: records.Record[Layout], w: np.ndarray) -> np.ndarray:
    """Return weights packed by a layout, block by block.

    The order in a block of a group is: tiles, window pixels, channels, then the
    `microkernel.ROWS` weights of a tile. In a tile with fewer rows the last ones are uninitialized.
    """
    fields = layout.fields
    packed = np.empty(elements(fields), w.dtype)
    _pack(fields.groups * fields.tiles, w.dtype.name, _Call(w, packed, layout.address))
    return packed


class _Call(NamedTuple):
    """The arguments of `_pack`."""

    w: np.ndarray
    """Weights, C-contiguous."""
    packed: np.ndarray
    """Packed weights, the result."""
    layout: int
    """Address of a `Layout`."""


@intrinsic
def _copy_rows(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Copy `microkernel.ROWS` elements between flat arrays."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = simd.vector_places(context, builder, signature.args, arguments)
        rows = ir.VectorType(target.type.pointee.element, microkernel.ROWS).as_pointer()
        target, source = (builder.bitcast(place, rows) for place in (target, source))
        builder.store(simd.load_vector(builder, source), target, align=simd.alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first), emit


@intrinsic
def _transpose_tile(  # type: ignore[no-untyped-def]
    typingctx, to, to_first, to_offsets, to_from, of, of_first, of_row, rows, count,
):  # fmt: skip
    """Transpose a strip of weights into `count` lines of `microkernel.ROWS` elements.

    Line i is written at ``to_first + to_offsets[to_from + i]``, and nothing beyond it. The strip is
    described in `simd.transpose_square`.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        to, to_first, to_offsets, to_from, *source, count = zip(
            signature.args, arguments, strict=True
        )
        cast = functools.partial(simd.cast_word, context, builder)
        place = builder.gep(simd.data_of(context, builder, *to), [cast(*to_first)])
        offsets = builder.gep(simd.data_of(context, builder, *to_offsets), [cast(*to_from)])
        strips = simd.transposed(context, builder, *source)
        whole = strips[0].type
        line = ir.VectorType(whole.element, microkernel.ROWS)
        lanes = [min(lane, whole.count - 1) for lane in range(microkernel.ROWS)]
        first_lanes = ir.Constant(ir.VectorType(ir.IntType(32), microkernel.ROWS), lanes)
        for i, strip in enumerate(strips):
            with builder.if_then(builder.icmp_signed("<", word(i), cast(*count))):
                at = builder.load(builder.gep(offsets, [word(i)]))
                target = builder.bitcast(builder.gep(place, [at]), line.as_pointer())
                value = builder.shuffle_vector(strip, strip, first_lanes)
                builder.store(value, target, align=simd.alignment(target))
        return context.get_dummy_value()

    kinds = (to, to_first, to_offsets, to_from, of, of_first, of_row, rows, count)
    return types.void(*kinds), emit


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
                        _copy_rows(packed, at, w, first + c * w_channel + offsets[r] - offsets[r0])
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
    """Pack the weights of adjacent taps, each at its position in the packed order."""
    for t in range(0, count, lanes):
        if lanes >= microkernel.ROWS and first + t + (rows - 1) * w_row + lanes <= w.size:
            _transpose_tile(packed, to, order, t, w, first + t, w_row, rows, min(lanes, count - t))
        else:
            for i in range(t, min(count, t + lanes)):
                for m in range(rows):
                    packed[to + order[i] + m] = w[first + i + m * w_row]
