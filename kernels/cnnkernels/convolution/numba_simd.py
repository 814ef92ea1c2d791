"""Direct convolution on vector registers: one micro-kernel, and how work is brought to it.

Forward is a correlation of images with filters, backward-data one of dy with the taps turned round,
or with a stride several, one for each phase of it. `panels` does any of them, `filters` those whose
windows have several pixels, `planes` those of few filters, `batch` those of tiny images in large
batches. Backward-weights is in `weights`. What would take memory out of proportion to the arrays of
a problem is done by `loops`, in any direction.

Threads take shares of the output, each written by one alone and summed in an order that the problem
fixes, so that the result is the same at any number of threads, to the bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from cnnkernels import arrays, contract, memory, microkernel, parallel, simd
from cnnkernels.contract import (
    ALL,
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    ArraySpec,
    Cache,
    Conv2D,
    Conv2DGradients,
    Needs,
)
from cnnkernels.correlation import batch, filters, lanes, loops, panels, planes, weights
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
        db = weights.sum_filters(problem, dy)
    return Conv2DGradients(dx, dw, db)


_MANY = 16 * 1024
"""Channels, at the most, of which all problems share the zeros that sums start from."""

_NONE = {dtype: np.zeros(_MANY + microkernel.MOST_ROWS, dtype) for dtype in contract.DTYPES}
for _zeros_of_all in _NONE.values():
    _zeros_of_all.flags.writeable = False


def _zeros(channels: int, dtype: str) -> np.ndarray:
    """Return what sums start from without biases, and, after these, where they have begun."""
    if channels <= _MANY:
        return _NONE[dtype]
    return np.zeros(channels + microkernel.MOST_ROWS, dtype)


_Key = tuple[Conv2D, int]
"""A problem, and how many threads compute it: all that how it is computed depends on."""


@memory.PLANS.kept
def _forward(key: _Key) -> Callable[..., None]:
    """Return what sets y, given x, w, start and y."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if lanes.suits(problem) and lanes.needed(problem) <= most:
        return functools.partial(lanes.run, lanes.cut(problem, FORWARD))
    if _listed(problem) <= most:
        plan = _forward_plan(problem).seeing()
        run = plan and _driver(plan, threads, most)
        if run:
            return run
    return functools.partial(loops.run, loops.cut(problem, FORWARD))


@memory.PLANS.kept
def _backward_data(key: _Key) -> tuple[tuple[Callable[..., None], ...], bool]:
    """Return what, one after another, sets dx, given dy, w, start and dx; and whether all of it."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if lanes.suits(problem) and lanes.needed(problem) <= most:
        return (functools.partial(lanes.run, lanes.cut(problem, BACKWARD_DATA)),), True
    if _listed(problem) + _phases(problem) <= most:
        plans, everywhere = _backward_data_plans(problem)
        runs = [_driver(plan, threads, most) for plan in plans]
        if None not in runs:
            return tuple(run for run in runs if run is not None), everywhere
    return (functools.partial(loops.run_backward, loops.cut(problem, BACKWARD_DATA)),), True


@memory.PLANS.kept
def _backward_weights(key: _Key) -> Callable[..., None]:
    """Return what sets dw, given dy, x and dw."""
    problem, threads = key
    most = memory.allowed(problem.bytes_moved(FORWARD))
    if lanes.suits(problem) and lanes.needed(problem) <= most:
        return functools.partial(lanes.weights, lanes.cut(problem, BACKWARD_WEIGHTS))
    if _listed(problem) <= most:
        plan = _forward_plan(problem)
        if problem.groups == problem.in_channels == problem.out_channels:
            if planes.needed(plan) <= most:
                return functools.partial(planes.weights, planes.cut(plan, 1))
        elif batch.suits_weights(plan) and batch.needed(plan) <= most:
            return functools.partial(batch.weights, batch.cut_weights(plan, threads))
        if weights.needed(problem) <= most:
            return functools.partial(weights.run, weights.cut(problem))
    return functools.partial(loops.weights, loops.cut(problem, BACKWARD_WEIGHTS))


def _listed(problem: Conv2D) -> int:
    """Return how many bytes a list of a window's pixels takes, while it is made."""
    return 80 * math.prod(problem.kernel_size)


def _phases(problem: Conv2D) -> int:
    """Return how many bytes the plans of all phases of backward-data take, about."""
    phases = 4096
    for kernel, step, dilation in zip(
        problem.kernel_size, problem.steps, problem.dilation, strict=True
    ):
        phases *= min(kernel, step // math.gcd(step, dilation))
    return phases


def _driver(plan: Correlation, threads: int, most: int) -> Callable[..., None] | None:
    """Return the best function for a correlation, of its source, weights, start and output.

    None, if no way takes so few bytes.
    """
    for way in (batch, filters, planes, panels):
        if way.suits(plan) and way.needed(plan) <= most:
            return functools.partial(way.run, way.cut(plan, threads))
    return None


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
        step=problem.steps,
        spread=(1, 1),
        corner=(0, 0),
        windows=np.stack(
            (r * problem.dilation[0] - top, s * problem.dilation[1] - left, r * cols + s)
        ),
        weights=(filters * channels * r.size, channels * r.size, r.size),
    )


def _backward_data_plans(problem: Conv2D) -> tuple[tuple[Correlation, ...], bool]:
    """Return a plan for each phase that has taps on pixels, and whether all have.

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
    (step_h, step_w), plans = problem.steps, []
    phases_h, phases_w = -down % step_h, -across % step_w
    rows_seen, columns_seen = (
        [int(phase) for phase in np.unique(phases) if phase < size]
        for phases, size in ((phases_h, problem.height), (phases_w, problem.width))
    )
    for phase_h in rows_seen:
        for phase_w in columns_seen:
            mine = (phases_h == phase_h) & (phases_w == phase_w)
            plan = Correlation(
                dtype=problem.dtype,
                batch=problem.batch,
                groups=problem.groups,
                filters=channels,
                source=(filters, out_height, out_width),
                grid=(
                    -(-(problem.height - phase_h) // step_h),
                    -(-(problem.width - phase_w) // step_w),
                ),
                out=(problem.height, problem.width),
                step=(1, 1),
                spread=(step_h, step_w),
                corner=(phase_h, phase_w),
                windows=np.stack(
                    (
                        (down[mine] + phase_h) // step_h,
                        (across[mine] + phase_w) // step_w,
                        (r * cols + s)[mine],
                    )
                ),
                weights=(filters * channels * r.size, r.size, channels * r.size),
            )
            seeing = plan.seeing()
            if seeing:
                plans.append(seeing)
    there_are = min(step_h, problem.height) * min(step_w, problem.width)
    return tuple(plans), len(plans) == there_are
