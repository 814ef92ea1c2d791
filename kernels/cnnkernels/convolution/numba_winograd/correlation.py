"""Correlations of images with 3 x 3 filters: forward, and backward-data with the filters turned.

A unit is up to three vectors of tiles, taken in the order of the images. Its tiles are sorted into
lanes and transformed; then, a few filters at a time, t x t matrix products follow, and the way back
to pixels. Weights are transformed with filters in the lanes, a vector of them at a time: a pack.
Either every unit meets all packs, whose transforms are made before, or, where weights are larger
than images, every pack meets all units, whose transforms are made before. Threads get equally many
vectors of tiles: units are then smaller, or a unit's channels are shared.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnnkernels import copies, jit, memory, microkernel, parallel, records, simd
from cnnkernels.contract import Conv2D
from cnnkernels.convolution.numba_winograd import vector_code
from cnnkernels.winograd.transforms import TAPS

_VECTORS = 3
"""Vectors of tiles in a unit: with `_FILTERS` filters they are a tile of the micro-kernel."""

_FILTERS = microkernel.ROWS
"""Filters that are multiplied at a time."""

_CHANNELS = 128
"""Channels whose products are summed at a time, at the most: long sums lose digits."""


class Sizes(NamedTuple):
    """Numbers of a correlation; channels and filters are those of a group."""

    outputs: int
    """m of F(m, 3)."""
    batch: int
    groups: int
    channels: int
    height: int
    width: int
    filters: int
    out_height: int
    out_width: int
    top: int
    """Padding above."""
    left: int
    """Padding to the left."""
    down: int
    """Tiles below each other in an image."""
    across: int
    """Tiles side by side."""
    lanes: int
    unit: int
    """Tiles of a unit at the most, whole vectors."""
    block: int
    """Channels that are summed at a time."""
    w_group: int
    """Distance of groups, filters, channels and taps in the weights, and the first tap."""
    w_filter: int
    w_channel: int
    w_tap: int
    w_first: int


@dataclass(frozen=True)
class Correlation:
    """A correlation with 3 x 3 windows, stride 1.

    Attributes
    ----------
    sizes : Sizes
    dtype : str
    """

    sizes: Sizes
    dtype: str

    @functools.cached_property
    def record(self) -> records.Record[Sizes]:
        """The sizes, for kernels."""
        return records.record(self.sizes)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.sizes.batch * self.sizes.down * self.sizes.across

    @property
    def vectors(self) -> int:
        """Vectors of tiles."""
        return -(-self.tiles // self.sizes.lanes)

    @property
    def units(self) -> int:
        """Units of a group, at the least."""
        return -(-self.tiles // self.sizes.unit)

    def units_for(self, threads: int) -> int:
        """Return the units of a group that threads can share equally."""
        units = self.units
        while self.sizes.groups * units % threads and units < self.vectors:
            units += 1
        return units

    @property
    def packs(self) -> int:
        """Packs of filters of a group."""
        return -(-self.sizes.filters // self.sizes.lanes)


_Key = tuple[Conv2D, int]
"""A problem, and the outputs of a tile along an axis."""


@memory.BLOCKINGS.cached
def forward(key: _Key) -> Correlation:
    """Return the correlation of images with filters."""
    problem, outputs = key
    return _correlation(problem, outputs, turned=False)


@memory.BLOCKINGS.cached
def backward_data(key: _Key) -> Correlation:
    """Return the correlation of dy with the turned filters."""
    problem, outputs = key
    return _correlation(problem, outputs, turned=True)


def _correlation(problem: Conv2D, outputs: int, *, turned: bool) -> Correlation:
    taps = TAPS * TAPS
    # Channels, height, width, and the distance of channels in the weights.
    images = (problem.in_channels // problem.groups, problem.height, problem.width, taps)
    filters = problem.out_channels // problem.groups
    results = (filters, problem.out_height, problem.out_width, images[0] * taps)
    padding = tuple(before for before, _ in problem.padding)
    w_group = results[0] * results[3]
    if turned:
        images, results = results, images
        padding = tuple(TAPS - 1 - before for before in padding)
    channels, height, width, w_channel = images
    filters, out_height, out_width, w_filter = results
    lanes = simd.lanes(np.dtype(problem.dtype).itemsize)
    down, across = (-(-size // outputs) for size in (out_height, out_width))
    vectors = min(_VECTORS, -(-problem.batch * down * across // lanes))
    sizes = Sizes(
        outputs=outputs, batch=problem.batch, groups=problem.groups,
        channels=channels, height=height, width=width,
        filters=filters, out_height=out_height, out_width=out_width,
        top=padding[0], left=padding[1], down=down, across=across,
        lanes=lanes, unit=vectors * lanes,
        block=-(-channels // -(-channels // _CHANNELS)),
        w_group=w_group, w_filter=w_filter, w_channel=w_channel,
        w_tap=-1 if turned else 1, w_first=taps - 1 if turned else 0,
    )  # fmt: skip
    return Correlation(sizes, problem.dtype)


class _Call(NamedTuple):
    """What the kernels are given."""

    tile: int
    """Address of the micro-kernel."""
    sizes: int
    """Address of the `Sizes`."""
    images: np.ndarray
    """(N, channels of all groups, height, width)."""
    w: np.ndarray
    """Weights."""
    bias: np.ndarray
    """Of the filters of all groups."""
    out: np.ndarray
    """(N, filters of all groups, out height, out width)."""
    transformed: np.ndarray
    """Weights, or images, that are transformed before."""
    packs: int
    """Packs of filters of a group."""
    units: int
    """Units of a group."""
    parts: int
    """Parts of a unit's channels that are transformed at a time."""


