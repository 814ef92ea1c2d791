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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import arrays, jit, memory, microkernel, parallel, records, simd
from cnnkernels.correlation.plan import Correlation, even

_TAPS = 1152 if microkernel.SUMS == 24 else 192
"""Taps of a block, about: a panel of their weights is a part of the second cache."""

_BLOCK = 160 * 1024
"""Elements of pixels and weights that a block reads, about: that cache has room for them."""

_SUMS = 128 * 1024
"""Sums of a unit of work, about: they stay there, too."""

_MOST_VECTORS = 4
"""Vectors of filters in a tile, at the most."""

_LATENCY = 8
"""Sums in flight that hide how long a product takes: fewer take as long."""

_LOADS = 1 / 4, 1 / 2
"""What loading a pixel, or a vector of weights, takes of a product's time, next to it."""

_CALL = 150
"""Products that take as long as a tile of no taps: its sums are read and written."""

_FILLED = 0.85
"""Lanes with a filter, of all, at the least."""

_FAR = 1.1, 2, 1
"""What a tile of a pixel of some images, or of a column, takes, of one of a line: its pixels lie in
a line of the cache each, often where one evicts the other."""

_UNEVEN = 1.1
"""Time of the busiest thread, at the most, of what it would be if all had the same to do."""


_Pixel = tuple[int, int, int]
"""An image, a row, and a column."""

_Pixels = tuple[range, range, range]
"""Images, rows, and columns."""


class _Tiles(NamedTuple):
    """Tiles that differ in their first pixel alone: how many pixels, the step, windows they see."""

    firsts: _Pixels
    pixels: int
    step: _Pixel
    windows: np.ndarray


@dataclass(frozen=True, eq=False)
class Cut:
    """How a correlation is cut.

    Attributes
    ----------
    plan : Correlation
    panels, units : int
        Of filters, in all groups, and parts that the work is cut in.
    packed, work : int
        Elements of weights that all units share, and of scratch memory that each takes.
    sizes : np.ndarray
        int64; see `_SIZES`.
    weights : np.ndarray, (windows,), int64
        Where a channel's weights stand.
    key : _Key
        What the tables depend on.
    """

    plan: Correlation
    panels: int
    units: int
    packed: int
    work: int
    sizes: np.ndarray
    weights: np.ndarray
    key: _Key

    @functools.cached_property
    def addresses(self) -> tuple[int, int]:
        """Where kernels find sizes and weights."""
        return self.sizes.ctypes.data, self.weights.ctypes.data


_SIZES = 26


class _Key(NamedTuple):
    """A correlation of one image, and how its tiles are cut: see `_best_tiles` and `_units`."""

    plan: Correlation
    vectors: int
    lines: bool
    in_block: int
    images: int
    chunks: int


