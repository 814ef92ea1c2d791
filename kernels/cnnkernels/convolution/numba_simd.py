"""Direct convolution on vector registers: one micro-kernel, and how work is brought to it.

Forward is a correlation of images with filters, backward-data one of dy with the taps turned round,
or with a stride several, one for each phase of it. `panels` does any of them, `filters` those whose
windows have several pixels, `planes` those of few filters, `batch` those of tiny images in large
batches. Backward-weights is in `weights`.

Threads take shares of the output, each written by one alone and summed in an order that the problem
fixes, so that the result is the same at any number of threads, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from cnnkernels import contract, microkernel, simd
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs
from cnnkernels.correlation import batch, filters, lanes, panels, planes, weights
from cnnkernels.correlation.plan import Correlation


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
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    start = _zeros(problem.out_channels + microkernel.MOST_ROWS, problem.dtype)
    if b is not None:
        contract.require("b", b, shapes.b, problem.dtype)
        start = start.copy()
        start[: problem.out_channels] = b
    y = contract.empty(shapes.y, problem.dtype)
    if y.size:
        _forward(problem)(x, w, start, y)
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
    contract.require("dy", dy, shapes.y, problem.dtype)
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    dx = dw = db = None
    if needs.dx:
        start = _zeros(problem.in_channels + microkernel.MOST_ROWS, problem.dtype)
        runs, everywhere = _backward_data(problem)
        dx = (contract.empty if everywhere else np.zeros)(shapes.x, problem.dtype)
        for run in runs if dx.size else ():
            run(dy, w, start, dx)
    if needs.dw:
        dw = contract.empty(shapes.w, problem.dtype)
        if dy.size:
            _backward_weights(problem)(dy, x, dw)
        else:
            dw[...] = 0
    if needs.db and problem.bias:
        db = weights.sum_filters(problem, dy)
    return Conv2DGradients(dx, dw, db)


@functools.lru_cache(1024)
def _zeros(count: int, dtype: str) -> np.ndarray:
    """Return what sums start from without biases, and, after these, where they have begun."""
    zeros = np.zeros(count, dtype)
    zeros.flags.writeable = False
    return zeros


@functools.lru_cache(1024)
def _forward(problem: Conv2D) -> Callable[..., None]:
    """Return what sets y, given x, w, start and y."""
    if lanes.suits(problem):
        return functools.partial(lanes.run, problem, False)
    return _driver(_forward_plan(problem))


@functools.lru_cache(1024)
def _backward_data(problem: Conv2D) -> tuple[tuple[Callable[..., None], ...], bool]:
    """Return what, one after another, sets dx, given dy, w, start and dx; and whether all of it."""
    if lanes.suits(problem):
        return (functools.partial(lanes.run, problem, True),), True
    plans, everywhere = _backward_data_plans(problem)
    return tuple(_driver(plan) for plan in plans), everywhere


@functools.lru_cache(1024)
def _backward_weights(problem: Conv2D) -> Callable[..., None]:
    """Return what sets dw, given dy, x and dw."""
    if lanes.suits(problem):
        return functools.partial(lanes.weights, problem)
    plan = _forward_plan(problem)
    if problem.groups == problem.in_channels == problem.out_channels:
        return functools.partial(planes.weights, plan)
    if batch.suits_weights(plan):
        return functools.partial(batch.weights, plan)
    return functools.partial(weights.run, problem)


def _driver(plan: Correlation) -> Callable[..., None]:
    """Return what does a correlation best, given its source, weights, start and output."""
    for way in (batch, filters, planes):
        if way.suits(plan):
            return functools.partial(way.run, plan)
    return functools.partial(panels.run, plan)


def _forward_plan(problem: Conv2D) -> Correlation:
    channels = problem.in_channels // problem.groups
    filters = problem.out_channels // problem.groups
    rows, cols = problem.kernel_size
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    return Correlation(
        dtype=problem.dtype,
        batch=problem.batch,
        groups=problem.groups,
        filters=filters,
        source=(channels, problem.height, problem.width),
        grid=(out_height, out_width),
        out=(out_height, out_width),
        step=problem.stride,
        spread=(1, 1),
        corner=(0, 0),
        windows=np.stack(
            (r * problem.dilation[0] - top, s * problem.dilation[1] - left, r * cols + s)
        ),
        weights=(filters * channels * r.size, channels * r.size, r.size),
    )


def _backward_data_plans(problem: Conv2D) -> tuple[tuple[Correlation, ...], bool]:
    """Return a plan for each phase that has taps, and whether all have.

    The pixels of one phase, every stride-th in both directions, have the same taps.
    """
    channels = problem.in_channels // problem.groups
    filters = problem.out_channels // problem.groups
    rows, cols = problem.kernel_size
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    down = top - r * problem.dilation[0]
    across = left - s * problem.dilation[1]
    plans, everywhere = [], True
    for phase_h in range(min(problem.stride[0], problem.height)):
        for phase_w in range(min(problem.stride[1], problem.width)):
            mine = ((down + phase_h) % problem.stride[0] == 0) & (
                (across + phase_w) % problem.stride[1] == 0
            )
            if not mine.any():
                everywhere = False
                continue
            plan = Correlation(
                dtype=problem.dtype,
                batch=problem.batch,
                groups=problem.groups,
                filters=channels,
                source=(filters, out_height, out_width),
                grid=(
                    -(-(problem.height - phase_h) // problem.stride[0]),
                    -(-(problem.width - phase_w) // problem.stride[1]),
                ),
                out=(problem.height, problem.width),
                step=(1, 1),
                spread=problem.stride,
                corner=(phase_h, phase_w),
                windows=np.stack(
                    (
                        (down[mine] + phase_h) // problem.stride[0],
                        (across[mine] + phase_w) // problem.stride[1],
                        (r * cols + s)[mine],
                    )
                ),
                weights=(filters * channels * r.size, r.size, channels * r.size),
            )
            plans.append(plan)
    return tuple(plans), everywhere
