"""Max-pooling on vector registers: a vector of windows at a time, each tap read at once.

Forward, a lane is a window (`window_lanes`), and backward a pixel (`pixel_lanes`); where lines are
shorter than a vector, a lane is a plane (`plane_lanes`). These drivers copy planes and read
tables. Where these would be out of proportion to the images, windows are done one after another
(`extreme_windows`).

The cache holds the winner of each window, the number of the tap that has its maximum: in one byte
where windows have no more than 255 taps. Backward compares, for each pixel, the winners of all
windows that the pixel lies under. Under windows of more than 255 taps these are too many, and each
window gives its gradient to its winner instead. Threads share planes, or lines of windows, so that
one thread alone writes each.
"""

from __future__ import annotations

import functools

import numpy as np

from cnnkernels import arrays, parallel
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D
from cnnkernels.pooling.numba_simd import (
    calls,
    extreme_windows,
    pixel_lanes,
    plane_lanes,
    window_lanes,
)
from cnnkernels.pooling.numba_simd.calls import BackwardCall, ForwardCall, Launch


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: for each window the number of its winning tap."""
    return ((problem.shapes.y, calls.winner_dtype(problem)),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare one tap of a vector of windows after another.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    arrays.require("x", x, problem.shapes.x, problem.dtype)
    launch = _forward_launch(problem)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, launch.winner)
    if y.size:
        blocking = launch.blocking(launch.geometry)
        shares = min(launch.units, 4 * parallel.threads())
        call = ForwardCall(x, y, winners, shares, launch.planes, blocking.address)
        launch.kernel(shares, problem.dtype, call)
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Sum for each pixel the gradients of the windows that it has won.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    launch = _backward_launch(problem)
    arrays.require("dy", dy, problem.shapes.y, problem.dtype)
    arrays.require("cache", winners, problem.shapes.y, launch.winner)
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    if dx.size:
        blocking = launch.blocking(launch.geometry)
        shares = min(launch.units, 4 * parallel.threads())
        call = BackwardCall(dy, winners, dx, shares, launch.planes, blocking.address)
        launch.kernel(shares, problem.dtype, call)
    return dx


# Launches hold no tables; blockings do, and share the budget of `memory.BLOCKINGS`.
@functools.lru_cache(1024)
def _forward_launch(problem: MaxPool2D) -> Launch:
    if plane_lanes.suits(problem):
        return plane_lanes.forward_launch(problem)
    if window_lanes.suits(problem):
        return window_lanes.forward_launch(problem)
    return extreme_windows.forward_launch(problem)


@functools.lru_cache(1024)
def _backward_launch(problem: MaxPool2D) -> Launch:
    if calls.winner_dtype(problem) == "int64":
        return extreme_windows.backward_launch(problem)
    few = problem.out_width <= calls.lanes(problem) // 4
    if plane_lanes.suits(problem) and (few or not pixel_lanes.in_pairs(problem)):
        return plane_lanes.backward_launch(problem)
    if pixel_lanes.suits(problem):
        return pixel_lanes.backward_launch(problem)
    return extreme_windows.backward_launch(problem)
