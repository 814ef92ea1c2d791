"""Convolutions of extreme windows: each product where its factors stand.

Where a window has hundreds of thousands of pixels, or taps, padding or a stride are far larger than
the image, tables of windows, packed weights and copies of lines may take many times what the arrays
of a problem do. Here there are none: a line of pixels is multiplied with one weight, or a line of
weights with one pixel, whichever line is longer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import geometry, jit, parallel, records
from cnnkernels.contract import BACKWARD_WEIGHTS, FORWARD, Conv2D, Direction


@dataclass(frozen=True, eq=False)
class Cut:
    """How a direction is cut.

    Attributes
    ----------
    dtype : str
    sizes : np.ndarray
        int64; see `_SIZES`.
    units : int
        Planes of what is computed.
    """

    dtype: str
    sizes: np.ndarray
    units: int

    @functools.cached_property
    def address(self) -> int:
        """Where kernels find the sizes."""
        return self.sizes.ctypes.data


_SIZES = 17


def cut(problem: Conv2D, direction: Direction) -> Cut:
    """Return how a direction is cut: each plane of what it computes is one thread's."""
    x, w, _, y = problem.shapes
    (top, _), (left, _) = problem.padding
    sizes = (
        *x, *w, *y[2:], *problem.steps, *problem.dilation, top, left, problem.groups,
    )  # fmt: skip
    made = {FORWARD: y, BACKWARD_WEIGHTS: w}.get(direction, x)
    return Cut(problem.dtype, np.array(sizes, np.int64), made[0] * made[1])


def run(cut: Cut, x: np.ndarray, w: np.ndarray, start: np.ndarray, y: np.ndarray) -> None:
    """Set y.

    Parameters
    ----------
    cut : Cut
        Of the direction.
    x, w, y : np.ndarray
        C-contiguous, of the problem's dtype.
    start : np.ndarray
        What sums begin with, a value an output channel at the least.
    """
    shares = min(cut.units, 4 * parallel.threads())
    _correlate(shares, cut.dtype, (x, w, start, y, shares, cut.address))


def run_backward(
    cut: Cut, dy: np.ndarray, w: np.ndarray, start: np.ndarray, dx: np.ndarray
) -> None:
    """Set dx: see `run`; sums begin with zero."""
    del start
    shares = min(cut.units, 4 * parallel.threads())
    _correlate_back(shares, cut.dtype, (dy, w, dx, shares, cut.address))