def cut(plan: Correlation, threads: int) -> Cut:
    """Return how a correlation is cut for some threads."""
    (channels, height, wide), (p_size, q_size) = plan.source, plan.grid
    weight, lanes = plan.windows[2], plan.lanes
    vectors, lines = _best_tiles(plan)
    step = vectors * lanes
    panels = -(-plan.filters // step)
    images, chunks, parts = _units(plan, vectors, threads)
    in_block = _in_block(plan, vectors)
    # Weights are turned in squares, where all of a channel are wanted, and lie side by side.
    together = weight.size > 1 or plan.weights[2] == 1
    square = together and np.array_equal(weight, np.arange(min(plan.weights[1:])))
    sizes = (
        plan.batch, plan.groups, plan.filters, channels, height, wide, q_size, plan.step[0],
        *plan.out, *plan.spread, *plan.corner, weight.size, square, in_block, *plan.weights, images,
        chunks, parts, vectors, panels, lanes,
    )  # fmt: skip
    sums = images * -(-panels // parts) * -(-p_size // chunks) * q_size * step
    # Turning writes up to a vector of lines beyond the last.
    block = (in_block * weight.size + lanes) * step if parts > 1 else 0
    return Cut(
        plan=plan,
        panels=plan.groups * panels,
        units=-(-plan.batch // images) * plan.groups * chunks * parts,
        packed=0 if parts > 1 else plan.groups * panels * (plan.taps + lanes) * step,
        work=sums + block,
        sizes=np.array(sizes, np.int64),
        weights=weight,
        key=_Key(plan.of_one, vectors, lines, in_block, images, chunks),
    )


@dataclass(frozen=True, eq=False)
class _Tables:
    """What tiles there are, and what they see.

    Attributes
    ----------
    tiles : np.ndarray, (n, 8), int64
        Of some images: where a tile's first pixel looks from, how far from it the next one does,
        pixels, the first one's place in the unit, how far from it the next is, their class, the
        first one's image, and pixels of one image, at the most. Places are those in a chunk.
    chunks : np.ndarray, (chunks, 6), int64
        Of each chunk of an image the first line, the one after its last, the same of its tiles,
        and of the source's lines it reads. Chunks that are alike have the same tiles.
    classes : np.ndarray, (n, 2), int64
        Where each class of pixels begins in the offsets, and how many windows it sees.
    looks, weights : np.ndarray, (n,), int64
        Offsets of source pixels and of weights: for each class, a block's channels, for each its
        windows.
    """

    tiles: np.ndarray
    chunks: np.ndarray
    classes: np.ndarray
    looks: np.ndarray
    weights: np.ndarray

    @functools.cached_property
    def addresses(self) -> tuple[int, ...]:
        tables = self.tiles, self.chunks, self.classes, self.looks, self.weights
        sizes = len(self.tiles), len(self.classes), self.looks.size
        return *(table.ctypes.data for table in tables), *sizes


@memory.PLANS.kept
def _tables(key: _Key) -> _Tables:
    plan, vectors, lines, in_block, images, chunks = key
    (channels, height, wide), (p_size, q_size) = plan.source, plan.grid
    (down, across, _), (step_h, step_w), windows = plan.windows, plan.step, plan.windows.shape[1]
    # From an image, a row and a column to the next, in the source and in the unit.
    in_source = plan.groups * channels * height * wide, step_h * wide, step_w
    in_unit = p_size * q_size, q_size, 1
    in_rows = _inside(np.add.outer(np.unique(down), np.arange(p_size) * step_h), height)
    tiles: list[tuple[int, ...]] = []
    of_chunks = []
    kinds: dict[tuple[int, ...], int] = {}
    known: dict[tuple[int, bytes], tuple[int, int]] = {}
    for p0, p1 in itertools.pairwise(_bounds(p_size, chunks)):
        alike = p1 - p0, in_rows[:, p0:p1].tobytes()
        if alike not in known:
            of_chunk = [
                (pixel, here.pixels, here.step, kinds.setdefault((*here.windows,), len(kinds)))
                for here in _tiles(plan, range(images), range(p0, p1), vectors, lines)
                for pixel in itertools.product(*here.firsts)
            ]
            first = len(tiles)
            for (image, p, q), pixels, to_next, kind in sorted(of_chunk):  # images stay in a cache
                pixel = image, p - p0, q
                tiles.append(
                    (
                        _dot(pixel, in_source), _dot(to_next, in_source), pixels,
                        _dot(pixel, in_unit), _dot(to_next, in_unit), kind,
                        image, 1 if to_next[0] else pixels,
                    )
                )  # fmt: skip
            known[alike] = first, len(tiles)
        seen = p0 * step_h + int(down.min()), (p1 - 1) * step_h + int(down.max()) + 1
        of_chunks.append((p0, p1, *known[alike], *(min(max(line, 0), height) for line in seen)))
    channel, seen_by = np.arange(in_block)[:, None], [np.array(seen) for seen in kinds]
    none = np.zeros(0, np.int64)
    looks = [channel * height * wide + down[seen] * wide + across[seen] for seen in seen_by]
    weights = [(channel * windows + seen) * vectors * plan.lanes for seen in seen_by]
    begins = np.cumsum([0, *(offsets.size for offsets in looks)])
    return _Tables(
        tiles=np.array(tiles, np.int64).reshape(-1, 8),
        chunks=np.array(of_chunks, np.int64),
        classes=np.array([(b, len(k)) for b, k in zip(begins, kinds, strict=False)], np.int64),
        looks=np.concatenate([none, *map(np.ravel, looks)]),
        weights=np.concatenate([none, *map(np.ravel, weights)]),
    )


def _dot(a: _Pixel, b: _Pixel) -> int:
    return sum(map(operator.mul, a, b))


def _in_block(correlation: Correlation, vectors: int) -> int:
    """Return how many channels a block of taps has: what it reads stays in the second cache.

    Blocks order a sum, and are the same at any number of threads.
    """
    channels, _, wide = correlation.source
    (down, _, _), windows = correlation.windows, correlation.windows.shape[1]
    images, chunks, _ = _units(correlation, vectors, 1)
    lines = (-(-correlation.grid[0] // chunks) - 1) * correlation.step[0] + int(np.ptp(down)) + 1
    read = images * min(lines, correlation.source[1]) * wide + windows * vectors * correlation.lanes
    least, most = max(1, _TAPS // 4 // windows), _most_channels(correlation)
    return even(channels, min(most, max(least, _BLOCK // read)))


def _most_channels(correlation: Correlation) -> int:
    windows = int(correlation.windows.shape[1])
    return min(correlation.source[0], max(1, _TAPS // windows))


def _tiles(
    correlation: Correlation, images: range, chunk: range, vectors: int, lines: bool
) -> Iterator[_Tiles]:
    """Yield the tiles of some images and a chunk of their rows.

    Of pixels in a line the outer ones do not see all windows. Where `lines` are cut, a part of one
    is as many tiles as there are ways in which its pixels see windows: most of them all, some but
    the first or last pixels. Else rectangles of pixels that see the same are, each along that side
    of which its tiles are fewest.
    """
    most = min(microkernel.MOST_ROWS, microkernel.SUMS // vectors)
    (_, height, wide), (down, across, _) = correlation.source, correlation.windows
    in_rows = _inside(np.array(chunk) * correlation.step[0] + down[:, None], height)
    in_line = _inside(np.arange(correlation.grid[1]) * correlation.step[1] + across[:, None], wide)
    columns = _parts(in_line, most) if lines else _runs(in_line)

    def needed(box: _Pixels, axis: int) -> float:
        others = math.prod(len(side) for other, side in enumerate(box) if other != axis)
        return others * -(-len(box[axis]) // most) * _FAR[axis]

    for (top, rows, here), (left, width, there) in itertools.product(_runs(in_rows), columns):
        windows = np.flatnonzero(here & there)
        if windows.size:
            box = images, chunk[top : top + rows], range(left, left + width)
            axis = 2 if lines else min((2, 1, 0), key=functools.partial(needed, box))
            step = int(axis == 0), int(axis == 1), int(axis == 2)
            for first, pixels in _cut(box[axis], most):
                firsts = [
                    range(first, first + 1) if s else side
                    for s, side in zip(step, box, strict=True)
                ]
                yield _Tiles((firsts[0], firsts[1], firsts[2]), pixels, step, windows)


def _inside(looks: np.ndarray, size: int) -> np.ndarray:
    return np.asarray((looks >= 0) & (looks < size))


def _runs(seen: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Return runs of pixels that see the same windows: the first, how many, and which.

    `seen` says of windows and pixels along an axis which sees which.
    """
    changes = np.flatnonzero((seen[:, 1:] != seen[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), seen.shape[1]]
    return [(first, end - first, seen[:, first]) for first, end in itertools.pairwise(bounds)]


def _parts(seen: np.ndarray, most: int) -> list[tuple[int, int, np.ndarray]]:
    """Return parts of no more pixels than `most`, as `_runs` does, once for all that see alike.

    Those overlap: a window is in one of them, with all pixels of the part that see it.
    """
    parts = []
    for first, pixels in _cut(range(seen.shape[1]), most):
        here = seen[:, first : first + pixels]
        begins, counts = here.argmax(axis=1), here.sum(axis=1)
        for begin, count in sorted({*zip(begins.tolist(), counts.tolist(), strict=True)}):
            if count:
                parts.append((first + begin, count, (begins == begin) & (counts == count)))
    return parts


def _cut(side: range, most: int) -> list[tuple[int, int]]:
    """Cut a side into parts of no more than `most`, nearly alike: the first, and how many."""
    bounds = _bounds(len(side), -(-len(side) // most))
    return [(side.start + a, b - a) for a, b in itertools.pairwise(bounds)]


def _bounds(total: int, parts: int) -> list[int]:
    """Return where parts of a total begin, and the end of the last."""
    return [number * total // parts for number in range(parts + 1)]


def _best_tiles(correlation: Correlation) -> tuple[int, bool]:
    """Return how many vectors of filters tiles have, and whether lines are cut: see `_tiles`.

    What has the least to do in one thread: how lines are cut orders a sum, as blocks do.
    """
    wanted = -(-correlation.filters // correlation.lanes)

    def cost(vectors: int, lines: bool) -> float:
        images, _, _ = _units(correlation, vectors, 1)
        channels, of_tiles = _in_block(correlation, vectors), 0.0
        rows = range(correlation.grid[0])
        for here in _tiles(correlation, range(images), rows, vectors, lines):
            products = max(here.pixels * vectors, _LATENCY)
            loads = here.pixels * _LOADS[0] + vectors * _LOADS[1]
            once = channels * here.windows.size * (products + loads) + _CALL
            of_tiles += math.prod(map(len, here.firsts)) * once * _FAR[here.step.index(1)]
        return of_tiles / images * -(-wanted // vectors)

    choices = itertools.product(range(1, min(_MOST_VECTORS, wanted) + 1), (True, False))
    return min(choices, key=lambda choice: cost(*choice))


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
    block = _most_channels(correlation) * math.prod(correlation.source[1:])
    together = max(1, min(batch, most // image, _BLOCK // block))
    fewest = min(p_size, max(-(-image // most), -(-block // _BLOCK)))
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


def needed(plan: Correlation) -> int:
    """Return how many bytes of tables and scratch memory are needed, about."""
    itemsize = np.dtype(plan.dtype).itemsize
    vectors = min(_MOST_VECTORS, -(-plan.filters // plan.lanes))
    filters = -(-plan.filters // (vectors * plan.lanes)) * vectors * plan.lanes
    rows, columns = plan.grid
    looking = 9 * (rows + columns) * plan.area  # at which pixels see which windows
    tables = 48 * _most_channels(plan) * plan.listed + 80 * columns
    line, packed = filters * columns, plan.groups * filters * (plan.taps + plan.lanes)
    return looking + tables + itemsize * (max(line, _SUMS) + packed)


def run(cut: Cut, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    """Set the pixels of a correlation's grid: see `panels.run`."""
    dtype, tables = cut.plan.dtype, _tables(cut.key)
    packed = np.empty(cut.packed, dtype) if cut.packed else w
    if cut.packed:
        _pack(cut.panels, dtype, (w, w.size, packed, packed.size, *cut.addresses))
    _correlate(
        cut.units,
        dtype,
        (
            microkernel.tile_address(dtype),
            source,
            source.size,
            w,
            w.size,
            packed,
            packed.size,
            start,
            out,
            out.size,
            cut.work,
            *cut.addresses,
            *tables.addresses,
        ),
    )


@parallel.ParallelKernel
def _pack(number, arguments, like):  # type: ignore[no-untyped-def]
    """Turn the weights of one panel."""
    (
        _, _, filters, channels, _, _, _, _, _, _, _, _, _, _, windows, square, _,
        w_group, w_row, w_channel, _, _, _, vectors, panels, lanes,
    ) = to_fixed_tuple(records.array_at(arguments[4], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    weights = records.array_at(arguments[5], arguments, (windows,))
    w = records.array_at(arguments[0], like, (arguments[1],))
    packed = records.array_at(arguments[2], like, (arguments[3],))
    group, m0, step = number // panels, number % panels * vectors * lanes, vectors * lanes
    _turn_weights(
        packed, number * (channels * windows + lanes) * step, step, w,
        group * w_group + m0 * w_row, w_row, w_channel, min(step, filters - m0), channels, weights,
        square, lanes,
    )  # fmt: skip


@jit.kernel
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


@jit.inlined
def _bring_nearer(source, first, length, plane, channels):  # type: ignore[no-untyped-def]
    """Ask for the lines of the cache that a run of each of some channels is in."""
    for run in range(first, first + channels * plane, plane):
        for at in range(run, run + length, arrays.LINE // source.itemsize):
            simd.prefetch(source, at)


@parallel.ParallelKernel
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set the outputs of some filters, in some lines of some images of a group."""
    micro = arguments[0]
    (
        batch, groups, filters, channels, height, wide, q_size, step_h, out_height, out_width,
        spread_h, spread_w, corner_h, corner_w, windows, square, in_block,
        w_group, w_row, w_channel, images, chunks, parts, vectors, panels, lanes,
    ) = to_fixed_tuple(records.array_at(arguments[11], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    source = records.array_at(arguments[1], like, (arguments[2],))
    w = records.array_at(arguments[3], like, (arguments[4],))
    packed = records.array_at(arguments[5], like, (arguments[6],))
    start = records.array_at(arguments[7], like, (groups * filters + microkernel.MOST_ROWS,))
    out = records.array_at(arguments[8], like, (arguments[9],))
    sums = simd.scratch(arguments[10], out)
    weights = records.array_at(arguments[12], arguments, (windows,))
    n_tiles, n_classes, n_offsets = arguments[18], arguments[19], arguments[20]
    tiles = records.array_at(arguments[13], arguments, (n_tiles, 8))
    of_chunks = records.array_at(arguments[14], arguments, (chunks, 6))
    classes = records.array_at(arguments[15], arguments, (n_classes, 2))
    of_source = records.array_at(arguments[16], arguments, (n_offsets,))
    of_weights = records.array_at(arguments[17], arguments, (n_offsets,))
    plane, out_row, step = height * wide, out_height * out_width, vectors * lanes

    units = (batch + images - 1) // images * groups * chunks
    part, unit = number // units, number % units
    chunk, group, image0 = unit % chunks, unit // chunks % groups, unit // (chunks * groups)
    image0 *= images
    images = min(images, batch - image0)
    panel0, panel1 = part * panels // parts, (part + 1) * panels // parts
    p0, p1, tile0, tile1, line0, line1 = of_chunks[chunk]
    places = (p1 - p0) * q_size
    for panel in range(panel0, panel1):
        to = (panel - panel0) * images * places * step
        for lane in range(step):
            m = panel * step + lane
            sums[to + lane] = start[group * filters + m] if m < filters else 0
        for other in range(to + step, to + images * places * step, step):
            for lane in range(0, step, lanes):
                simd.copy_vector(sums, other + lane, sums, to + lane)
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
            at, to = of + p0 * step_h * wide, (panel - panel0) * images * places
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
                        micro, count, min(vectors, wanted),
                        source, at + look, next_look, of_source, first,
                        packed, tap, of_weights, first, (c1 - c0) * seen,
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
