"""Max-pooling by views: each tap of the window is one strided view of all images.

It is the definition with its loops reordered: the outer loop runs over taps in row-major order, and
NumPy runs the inner loops on whole views.
"""

from __future__ import annotations

import numpy as np

from cnnkernels import arrays
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D
from cnnkernels.strided import strided_taps


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: the number of each window's winning tap."""
    rows, cols = problem.kernel_size
    taps = rows * cols
    index = "uint8" if taps <= 256 else "int32" if taps <= 2**31 else "int64"
    return ((problem.shapes.y, index),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare the maxima so far with the next tap, for all windows at once.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    ((_, winner_dtype),) = cache_spec(problem)
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, winner_dtype)
    y[...] = -np.inf
    # If all pixels are minus infinity, none is greater, and the first pixel must win. Winners start
    # with its tap number, so that a tap on padding cannot win.
    unseen = np.ones(problem.shapes.y[2:], dtype=bool)
    for r, s, windows, pixels in strided_taps(problem):
        candidate = x[:, :, *pixels]
        best = y[:, :, *windows]
        wins = candidate > best
        wins |= np.isnan(candidate)
        wins |= unseen[windows]
        np.copyto(best, candidate, where=wins)
        np.copyto(
            winners[:, :, *windows],
            winners.dtype.type(r * problem.kernel_size[1] + s),
            where=wins,
        )
        unseen[windows] = False
    return y, (winners,)


@np.errstate(all="ignore")
def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Add the gradients of the windows that each tap has won, tap by tap.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    dx[...] = 0
    zero = dy.dtype.type(0)
    for r, s, windows, pixels in strided_taps(problem):
        won = winners[:, :, *windows] == r * problem.kernel_size[1] + s
        dx[:, :, *pixels] += np.where(won, dy[:, :, *windows], zero)
    return dx