def run(
    correlation: Correlation,
    images: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Compute a correlation into `out`."""
    sizes, dtype = correlation.sizes, correlation.dtype
    packs, units, parts = correlation.packs, correlation.units, 1
    of_weights, of_images = packs * _pack_size(sizes), units * _unit_size(sizes)
    transformed = np.empty(sizes.groups * min(of_weights, of_images), dtype)
    threads, weights_first = parallel.threads(), of_weights <= of_images
    if weights_first:
        units = correlation.units_for(threads)
    else:
        parts = min(sizes.channels, threads // math.gcd(threads, sizes.groups * units))
    call = _Call(
        tile=microkernel.tile_address(dtype),
        sizes=correlation.record.address,
        images=images, w=w, bias=bias, out=out, transformed=transformed,
        packs=packs, units=units, parts=parts,
    )  # fmt: skip
    if weights_first:
        _transform_packs(sizes.groups * packs, dtype, call)
        _multiply_units(sizes.groups * units, dtype, call)
    else:
        _transform_units(sizes.groups * units * parts, dtype, call)
        _multiply_packs(sizes.groups * packs, dtype, call)


def needed(correlation: Correlation) -> int:
    """Return how many bytes of scratch memory a correlation takes, about."""
    sizes = correlation.sizes
    of_weights, of_images = _pack_size(sizes), _unit_size(sizes)
    before = sizes.groups * min(correlation.packs * of_weights, correlation.units * of_images)
    elements = before + max(of_weights, of_images)
    return elements * np.dtype(correlation.dtype).itemsize


def _pack_size(sizes: Sizes) -> int:
    """Return the elements of a pack's transformed weights."""
    return (sizes.outputs + TAPS - 1) ** 2 * _pack_line(sizes.channels, sizes.lanes)


def _unit_size(sizes: Sizes) -> int:
    """Return the elements of a unit's transformed images."""
    return (sizes.outputs + TAPS - 1) ** 2 * _unit_line(sizes.channels, sizes.unit, sizes.lanes)


def _pack_line(channels: int, lanes: int) -> int:
    """Return the distance of two products' weights of a pack: never a multiple of 4 KiB."""
    return (channels + 1) * lanes


def _unit_line(channels: int, unit: int, lanes: int) -> int:
    """Return the distance of two products' tiles of a unit."""
    return channels * unit + lanes


_pack_row = jit.inlined(_pack_line)
_unit_row = jit.inlined(_unit_line)


@jit.kernel
def _transform_pack(u, to, w, sizes, group, pack):  # type: ignore[no-untyped-def]
    """Transform the weights of a pack: t x t lines of a channel's filters after another's."""
    m, t, channels, lanes = sizes.outputs, sizes.outputs + 2, sizes.channels, sizes.lanes
    line = _pack_row(channels, lanes)
    taps = simd.scratch((9 * channels + lanes) * lanes, w)  # turning writes beyond the last
    filters = min(lanes, sizes.filters - pack * lanes)
    first = group * sizes.w_group + pack * lanes * sizes.w_filter
    if sizes.w_channel == 9:
        copies.turn(taps, 0, lanes, w, first, sizes.w_filter, filters, 9 * channels, lanes)
    else:
        for c in range(channels):
            of = first + c * sizes.w_channel
            copies.turn(taps, 9 * c * lanes, lanes, w, of, sizes.w_filter, filters, 9, lanes)
    step = sizes.w_tap * lanes
    for c in range(channels):
        vector_code.transform_weights(
            m, taps, (9 * c + sizes.w_first) * lanes, 3 * step, step,
            u, to + c * lanes, t * line, line,
        )  # fmt: skip


@jit.inlined
def list_runs(sizes, first, end, runs):  # type: ignore[no-untyped-def]
    """List runs of tiles side by side: image, row and column of tiles, lane, length.

    The tiles begin at `first` and end before `end`, or with the last tile. Return how many runs and
    tiles there are. A run is shorter than a vector.
    """
    last = min(end, sizes.batch * sizes.down * sizes.across)
    count, tile = 0, first
    while tile < last:
        row, column = tile // sizes.across, tile % sizes.across
        length = min(last - tile, sizes.across - column, sizes.lanes - 1)
        runs[count, 0] = row // sizes.down
        runs[count, 1] = row % sizes.down
        runs[count, 2] = column
        runs[count, 3] = tile - first
        runs[count, 4] = length
        count += 1
        tile += length
    return count, last - first


@jit.inlined
def _list_unit(call, sizes, unit, runs):  # type: ignore[no-untyped-def]
    """List the runs of a unit: units differ by a vector at the most."""
    tiles = sizes.batch * sizes.down * sizes.across
    vectors = (tiles + sizes.lanes - 1) // sizes.lanes
    first, end = unit * vectors // call.units, (unit + 1) * vectors // call.units
    return list_runs(sizes, first * sizes.lanes, end * sizes.lanes, runs)


@jit.kernel
def _transform_unit(v, to, images, sizes, group, c_first, c_end, runs, tiles, pixels):  # type: ignore[no-untyped-def]
    """Transform a unit's tiles of some channels: t x t lines of a channel's tiles after another's.

    `pixels` is scratch memory: t x t lines of the tiles' pixels, a vector longer than a unit.
    """
    m, t, unit, lanes = sizes.outputs, sizes.outputs + 2, sizes.unit, sizes.lanes
    line = _unit_row(sizes.channels, unit, lanes)
    row = unit + lanes
    plane = sizes.height * sizes.width
    for c in range(c_first, c_end):
        for number in range(len(runs)):
            image, down, across = runs[number, 0], runs[number, 1], runs[number, 2]
            column = across * m - sizes.left
            begin = max(0, min(-column, m * lanes))
            end = max(0, min(sizes.width - column, m * lanes))
            first = ((image * sizes.groups + group) * sizes.channels + c) * plane + column
            for i in range(t):
                h = down * m + i - sizes.top
                to_row = i * t * row + runs[number, 3]
                if 0 <= h < sizes.height:
                    of = first + h * sizes.width
                    vector_code.load_phases(m, images, of, begin, end, pixels, to_row, row)
                else:
                    vector_code.load_phases(m, images, first, 0, 0, pixels, to_row, row)
        for lane in range(0, tiles, lanes):
            vector_code.transform_images(
                m, pixels, lane, t * row, row, v, to + c * unit + lane, t * line, line
            )


@jit.kernel
def _multiply(call, u, u_first, v, v_first, sizes, group, pack, runs, tiles, out, bias, work):  # type: ignore[no-untyped-def]
    """Set the outputs of a pack of filters and a unit of tiles, both transformed.

    `work` is scratch memory: the products, their outputs, and lines of pixels.
    """
    m, t, unit, lanes = sizes.outputs, sizes.outputs + 2, sizes.unit, sizes.lanes
    u_line, v_line = _pack_row(sizes.channels, lanes), _unit_row(sizes.channels, unit, lanes)
    vectors = (tiles + lanes - 1) // lanes
    product = _FILTERS * unit
    u_offsets, v_offsets, products, zeros = work
    outputs = t * t * product
    pixels = outputs + m * m * unit
    plane = sizes.out_height * sizes.out_width
    last = min(lanes, sizes.filters - pack * lanes)
    for begin in range(0, last, _FILTERS):
        filters = min(_FILTERS, last - begin)
        for number in range(t * t):
            for c in range(0, sizes.channels, sizes.block):
                microkernel.multiply_tile(
                    call.tile, rows=filters, vectors=vectors,
                    count=min(sizes.block, sizes.channels - c), add=c > 0,
                    a=u, a_first=u_first + number * u_line + c * lanes + begin, a_row=1,
                    a_offsets=u_offsets, a_from=0,
                    b=v, b_first=v_first + number * v_line + c * unit, b_offsets=v_offsets,
                    b_from=0,
                    c=products, c_first=number * product, c_row=unit, start=zeros, start_first=0,
                )  # fmt: skip
        for k in range(filters):
            filter_ = group * sizes.filters + pack * lanes + begin + k
            for lane in range(0, tiles, lanes):
                vector_code.transform_back(
                    m, products, k * unit + lane, t * product, product,
                    products, outputs + lane, m * unit, unit,
                )  # fmt: skip
                for i in range(m):
                    vector_code.store_pixels(
                        m, products, outputs + i * m * unit + lane, unit, bias[filter_],
                        products, pixels + (i * unit + lane) * m,
                    )  # fmt: skip
            for number in range(len(runs)):
                image, down, across = runs[number, 0], runs[number, 1], runs[number, 2]
                column = across * m
                count = min(runs[number, 4] * m, sizes.out_width - column)
                first = (image * sizes.groups * sizes.filters + filter_) * plane + column
                for i in range(min(m, sizes.out_height - down * m)):
                    to = first + (down * m + i) * sizes.out_width
                    of = pixels + (i * unit + runs[number, 3]) * m
                    for at in range(0, count, lanes):
                        vector_code.copy_masked(out, to + at, products, of + at, count - at)


@jit.kernel
def _work(sizes, like):  # type: ignore[no-untyped-def]
    """Return scratch memory for `_multiply`."""
    m, t, unit = sizes.outputs, sizes.outputs + 2, sizes.unit
    products = simd.scratch((t * t * _FILTERS + 2 * m * m) * unit, like)
    channels, zeros = np.arange(sizes.channels), np.zeros(microkernel.MOST_ROWS, like.dtype)
    return channels * sizes.lanes, channels * unit, products, zeros


@parallel.ParallelKernel
def _transform_packs(number, words, like):  # type: ignore[no-untyped-def]
    """Transform the weights of a pack of a group."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    t = sizes.outputs + 2
    line = _pack_row(sizes.channels, sizes.lanes)
    w = records.array_at(call.w, like, (sizes.groups * sizes.w_group,))
    shape = (sizes.groups * call.packs * t * t * line,)
    u = records.array_at(call.transformed, like, shape)
    _transform_pack(u, number * t * t * line, w, sizes, number // call.packs, number % call.packs)


@parallel.ParallelKernel
def _multiply_units(number, words, like):  # type: ignore[no-untyped-def]
    """Set the outputs of a unit of tiles of a group, of transformed weights."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    t = sizes.outputs + 2
    group, unit = number // call.units, number % call.units
    pixels, filters = sizes.height * sizes.width, sizes.groups * sizes.filters
    images = records.array_at(
        call.images, like, (sizes.batch * sizes.groups * sizes.channels * pixels,)
    )
    out = records.array_at(
        call.out, like, (sizes.batch * filters * sizes.out_height * sizes.out_width,)
    )
    bias = records.array_at(call.bias, like, (filters,))
    pack_size = t * t * _pack_row(sizes.channels, sizes.lanes)
    u = records.array_at(call.transformed, like, (sizes.groups * call.packs * pack_size,))
    v = simd.scratch(t * t * _unit_row(sizes.channels, sizes.unit, sizes.lanes), images)
    columns = simd.scratch(t * t * (sizes.unit + sizes.lanes), images)
    found = np.empty((sizes.unit, 5), np.int64)
    count, tiles = _list_unit(call, sizes, unit, found)
    runs = found[:count]
    _transform_unit(v, 0, images, sizes, group, 0, sizes.channels, runs, tiles, columns)
    work = _work(sizes, images)
    for pack in range(call.packs):
        u_first = (group * call.packs + pack) * pack_size
        _multiply(call, u, u_first, v, 0, sizes, group, pack, runs, tiles, out, bias, work)


@parallel.ParallelKernel
def _transform_units(number, words, like):  # type: ignore[no-untyped-def]
    """Transform a unit of tiles of a group, a part of its channels."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    t = sizes.outputs + 2
    pixels = sizes.height * sizes.width
    images = records.array_at(
        call.images, like, (sizes.batch * sizes.groups * sizes.channels * pixels,)
    )
    unit_size = t * t * _unit_row(sizes.channels, sizes.unit, sizes.lanes)
    v = records.array_at(call.transformed, like, (sizes.groups * call.units * unit_size,))
    columns = simd.scratch(t * t * (sizes.unit + sizes.lanes), images)
    found = np.empty((sizes.unit, 5), np.int64)
    unit, part = number // call.parts, number % call.parts
    count, tiles = _list_unit(call, sizes, unit % call.units, found)
    first, end = part * sizes.channels // call.parts, (part + 1) * sizes.channels // call.parts
    group, runs = unit // call.units, found[:count]
    _transform_unit(v, unit * unit_size, images, sizes, group, first, end, runs, tiles, columns)


@parallel.ParallelKernel
def _multiply_packs(number, words, like):  # type: ignore[no-untyped-def]
    """Set the outputs of a pack of a group, of transformed images."""
    call = records.read(_Call, words)
    sizes = records.read(Sizes, call.sizes)
    t = sizes.outputs + 2
    group, pack = number // call.packs, number % call.packs
    filters = sizes.groups * sizes.filters
    w = records.array_at(call.w, like, (sizes.groups * sizes.w_group,))
    out = records.array_at(
        call.out, like, (sizes.batch * filters * sizes.out_height * sizes.out_width,)
    )
    bias = records.array_at(call.bias, like, (filters,))
    unit_size = t * t * _unit_row(sizes.channels, sizes.unit, sizes.lanes)
    v = records.array_at(call.transformed, like, (sizes.groups * call.units * unit_size,))
    u = simd.scratch(t * t * _pack_row(sizes.channels, sizes.lanes), w)
    _transform_pack(u, 0, w, sizes, group, pack)
    work = _work(sizes, w)
    found = np.empty((sizes.unit, 5), np.int64)
    for unit in range(call.units):
        count, tiles = _list_unit(call, sizes, unit, found)
        v_first = (group * call.units + unit) * unit_size
        runs = found[:count]
        _multiply(call, u, 0, v, v_first, sizes, group, pack, runs, tiles, out, bias, work)
