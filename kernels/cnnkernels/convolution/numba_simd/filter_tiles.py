"""Cutting images into tiles of pixels that see the same windows, for `filter_lanes`.

The tiles are computed once per correlation, and are the same for all filters.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cnnkernels import memory, microkernel, records
from cnnkernels.convolution.numba_simd.correlation import SECOND_CACHE, Correlation, even

_TAPS = 1152 if microkernel.SUMS == 24 else 192
"""Approximate taps of a block: a panel of their weights fills a part of L2."""

_BLOCK = 5 * SECOND_CACHE // 8
"""Approximate elements of pixels and weights that a block reads."""

SUMS = SECOND_CACHE // 2
"""Approximate number of sums in a unit of work."""

MOST_VECTORS = 4
"""Maximum vectors of filters in a tile."""

_LATENCY = 8
"""Independent sums that hide an FMA's latency; fewer sums take as long."""

_LOADS = 1 / 4, 1 / 2
"""Time of loading a pixel, and a vector of weights, relative to a product."""

_CALL = 150
"""Overhead of a tile in products: reading and writing its sums."""

_FAR = 1.1, 2, 1
"""Relative time of tiles across images, of a column and of a line.

In the first two, each pixel lies in its own cache line, and these often evict each other.
"""

_UNEVEN = 1.1
"""Maximum time of the busiest thread, relative to a perfect balance."""


_Pixel = tuple[int, int, int]
"""Image, row and column."""

_Pixels = tuple[range, range, range]
"""Images, rows, and columns."""


class _Tiles(NamedTuple):
    """Tiles that differ only in their first pixel: pixels, their step, and windows seen."""

    firsts: _Pixels
    pixels: int
    step: _Pixel
    windows: np.ndarray


class Key(NamedTuple):
    """A correlation of one image, and its tiling; see `best_tiles` and `units_of`."""

    correlation: Correlation
    vectors: int
    lines: bool
    in_block: int
    images: int
    chunks: int


class Tables(NamedTuple):
    """Tiles, with the offsets of the pixels and weights that they read."""

    tiles: np.ndarray
    """(n, 8), int64: for each tile, relative to the first image and line of its unit: the first
    pixel's source offset and its step; the number of pixels; the first pixel's index in the unit
    and its step; the class of pixels; the first pixel's image; and the maximum number of pixels of
    one image."""
    chunks: np.ndarray
    """(chunks, 6), int64: for each chunk of an image, first and end of its lines, of its tiles, and
    of the source lines it reads. Identical chunks share tiles."""
    classes: np.ndarray
    """(n, 2), int64: for each class of pixels, its start in the offsets, and its number of
    windows."""
    looks: np.ndarray
    """(n,), int64: offsets of source pixels, ordered by class, channel of a block, and window."""
    weights: np.ndarray
    """(n,), int64: offsets of weights, in the same order."""
    n_tiles: int
    """Rows of `tiles`."""
    n_classes: int
    """Rows of `classes`."""
    n_offsets: int
    """Elements of `looks` and of `weights`."""


@memory.BLOCKINGS.cached
def tables(key: Key) -> records.Record[Tables]:
    """Return the tiles of a correlation of one image."""
    correlation, vectors, lines, in_block, images, chunks = key
    (channels, height, wide), (p_size, q_size) = correlation.source, correlation.grid
    (down, across, _), (step_h, step_w) = correlation.windows, correlation.step
    windows = correlation.area
    # Steps between images, rows and columns, in the source and in the unit.
    in_source = correlation.groups * channels * height * wide, step_h * wide, step_w
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
                for here in _tiles(correlation, range(images), range(p0, p1), vectors, lines)
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
    weights = [(channel * windows + seen) * vectors * correlation.lanes for seen in seen_by]
    begins = np.cumsum([0, *(offsets.size for offsets in looks)])
    classes = [(first, len(kind)) for first, kind in zip(begins, kinds, strict=False)]
    return records.record(
        Tables(
            tiles=np.array(tiles, np.int64).reshape(-1, 8),
            chunks=np.array(of_chunks, np.int64),
            classes=np.array(classes, np.int64).reshape(-1, 2),
            looks=np.concatenate([none, *map(np.ravel, looks)]),
            weights=np.concatenate([none, *map(np.ravel, weights)]),
            n_tiles=len(tiles),
            n_classes=len(classes),
            n_offsets=int(begins[-1]),
        )
    )


def _dot(a: _Pixel, b: _Pixel) -> int:
    return sum(map(operator.mul, a, b))


