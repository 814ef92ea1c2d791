"""Correlations with a lane per filter; source pixels are read one by one, in place.

A tile is some pixels of a line, of a column, or of several images, times some vectors of filters.
Its pixels see the same windows at a constant distance, so that the source is neither gathered nor
padded: the tables of a tile leave out everything beyond the edges. Weights are transposed once, and
sums are transposed back at the end [1]_.

`filter_tiles` cuts images into tiles, once per correlation for all filters.

References
----------
.. [1] E. Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD
   Architectures", SC 2018, on pixels times vectors of filters as the register tile.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cnnkernels import arrays, copies, jit, microkernel, parallel, records, simd
from cnnkernels.convolution.numba_simd import filter_tiles
from cnnkernels.convolution.numba_simd.correlation import Correlation, Driver, Sizes

_FILLED = 0.85
"""Minimum share of lanes that hold a filter."""

_FILLED_NARROW = 0.6
"""The same for windows over narrow lines: the gaps between them cost other drivers more."""


class _Blocking(NamedTuple):
    """The shares of filters and images, and the blocks of channels."""

    vectors: int
    """Vectors of filters in a tile, and in a panel."""
    panels: int
    """Panels of a group's filters."""
    parts: int
    """Parts of a group's panels; several if there are more weights than pixels."""
    images: int
    """Images of a unit of work."""
    chunks: int
    """Chunks of an image's lines."""
    in_block: int
    """Channels of a block of taps."""
    square: int
    """Whether weights are transposed in squares of a vector's lanes."""
    weights: np.ndarray
    """(windows,), int64: offset in its channel of the weight of each window pixel."""
    packed: int
    """Elements of transposed weights shared by all units; 0 if each unit transposes its own."""
    room: int
    """Elements of scratch memory of a thread."""


