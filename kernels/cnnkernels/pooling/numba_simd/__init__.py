"""Max-pooling on vector registers, for a vector of windows at a time.

In forward, a lane is a window (`window_lanes`); in backward, a pixel (`pixel_lanes`). If lines are
shorter than a vector, a lane is a plane (`plane_lanes`). These drivers copy planes and read tables.
If copies and tables would be out of proportion to the images, windows are processed one by one
(`extreme_windows`).

The cache stores the winner of each window, the number of the tap with its maximum; one byte each if
windows have at most 255 taps. Backward then compares, for each pixel, the winners of all windows
that contain it. With more than 255 taps these windows are too many, and instead each window adds
its gradient to its winner. Each plane, or line of windows, is written by one thread alone.
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
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: the number of each window's winning tap."""
    return ((problem.shapes.y, calls.winner_dtype(problem)),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare the taps of a vector of windows, one after another.

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
    """Sum the gradients of the windows that each pixel has won.

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
