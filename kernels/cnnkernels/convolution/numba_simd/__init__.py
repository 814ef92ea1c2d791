"""Direct convolution on vector registers: a few micro-kernels, and drivers that feed them.

Forward is a correlation of images with filters. Backward-data is a correlation of dy with the
flipped weights; with a stride it is several, one for each phase of the stride. README.md beside
this file explains the drivers.

Each share of the output is written by one thread, and summed in an order that depends only on the
problem. So results are bit-identical at any number of threads.
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
    """Return None if the processor has vector FMAs, else the reason; supports every problem."""
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
    """Correlate dy with the flipped weights for dx, and x with dy for dw.

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
        dx = arrays.empty(shapes.x, problem.dtype)  # an empty batch
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
"""Maximum number of channels for which the shared zeros are used."""

_SHARED = {dtype: np.zeros(_MANY + microkernel.MOST_ROWS, dtype) for dtype in DTYPES}
for _zeros_of_all in _SHARED.values():
    _zeros_of_all.flags.writeable = False


def _zeros(channels: int, dtype: str) -> np.ndarray:
    """Return zeros: the initial sums without a bias, and the padding read after the first block."""
    if channels <= _MANY:
        return _SHARED[dtype]
    return np.zeros(channels + microkernel.MOST_ROWS, dtype)


_Key = tuple[Conv2D, int]
"""A problem and the number of threads; blockings depend on nothing else."""


@memory.BLOCKINGS.cached
def _forward(key: _Key) -> Driver:
    """Return the driver ``f(x, w, start, y)`` that sets y."""
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
    """Return the drivers ``f(dy, w, start, dx)``, and whether together they set all of dx."""
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
    """Return the driver ``f(dy, x, dw)`` that sets dw."""
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
    """The functions of a driver module that computes correlations."""

    def suits(self, correlation: Correlation) -> bool:
        """Return whether this driver is efficient for a correlation."""
        ...

    def needed(self, correlation: Correlation) -> int:
        """Return the approximate bytes of tables and scratch memory."""
        ...

    def prepare(self, correlation: Correlation, threads: int) -> Driver:
        """Return the function that computes the correlation, for a number of threads."""
        ...


_DRIVERS: tuple[_DriverModule, ...] = (image_lanes, filter_lanes, padded_planes, gathered_panels)
"""The drivers of correlations, most specialized first."""


def _driver(of: Correlation, threads: int, most: int) -> Driver | None:
    """Return the best driver's function for a correlation; None if all exceed `most` bytes."""
    for module in _DRIVERS:
        if module.suits(of) and module.needed(of) <= most:
            return module.prepare(of, threads)
    return None
