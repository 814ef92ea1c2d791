"""Convolution as a matrix product: im2col and multiply; col2im for the input gradient.

Each output pixel's receptive field becomes a column, so that one matrix product applies all filters
to all pixels of an image [1]_. The matrix library does the work. The price is memory: R*S times
that of the images at stride 1.

References
----------
.. [1] K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural networks for
   document processing", IWFHR 2006.
"""

from __future__ import annotations

import numpy as np

from cnnkernels import arrays
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs
from cnnkernels.strided import strided_taps


def unsupported(problem: Conv2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return the spec of the columns, (N, groups, C/groups*R*S, P*Q)."""
    return ((_columns_shape(problem), problem.dtype),)


@np.errstate(all="ignore")
def forward(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
) -> tuple[np.ndarray, Cache]:
    """Multiply the filters, (K, C*R*S), with each image's columns, (C*R*S, P*Q).

    See `contract.Conv2DKernel.forward` for parameters.

    Notes
    -----
    The work is 2*N*K*P*Q*C/groups*R*S flops, including taps on padding. The cache contains the
    columns, N*C*R*S*P*Q elements.
    """
    columns = _im2col(problem, x)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    np.matmul(_by_group(problem, w), columns, out=_pixels(problem, y))
    if b is not None:
        y += b[:, None, None]
    return y, (columns,)


@np.errstate(all="ignore")
def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Multiply dy with the columns for dw, and with the filters for the columns of dx.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del x
    (columns,) = cache
    gradient = _pixels(problem, dy)
    dx = dw = db = None
    if needs.dx:
        filters = _by_group(problem, w)
        dx = _col2im(problem, np.matmul(filters.swapaxes(-1, -2), gradient))
    if needs.dw:
        dw = arrays.empty(problem.shapes.w, problem.dtype)
        total = _by_group(problem, dw)
        total[...] = 0
        for image in range(problem.batch):
            total += np.matmul(gradient[image], columns[image].swapaxes(-1, -2))
    if needs.db and problem.bias:
        db = arrays.empty(problem.shapes.b, problem.dtype)
        np.sum(dy, axis=(0, 2, 3), out=db)
    return Conv2DGradients(dx, dw, db)


def _columns_shape(problem: Conv2D) -> tuple[int, ...]:
    group_channels = problem.in_channels // problem.groups
    rows, cols = problem.kernel_size
    pixels = problem.out_height * problem.out_width
    return problem.batch, problem.groups, group_channels * rows * cols, pixels


def _by_group(problem: Conv2D, w: np.ndarray) -> np.ndarray:
    """View filters as one (K/groups, C/groups*R*S) matrix per group."""
    rows = problem.out_channels // problem.groups
    return w.reshape(problem.groups, rows, w[0].size)


def _pixels(problem: Conv2D, y: np.ndarray) -> np.ndarray:
    """View output images as one (K/groups, P*Q) matrix per image and group."""
    rows = problem.out_channels // problem.groups
    return y.reshape(problem.batch, problem.groups, rows, y.shape[2] * y.shape[3])


def _im2col(problem: Conv2D, x: np.ndarray) -> np.ndarray:
    """Copy each output pixel's receptive field, zeros for padding, into a column."""
    columns = arrays.empty(_columns_shape(problem), problem.dtype)
    by_tap = _by_tap(problem, columns)
    for r, s, windows, pixels in strided_taps(problem):
        tap = by_tap[:, :, r, s]
        on_pixels = tap[:, :, *windows]
        if on_pixels.shape != tap.shape:
            tap[...] = 0
        on_pixels[...] = x[:, :, *pixels]
    return columns


def _col2im(problem: Conv2D, columns: np.ndarray) -> np.ndarray:
    """Add each column back to its receptive field."""
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    dx[...] = 0
    by_tap = _by_tap(problem, columns)
    for r, s, windows, pixels in strided_taps(problem):
        dx[:, :, *pixels] += by_tap[:, :, r, s, *windows]
    return dx


def _by_tap(problem: Conv2D, columns: np.ndarray) -> np.ndarray:
    """View columns as (N, C, R, S, P, Q)."""
    return columns.reshape(
        problem.batch,
        problem.in_channels,
        *problem.kernel_size,
        problem.out_height,
        problem.out_width,
    )
