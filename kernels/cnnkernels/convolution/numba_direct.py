"""Direct convolution: the loops of `naive` in another order, compiled and run in threads.

The pixels that one tap of the window sees are gathered into a *line*, an element for each output
pixel, zero where the tap lies on padding. Results are sums of weighted lines, or products of lines:
the innermost loops go over contiguous elements, and compilers make vector instructions of them.
Several lines are summed in one loop, so that a result is loaded and stored once for all of them.

Each result is computed by one thread, in an order that does not depend on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from cnnkernels import geometry, jit, parallel
from cnnkernels.arrays import empty, require
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs

_LINE = 512
"""Elements of a line, at least a row: eight lines fit into the nearest cache."""

_UNROLLED = 64
"""Lines have a multiple of these elements: compilers do as many in a turn, and the rest singly."""


class _Window(NamedTuple):
    """How the window slides: see `problem.SlidingWindow`."""

    stride_h: int
    stride_w: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int
    groups: int


def unsupported(problem: Conv2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


def forward(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
) -> tuple[np.ndarray, Cache]:
    """Sum weighted lines of pixels; see `contract.Conv2DKernel.forward`."""
    b = np.zeros(problem.out_channels, problem.dtype) if b is None else b
    arrays = _checked(problem, x=x, w=w, b=b)
    y = empty(problem.shapes.y, problem.dtype)
    _forward(*arrays, y, _window(problem))
    return y, ()


def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Sum weighted lines of dy, and multiply them by lines of pixels; see `contract`."""
    del cache
    dx = dw = db = None
    x, w, dy = _checked(problem, x=x, w=w, dy=dy)
    lines = np.zeros((problem.out_channels, dy.size // problem.out_channels + _UNROLLED), dy.dtype)
    lines[:, :-_UNROLLED] = dy.swapaxes(0, 1).reshape(problem.out_channels, -1)
    lines = jit.constant(lines)
    if needs.dx:
        dx = empty(problem.shapes.x, problem.dtype)
        _backward_data(lines, w, dx, *problem.shapes.y[2:], _window(problem))
    if needs.dw:
        dw = empty(problem.shapes.w, problem.dtype)
        _backward_weights(lines, x, dw, *problem.shapes.y[2:], _window(problem))
    if needs.db and problem.bias:
        db = empty(problem.shapes.b, problem.dtype)
        db[...] = dy.sum(axis=(0, 2, 3))
    return Conv2DGradients(dx, dw, db)


def _checked(problem: Conv2D, **arrays: np.ndarray) -> list[np.ndarray]:
    """Return the arrays as compiled code may read them, once they fit the problem."""
    shapes = problem.shapes._asdict() | {"b": (problem.out_channels,), "dy": problem.shapes.y}
    for name, array in arrays.items():
        require(name, array, shapes[name], problem.dtype)
    return [jit.constant(array) for array in arrays.values()]


def _window(problem: Conv2D) -> _Window:
    (top, _), (left, _) = problem.padding
    return _Window(*problem.stride, top, left, *problem.dilation, problem.groups)


# --------------------------------------------------------------------------------------------
# compiled

_tap_range = jit.inlined(geometry.tap_range)


@jit.inlined
def _rounded(size):  # type: ignore[no-untyped-def]
    """Return the elements that a line has in all, zeros or what is ignored at its end."""
    return (size + _UNROLLED - 1) // _UNROLLED * _UNROLLED


@jit.inlined
def _gather(line, x, channel, r, s, first, last, out_height, out_width, window):  # type: ignore[no-untyped-def]
    """Set a line to the pixels that a tap sees, in output rows `first` to `last` of all images."""
    _, _, height, width = x.shape
    down, across = r * window.dilation_h - window.top, s * window.dilation_w - window.left
    first_q, last_q = _tap_range(out_width, width, window.stride_w, across)
    line[:] = 0
    for row in range(first, last):
        n, h = row // out_height, row % out_height * window.stride_h + down
        if 0 <= h < height:
            pixels, part = x[n, channel, h], line[(row - first) * out_width :]
            for q in range(first_q, last_q):
                part[q] = pixels[q * window.stride_w + across]


@jit.inlined
def _add(total, weights, lines, first):  # type: ignore[no-untyped-def]
    """Add weighted lines, from element `first` on, to a line; eight at a time."""
    count, last = len(weights), first + total.size
    for i in range(0, count - 7, 8):
        a, b, c, d, e, f, g, h = (
            lines[i][first:last], lines[i + 1][first:last], lines[i + 2][first:last],
            lines[i + 3][first:last], lines[i + 4][first:last], lines[i + 5][first:last],
            lines[i + 6][first:last], lines[i + 7][first:last],
        )  # fmt: skip
        wa, wb, wc, wd, we, wf, wg, wh = (
            weights[i], weights[i + 1], weights[i + 2], weights[i + 3],
            weights[i + 4], weights[i + 5], weights[i + 6], weights[i + 7],
        )  # fmt: skip
        for j in range(total.size):
            total[j] += wa * a[j] + wb * b[j] + wc * c[j] + wd * d[j]
            total[j] += we * e[j] + wf * f[j] + wg * g[j] + wh * h[j]
    for i in range(count - count % 8, count):
        weight, line = weights[i], lines[i][first:last]
        for j in range(total.size):
            total[j] += weight * line[j]


@parallel.kernel
def _forward(x, w, b, y, window):  # type: ignore[no-untyped-def]
    batch, filters, out_height, out_width = y.shape
    _, group_channels, rows, cols = w.shape
    group_filters, taps = filters // window.groups, group_channels * rows * cols
    weights = w.reshape(filters, taps)
    at_once = max(1, min(_LINE, 2**17 // group_filters) // out_width)  # sums stay in a cache, too
    chunks = (batch * out_height + at_once - 1) // at_once
    for chunk in numba.prange(chunks * window.groups):
        group, first = chunk % window.groups, chunk // window.groups * at_once
        last = min(first + at_once, batch * out_height)
        lines = np.empty((8, _rounded((last - first) * out_width)), y.dtype)
        sums = np.empty((group_filters, lines.shape[1]), y.dtype)
        for i in range(group_filters):
            sums[i] = b[group * group_filters + i]
        for tap in range(0, taps, 8):
            some = min(8, taps - tap)
            for i in range(some):
                c, r, s = (tap + i) // (rows * cols), (tap + i) // cols % rows, (tap + i) % cols
                c += group * group_channels
                _gather(lines[i], x, c, r, s, first, last, out_height, out_width, window)
            for i in range(group_filters):
                _add(sums[i], weights[group * group_filters + i, tap : tap + some], lines, 0)
        for row in range(first, last):
            n, p, begin = row // out_height, row % out_height, (row - first) * out_width
            for i in range(group_filters):
                y[n, group * group_filters + i, p] = sums[i, begin : begin + out_width]


@parallel.kernel
def _backward_data(dy, w, dx, out_height, out_width, window):  # type: ignore[no-untyped-def]
    batch, channels, height, width = dx.shape
    filters, group_channels, rows, cols = w.shape
    group_filters = filters // window.groups
    at_once = max(1, _LINE // out_width)
    for channel in numba.prange(channels):
        k, c = channel // group_channels * group_filters, channel % group_channels
        total = np.empty(_rounded(at_once * out_width), dx.dtype)
        dx[:, channel] = 0
        for first in range(0, batch * out_height, at_once):
            last = min(first + at_once, batch * out_height)
            for r in range(rows):
                down = r * window.dilation_h - window.top
                for s in range(cols):
                    across = s * window.dilation_w - window.left
                    first_q, last_q = _tap_range(out_width, width, window.stride_w, across)
                    line = total[: _rounded((last - first) * out_width)]
                    line[:] = 0
                    some = slice(k, k + group_filters)
                    _add(line, w[some, c, r, s], dy[some], first * out_width)
                    for row in range(first, last):
                        h = row % out_height * window.stride_h + down
                        if 0 <= h < height:
                            pixels = dx[row // out_height, channel, h]
                            part = line[(row - first) * out_width :]
                            for q in range(first_q, last_q):
                                pixels[q * window.stride_w + across] += part[q]


@parallel.kernel
def _backward_weights(dy, x, dw, out_height, out_width, window):  # type: ignore[no-untyped-def]
    batch = x.shape[0]
    filters, group_channels, rows, cols = dw.shape
    group_filters, taps = filters // window.groups, group_channels * rows * cols
    at_once = max(1, _LINE // out_width)
    for block in numba.prange((taps + 3) // 4 * window.groups):
        group, tap = block % window.groups, block // window.groups * 4
        totals = np.zeros((group_filters, 4), dw.dtype)
        lines = np.zeros((4, _rounded(at_once * out_width)), dw.dtype)
        for first in range(0, batch * out_height, at_once):
            last = min(first + at_once, batch * out_height)
            for i in range(min(4, taps - tap)):
                c, r, s = (tap + i) // (rows * cols), (tap + i) // cols % rows, (tap + i) % cols
                c += group * group_channels
                _gather(lines[i], x, c, r, s, first, last, out_height, out_width, window)
            for i in range(group_filters):
                begin, size = first * out_width, _rounded((last - first) * out_width)
                gradients = dy[group * group_filters + i][begin : begin + size]
                t0 = t1 = t2 = t3 = dw.dtype.type(0)
                for j in range(gradients.size):
                    t0 += gradients[j] * lines[0, j]
                    t1 += gradients[j] * lines[1, j]
                    t2 += gradients[j] * lines[2, j]
                    t3 += gradients[j] * lines[3, j]
                totals[i, 0] += t0
                totals[i, 1] += t1
                totals[i, 2] += t2
                totals[i, 3] += t3
        for i in range(group_filters):
            by_tap = dw[group * group_filters + i].reshape(taps)
            by_tap[tap : tap + 4] = totals[i, : min(4, taps - tap)]
