"""Direct convolution on vector registers: one micro-kernel, and several ways to feed it.

Forward is a correlation of images with filters. Backward-data is a correlation of dy with the
turned weights, or with a stride several, one for each phase of it. See README.md beside this file
for what each driver does.

Threads take shares of the output, each written by one alone and summed in an order that the problem
fixes, so that the result is the same at any number of threads, to the bit.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cnnkernels import arrays, memory, microkernel, parallel, simd
from cnnkernels.contract import (
    ALL,
    BACKWARD_DATA,
    DTYPES,
    FORWARD,
    ArraySpec,
    Cache,
    Conv2D,
    Conv2DGradients,
    Needs,
)
from cnnkernels.convolution.numba_simd import (
    channel_lanes,
    correlation,
    extreme_windows,
    filter_lanes,
    gathered_panels,
    image_lanes,
    padded_planes,
    weight_gradients,
)
from cnnkernels.convolution.numba_simd.correlation import Correlation, Driver, WeightsDriver


def unsupported(problem: Conv2D) -> str | None:
    """Return None, or why not: every problem can be done where the processor has vector FMAs."""
    del problem
    return None if simd.has_fma() else "this processor has no vector FMA instructions"


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


def forward(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
) -> tuple[np.ndarray, Cache]:
    """Correlate images with filters.

    See `contract.Conv2DKernel.forward` for parameters.
    """
    shapes = problem.shapes
    arrays.require("x", x, shapes.x, problem.dtype)
    arrays.require("w", w, shapes.w, problem.dtype)
    if b is None:
        start = _zeros(problem.out_channels, problem.dtype)
    else:
        arrays.require("b", b, shapes.b, problem.dtype)
        start = np.zeros(problem.out_channels + microkernel.MOST_ROWS, problem.dtype)
        start[: problem.out_channels] = b
    y = arrays.empty(shapes.y, problem.dtype)
    if y.size:
        _forward((problem, parallel.threads()))(x, w, start, y)
    return y, ()


def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Correlate dy with the turned weights for dx, and x with dy for dw.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del cache
    shapes = problem.shapes
    arrays.require("dy", dy, shapes.y, problem.dtype)
    arrays.require("x", x, shapes.x, problem.dtype)
    arrays.require("w", w, shapes.w, problem.dtype)
    dx = dw = db = None
    if needs.dx and dy.size:
        start = _zeros(problem.in_channels, problem.dtype)
        runs, everywhere = _backward_data((problem, parallel.threads()))
        dx = (arrays.empty if everywhere else np.zeros)(shapes.x, problem.dtype)
        for run in runs:
            run(dy, w, start, dx)
    elif needs.dx:
        dx = arrays.empty(shapes.x, problem.dtype)  # of no image
    if needs.dw:
        dw = arrays.empty(shapes.w, problem.dtype)
        if dy.size:
            _backward_weights((problem, parallel.threads()))(dy, x, dw)
        else:
            dw[...] = 0
    if needs.db and problem.bias:
        db = weight_gradients.sum_filters(problem, dy)
    return Conv2DGradients(dx, dw, db)


_MANY = 16 * 1024
"""Channels of a problem, at the most, that shares the zeros its sums start from with others."""

_SHARED = {dtype: np.zeros(_MANY + microkernel.MOST_ROWS, dtype) for dtype in DTYPES}
for _zeros_of_all in _SHARED.values():
    _zeros_of_all.flags.writeable = False


def _zeros(channels: int, dtype: str) -> np.ndarray:
    """Return the zeros that sums start from: a bias of none, and the start of later blocks."""
    if channels <= _MANY:
        return _SHARED[dtype]
    return np.zeros(channels + microkernel.MOST_ROWS, dtype)


_Key = tuple[Conv2D, int]
"""A problem, and the number of threads that compute it: blockings depend on nothing else."""


@memory.BLOCKINGS.cached
def _forward(key: _Key) -> Driver:
    """Return the function that sets y, given x, w, start and y."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if channel_lanes.suits(problem) and channel_lanes.needed(problem) <= most:
        return channel_lanes.prepare(problem, FORWARD, threads)
    most -= correlation.bytes_of_windows(problem)
    if most >= 0:
        seeing = correlation.forward(problem).seeing()
        driver = seeing and _driver(seeing, threads, most)
        if driver:
            return driver
    return extreme_windows.prepare(problem, FORWARD, threads)


@memory.BLOCKINGS.cached
def _backward_data(key: _Key) -> tuple[tuple[Driver, ...], bool]:
    """Return functions that set dx, given dy, w, start and dx; and whether they set all of it."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if channel_lanes.suits(problem) and channel_lanes.needed(problem) <= most:
        return (channel_lanes.prepare(problem, BACKWARD_DATA, threads),), True
    most -= correlation.bytes_of_windows(problem) + correlation.bytes_of_phases(problem)
    if most >= 0:
        phases, everywhere = correlation.backward_data(problem)
        drivers = [_driver(phase, threads, most) for phase in phases]
        if None not in drivers:
            return tuple(driver for driver in drivers if driver is not None), everywhere
    return (extreme_windows.prepare(problem, BACKWARD_DATA, threads),), True


@memory.BLOCKINGS.cached
def _backward_weights(key: _Key) -> WeightsDriver:
    """Return the function that sets dw, given dy, x and dw."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if channel_lanes.suits(problem) and channel_lanes.needed(problem) <= most:
        return channel_lanes.prepare_weights(problem)
    most -= correlation.bytes_of_windows(problem)
    if most >= 0:
        forward_ = correlation.forward(problem)
        if problem.groups == problem.in_channels == problem.out_channels:
            if padded_planes.needed(forward_) <= most:
                return padded_planes.prepare_weights(forward_, threads)
        elif image_lanes.suits_weights(forward_) and image_lanes.needed(forward_) <= most:
            return image_lanes.prepare_weights(forward_, threads)
        if weight_gradients.needed(problem) <= most:
            return weight_gradients.prepare(problem)
    return extreme_windows.prepare_weights(problem, threads)


class _DriverModule(Protocol):
    """The functions of a module that computes correlations (PEP 544: a module fits)."""

    def suits(self, correlation: Correlation) -> bool:
        """Return whether the module is the right one for a correlation."""
        ...

    def needed(self, correlation: Correlation) -> int:
        """Return how many bytes of tables and scratch memory it needs, about."""
        ...

    def prepare(self, correlation: Correlation, threads: int) -> Driver:
        """Return the function that computes it in some threads."""
        ...


_DRIVERS: tuple[_DriverModule, ...] = (image_lanes, filter_lanes, padded_planes, gathered_panels)
"""The drivers of correlations, the most special first."""


def _driver(of: Correlation, threads: int, most: int) -> Driver | None:
    """Return the function of the best driver for a correlation; None if none takes so few bytes."""
    for module in _DRIVERS:
        if module.suits(of) and module.needed(of) <= most:
            return module.prepare(of, threads)
    return None
