"""Max-pooling on vector registers: a vector of windows at a time, each tap read at once.

Forward, a lane is a window (`window_lanes`), and backward a pixel (`pixel_lanes`); where lines are
shorter than a vector, a lane is a plane (`plane_lanes`). These copy planes, or read tables of
places. Where either would be out of proportion to the images, windows are taken one after another
(`extreme_windows`).

The cache is the number of each window's winning tap, in one byte where windows have no more than
255 taps. Backward asks for each pixel which of its windows it has won; under windows of more taps,
which a pixel would have to ask one after another, each window gives its gradient instead. Threads
take planes, and each plane is written by one thread alone.
"""

from __future__ import annotations

import functools

import numpy as np

from cnnkernels import arrays, parallel, simd
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D
from cnnkernels.pooling.numba_simd import (
    calls,
    extreme_windows,
    pixel_lanes,
    plane_lanes,
    window_lanes,
)
from cnnkernels.pooling.numba_simd.calls import Way


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem can be done."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: for each window the number of its winning tap."""
    return ((problem.shapes.y, "uint8" if calls.taps(problem) <= 255 else "int64"),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare one tap of a vector of windows after another.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    arrays.require("x", x, problem.shapes.x, problem.dtype)
    kernel, plan_of, key, planes, units, winner = _forward_way(problem)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, winner)
    if y.size:
        plan = plan_of(key)
        shares = min(units, 4 * parallel.threads())
        kernel(shares, problem.dtype, (x, y, winners, shares, planes, plan.work, *plan.tables))
    return y, (winners,)


def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Sum for each pixel the gradients of the windows that it has won.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    kernel, plan_of, key, planes, units, winner = _backward_way(problem)
    arrays.require("dy", dy, problem.shapes.y, problem.dtype)
    arrays.require("cache", winners, problem.shapes.y, winner)
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    if dx.size:
        plan = plan_of(key)
        shares = min(units, 4 * parallel.threads())
        kernel(shares, problem.dtype, (dy, winners, dx, shares, planes, plan.work, *plan.tables))
    return dx


# These hold a problem's numbers and no tables; plans are kept by their bytes.
@functools.lru_cache(1024)
def _forward_way(problem: MaxPool2D) -> Way:
    ((_, winner),) = cache_spec(problem)
    plane, planes = calls.plane(problem), problem.batch * problem.channels
    if plane_lanes.suits(problem):
        kernels = {"uint8": plane_lanes.select, "int64": plane_lanes.select_of_many}
        together, planes, units = plane_lanes.together(problem)
        return Way(kernels[winner], plane_lanes.plan, (plane, together), planes, units, winner)
    if window_lanes.suits(problem):
        kernels = {"uint8": window_lanes.select, "int64": window_lanes.select_of_many}
        return Way(kernels[winner], window_lanes.plan, plane, planes, planes, winner)
    kernels = {"uint8": extreme_windows.select, "int64": extreme_windows.select_of_many}
    units = planes * problem.out_height
    return Way(kernels[winner], extreme_windows.plan, plane, planes, units, winner)


@functools.lru_cache(1024)
def _backward_way(problem: MaxPool2D) -> Way:
    ((_, winner),) = cache_spec(problem)
    plane, planes = calls.plane(problem), problem.batch * problem.channels
    if winner == "int64":
        return Way(
            extreme_windows.credit_of_many, extreme_windows.plan, plane, planes, planes, winner
        )
    few = problem.out_width <= simd.lanes(np.dtype(problem.dtype).itemsize) // 4
    if plane_lanes.suits(problem) and (few or not pixel_lanes.in_pairs(problem)):
        together, planes, units = plane_lanes.together(problem)
        return Way(plane_lanes.credit, plane_lanes.plan, (plane, together), planes, units, winner)
    if pixel_lanes.suits(problem):
        return Way(pixel_lanes.credit, pixel_lanes.plan, plane, planes, planes, winner)
    return Way(extreme_windows.credit, extreme_windows.plan, plane, planes, planes, winner)
