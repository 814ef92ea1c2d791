"""Max-pooling by its definition: look at every pixel of every window, one at a time."""

from __future__ import annotations

import numpy as np

from cnnkernels import arrays
from cnnkernels.contract import ArraySpec, Cache, MaxPool2D


def unsupported(problem: MaxPool2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the winners' spec: the flat index in the plane of each window's winner."""
    return ((problem.shapes.y, "int64"),)


def forward(problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Compare the pixels of each window one by one.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    y = arrays.empty(problem.shapes.y, problem.dtype)
    winners = arrays.empty(problem.shapes.y, "int64")
    (top, _), (left, _) = problem.padding
    for n, c, p, q in np.ndindex(*y.shape):
        winner = -1
        best = x.dtype.type(-np.inf)
        for r in range(problem.kernel_size[0]):
            h = p * problem.stride[0] + r * problem.dilation[0] - top
            for s in range(problem.kernel_size[1]):
                v = q * problem.stride[1] + s * problem.dilation[1] - left
                if not (0 <= h < problem.height and 0 <= v < problem.width):
                    continue
                pixel = x[n, c, h, v]
                if winner < 0 or pixel > best or np.isnan(pixel):
                    best = pixel
                    winner = h * problem.width + v
        y[n, c, p, q] = best
        winners[n, c, p, q] = winner
    return y, (winners,)


@np.errstate(all="ignore")
def backward(problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
    """Add each window's gradient to its winner.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (winners,) = cache
    dx = arrays.empty(problem.shapes.x, problem.dtype)
    dx[...] = 0
    for n, c, p, q in np.ndindex(*dy.shape):
        h, v = divmod(int(winners[n, c, p, q]), problem.width)
        dx[n, c, h, v] += dy[n, c, p, q]
    return dx
