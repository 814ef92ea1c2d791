"""Max-pooling: the loops of `naive`, compiled and run in threads, one plane at a time."""

from __future__ import annotations

import numba
import numpy as np

from cnnkernels import arrays, geometry, jit, parallel
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: the flat index in the plane of each window's winner."""
    index = "int32" if problem.height * problem.width < 2**31 else "int64"
    return ((problem.shapes.y, index),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare the pixels of each window one by one.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    arrays.require("x", x, problem.shapes.x, problem.dtype)
    ((_, index),) = cache_spec(problem)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, index)
    (top, _), (left, _) = problem.padding
    _forward(
        jit.constant(x),
        y,
        winners,
        *problem.kernel_size,
        *problem.stride,
        top,
        left,
        *problem.dilation,
    )
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Add each window's gradient to its winner.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    ((shape, index),) = cache_spec(problem)
    arrays.require("dy", dy, problem.shapes.y, problem.dtype)
    arrays.require("cache", winners, shape, index)
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    _backward(jit.constant(dy), jit.constant(winners), dx)
    return dx


_tap_range = jit.inlined(geometry.tap_range)


@parallel.kernel
def _forward(x, y, winners, rows, cols, stride_h, stride_w, top, left, dilation_h, dilation_w):  # type: ignore[no-untyped-def]
    batch, channels, height, width = x.shape
    _, _, out_height, out_width = y.shape
    for plane in numba.prange(batch * channels):
        n, c = plane // channels, plane % channels
        for p in range(out_height):
            h0 = p * stride_h - top
            first_r, last_r = _tap_range(rows, height, dilation_h, h0)
            for q in range(out_width):
                v0 = q * stride_w - left
                first_s, last_s = _tap_range(cols, width, dilation_w, v0)
                winner = (h0 + first_r * dilation_h) * width + v0 + first_s * dilation_w
                best = x[n, c, h0 + first_r * dilation_h, v0 + first_s * dilation_w]
                for r in range(first_r, last_r):
                    h = h0 + r * dilation_h
                    for s in range(first_s, last_s):
                        v = v0 + s * dilation_w
                        pixel = x[n, c, h, v]
                        if pixel > best or np.isnan(pixel):
                            best = pixel
                            winner = h * width + v
                y[n, c, p, q] = best
                winners[n, c, p, q] = winner


@parallel.kernel
def _backward(dy, winners, dx):  # type: ignore[no-untyped-def]
    batch, channels, out_height, out_width = dy.shape
    width = dx.shape[3]
    for plane in numba.prange(batch * channels):
        n, c = plane // channels, plane % channels
        dx[n, c] = 0
        for p in range(out_height):
            for q in range(out_width):
                winner = winners[n, c, p, q]
                dx[n, c, winner // width, winner % width] += dy[n, c, p, q]
