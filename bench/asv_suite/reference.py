"""Expected results: convolution and max-pooling in float64, tap by tap, with error bounds.

This reference is the same at every commit and independent of all kernels. No time is reported
without passing it. The thorough check of a commit is its own `cnnkernels.conformance`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

_UNIT = float(np.finfo(np.float32).eps) / 2


def expected(sizes: dict[str, Any], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return expected results by name, and largest rounding errors by ``name + ".bound"``.

    Parameters
    ----------
    sizes : dict
        The problem: keyword arguments of Conv2D or MaxPool2D.
    inputs : dict of np.ndarray
        x and dy, and w and b for a convolution; float32.

    Notes
    -----
    The bound of a sum of n products is ``n*u / (1 - n*u)`` times the sum of their magnitudes [1]_.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, ch. 3.
    """
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    if "out_channels" not in sizes:
        return _pooled(sizes, wide["x"], wide["dy"])
    right, terms = _convolved(sizes, wide), _terms(sizes, wide)
    size = _convolved(sizes, {name: np.abs(array) for name, array in wide.items()})
    bounds = {
        f"{name}.bound": size[name] * (terms[name] * _UNIT / (1 - terms[name] * _UNIT))
        for name in right
    }
    return right | bounds


def error_over_bound(right: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    """Return the largest error over its bound; infinite for an error where the bound is zero."""
    worst = 0.0
    for name, array in got.items():
        bound = right[f"{name}.bound"]
        if array.shape != bound.shape:
            return math.inf
        error = np.abs(array.astype(np.float64) - right[name])
        if np.isnan(error).any() or error[bound == 0].any():
            return math.inf
        worst = max(worst, float(np.divide(error, bound, where=bound > 0, out=error).max()))
    return worst


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _taps(sizes: dict[str, Any], out: tuple[int, int]) -> Iterator[tuple[int, int, Any]]:
    """Yield each tap of the window, with the slice of the padded image that it multiplies."""
    rows, cols = _pair(sizes["kernel_size"])
    step_h, step_w = _pair(sizes.get("stride", 1))
    for r, s in itertools.product(range(rows), range(cols)):
        yield (
            r,
            s,
            np.s_[:, :, r : r + step_h * out[0] : step_h, s : s + step_w * out[1] : step_w],
        )


def _padded(sizes: dict[str, Any], x: np.ndarray, value: float) -> np.ndarray:
    """Pad images enough for any window; `_inner` undoes it."""
    (pad_h, pad_w), (step_h, step_w) = _pair(sizes.get("padding", 0)), _pair(sizes.get("stride", 1))
    around = ((0, 0), (0, 0), (pad_h, pad_h + step_h), (pad_w, pad_w + step_w))
    return np.pad(x, around, constant_values=value)


def _inner(sizes: dict[str, Any], padded: np.ndarray) -> np.ndarray:
    pad_h, pad_w = _pair(sizes.get("padding", 0))
    return padded[:, :, pad_h : pad_h + sizes["height"], pad_w : pad_w + sizes["width"]]


def _convolved(sizes: dict[str, Any], a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    groups, out = sizes.get("groups", 1), a["dy"].shape[2:]
    n, k = a["dy"].shape[:2]
    x = _padded(sizes, a["x"], 0.0)
    dx, dw, y = np.zeros_like(x), np.zeros_like(a["w"]), np.zeros_like(a["dy"])
    w = a["w"].reshape(groups, k // groups, *a["w"].shape[1:])
    dy = a["dy"].reshape(n, groups, k // groups, -1)
    for r, s, seen in _taps(sizes, out):
        pixels = x[seen].reshape(n, groups, -1, out[0] * out[1])
        y += (w[:, :, :, r, s] @ pixels).reshape(y.shape)
        dw[:, :, r, s] = (dy @ pixels.swapaxes(2, 3)).sum(0).reshape(k, -1)
        dx[seen] += (w[:, :, :, r, s].swapaxes(1, 2) @ dy).reshape(n, -1, *out)
    return {
        "y": y + a["b"][:, None, None],
        "dx": _inner(sizes, dx),
        "dw": dw,
        "db": a["dy"].sum((0, 2, 3)),
    }


def _terms(sizes: dict[str, Any], a: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the largest number of products in each sum."""
    filters, channels, rows, cols = a["w"].shape
    pixels = a["dy"].size // filters
    return {
        "y": channels * rows * cols + 1,
        "dx": filters // sizes.get("groups", 1) * rows * cols,
        "dw": pixels,
        "db": pixels,
    }


def _pooled(sizes: dict[str, Any], x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    padded = _padded(sizes, x, -np.inf)
    out = (dy.shape[2], dy.shape[3])
    y = np.full_like(dy, -np.inf)
    for _, _, seen in _taps(sizes, out):
        np.maximum(y, padded[seen], out=y)
    dx, size, given = np.zeros_like(padded), np.zeros_like(padded), np.zeros(dy.shape, bool)
    for _, _, seen in _taps(sizes, out):  # the first of equal pixels receives the gradient
        wins = (padded[seen] == y) & ~given
        dx[seen] += np.where(wins, dy, 0.0)
        size[seen] += np.where(wins, np.abs(dy), 0.0)
        given |= wins
    terms = math.prod(_pair(sizes["kernel_size"]))
    bound = size * (terms * _UNIT / (1 - terms * _UNIT))
    # A maximum is copied, so its bound is zero.
    return {
        "y": y, "y.bound": np.zeros_like(y),
        "dx": _inner(sizes, dx), "dx.bound": _inner(sizes, bound),
    }  # fmt: skip
