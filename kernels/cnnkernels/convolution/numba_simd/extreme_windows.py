"""Convolutions of extreme windows, computed in place without tables or copies.

If a window has hundreds of thousands of pixels, or if padding, dilation or stride far exceed the
image, then tables, packed weights and copies may need many times the memory of the arrays. This
driver uses none of them: it multiplies a line of pixels by one weight, or a line of weights by one
pixel, whichever line is longer.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from cnnkernels import geometry, jit, parallel, records
from cnnkernels.contract import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Conv2D, Direction
from cnnkernels.convolution.numba_simd.correlation import Driver, WeightsDriver


class _Sizes(NamedTuple):
    """A problem and a direction."""

    direction: int
    """Index of the direction in `_DIRECTIONS`."""
    shares: int
    """Shares of the result's planes."""
    batch: int
    """N."""
    channels: int
    """C."""
    height: int
    """H."""
    width: int
    """W."""
    filters: int
    """K."""
    in_group: int
    """Channels of a group."""
    rows: int
    """R."""
    cols: int
    """S."""
    p_size: int
    """P."""
    q_size: int
    """Q."""
    step_h: int
    """Stride of rows."""
    step_w: int
    """Stride of columns."""
    dilation_h: int
    """Dilation of rows."""
    dilation_w: int
    """Dilation of columns."""
    top: int
    """Padding above the image."""
    left: int
    """Padding before its lines."""
    groups: int
    """Groups."""


_DIRECTIONS = (FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS)


def _sizes(problem: Conv2D, direction: Direction, threads: int) -> records.Record[_Sizes]:
    x, w, _, y = problem.shapes
    (top, _), (left, _) = problem.padding
    batch, channels = {FORWARD: y, BACKWARD_DATA: x, BACKWARD_WEIGHTS: w}[direction][:2]
    return records.record(
        _Sizes(
            _DIRECTIONS.index(direction),
            min(batch * channels, 4 * threads),
            *x,
            *w,
            *y[2:],
            *problem.steps,
            *problem.dilation,
            top,
            left,
            problem.groups,
        )
    )


def prepare(problem: Conv2D, direction: Direction, threads: int) -> Driver:
    """Return the function for forward or backward-data, for a number of threads."""
    run = _run if direction == FORWARD else _run_backward
    return functools.partial(run, problem.dtype, _sizes(problem, direction, threads))


def prepare_weights(problem: Conv2D, threads: int) -> WeightsDriver:
    """Return the function for backward-weights, for a number of threads."""
    sizes = _sizes(problem, BACKWARD_WEIGHTS, threads)
    return functools.partial(_run_weights, problem.dtype, sizes)


class _Call(NamedTuple):
    """What `_correlate` is given: three arrays, one of them to be set."""

    x: np.ndarray
    """(N, C, H, W): images, or their gradient."""
    w: np.ndarray
    """(K, C/groups, R, S): filters, or their gradient."""
    y: np.ndarray
    """(N, K, P, Q): outputs, or their gradient."""
    start: np.ndarray
    """Initial sum of each filter in forward."""
    sizes: int
    """Address of a `_Sizes`."""


_Sized = records.Record[_Sizes]


def _run(
    dtype: str, sizes: _Sized, x: np.ndarray, w: np.ndarray, start: np.ndarray, y: np.ndarray
) -> None:
    _correlate(sizes.fields.shares, dtype, _Call(x, w, y, start, sizes.address))


def _run_backward(
    dtype: str, sizes: _Sized, dy: np.ndarray, w: np.ndarray, start: np.ndarray, dx: np.ndarray
) -> None:
    _correlate(sizes.fields.shares, dtype, _Call(dx, w, dy, start, sizes.address))


