"""Correlations with a lane a filter: source pixels are read one by one, where they stand.

A tile is some pixels of a line, of a column, or of several images, times some vectors of filters.
Its pixels see the same windows, a constant distance apart, so that the source is neither gathered
nor padded: what lies beyond the edges, at the sides too, is left out of the tables by which a tile
reads. Weights are turned once, and sums turned back at the end [1]_.

How images are cut into tiles is worked out once for a problem, and is the same for all filters.

References
----------
.. [1] E. Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD
   Architectures", SC 2018, on pixels times vectors of filters as the register tile.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import jit, microkernel, simd
from cnnkernels.correlation.plan import Correlation, even

_TAPS = 576 if microkernel.SUMS == 24 else 192
"""Taps of a block, about: a panel of their weights is a part of the second cache."""

_SUMS = 128 * 1024
"""Sums of a unit of work, about: they stay there, too."""

_MOST_VECTORS = 4
"""Vectors of filters in a tile, at the most."""

_LATENCY = 8
"""Sums in flight that hide how long a product takes: fewer take as long."""

_LOADS = 1 / 4, 1 / 2
"""What loading a pixel, or a vector of weights, takes of a product's time, next to it."""

_FILLED = 0.85
"""Lanes with a filter, of all, at the least."""

_FAR = 1.25
"""How many times fewer tiles are of the same pixel of some images, at the least, where they are: it
lies far apart, and often where one evicts the other from the cache."""

_UNEVEN = 1.1
"""Time of the busiest thread, at the most, of what it would be if all had the same to do."""


_Pixel = tuple[int, int, int]
"""An image, a row, and a column."""


class _Tile(NamedTuple):
    """Pixels that are multiplied together: the first, how many, and the step to the next."""

    pixel: _Pixel
    pixels: int
    step: _Pixel