def weights(cut: Cut, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """Set dw: see `run`."""
    shares = min(cut.units, 4 * parallel.threads())
    _correlate_weights(shares, cut.dtype, (dy, x, dw, shares, cut.address))


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
def _correlate(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set some planes of y."""
    (
        batch, channels, height, wide, filters, in_group, rows, cols, p_size, q_size, step_h,
        step_w, dilation_h, dilation_w, top, left, groups,
    ) = to_fixed_tuple(records.array_at(arguments[5], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    shares, planes = arguments[4], batch * filters
    x = records.array_at(arguments[0], like, (batch * channels * height * wide,))
    w = records.array_at(arguments[1], like, (filters * in_group * rows * cols,))
    start = records.array_at(arguments[2], like, (filters,))
    y = records.array_at(arguments[3], like, (planes * p_size * q_size,))
    for plane in range(number * planes // shares, (number + 1) * planes // shares):
        n, k = plane // filters, plane % filters
        channel = n * channels + k // (filters // groups) * in_group
        for i in range(plane * p_size * q_size, (plane + 1) * p_size * q_size):
            y[i] = start[k]
        for c in range(in_group):
            for r in range(rows):
                down, weight = r * dilation_h - top, ((k * in_group + c) * rows + r) * cols
                first_p, last_p = _tap_range(p_size, height, step_h, down)
                for p in range(first_p, last_p):
                    line = ((channel + c) * height + p * step_h + down) * wide
                    to = (plane * p_size + p) * q_size
                    if q_size >= cols:
                        for s in range(cols):
                            across = s * dilation_w - left
                            first, last = _tap_range(q_size, wide, step_w, across)
                            _add_line(
                                y, to + first, 1, w[weight + s], x, line + first * step_w + across,
                                step_w, last - first,
                            )  # fmt: skip
                    else:
                        for q in range(q_size):
                            across = q * step_w - left
                            first, last = _tap_range(cols, wide, dilation_w, across)
                            y[to + q] += _dot(
                                w, weight + first, x, line + first * dilation_w + across,
                                dilation_w, last - first,
                            )  # fmt: skip


@parallel.ParallelKernel
def _correlate_back(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set some planes of dx."""
    (
        batch, channels, height, wide, filters, in_group, rows, cols, p_size, q_size, step_h,
        step_w, dilation_h, dilation_w, top, left, groups,
    ) = to_fixed_tuple(records.array_at(arguments[4], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    shares, planes = arguments[3], batch * channels
    dy = records.array_at(arguments[0], like, (batch * filters * p_size * q_size,))
    w = records.array_at(arguments[1], like, (filters * in_group * rows * cols,))
    dx = records.array_at(arguments[2], like, (planes * height * wide,))
    for plane in range(number * planes // shares, (number + 1) * planes // shares):
        n, channel = plane // channels, plane % channels
        c, k0 = channel % in_group, channel // in_group * (filters // groups)
        for i in range(plane * height * wide, (plane + 1) * height * wide):
            dx[i] = 0
        for k in range(k0, k0 + filters // groups):
            for r in range(rows):
                down, weight = r * dilation_h - top, ((k * in_group + c) * rows + r) * cols
                first_p, last_p = _tap_range(p_size, height, step_h, down)
                for p in range(first_p, last_p):
                    line = (plane * height + p * step_h + down) * wide
                    of = ((n * filters + k) * p_size + p) * q_size
                    if q_size >= cols:
                        for s in range(cols):
                            across = s * dilation_w - left
                            first, last = _tap_range(q_size, wide, step_w, across)
                            _add_line(
                                dx, line + first * step_w + across, step_w, w[weight + s],
                                dy, of + first, 1, last - first,
                            )  # fmt: skip
                    else:
                        for q in range(q_size):
                            across = q * step_w - left
                            first, last = _tap_range(cols, wide, dilation_w, across)
                            _add_line(
                                dx, line + first * dilation_w + across, dilation_w, dy[of + q],
                                w, weight + first, 1, last - first,
                            )  # fmt: skip


@parallel.ParallelKernel
def _correlate_weights(number, arguments, like):  # type: ignore[no-untyped-def]
    """Set some planes of dw."""
    (
        batch, channels, height, wide, filters, in_group, rows, cols, p_size, q_size, step_h,
        step_w, dilation_h, dilation_w, top, left, groups,
    ) = to_fixed_tuple(records.array_at(arguments[4], arguments, (_SIZES,)), _SIZES)  # fmt: skip
    shares, planes = arguments[3], filters * in_group
    dy = records.array_at(arguments[0], like, (batch * filters * p_size * q_size,))
    x = records.array_at(arguments[1], like, (batch * channels * height * wide,))
    dw = records.array_at(arguments[2], like, (planes * rows * cols,))
    for plane in range(number * planes // shares, (number + 1) * planes // shares):
        k, c = plane // in_group, plane % in_group
        channel = k // (filters // groups) * in_group + c
        for i in range(plane * rows * cols, (plane + 1) * rows * cols):
            dw[i] = 0
        for n in range(batch):
            for r in range(rows):
                down, weight = r * dilation_h - top, (plane * rows + r) * cols
                first_p, last_p = _tap_range(p_size, height, step_h, down)
                for p in range(first_p, last_p):
                    line = ((n * channels + channel) * height + p * step_h + down) * wide
                    of = ((n * filters + k) * p_size + p) * q_size
                    if q_size >= cols:
                        for s in range(cols):
                            across = s * dilation_w - left
                            first, last = _tap_range(q_size, wide, step_w, across)
                            dw[weight + s] += _dot(
                                dy, of + first, x, line + first * step_w + across, step_w,
                                last - first,
                            )  # fmt: skip
                    else:
                        for q in range(q_size):
                            across = q * step_w - left
                            first, last = _tap_range(cols, wide, dilation_w, across)
                            _add_line(
                                dw, weight + first, 1, dy[of + q],
                                x, line + first * dilation_w + across, dilation_w, last - first,
                            )  # fmt: skip