def _run_weights(dtype: str, sizes: _Sized, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    _correlate(sizes.fields.shares, dtype, _Call(x, dw, dy, dw, sizes.address))


_tap_range = jit.inlined(geometry.tap_range)


@jit.kernel
def _add_line(to, at, to_step, factor, of, first, step, count):  # type: ignore[no-untyped-def]
    """Add a line times a factor to another line."""
    if to_step == 1 and step == 1:
        for i in range(count):
            to[at + i] += factor * of[first + i]
    else:
        for i in range(count):
            to[at + i * to_step] += factor * of[first + i * step]


@jit.kernel
def _dot(a, a_first, b, b_first, b_step, count):  # type: ignore[no-untyped-def]
    """Return the sum of the products of two lines."""
    total = a.dtype.type(0)
    if b_step == 1:
        for i in range(count):
            total += a[a_first + i] * b[b_first + i]
    else:
        for i in range(count):
            total += a[a_first + i] * b[b_first + i * b_step]
    return total


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set some planes of y, x or w, depending on the direction."""
    call = records.read(_Call, words)
    sizes = records.read(_Sizes, call.sizes)
    direction, shares, in_group = sizes.direction, sizes.shares, sizes.in_group
    x_plane, w_plane = sizes.height * sizes.width, sizes.rows * sizes.cols
    y_plane, in_filters = sizes.p_size * sizes.q_size, sizes.filters // sizes.groups
    x = records.array_at(call.x, like, (sizes.batch * sizes.channels * x_plane,))
    w = records.array_at(call.w, like, (sizes.filters * in_group * w_plane,))
    y = records.array_at(call.y, like, (sizes.batch * sizes.filters * y_plane,))
    start = records.array_at(call.start, like, (sizes.filters,))
    if direction == 0:
        planes, many = sizes.batch * sizes.filters, in_group
    elif direction == 1:
        planes, many = sizes.batch * sizes.channels, in_filters
    else:
        planes, many = sizes.filters * in_group, sizes.batch
    for plane in range(number * planes // shares, (number + 1) * planes // shares):
        if direction == 0:
            for i in range(plane * y_plane, (plane + 1) * y_plane):
                y[i] = start[plane % sizes.filters]
        elif direction == 1:
            for i in range(plane * x_plane, (plane + 1) * x_plane):
                x[i] = 0
        else:
            for i in range(plane * w_plane, (plane + 1) * w_plane):
                w[i] = 0
        for other in range(many):  # of an image n, a filter k and one of its channels c
            if direction == 0:
                n, k, c = plane // sizes.filters, plane % sizes.filters, other
            elif direction == 1:
                n, channel = plane // sizes.channels, plane % sizes.channels
                k, c = channel // in_group * in_filters + other, channel % in_group
            else:
                n, k, c = other, plane // in_group, plane % in_group
            channel = n * sizes.channels + k // in_filters * in_group + c
            for r in range(sizes.rows):
                down = r * sizes.dilation_h - sizes.top
                first_p, last_p = _tap_range(sizes.p_size, sizes.height, sizes.step_h, down)
                for p in range(first_p, last_p):
                    _correlate_lines(
                        direction,
                        x, (channel * sizes.height + p * sizes.step_h + down) * sizes.width,
                        w, ((k * in_group + c) * sizes.rows + r) * sizes.cols,
                        y, ((n * sizes.filters + k) * sizes.p_size + p) * sizes.q_size,
                        sizes,
                    )  # fmt: skip


@jit.kernel
def _correlate_lines(direction, x, x_line, w, w_line, y, y_line, sizes):  # type: ignore[no-untyped-def]
    """Multiply two of the lines of x, w and y, and add the products to the third."""
    step, dilation = sizes.step_w, sizes.dilation_w
    if sizes.q_size >= sizes.cols:  # lines of pixels, one weight after another
        for s in range(sizes.cols):
            across = s * dilation - sizes.left
            first, last = _tap_range(sizes.q_size, sizes.width, step, across)
            of_x, of_y, of_w = x_line + first * step + across, y_line + first, w_line + s
            if direction == 0:
                _add_line(y, of_y, 1, w[of_w], x, of_x, step, last - first)
            elif direction == 1:
                _add_line(x, of_x, step, w[of_w], y, of_y, 1, last - first)
            else:
                w[of_w] += _dot(y, of_y, x, of_x, step, last - first)
    else:  # lines of weights, one pixel after another
        for q in range(sizes.q_size):
            across = q * step - sizes.left
            first, last = _tap_range(sizes.cols, sizes.width, dilation, across)
            of_x, of_w, of_y = x_line + first * dilation + across, w_line + first, y_line + q
            if direction == 0:
                y[of_y] += _dot(w, of_w, x, of_x, dilation, last - first)
            elif direction == 1:
                _add_line(x, of_x, dilation, y[of_y], w, of_w, 1, last - first)
            else:
                _add_line(w, of_w, 1, y[of_y], x, of_x, dilation, last - first)
