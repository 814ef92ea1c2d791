"""What forward and backward-data of a convolution come to: correlations, worked out once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cnnkernels import memory, microkernel, simd

BLOCK = 336 if microkernel.VECTORS == 3 else 288
"""Taps of a block, at the most: 63 KiB of a panel with the widest vectors, 18 KiB with AVX2's."""

_CHANNELS = 8
"""Channels of a chunk, at the least: what is found for a window serves as many."""


@dataclass(frozen=True, eq=False)
class Correlation:
    """``out[n, m, place(p, q)] = sum(w[m, c, window] * source[n, c, p*step + down, ...])``.

    Attributes
    ----------
    dtype : str
    batch, groups, filters : int
        Filters are the output's channels of one group.
    source : tuple of int
        (channels of one group, height, width).
    grid : tuple of int
        (P, Q): the pixels of each output channel that are set.
    out : tuple of int
        (height, width) of the output.
    step, spread, corner : tuple of int
        Pixel (p, q) looks from row ``p * step[0]`` of the source, and stands in row
        ``corner[0] + p * spread[0]`` of the output; the same for columns.
    windows : np.ndarray, (3, RS), int64
        For each pixel of the window: its row and column relative to where a pixel looks from, and
        the offset of its weight.
    weights : tuple of int
        Elements of the weights from group to group, filter to filter and channel to channel.
    """

    dtype: str
    batch: int
    groups: int
    filters: int
    source: tuple[int, int, int]
    grid: tuple[int, int]
    out: tuple[int, int]
    step: tuple[int, int]
    spread: tuple[int, int]
    corner: tuple[int, int]
    windows: np.ndarray
    weights: tuple[int, int, int]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Correlation) and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _identity(self) -> tuple[object, ...]:
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(f.tobytes() if isinstance(f, np.ndarray) else f for f in fields)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    @functools.cached_property
    def of_one(self) -> Correlation:
        """The same of one image, as a key: what pixels see does not depend on the batch."""
        one: Correlation = memory.first_equal(dataclasses.replace(self, batch=1))
        return one

    def seeing(self) -> Correlation | None:
        """Return the same with the windows alone that see pixels of the source, or None."""
        seen = np.ones(self.area, bool)
        for looks, size, count, step in self._axes():
            first = np.maximum(0, -(looks // step))  # pixel of the output that may see one there
            seen &= (first < count) & (first * step + looks < size)
        if seen.all():
            return self
        if not seen.any():
            return None
        return dataclasses.replace(self, windows=np.compress(seen, self.windows, axis=1))

    def _axes(self) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """Yield where windows look, and sizes of source and grid, and the step between, by axis."""
        return zip(self.windows[:2], self.source[1:], self.grid, self.step, strict=True)

    @functools.cached_property
    def lanes(self) -> int:
        """How many elements a vector has."""
        return simd.lanes(np.dtype(self.dtype).itemsize)

    @functools.cached_property
    def area(self) -> int:
        """Pixels of the window."""
        return int(self.windows.shape[1])

    @functools.cached_property
    def taps(self) -> int:
        """How many products each output pixel is the sum of."""
        return self.source[0] * self.area

    @functools.cached_property
    def blocks(self) -> tuple[int, int]:
        """Channels and windows of a block of taps."""
        channels, windows = self.source[0], self.windows.shape[1]
        c = min(channels, max(_CHANNELS, BLOCK // windows))
        w = min(windows, max(1, BLOCK // c))
        return even(channels, c), even(windows, w)

    @functools.cached_property
    def tiles(self) -> int:
        """Tiles of one group's filters."""
        return -(-self.filters // microkernel.ROWS)

    @functools.cached_property
    def pointwise(self) -> bool:
        """Whether each pixel of the output sees the one in its place alone."""
        alone = self.windows.shape[1] == 1 and not self.windows[:2].any()
        return alone and self.step == self.spread == (1, 1) and self.grid == self.source[1:]

    @functools.cached_property
    def merged(self) -> Correlation:
        """The same with each image as one line, where a pixel sees itself alone."""
        pixels = self.grid[0] * self.grid[1]
        if not self.pointwise:
            return self
        return dataclasses.replace(
            self, source=(self.source[0], 1, pixels), grid=(1, pixels), out=(1, pixels)
        )

    @functools.cached_property
    def listed(self) -> int:
        """Windows, at the most, that are listed for all kinds of pixels that see others."""
        kinds = 1
        for looks, size, count, step in self._axes():
            last = (count - 1) * step + int(looks.max())
            beyond = max(0, -int(looks.min())), max(0, last - size + 1)
            edges = sum(-(-pixels // step) for pixels in beyond)
            kinds *= min(count, edges + 1, 2 * np.unique(looks).size + 1)
        return kinds * self.area

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """What kernels unpack, in the order of `SIZES`."""
        return np.array(
            (
                self.batch, self.groups, self.filters, *self.source, *self.grid, *self.out,
                *self.step, *self.spread, *self.corner, *self.weights, self.windows.shape[1],
                *self.blocks,
            ),
            np.int64,
        )  # fmt: skip

    @functools.cached_property
    def tables(self) -> tuple[int, int]:
        """Where kernels find windows and sizes: asking anew at each call takes its time."""
        return self.windows.ctypes.data, self.sizes.ctypes.data


SIZES = 22
"""How many numbers `Correlation.sizes` has."""


def even(total: int, most: int) -> int:
    """Return the size of parts that are no larger than `most`, and nearly alike."""
    return -(-total // -(-total // most))
