"""Windows as strided slices, shared by the NumPy kernels of convolution and pooling."""

from __future__ import annotations

from collections.abc import Iterator

from cnnkernels.geometry import tap_range
from cnnkernels.problem import SlidingWindow

Slices = tuple[slice, slice]


def strided_taps(problem: SlidingWindow) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yield (r, s, windows, pixels) for each tap of the window, in row-major order.

    `windows` is a pair of slices over output rows and columns: the windows whose tap (r, s) hits a
    pixel. `pixels` selects these pixels from input rows and columns. Both select equally many; they
    are empty if the tap never leaves the padding.
    """
    columns = list(_axis(problem, 1, problem.width, problem.out_width))
    for r, down, lines in _axis(problem, 0, problem.height, problem.out_height):
        for s, across, pixels in columns:
            yield r, s, (down, across), (lines, pixels)


def _axis(
    problem: SlidingWindow, axis: int, size: int, out: int
) -> Iterator[tuple[int, slice, slice]]:
    stride = problem.stride[axis]
    for tap in range(problem.kernel_size[axis]):
        offset = tap * problem.dilation[axis] - problem.padding[axis][0]
        first, last = tap_range(out, size, stride, offset)
        if first == last:
            yield tap, slice(0, 0), slice(0, 0)
        else:
            start = first * stride + offset
            stop = (last - 1) * stride + offset + 1
            yield tap, slice(first, last), slice(start, stop, stride)