class _Rectangle(NamedTuple):
    """Pixels that see the same windows: the first row and the end, columns, and their class."""

    top: int
    bottom: int
    left: int
    right: int
    kind: int

    def tiles(self, images: int, most: int) -> list[_Tile]:
        """Return tiles of no more pixels than `most`, along that side of which they are fewest."""
        sides = [range(images), range(self.top, self.bottom), range(self.left, self.right)]

        def needed(along: int) -> float:
            others = math.prod(len(side) for axis, side in enumerate(sides) if axis != along)
            return others * -(-len(sides[along]) // most) * (1 if along else _FAR)

        along = min((2, 1, 0), key=needed)
        parts = _cut(sides[along], most)
        sides[along] = sides[along][:1]
        step = int(along == 0), int(along == 1), int(along == 2)
        return [
            _Tile((image + first * step[0], p + first * step[1], q + first * step[2]), count, step)
            for image, p, q in itertools.product(*sides)
            for first, count in parts
        ]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a correlation is cut.

    Attributes
    ----------
    panels, units : int
        Of filters, in all groups, and parts that the work is cut in.
    packed, work : int
        Elements of weights that all units share, and of scratch memory that each takes.
    sizes : np.ndarray
        int64; see `_SIZES`.
    tiles : np.ndarray, (n, 8), int64
        Of some images: where a tile's first pixel looks from, how far from it the next one does,
        pixels, the first one's place in the unit, how far from it the next is, their class, the
        first one's image, and pixels of one image, at the most.
    chunks : np.ndarray, (n + 1, 2), int64
        The first line of each chunk of an image, and its first tile.
    classes : np.ndarray, (n, 2), int64
        Where each class of pixels begins in the offsets, and how many windows it sees.
    offsets : np.ndarray, (2, n), int64
        Of source pixels and of weights: for each class, a block's channels, for each its windows.
    weights : np.ndarray, (windows,), int64
        Where a channel's weights stand.
    """

    panels: int
    units: int
    packed: int
    work: int
    sizes: np.ndarray
    tiles: np.ndarray
    chunks: np.ndarray
    classes: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray

    @functools.cached_property
    def tables(self) -> tuple[int, ...]:
        tables = self.sizes, self.tiles, self.chunks, self.classes, self.offsets, self.weights
        return tuple(table.ctypes.data for table in tables)


_SIZES = 28


@functools.lru_cache(2048)
def _plan(correlation: Correlation, threads: int) -> _Plan:
    (channels, height, wide), (p_size, q_size) = correlation.source, correlation.grid
    (down, across, weight), (step_h, step_w) = correlation.windows, correlation.step
    windows, lanes = weight.size, correlation.lanes
    kinds, rectangles = _rectangles(correlation)
    vectors = _best_vectors(correlation, rectangles, threads)
    most, step = _most_pixels(vectors), vectors * lanes
    panels = -(-correlation.filters // step)
    images, chunks, parts = _units(correlation, vectors, threads)
    in_block = even(channels, max(1, _TAPS // windows))
    bounds = _bounds(p_size, chunks)
    # From an image, a row and a column to the next, in the source and in the unit.
    in_source = correlation.groups * channels * height * wide, step_h * wide, step_w
    in_unit = p_size * q_size, q_size, 1
    tiles: list[tuple[int, ...]] = []
    firsts = []
    for p0, p1 in itertools.pairwise(bounds):
        firsts.append((p0, len(tiles)))
        clipped = (
            here._replace(top=max(here.top, p0), bottom=min(here.bottom, p1)) for here in rectangles
        )
        of_images = [
            (tile.pixel, tile, here.kind)
            for here in clipped
            if here.top < here.bottom
            for tile in here.tiles(images, most)
        ]
        for (image, p, q), tile, kind in sorted(of_images):  # an image stays in the cache
            tiles.append(
                (
                    _dot(tile.pixel, in_source), _dot(tile.step, in_source), tile.pixels,
                    _dot((image, p - p0, q), in_unit), _dot(tile.step, in_unit), kind,
                    image, 1 if tile.step[0] else tile.pixels,
                )
            )  # fmt: skip
    firsts.append((p_size, len(tiles)))
    channel = np.arange(in_block)[:, None]
    looks = [channel * height * wide + down[seen] * wide + across[seen] for seen in kinds]
    weights = [(channel * windows + seen) * step for seen in kinds]
    begins = np.cumsum([0, *(offsets.size for offsets in looks)])
    # Weights are turned in squares, where all of a channel are wanted, and lie side by side.
    together = windows > 1 or correlation.weights[2] == 1
    square = together and np.array_equal(weight, np.arange(min(correlation.weights[1:])))
    sizes = (
        correlation.batch, correlation.groups, correlation.filters, channels, height, wide, q_size,
        *correlation.out, *correlation.spread, *correlation.corner, windows, square, in_block,
        *correlation.weights, images, chunks, parts, vectors, panels, lanes, len(tiles), len(kinds),
        begins[-1],
    )  # fmt: skip
    sums = images * -(-panels // parts) * -(-p_size // chunks) * q_size * step
    # Turning writes up to a vector of lines beyond the last.
    block = (in_block * windows + lanes) * step if parts > 1 else 0
    return _Plan(
        panels=correlation.groups * panels,
        units=-(-correlation.batch // images) * correlation.groups * chunks * parts,
        packed=0 if parts > 1 else correlation.groups * panels * (correlation.taps + lanes) * step,
        work=sums + block,
        sizes=np.array(sizes, np.int64),
        tiles=np.array(tiles, np.int64).reshape(-1, 8),
        chunks=np.array(firsts, np.int64),
        classes=np.array([(b, k.size) for b, k in zip(begins, kinds, strict=False)], np.int64),
        offsets=np.array(
            [[*itertools.chain(*map(np.ravel, of))] for of in (looks, weights)], np.int64
        ),
        weights=weight,
    )


def _dot(a: _Pixel, b: _Pixel) -> int:
    return sum(map(operator.mul, a, b))


def _most_pixels(vectors: int) -> int:
    return min(microkernel.MOST_ROWS, microkernel.SUMS // vectors)


def _rectangles(correlation: Correlation) -> tuple[list[np.ndarray], list[_Rectangle]]:
    """Return which windows each class of pixels sees, and the rectangles that an image has."""
    (_, *sizes), (down, across, _) = correlation.source, correlation.windows
    rows, columns = (
        _runs(np.arange(count) * step + places[:, None], size)
        for count, step, places, size in zip(
            correlation.grid, correlation.step, (down, across), sizes, strict=True
        )
    )
    kinds: list[np.ndarray] = []
    rectangles = []
    for top, bottom, in_rows in rows:
        for left, right, in_columns in columns:
            seen = np.flatnonzero(in_rows & in_columns)
            if seen.size:
                rectangles.append(_Rectangle(top, bottom, left, right, len(kinds)))
                kinds.append(seen)
    return kinds, rectangles


def _runs(looks: np.ndarray, size: int) -> list[tuple[int, int, np.ndarray]]:
    """Return runs of pixels that see the same windows: the first, the end, and which.

    For windows and pixels `looks` has where they look along an axis of the source.
    """
    seen = (looks >= 0) & (looks < size)
    changes = np.flatnonzero((seen[:, 1:] != seen[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), seen.shape[1]]
    return [(first, end, seen[:, first]) for first, end in itertools.pairwise(bounds)]


def _cut(side: range, most: int) -> list[tuple[int, int]]:
    """Cut a side into parts of no more than `most`, nearly alike: the first, and how many."""
    bounds = _bounds(len(side), -(-len(side) // most))
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


def _bounds(total: int, parts: int) -> list[int]:
    """Return where parts of a total begin, and the end of the last."""
    return [number * total // parts for number in range(parts + 1)]


def _best_vectors(correlation: Correlation, rectangles: list[_Rectangle], threads: int) -> int:
    """Return how many vectors of filters a tile has, for the least to do."""
    wanted = -(-correlation.filters // correlation.lanes)

    def cost(vectors: int) -> float:
        images, _, _ = _units(correlation, vectors, threads)
        of_tiles = sum(
            max(tile.pixels * vectors, _LATENCY) + tile.pixels * _LOADS[0] + vectors * _LOADS[1]
            for rectangle in rectangles
            for tile in rectangle.tiles(images, _most_pixels(vectors))
        )
        return of_tiles / images * -(-wanted // vectors)

    return min(range(1, min(_MOST_VECTORS, wanted) + 1), key=cost)


def _units(correlation: Correlation, vectors: int, threads: int) -> tuple[int, int, int]:
    """Return images of a unit, chunks of an image's lines, and parts of its filters."""
    batch, (p_size, q_size) = correlation.batch, correlation.grid
    step = vectors * correlation.lanes
    panels = -(-correlation.filters // step)

    def unevenness(images: int, chunks: int, parts: int) -> float:
        units = -(-batch // images) * correlation.groups * chunks * parts
        return max(_UNEVEN, -(-units // threads) * threads / units)

    # Where weights are more than pixels, each of them is read once, for all images.
    alone = batch, 1, panels
    if (
        _heavy(correlation)
        and batch * p_size * q_size * step <= _SUMS
        and unevenness(*alone) == _UNEVEN
    ):
        return alone
    image = panels * step * q_size * p_size
    # Weights that are no part of the second cache pass as seldom as can be.
    most = _SUMS if correlation.taps * correlation.filters > _SUMS else _SUMS // 4
    together = max(1, min(batch, most // image))
    fewest = min(p_size, -(-image // most))
    choices = [(even(batch, images), 1, 1) for images in range(together, 1, -1)]
    choices += [(1, chunks, 1) for chunks in range(fewest, p_size + 1)]
    return min(choices, key=lambda choice: unevenness(*choice))


def _heavy(correlation: Correlation) -> bool:
    """Return whether weights are more than pixels of the source."""
    pixels = correlation.batch * math.prod(correlation.source)
    return correlation.taps * correlation.filters > pixels


def suits(correlation: Correlation) -> bool:
    """Return whether filters fill the lanes, and gathering would be for few of them or pixels."""
    lanes, filters = correlation.lanes, correlation.filters
    windows = correlation.windows.shape[1]
    # Of one window, turning the weights takes less than gathering where a filter's are in a row.
    worth = windows > 1 or (_heavy(correlation) and correlation.weights[2] == 1)
    return worth and filters >= _FILLED * -(-filters // lanes) * lanes


def run(
    correlation: Correlation, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray
) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    plan = _plan(correlation, numba.get_num_threads())
    dtype = correlation.dtype
    packed = np.empty(plan.packed, dtype) if plan.packed else w
    if plan.packed:
        _pack(plan.panels, dtype, w, w.size, packed, packed.size, plan.tables[0], plan.tables[-1])
    _correlate(
        plan.units, dtype, microkernel.tile_address(dtype), source, source.size, w, w.size, packed,
        packed.size, start, out, out.size, plan.work, *plan.tables,
    )  # fmt: skip


@jit.Shares
def _pack(number, arguments, like):  # type: ignore[no-untyped-def]
    """Turn the weights of one panel."""
    (
        _, _, filters, channels, _, _, _, _, _, _, _, _, _, windows, square, _,
        w_group, w_row, w_channel, _, _, _, vectors, panels, lanes, _, _, _,
    ) = to_fixed_tuple(jit.array_at(arguments[4], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    weights = jit.array_at(arguments[5], arguments, (windows,))
    w = jit.array_at(arguments[0], like, (arguments[1],))
    packed = jit.array_at(arguments[2], like, (arguments[3],))
    group, m0, step = number // panels, number % panels * vectors * lanes, vectors * lanes
    _turn_weights(
        packed, number * (channels * windows + lanes) * step, step, w,
        group * w_group + m0 * w_row, w_row, w_channel, min(step, filters - m0), channels, weights,
        square, lanes,
    )  # fmt: skip


@jit.kernel()
def _turn_weights(  # type: ignore[no-untyped-def]
    packed, to, step, w, first, w_row, w_channel, rows, channels, weights, square, lanes,
):  # fmt: skip
    """Turn a panel's weights of some channels, so that a tap's filters lie side by side."""
    windows = weights.size
    if square:
        together = channels if w_channel == windows else 1  # whose taps lie side by side
        for c in range(0, channels, together):
            simd.turn(
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


@jit.Shares
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of some filters, in some lines of some images of a group."""
    micro = arguments[0]
    (
        batch, groups, filters, channels, height, wide, q_size, out_height, out_width,
        spread_h, spread_w, corner_h, corner_w, windows, square, in_block,
        w_group, w_row, w_channel, images, chunks, parts, vectors, panels, lanes,
        n_tiles, n_classes, n_offsets,
    ) = to_fixed_tuple(jit.array_at(arguments[11], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    source = jit.array_at(arguments[1], like, (arguments[2],))
    w = jit.array_at(arguments[3], like, (arguments[4],))
    packed = jit.array_at(arguments[5], like, (arguments[6],))
    start = jit.array_at(arguments[7], like, (groups * filters + microkernel.MOST_ROWS,))
    out = jit.array_at(arguments[8], like, (arguments[9],))
    sums = simd.scratch(arguments[10], out)
    tiles = jit.array_at(arguments[12], arguments, (n_tiles, 8))
    firsts = jit.array_at(arguments[13], arguments, (chunks + 1, 2))
    classes = jit.array_at(arguments[14], arguments, (n_classes, 2))
    offsets = jit.array_at(arguments[15], arguments, (2 * n_offsets,))
    weights = jit.array_at(arguments[16], arguments, (windows,))
    plane, out_row, step = height * wide, out_height * out_width, vectors * lanes

    units = (batch + images - 1) // images * groups * chunks
    part, unit = number // units, number % units
    chunk, group, image0 = unit % chunks, unit // chunks % groups, unit // (chunks * groups)
    image0 *= images
    images = min(images, batch - image0)
    panel0, panel1 = part * panels // parts, (part + 1) * panels // parts
    p0, tile0 = firsts[chunk]
    p1, tile1 = firsts[chunk + 1]
    places = (p1 - p0) * q_size
    for panel in range(panel0, panel1):
        to = (panel - panel0) * images * places * step
        for lane in range(step):
            m = panel * step + lane
            sums[to + lane] = start[group * filters + m] if m < filters else 0
        for other in range(to + step, to + images * places * step, lanes):
            simd.copy_vector(sums, other, sums, other - step)
    for c0 in range(0, channels, in_block):
        c1 = min(channels, c0 + in_block)
        for panel in range(panel0, panel1):
            tap = ((group * panels + panel) * (channels * windows + lanes) + c0 * windows) * step
            wanted = (filters - panel * step + lanes - 1) // lanes
            if parts > 1:
                packed, tap = sums, images * places * step
                _turn_weights(
                    packed, tap, step, w,
                    group * w_group + panel * step * w_row + c0 * w_channel, w_row, w_channel,
                    min(step, filters - panel * step), c1 - c0, weights, square, lanes,
                )  # fmt: skip
            of = ((image0 * groups + group) * channels + c0) * plane
            to = (panel - panel0) * images * places
            for t in range(tile0, tile1):
                look, next_look, count, place, next_place, kind, image, of_image = tiles[t]
                count = min(count, (images - image) * of_image)
                if count > 0:  # of the last images there may be fewer
                    first, seen = classes[kind]
                    microkernel.multiply_tile(
                        micro, count, min(vectors, wanted),
                        source, of + look, next_look, offsets, first,
                        packed, tap, offsets, n_offsets + first, (c1 - c0) * seen,
                        sums, (to + place) * step, next_place * step,
                        start, groups * filters, 1,
                    )  # fmt: skip
    for panel in range(panel0, panel1):
        rows = min(step, filters - panel * step)
        for image in range(images):
            of = ((panel - panel0) * images + image) * places * step
            to = ((image0 + image) * groups + group) * filters + panel * step
            to = to * out_row + (corner_h + p0 * spread_h) * out_width + corner_w
            if spread_h == spread_w == 1:
                simd.turn_back(out, to, out_row, sums, of, step, rows, places, lanes)
            else:
                for p in range(p1 - p0):
                    for q in range(q_size):
                        at = to + p * spread_h * out_width + q * spread_w
                        for m in range(rows):
                            out[at + m * out_row] = sums[of + m]
                        of += step
