"""Correlations: the common form of a convolution's forward and backward-data."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from cnnkernels import memory, microkernel, packing, records, simd
from cnnkernels.contract import Conv2D

SECOND_CACHE = 256 * 1024
"""Float32 elements in an L2 cache of 1 MiB; drivers size their reused data as parts of it.

They were tuned on caches of 1 and 2 MiB. Float64 uses the same numbers of elements: blocks
determine the order of sums, which should be the same in both dtypes.
"""

BLOCK = 336 if microkernel.VECTORS == 3 else 288
"""Maximum taps of a block; a panel has 63 KiB with the widest vectors, 18 KiB with AVX2."""

Driver: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""A function ``f(source, weights, start, out)`` that sets the pixels of a correlation's grid.

All are C-contiguous arrays of the correlation's dtype. `start` contains the initial sum of each
filter, followed by `microkernel.MOST_ROWS` zeros.
"""

WeightsDriver: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""A function ``f(dy, x, dw)`` that sets dw; all are C-contiguous, of the problem's dtype."""

_CHANNELS = 8
"""Minimum channels of a chunk, which share the work of locating a window's pixels."""

_WIDE = 24
"""Minimum columns of a wide line."""


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
        The origin of pixel (p, q) is row ``p * step[0]`` of the source; its output row is
        ``corner[0] + p * spread[0]``. The same for columns.
    windows : np.ndarray, (3, RS), int64
        For each pixel of the window: its row and column relative to a pixel's origin, and the
        offset of its weight.
    weights : tuple of int
        Strides of the weights in elements: of group, filter and channel.
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
        """The same correlation of one image, as a cache key independent of the batch."""
        one: Correlation = memory.first_equal(dataclasses.replace(self, batch=1))
        return one

    def seeing(self) -> Correlation | None:
        """Return the same with only those window pixels that hit the source; None if none do."""
        seen = np.ones(self.area, bool)
        for looks, size, count, step in self._axes():
            # The first output pixel that may see a source pixel through the window pixel.
            first = np.maximum(0, -(looks // step))
            seen &= (first < count) & (first * step + looks < size)
        if seen.all():
            return self
        if not seen.any():
            return None
        return dataclasses.replace(self, windows=np.compress(seen, self.windows, axis=1))

    def _axes(self) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """Yield, for each axis, window offsets, source size, grid size and step."""
        return zip(self.windows[:2], self.source[1:], self.grid, self.step, strict=True)

    @functools.cached_property
    def lanes(self) -> int:
        """Elements of a vector."""
        return simd.lanes(np.dtype(self.dtype).itemsize)

    @functools.cached_property
    def area(self) -> int:
        """Pixels of the window."""
        return int(self.windows.shape[1])

    @functools.cached_property
    def wide(self) -> bool:
        """Whether several taps share lines so wide that the gap between lines costs little."""
        return self.grid[1] >= _WIDE and self.spread == (1, 1) and self.area > 1

    @functools.cached_property
    def pixels(self) -> int:
        """Pixels of each output channel that are set."""
        return self.grid[0] * self.grid[1]

    @functools.cached_property
    def taps(self) -> int:
        """Products summed in each output pixel."""
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
        """Whether each output pixel sees only the source pixel at the same position."""
        alone = self.windows.shape[1] == 1 and not self.windows[:2].any()
        return alone and self.step == self.spread == (1, 1) and self.grid == self.source[1:]

    @functools.cached_property
    def merged(self) -> Correlation:
        """The same with each image as one line, if pointwise."""
        if not self.pointwise:
            return self
        line = 1, self.pixels
        return dataclasses.replace(self, source=(self.source[0], *line), grid=line, out=line)

    @functools.cached_property
    def listed(self) -> int:
        """Maximum entries in lists of the windows that each kind of pixels sees."""
        kinds = 1
        for looks, size, count, step in self._axes():
            last = (count - 1) * step + int(looks.max())
            beyond = max(0, -int(looks.min())), max(0, last - size + 1)
            edges = sum(-(-pixels // step) for pixels in beyond)
            kinds *= min(count, edges + 1, 2 * np.unique(looks).size + 1)
        return kinds * self.area

    @functools.cached_property
    def sizes(self) -> records.Record[Sizes]:
        """The sizes, for kernels."""
        return records.record(
            Sizes(
                self.batch,
                self.groups,
                self.filters,
                *self.source,
                *self.grid,
                *self.out,
                *self.step,
                *self.spread,
                *self.corner,
                *self.weights,
                self.area,
                np.ascontiguousarray(self.windows),
                self.lanes,
            )
        )

    @functools.cached_property
    def layout(self) -> records.Record[packing.Layout]:
        """The packing order of the weights, in blocks of `blocks`."""
        return packing.layout(
            self.dtype,
            self.groups,
            self.filters,
            self.source[0],
            self.weights,
            self.windows[2],
            self.blocks,
        )


class Sizes(NamedTuple):
    """The numbers of a `Correlation`."""

    batch: int
    """Images."""
    groups: int
    """Groups of channels."""
    filters: int
    """Channels of the output in one group."""
    channels: int
    """Channels of the source in one group."""
    height: int
    """Rows of the source."""
    width: int
    """Columns of the source."""
    p_size: int
    """Rows of the grid, the pixels set in each output channel."""
    q_size: int
    """Columns of the grid."""
    out_height: int
    """Rows of the output."""
    out_width: int
    """Columns of the output."""
    step_h: int
    """Rows of the source from one pixel's window to that of the pixel below."""
    step_w: int
    """Columns of the source from one pixel's window to the next pixel's."""
    spread_h: int
    """Rows of the output from one grid pixel to the one below."""
    spread_w: int
    """Columns of the output from one grid pixel to the next."""
    corner_h: int
    """Output row of the first pixel."""
    corner_w: int
    """Output column of the first pixel."""
    w_group: int
    """Elements from one group's weights to the next's."""
    w_row: int
    """Elements from one filter's weights to the next's."""
    w_channel: int
    """Elements from one channel's weights to the next's."""
    windows: int
    """Pixels of the window."""
    reach: np.ndarray
    """(3, windows), int64: see `Correlation.windows`."""
    lanes: int
    """Elements of a vector."""


def even(total: int, most: int) -> int:
    """Return the size of nearly equal parts, at most `most`."""
    return -(-total // -(-total // most))


def bytes_of_windows(problem: Conv2D) -> int:
    """Return the peak bytes of building the list of a window's pixels."""
    return 80 * math.prod(problem.kernel_size)


def bytes_of_phases(problem: Conv2D) -> int:
    """Return the approximate bytes of backward-data's correlations for all phases."""
    phases = 4096
    for kernel, step, dilation in zip(
        problem.kernel_size, problem.steps, problem.dilation, strict=True
    ):
        phases *= min(kernel, step // math.gcd(step, dilation))
    return phases


def forward(problem: Conv2D) -> Correlation:
    """Return the correlation of images with filters."""
    channels = problem.in_channels // problem.groups
    filters = problem.out_channels // problem.groups
    rows, cols = problem.kernel_size
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    return Correlation(
        dtype=problem.dtype,
        batch=problem.batch,
        groups=problem.groups,
        filters=filters,
        source=(channels, problem.height, problem.width),
        grid=(out_height, out_width),
        out=(out_height, out_width),
        step=problem.steps,
        spread=(1, 1),
        corner=(0, 0),
        windows=np.stack(
            (r * problem.dilation[0] - top, s * problem.dilation[1] - left, r * cols + s)
        ),
        weights=(filters * channels * r.size, channels * r.size, r.size),
    )


def backward_data(problem: Conv2D) -> tuple[tuple[Correlation, ...], bool]:
    """Return the correlations of dy with the flipped weights, and whether they set all of dx.

    With a stride there is one for each phase with taps on pixels. The pixels of a phase, every
    stride-th in both directions, have the same taps.
    """
    channels = problem.in_channels // problem.groups
    filters = problem.out_channels // problem.groups
    rows, cols = problem.kernel_size
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    down = top - r * problem.dilation[0]
    across = left - s * problem.dilation[1]
    (step_h, step_w), found = problem.steps, []
    phases_h, phases_w = -down % step_h, -across % step_w
    rows_seen, columns_seen = (
        [int(phase) for phase in np.unique(phases) if phase < size]
        for phases, size in ((phases_h, problem.height), (phases_w, problem.width))
    )
    for phase_h in rows_seen:
        for phase_w in columns_seen:
            mine = (phases_h == phase_h) & (phases_w == phase_w)
            phase = Correlation(
                dtype=problem.dtype,
                batch=problem.batch,
                groups=problem.groups,
                filters=channels,
                source=(filters, out_height, out_width),
                grid=(
                    -(-(problem.height - phase_h) // step_h),
                    -(-(problem.width - phase_w) // step_w),
                ),
                out=(problem.height, problem.width),
                step=(1, 1),
                spread=(step_h, step_w),
                corner=(phase_h, phase_w),
                windows=np.stack(
                    (
                        (down[mine] + phase_h) // step_h,
                        (across[mine] + phase_w) // step_w,
                        (r * cols + s)[mine],
                    )
                ),
                weights=(filters * channels * r.size, r.size, channels * r.size),
            )
            seeing = phase.seeing()
            if seeing:
                found.append(seeing)
    phases = min(step_h, problem.height) * min(step_w, problem.width)
    return tuple(found), len(found) == phases
