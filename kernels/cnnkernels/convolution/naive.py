"""Convolution by its definition: seven loops, one multiply-add at a time.

The code follows the formula so closely that it can be verified by eye. It is the reference for all
other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cnnkernels import arrays
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs


def unsupported(problem: Conv2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


@np.errstate(all="ignore")
def forward(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
) -> tuple[np.ndarray, Cache]:
    """Sum the taps of each output pixel one by one.

    See `contract.Conv2DKernel.forward` for parameters and the formula.
    """
    y = arrays.empty(problem.shapes.y, problem.dtype)
    for n, k, p, q in np.ndindex(*y.shape):
        total = x.dtype.type(0) if b is None else b[k]
        for c, r, s, h, v in _taps(problem, k, p, q):
            total += w[k, c % w.shape[1], r, s] * x[n, c, h, v]
        y[n, k, p, q] = total
    return y, ()


@np.errstate(all="ignore")
def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Propagate each output pixel's gradient back through every tap of its window.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del cache
    dx = _zeros(problem.shapes.x, problem.dtype) if needs.dx else None
    dw = _zeros(problem.shapes.w, problem.dtype) if needs.dw else None
    db = _zeros(problem.shapes.b, problem.dtype) if needs.db and problem.bias else None
    for n, k, p, q in np.ndindex(*dy.shape):
        gradient = dy[n, k, p, q]
        if db is not None:
            db[k] += gradient
        if dx is None and dw is None:
            continue
        for c, r, s, h, v in _taps(problem, k, p, q):
            if dx is not None:
                dx[n, c, h, v] += gradient * w[k, c % w.shape[1], r, s]
            if dw is not None:
                dw[k, c % w.shape[1], r, s] += gradient * x[n, c, h, v]
    return Conv2DGradients(dx, dw, db)


def _taps(problem: Conv2D, k: int, p: int, q: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (c, r, s, h, v): each tap of output pixel (k, p, q) and the pixel (h, v) under it."""
    (top, _), (left, _) = problem.padding
    group_channels = problem.in_channels // problem.groups
    group = k // (problem.out_channels // problem.groups)
    for c in range(group * group_channels, (group + 1) * group_channels):
        for r in range(problem.kernel_size[0]):
            h = p * problem.stride[0] + r * problem.dilation[0] - top
            if not 0 <= h < problem.height:
                continue
            for s in range(problem.kernel_size[1]):
                v = q * problem.stride[1] + s * problem.dilation[1] - left
                if 0 <= v < problem.width:
                    yield c, r, s, h, v


def _zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = arrays.empty(shape, dtype)
    array[...] = 0
    return array
