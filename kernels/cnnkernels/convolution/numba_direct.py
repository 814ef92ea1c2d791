"""Direct convolution: the loops of `naive`, reordered, compiled and run in threads.

The loop over output columns is innermost, so that the compiler turns it into vector instructions,
and the taps' valid ranges are worked out before it, so that it holds no test for padding. Threads
share planes out, each written by one alone, so that the result is the same at any number of
threads, to the bit.
"""

from __future__ import annotations

import numba
import numpy as np

from cnnkernels import contract, jit
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs


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
    """Add each tap's share to a whole output plane at a time; planes go to threads.

    See `contract.Conv2DKernel.forward` for parameters.
    """
    shapes = problem.shapes
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    if b is None:
        b = np.zeros(problem.out_channels, problem.dtype)
    contract.require("b", b, (problem.out_channels,), problem.dtype)
    y = contract.empty(shapes.y, problem.dtype)
    _forward(jit.constant(x), jit.constant(w), jit.constant(b), y, *_geometry(problem))
    return y, ()


def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Gather dx a plane of an input image at a time, dw and db a filter at a time.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del cache
    shapes = problem.shapes
    contract.require("dy", dy, shapes.y, problem.dtype)
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    dy, x, w = jit.constant(dy), jit.constant(x), jit.constant(w)
    geometry = _geometry(problem)
    dx = dw = db = None
    if needs.dx:
        dx = contract.empty(shapes.x, problem.dtype)
        _backward_data(dy, w, dx, *geometry)
    if needs.dw:
        dw = contract.empty(shapes.w, problem.dtype)
        _backward_weights(dy, x, dw, *geometry)
    if needs.db and problem.bias:
        db = contract.empty(shapes.b, problem.dtype)
        _backward_bias(dy, db)
    return Conv2DGradients(dx, dw, db)


def _geometry(problem: Conv2D) -> tuple[int, ...]:
    (top, _), (left, _) = problem.padding
    return (*problem.stride, top, left, *problem.dilation, problem.groups)


_tap_range = jit.inlined(contract.tap_range)


@jit.kernel(parallel=True)
def _forward(x, w, b, y, stride_h, stride_w, top, left, dilation_h, dilation_w, groups):  # type: ignore[no-untyped-def]
    batch, _, height, width = x.shape
    filters, group_channels, rows, cols = w.shape
    _, _, out_height, out_width = y.shape
    for plane in numba.prange(batch * filters):
        n, k = plane // filters, plane % filters
        first_channel = k // (filters // groups) * group_channels
        y[n, k] = b[k]
        for c in range(group_channels):
            for r in range(rows):
                down = r * dilation_h - top
                first_p, last_p = _tap_range(out_height, height, stride_h, down)
                for s in range(cols):
                    across = s * dilation_w - left
                    first_q, last_q = _tap_range(out_width, width, stride_w, across)
                    weight = w[k, c, r, s]
                    for p in range(first_p, last_p):
                        line = x[n, first_channel + c, p * stride_h + down]
                        for q in range(first_q, last_q):
                            y[n, k, p, q] += weight * line[q * stride_w + across]


@jit.kernel(parallel=True)
def _backward_data(dy, w, dx, stride_h, stride_w, top, left, dilation_h, dilation_w, groups):  # type: ignore[no-untyped-def]
    batch, channels, height, width = dx.shape
    filters, group_channels, rows, cols = w.shape
    _, _, out_height, out_width = dy.shape
    group_filters = filters // groups
    for plane in numba.prange(batch * channels):
        n, channel = plane // channels, plane % channels
        first_filter = channel // group_channels * group_filters
        c = channel % group_channels
        dx[n, channel] = 0
        for k in range(first_filter, first_filter + group_filters):
            for r in range(rows):
                down = r * dilation_h - top
                first_p, last_p = _tap_range(out_height, height, stride_h, down)
                for s in range(cols):
                    across = s * dilation_w - left
                    first_q, last_q = _tap_range(out_width, width, stride_w, across)
                    weight = w[k, c, r, s]
                    for p in range(first_p, last_p):
                        line = dx[n, channel, p * stride_h + down]
                        for q in range(first_q, last_q):
                            line[q * stride_w + across] += weight * dy[n, k, p, q]


@jit.kernel(parallel=True)
def _backward_weights(dy, x, dw, stride_h, stride_w, top, left, dilation_h, dilation_w, groups):  # type: ignore[no-untyped-def]
    batch, _, height, width = x.shape
    filters, group_channels, rows, cols = dw.shape
    _, _, out_height, out_width = dy.shape
    for plane in numba.prange(filters * group_channels):
        k, c = plane // group_channels, plane % group_channels
        channel = k // (filters // groups) * group_channels + c
        for r in range(rows):
            down = r * dilation_h - top
            first_p, last_p = _tap_range(out_height, height, stride_h, down)
            for s in range(cols):
                across = s * dilation_w - left
                first_q, last_q = _tap_range(out_width, width, stride_w, across)
                total = dw.dtype.type(0)
                for n in range(batch):
                    for p in range(first_p, last_p):
                        line = x[n, channel, p * stride_h + down]
                        for q in range(first_q, last_q):
                            total += dy[n, k, p, q] * line[q * stride_w + across]
                dw[k, c, r, s] = total


@jit.kernel(parallel=True)
def _backward_bias(dy, db):  # type: ignore[no-untyped-def]
    batch, filters, out_height, out_width = dy.shape
    for k in numba.prange(filters):
        total = db.dtype.type(0)
        for n in range(batch):
            for p in range(out_height):
                for q in range(out_width):
                    total += dy[n, k, p, q]
        db[k] = total