def channels_of_block(correlation: Correlation, vectors: int) -> int:
    """Return the number of channels in a block of taps, whose reads stay in L2.

    Blocks determine the order of sums, so they do not depend on the number of threads.
    """
    channels, _, wide = correlation.source
    (down, _, _), windows = correlation.windows, correlation.area
    images, chunks, _ = units_of(correlation, vectors, 1)
    lines = (-(-correlation.grid[0] // chunks) - 1) * correlation.step[0] + int(np.ptp(down)) + 1
    read = images * min(lines, correlation.source[1]) * wide + windows * vectors * correlation.lanes
    least, most = max(1, _TAPS // 4 // windows), most_channels(correlation)
    return even(channels, min(most, max(least, _BLOCK // read)))


def most_channels(correlation: Correlation) -> int:
    """Return the maximum number of channels in a block of taps."""
    return min(correlation.source[0], max(1, _TAPS // correlation.area))


def _tiles(
    correlation: Correlation, images: range, chunk: range, vectors: int, lines: bool
) -> Iterator[_Tiles]:
    """Yield the tiles of some images and a chunk of their rows.

    The outer pixels of a line do not see all windows. If `lines` is True, each part of a line
    becomes one tile per set of windows: most windows see all its pixels, some only the first or
    last ones. Otherwise, rectangles of pixels that see the same windows are cut along the side that
    gives the fewest tiles.
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
    """Return runs of pixels that see the same windows: first pixel, count, and windows.

    `seen` is a Boolean matrix of windows and pixels along an axis.
    """
    changes = np.flatnonzero((seen[:, 1:] != seen[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), seen.shape[1]]
    return [(first, end - first, seen[:, first]) for first, end in itertools.pairwise(bounds)]


def _parts(seen: np.ndarray, most: int) -> list[tuple[int, int, np.ndarray]]:
    """Return parts of at most `most` pixels, like `_runs`, one per range of pixels seen.

    Parts may overlap: each window is in one of them, with all pixels of the part that see it.
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
    """Cut a side into nearly equal parts of at most `most`: first pixel and count of each."""
    bounds = _bounds(len(side), -(-len(side) // most))
    return [(side.start + a, b - a) for a, b in itertools.pairwise(bounds)]


def _bounds(total: int, parts: int) -> list[int]:
    """Return the starts of nearly equal parts of a total, and the end of the last."""
    return [number * total // parts for number in range(parts + 1)]


def best_tiles(correlation: Correlation) -> tuple[int, bool]:
    """Return the vectors of filters per tile, and whether lines are cut; see `_tiles`.

    They minimize the time of one thread. The number of threads must not matter, because the tiling
    determines the order of sums.
    """
    wanted = -(-correlation.filters // correlation.lanes)

    def cost(vectors: int, lines: bool) -> float:
        images, _, _ = units_of(correlation, vectors, 1)
        channels, of_tiles = channels_of_block(correlation, vectors), 0.0
        rows = range(correlation.grid[0])
        for here in _tiles(correlation, range(images), rows, vectors, lines):
            products = max(here.pixels * vectors, _LATENCY)
            loads = here.pixels * _LOADS[0] + vectors * _LOADS[1]
            once = channels * here.windows.size * (products + loads) + _CALL
            of_tiles += math.prod(map(len, here.firsts)) * once * _FAR[here.step.index(1)]
        return of_tiles / images * -(-wanted // vectors)

    choices = itertools.product(range(1, min(MOST_VECTORS, wanted) + 1), (True, False))
    return min(choices, key=lambda choice: cost(*choice))


def units_of(correlation: Correlation, vectors: int, threads: int) -> tuple[int, int, int]:
    """Return the images per unit, the chunks of an image's lines, and the parts of the filters."""
    batch, (p_size, q_size) = correlation.batch, correlation.grid
    step = vectors * correlation.lanes
    panels = -(-correlation.filters // step)

    def unevenness(images: int, chunks: int, parts: int) -> float:
        units = -(-batch // images) * correlation.groups * chunks * parts
        return max(_UNEVEN, -(-units // threads) * threads / units)

    # If there are more weights than pixels, read each weight once, for all images.
    alone = batch, 1, panels
    if (
        is_heavy(correlation)
        and batch * p_size * q_size * step <= SUMS
        and unevenness(*alone) == _UNEVEN
    ):
        return alone
    image = panels * step * q_size * p_size
    # Weights that exceed their part of L2 are read as rarely as possible.
    most = SUMS if correlation.taps * correlation.filters > SUMS else SUMS // 4
    block = most_channels(correlation) * math.prod(correlation.source[1:])
    together = max(1, min(batch, most // image, _BLOCK // block))
    fewest = min(p_size, max(-(-image // most), -(-block // _BLOCK)))
    choices = [(even(batch, images), 1, 1) for images in range(together, 1, -1)]
    choices += [(1, chunks, 1) for chunks in range(fewest, p_size + 1)]
    return min(choices, key=lambda choice: unevenness(*choice))


def is_heavy(correlation: Correlation) -> bool:
    """Return whether there are more weights than source pixels."""
    pixels = correlation.batch * math.prod(correlation.source)
    return correlation.taps * correlation.filters > pixels
