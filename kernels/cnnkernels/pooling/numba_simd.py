"""Max-pooling a line of windows at a time, so that comparisons become vector instructions.

Each tap of the window passes over a whole line of outputs, and selects. What is kept for backward
is the number of the winning tap, in one byte where the window has no more than 255 taps. Threads
take planes, each written by one alone.
"""

from __future__ import annotations

import numba
import numpy as np

from cnnkernels import contract, jit
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: for each window the number of its winning tap."""
    rows, cols = problem.kernel_size
    return ((problem.shapes.y, "uint8" if rows * cols <= 255 else "int64"),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare one tap of a line of windows after another.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    contract.require("x", x, problem.shapes.x, problem.dtype)
    ((_, index),) = cache_spec(problem)
    y = contract.empty(problem.shapes.y, problem.dtype)
    winners = contract.empty(problem.shapes.y, index)
    _forward(jit.constant(x), y, winners, *_geometry(problem))
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Add one tap's share of a line of windows after another.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    ((shape, index),) = cache_spec(problem)
    contract.require("dy", dy, problem.shapes.y, problem.dtype)
    contract.require("cache", winners, shape, index)
    dx = contract.empty(problem.shapes.x, problem.dtype)
    _backward(jit.constant(dy), jit.constant(winners), dx, *_geometry(problem))
    return dx


def _geometry(problem: MaxPool2D) -> tuple[int, ...]:
    (top, _), (left, _) = problem.padding
    return (*problem.kernel_size, *problem.stride, top, left, *problem.dilation)


_tap_range = jit.inlined(contract.tap_range)


@jit.inlined
def _column_ranges(cols, out_width, width, stride_w, left, dilation_w):  # type: ignore[no-untyped-def]
    """Return for each column of taps the range of outputs that see a pixel there."""
    return [_tap_range(out_width, width, stride_w, s * dilation_w - left) for s in range(cols)]


@jit.kernel(parallel=True)
def _forward(x, y, winners, rows, cols, stride_h, stride_w, top, left, dilation_h, dilation_w):  # type: ignore[no-untyped-def]
    batch, channels, height, width = x.shape
    _, _, out_height, out_width = y.shape
    ranges = _column_ranges(cols, out_width, width, stride_w, left, dilation_w)
    for plane in numba.prange(batch * channels):
        n, c = plane // channels, plane % channels
        for p in range(out_height):
            best, winner = y[n, c, p], winners[n, c, p]
            h0 = p * stride_h - top
            first_r, last_r = _tap_range(rows, height, dilation_h, h0)
            # -inf loses to all but itself and NaN: the first tap on a pixel wins by being first.
            for q in range(out_width):
                best[q] = -np.inf
                winner[q] = 255 if rows * cols <= 255 else -1
            for r in range(first_r, last_r):
                line = x[n, c, h0 + r * dilation_h]
                for s in range(cols):
                    across = s * dilation_w - left
                    first_q, last_q = ranges[s]
                    tap = r * cols + s
                    if stride_w == 1:
                        _select(line, across, 1, best, winner, first_q, last_q, tap)
                    elif stride_w == 2:
                        _select(line, across, 2, best, winner, first_q, last_q, tap)
                    else:
                        _select(line, across, stride_w, best, winner, first_q, last_q, tap)


@jit.inlined
def _select(line, across, stride, best, winner, first, last, tap):  # type: ignore[no-untyped-def]
    """Let a tap win where it is greater, not a number, or the first on a pixel."""
    none = winner.dtype.type(-1)
    for q in range(first, last):
        pixel = line[q * stride + across]
        wins = (pixel > best[q]) | (pixel != pixel) | (winner[q] == none)
        best[q] = pixel if wins else best[q]
        winner[q] = tap if wins else winner[q]


@jit.kernel(parallel=True)
def _backward(dy, winners, dx, rows, cols, stride_h, stride_w, top, left, dilation_h, dilation_w):  # type: ignore[no-untyped-def]
    batch, channels, height, width = dx.shape
    _, _, out_height, out_width = dy.shape
    ranges = _column_ranges(cols, out_width, width, stride_w, left, dilation_w)
    for plane in numba.prange(batch * channels):
        n, c = plane // channels, plane % channels
        dx[n, c] = 0
        for p in range(out_height):
            gradient, winner = dy[n, c, p], winners[n, c, p]
            h0 = p * stride_h - top
            first_r, last_r = _tap_range(rows, height, dilation_h, h0)
            for r in range(first_r, last_r):
                line = dx[n, c, h0 + r * dilation_h]
                for s in range(cols):
                    across = s * dilation_w - left
                    first_q, last_q = ranges[s]
                    tap = r * cols + s
                    if stride_w == 1:
                        _credit(line, across, 1, gradient, winner, first_q, last_q, tap)
                    elif stride_w == 2:
                        _credit(line, across, 2, gradient, winner, first_q, last_q, tap)
                    else:
                        _credit(line, across, stride_w, gradient, winner, first_q, last_q, tap)


@jit.inlined
def _credit(line, across, stride, gradient, winner, first, last, tap):  # type: ignore[no-untyped-def]
    """Add the gradients of those windows that a tap has won."""
    zero = gradient.dtype.type(0)
    for q in range(first, last):
        line[q * stride + across] += gradient[q] if winner[q] == tap else zero
