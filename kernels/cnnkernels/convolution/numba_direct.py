"""Direct convolution: the loops of `naive` as small matrix products, compiled and run in threads.

A tap is one place (r, s) in the window. Let `windows` be output pixels, each a row of K channels,
`pixels` the input pixels that they see through the tap, each a row of C channels, and `weights` the
tap's weights, (C, K). Each direction adds up one product for each tap:

    forward             windows += pixels @ weights
    backward-data       pixels  += windows @ weights.T
    backward-weights    weights += pixels.T @ windows

The kernels work on copies with channels last. Threads share the results and never split a sum.
"""

import numba
import numpy as np

from cnnkernels import geometry, jit, parallel
from cnnkernels.arrays import empty, require
from cnnkernels.contract import ALL, Array, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs

_Y, _X, _W = range(3)  # the results of forward, backward-data and backward-weights
_BLOCK = 128  # channels of weight gradients at a time: more of them would leave the second cache
_tap_range = jit.inlined(geometry.tap_range)


def unsupported(problem: Conv2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


def forward(problem: Conv2D, x: Array, w: Array, b: Array | None) -> tuple[Array, Cache]:
    """Add pixels @ weights to the bias; see `contract.Conv2DKernel.forward`."""
    b = np.zeros(problem.out_channels, problem.dtype) if b is None else b
    require("b", b, (problem.out_channels,), problem.dtype)
    return _sum(problem, _Y, b[:, None, None], x, w), ()


def backward(
    problem: Conv2D, dy: Array, x: Array, w: Array, cache: Cache, needs: Needs = ALL
) -> Conv2DGradients:
    """Add up windows @ weights.T and pixels.T @ windows; see `contract.Conv2DKernel.backward`."""
    del cache
    require("dy", dy, problem.shapes.y, problem.dtype)
    dx = _sum(problem, _X, dy, 0, w) if needs.dx else None
    dw = _sum(problem, _W, dy, x, 0) if needs.dw else None
    biases = needs.db and problem.bias
    db = dy.sum((0, 2, 3), out=empty(problem.shapes.b, problem.dtype)) if biases else None
    return Conv2DGradients(dx, dw, db)


def _sum(problem: Conv2D, result: int, *arrays: Array) -> Array:
    """Return one of y, x and w: its initial value plus all products of the other two."""
    shapes = problem.shapes.y, problem.shapes.x, problem.shapes.w
    total = empty(shapes[result], problem.dtype)
    total[...] = arrays[result]
    y, x, w = (*arrays[:result], total, *arrays[result + 1 :])  # type: ignore[misc]
    for name, array, shape in zip(("dy", "x", "w"), (y, x, w), shapes, strict=True):
        require(name, array, shape, problem.dtype)
    depthwise = problem.groups == problem.in_channels == problem.out_channels
    groups = problem.groups if not depthwise else len(w) // 64 if len(w) % 64 == 0 else 1
    w = w.reshape(groups, -1, *w.shape[1:])
    turned = (0, 3, 4, 1, 2) if result == _X and not depthwise else (0, 3, 4, 2, 1)
    views = _channels_last(y, groups), _channels_last(x, groups), w.transpose(turned)
    copies = [view.copy() for view in views]
    (top, _), (left, _) = problem.padding
    axes = zip(problem.stride, problem.dilation, (top, left), y.shape[2:], x.shape[2:], strict=True)
    _add_products(result, depthwise, parallel.threads(), *copies, *axes)
    views[result][...] = copies[result]
    return total


def _channels_last(array: Array, groups: int) -> Array:
    """Return a view (groups, N/4, H, W, 4, channels), which interleaves up to four images."""
    batch, channels, height, width = array.shape
    images = int(np.gcd(batch, 4))
    shape = batch // images, images, groups, channels // groups, height, width
    return array.reshape(shape).transpose(2, 0, 4, 5, 1, 3)


@jit.inlined
def _meet(tap, axis):  # type: ignore[no-untyped-def]
    """Return a tap's first window on a pixel, that pixel, and the number of such windows."""
    stride, dilation, before, windows, pixels = axis
    first, last = _tap_range(windows, pixels, stride, tap * dilation - before)
    return first, first * stride + tap * dilation - before, last - first


@jit.spliced
def _add_product(total, left, right):  # type: ignore[no-untyped-def]
    """Add left @ right, four terms at a time: the total is loaded and stored once for all four."""
    terms, columns = right.shape
    for t in range(0, terms - 3, 4):
        for i in range(len(total)):
            for j in range(columns):
                total[i, j] += left[i, t] * right[t, j] + left[i, t + 1] * right[t + 1, j]
                total[i, j] += left[i, t + 2] * right[t + 2, j] + left[i, t + 3] * right[t + 3, j]
    for t in range(terms - terms % 4, terms):
        for i in range(len(total)):
            for j in range(columns):
                total[i, j] += left[i, t] * right[t, j]


@parallel.kernel
def _add_products(result, depthwise, threads, y, x, w, down, across):  # type: ignore[no-untyped-def]
    """Add the products of all taps to one of y, x and w. A thread takes some of its rows."""
    groups, batches, _, _, _, channels = x.shape
    rows = np.array([r for r in range(w.shape[1]) if _meet(r, down)[2]])
    columns = np.array([s for s in range(w.shape[2]) if _meet(s, across)[2]])
    taps = len(rows) * len(columns)
    blocks = 1 if depthwise else (channels + _BLOCK - 1) // _BLOCK
    tasks = taps * blocks if result == _W else threads
    for task in numba.prange(groups * tasks):
        group, mine, first = task // tasks, task % tasks, task % blocks * _BLOCK
        block = slice(first, first + _BLOCK)
        for tap in range(mine // blocks, mine // blocks + 1) if result == _W else range(taps):
            r, s = rows[tap // len(columns)], columns[tap % len(columns)]
            weights = w[group, r, s]
            p, h, high = _meet(r, down)
            q, v, wide = _meet(s, across)
            run = wide if across[0] == 1 else 1
            for n in range(batches):
                for i in range(high):
                    row = h + i * down[0] if result == _X else p + i
                    if result != _W and (n + row) % threads != mine:
                        continue
                    for j in range(0, wide, run):
                        windows = y[group, n, p + i, q + j :][:run].reshape(-1, y.shape[5])
                        pixels = x[group, n, h + i * down[0], v + j * across[0] :][:run]
                        pixels = pixels.reshape(-1, channels)
                        if depthwise:
                            for m in range(len(pixels)):
                                for c in range(channels):
                                    if result == _Y:
                                        windows[m, c] += pixels[m, c] * weights[0, c]
                                    elif result == _X:
                                        pixels[m, c] += windows[m, c] * weights[0, c]
                                    else:
                                        weights[0, c] += pixels[m, c] * windows[m, c]
                        elif result == _Y:
                            _add_product(windows, pixels, weights)
                        elif result == _X:
                            _add_product(pixels, windows, weights)
                        else:
                            _add_product(weights[block], pixels[:, block].T, windows)