def suits(correlation: Correlation) -> bool:
    """Return whether filters fill the lanes, with too few filters or pixels for gathering."""
    lanes, filters = correlation.lanes, correlation.filters
    # With one window pixel, transposing weights is cheaper than gathering if they are adjacent.
    in_rows = correlation.weights[2] == 1
    worth = correlation.area > 1 or (filter_tiles.is_heavy(correlation) and in_rows)
    narrow = correlation.area > 1 and not correlation.wide
    filled = _FILLED_NARROW if narrow else _FILLED
    return worth and filters >= filled * -(-filters // lanes) * lanes


def needed(correlation: Correlation) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    itemsize = np.dtype(correlation.dtype).itemsize
    vectors = min(filter_tiles.MOST_VECTORS, -(-correlation.filters // correlation.lanes))
    step = vectors * correlation.lanes
    filters = -(-correlation.filters // step) * step
    rows, columns = correlation.grid
    looking = 9 * (rows + columns) * correlation.area  # positions of pixels and windows
    tables = 48 * filter_tiles.most_channels(correlation) * correlation.listed + 80 * columns
    packed = correlation.groups * filters * (correlation.taps + correlation.lanes)
    return looking + tables + itemsize * (max(filters * columns, filter_tiles.SUMS) + packed)


def prepare(correlation: Correlation, threads: int) -> Driver:
    """Return the function that computes a correlation, for a number of threads."""
    (p_size, q_size), weights, lanes = correlation.grid, correlation.windows[2], correlation.lanes
    vectors, lines = filter_tiles.best_tiles(correlation)
    step = vectors * lanes
    panels = -(-correlation.filters // step)
    images, chunks, parts = filter_tiles.units_of(correlation, vectors, threads)
    in_block = filter_tiles.channels_of_block(correlation, vectors)
    # Weights are transposed in squares if all of a channel are needed and adjacent.
    together = weights.size > 1 or correlation.weights[2] == 1
    square = together and np.array_equal(weights, np.arange(min(correlation.weights[1:])))
    sums = images * -(-panels // parts) * -(-p_size // chunks) * q_size * step
    # Transposing writes up to a vector of lines beyond the last.
    block = (in_block * weights.size + lanes) * step if parts > 1 else 0
    all_packed = correlation.groups * panels * (correlation.taps + lanes) * step
    blocking = _Blocking(
        vectors=vectors,
        panels=panels,
        parts=parts,
        images=images,
        chunks=chunks,
        in_block=in_block,
        square=square,
        weights=weights,
        packed=0 if parts > 1 else all_packed,
        room=sums + block,
    )
    key = filter_tiles.Key(correlation.of_one, vectors, lines, in_block, images, chunks)
    return functools.partial(_run, correlation, records.record(blocking), key)


class _PackCall(NamedTuple):
    """The arguments of `_pack`."""

    w: np.ndarray
    """Weights."""
    packed: np.ndarray
    """Transposed weights, ordered by panel, then tap, with adjacent filters."""
    sizes: int
    """Address of the correlation's `Sizes`."""
    blocking: int
    """Address of a `_Blocking`."""


class _Call(NamedTuple):
    """The arguments of `_correlate`."""

    tile: int
    """Address of the micro-kernel."""
    source: np.ndarray
    """(N, channels of all groups, height, width)."""
    w: np.ndarray
    """Weights."""
    packed: np.ndarray
    """Transposed weights, if all units share them."""
    start: np.ndarray
    """Initial sum of each filter, followed by `microkernel.MOST_ROWS` zeros."""
    out: np.ndarray
    """(N, filters of all groups, height, width)."""
    sizes: int
    """Address of the correlation's `Sizes`."""
    blocking: int
    """Address of a `_Blocking`."""
    tables: int
    """Address of the `filter_tiles.Tables`."""


def _run(
    correlation: Correlation,
    blocking: records.Record[_Blocking],
    key: filter_tiles.Key,
    source: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
) -> None:
    dtype, sizes, cut = correlation.dtype, correlation.sizes.address, blocking.fields
    tables, packed = filter_tiles.tables(key), w
    if cut.packed:
        packed = np.empty(cut.packed, dtype)
        panels = correlation.groups * cut.panels
        _pack(panels, dtype, _PackCall(w, packed, sizes, blocking.address))
    units = -(-correlation.batch // cut.images) * correlation.groups * cut.chunks * cut.parts
    tile = microkernel.tile_address(dtype)
    call = _Call(tile, source, w, packed, start, out, sizes, blocking.address, tables.address)
    _correlate(units, dtype, call)


@parallel.ParallelKernel
def _pack(number, words, like):  # type: ignore[no-untyped-def]
    """Transpose the weights of one panel."""
    call = records.read(_PackCall, words)
    sizes = records.read(Sizes, call.sizes)
    blocking = records.read(_Blocking, call.blocking)
    lanes = sizes.lanes
    w = records.array_at(call.w, like, (sizes.groups * sizes.w_group,))
    packed = records.array_at(call.packed, like, (blocking.packed,))
    weights = records.array_at(blocking.weights, words, (sizes.windows,))
    step, w_row, w_channel = blocking.vectors * lanes, sizes.w_row, sizes.w_channel
    group, m0 = number // blocking.panels, number % blocking.panels * step
    _turn_weights(
        packed, number * (sizes.channels * sizes.windows + lanes) * step, step, w,
        group * sizes.w_group + m0 * w_row, w_row, w_channel, min(step, sizes.filters - m0),
        sizes.channels, weights, blocking.square, lanes,
    )  # fmt: skip


@jit.kernel
def _turn_weights(  # type: ignore[no-untyped-def]
    packed, to, step, w, first, w_row, w_channel, rows, channels, weights, square, lanes,
):  # fmt: skip
    """Transpose a panel's weights of some channels, so that a tap's filters are adjacent."""
    windows = weights.size
    if square:
        together = channels if w_channel == windows else 1  # channels with adjacent taps
        for c in range(0, channels, together):
            copies.turn(
                packed, to + c * windows * step, step, w, first + c * w_channel, w_row, rows,
                together * windows, lanes,
            )  # fmt: skip
    else:
        for c in range(channels):
            for r in range(windows):
                of = first + c * w_channel + weights[r]
                for m in range(rows):
                    packed[to + m] = w[of + m * w_row]
                to += step


@jit.inlined
def _bring_nearer(source, first, length, plane, channels):  # type: ignore[no-untyped-def]
    """Prefetch the cache lines of a run in each of some channels."""
    for run in range(first, first + channels * plane, plane):
        for at in range(run, run + length, arrays.LINE // source.itemsize):
            simd.prefetch(source, at)


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set the outputs of some filters, in some lines of some images."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    blocking = records.read(_Blocking, call.blocking)
    tables = records.read(filter_tiles.Tables, call.tables)
    batch, groups, filters, channels = sizes.batch, sizes.groups, sizes.filters, sizes.channels
    wide, out_width, spread_h = sizes.width, sizes.out_width, sizes.spread_h
    windows, lanes = sizes.windows, sizes.lanes
    images, chunks, parts = blocking.images, blocking.chunks, blocking.parts
    panels = blocking.panels
    w_row, w_channel, step = sizes.w_row, sizes.w_channel, blocking.vectors * lanes
    plane, out_row = sizes.height * wide, sizes.out_height * out_width
    source = records.array_at(call.source, like, (batch * groups * channels * plane,))
    w = records.array_at(call.w, like, (groups * sizes.w_group,))
    packed = records.array_at(call.packed, like, (blocking.packed,))
    start = records.array_at(call.start, like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(call.out, like, (batch * groups * filters * out_row,))
    sums = simd.scratch(blocking.room, out)
    weights = records.array_at(blocking.weights, words, (windows,))
    tiles = records.array_at(tables.tiles, words, (tables.n_tiles, 8))
    of_chunks = records.array_at(tables.chunks, words, (chunks, 6))
    classes = records.array_at(tables.classes, words, (tables.n_classes, 2))
    of_source = records.array_at(tables.looks, words, (tables.n_offsets,))
    of_weights = records.array_at(tables.weights, words, (tables.n_offsets,))
    units = (batch + images - 1) // images * groups * chunks
    part, unit = number // units, number % units
    chunk, group, image0 = unit % chunks, unit // chunks % groups, unit // (chunks * groups)
    image0 *= images
    images = min(images, batch - image0)
    panel0, panel1 = part * panels // parts, (part + 1) * panels // parts
    p0, p1, tile0, tile1, line0, line1 = of_chunks[chunk]
    places = (p1 - p0) * sizes.q_size
    for panel in range(panel0, panel1):
        to = (panel - panel0) * images * places * step
        for lane in range(step):
            m = panel * step + lane
            sums[to + lane] = start[group * filters + m] if m < filters else 0
        for other in range(to + step, to + images * places * step, step):
            for lane in range(0, step, lanes):
                simd.copy_vector(sums, other + lane, sums, to + lane)
    for c0 in range(0, channels, blocking.in_block):
        c1 = min(channels, c0 + blocking.in_block)
        for panel in range(panel0, panel1):
            tap = ((group * panels + panel) * (channels * windows + lanes) + c0 * windows) * step
            wanted = (filters - panel * step + lanes - 1) // lanes
            if parts > 1:
                packed, tap = sums, images * places * step
                _turn_weights(
                    packed, tap, step, w,
                    group * sizes.w_group + panel * step * w_row + c0 * w_channel, w_row, w_channel,
                    min(step, filters - panel * step), c1 - c0, weights, blocking.square, lanes,
                )  # fmt: skip
            of = ((image0 * groups + group) * channels + c0) * plane
            at, to = of + p0 * sizes.step_h * wide, (panel - panel0) * images * places
            fetched = images if panel > 0 else 0  # by the first panel
            for t in range(tile0, tile1):
                look, next_look, count, place, next_place, kind, image, of_image = tiles[t]
                while fetched <= min(image, images - 1):
                    first = of + fetched * groups * channels * plane + line0 * wide
                    _bring_nearer(source, first, (line1 - line0) * wide, plane, c1 - c0)
                    fetched += 1
                count = min(count, (images - image) * of_image)
                if count > 0:  # of the last images there may be fewer
                    first, seen = classes[kind]
                    microkernel.multiply_tile(
                        call.tile, rows=count, vectors=min(blocking.vectors, wanted),
                        count=(c1 - c0) * seen, add=1,
                        a=source, a_first=at + look, a_row=next_look,
                        a_offsets=of_source, a_from=first,
                        b=packed, b_first=tap, b_offsets=of_weights, b_from=first,
                        c=sums, c_first=(to + place) * step, c_row=next_place * step,
                        start=start, start_first=groups * filters,
                    )  # fmt: skip
    for panel in range(panel0, panel1):
        rows = min(step, filters - panel * step)
        for image in range(images):
            of = ((panel - panel0) * images + image) * places * step
            to = ((image0 + image) * groups + group) * filters + panel * step
            to = to * out_row + (sizes.corner_h + p0 * spread_h) * out_width + sizes.corner_w
            if spread_h == sizes.spread_w == 1:
                copies.turn_back(out, to, out_row, sums, of, step, rows, places, lanes)
            else:
                for p in range(p1 - p0):
                    for q in range(sizes.q_size):
                        at = to + p * spread_h * out_width + q * sizes.spread_w
                        for m in range(rows):
                            out[at + m * out_row] = sums[of + m]
                        of += step
