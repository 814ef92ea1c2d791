"""The float64 reference results, from matrix products and window views.

The reference shares no code with the kernels that it checks. Tests compare it with `naive`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.problem import SlidingWindow

_PIXELS = 128
"""Pixels of the output computed at once, if images are that small: enough for a fast product."""


class ConvolutionResult(NamedTuple):
    """Output and gradients of a convolution, float64; db is empty without a bias."""

    y: np.ndarray
    dx: np.ndarray
    dw: np.ndarray
    db: np.ndarray


class PoolingResult(NamedTuple):
    """Output and gradient of a max-pooling, float64."""

    y: np.ndarray
    dx: np.ndarray


def convolution(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
) -> ConvolutionResult:
    """Return the output, and the gradients of ``sum(y * dy)``.

    For absolute values as inputs, the results are the magnitudes in error bounds.
    """
    shapes = problem.shapes
    groups = problem.groups
    filters = np.asarray(w, np.float64).reshape(groups, problem.out_channels // groups, -1)
    result = ConvolutionResult(
        np.empty(shapes.y), np.empty(shapes.x), np.zeros(shapes.w), np.zeros(shapes.b)
    )
    (top, bottom), (left, right) = problem.padding
    group_w = result.dw.reshape(filters.shape)
    step = max(1, _PIXELS // max(1, math.prod(shapes.y[2:])))
    for first in range(0, problem.batch, step):
        some = slice(first, first + step)
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        padded = np.pad(np.asarray(x[some], np.float64), around)
        fields = _windows(problem, padded)  # (N, C, P, Q, R, S)
        columns = fields.transpose(1, 4, 5, 0, 2, 3).reshape(groups, filters.shape[2], -1)
        gradient = np.asarray(dy[some], np.float64).swapaxes(0, 1)
        by_group = gradient.reshape(groups, filters.shape[1], -1)
        result.y[some] = (filters @ columns).reshape(gradient.shape).swapaxes(0, 1)
        group_w += by_group @ columns.swapaxes(1, 2)
        back = (filters.swapaxes(1, 2) @ by_group).reshape(
            problem.in_channels, *problem.kernel_size, *gradient.shape[1:]
        )
        spread = np.zeros_like(padded)
        for r, s in np.ndindex(*problem.kernel_size):
            rows = slice(r * problem.dilation[0], None, problem.stride[0])
            cols = slice(s * problem.dilation[1], None, problem.stride[1])
            pixels = spread[..., rows, cols][..., : shapes.y[2], : shapes.y[3]]
            pixels += back[:, r, s].swapaxes(0, 1)
        result.dx[some] = spread[..., top : top + problem.height, left : left + problem.width]
    if problem.bias:
        result.y[...] += np.asarray(b, np.float64)[:, None, None]
        result.db[...] = np.asarray(dy, np.float64).sum(axis=(0, 2, 3))
    return result


def pooling(problem: MaxPool2D, x: np.ndarray, dy: np.ndarray) -> PoolingResult:
    """Return the maxima, and the gradient of ``sum(y * dy)``, as the contract defines them."""
    shapes = problem.shapes
    result = PoolingResult(np.empty(shapes.y), np.zeros(shapes.x))
    (top, bottom), (left, right) = problem.padding
    around = ((0, 0), (top, bottom), (left, right))
    plane = np.arange(problem.height * problem.width).reshape(1, problem.height, problem.width)
    pixels = _windows(problem, np.pad(plane, around, constant_values=-1))
    pixels = pixels.reshape(*shapes.y[2:], -1)  # (P, Q, R*S): which pixel, or -1 for padding
    channels = np.arange(problem.channels)[:, None, None]
    for n in range(problem.batch):
        padded = np.pad(np.asarray(x[n], np.float64), around, constant_values=-np.inf)
        seen = _windows(problem, padded).reshape(*shapes.y[1:], -1)
        # Winners: the last NaN if there is one, else the first of the largest numbers.
        unequal = np.isnan(seen)
        last_nan = seen.shape[-1] - 1 - np.argmax(unequal[..., ::-1], axis=-1)
        numbers = np.where(unequal, -np.inf, seen)
        greatest = numbers.max(axis=-1, keepdims=True)
        first_greatest = np.argmax((numbers == greatest) & (pixels >= 0), axis=-1)
        tap = np.where(unequal.any(axis=-1), last_nan, first_greatest)
        result.y[n] = np.take_along_axis(seen, tap[..., None], axis=-1)[..., 0]
        winner = np.take_along_axis(np.broadcast_to(pixels, seen.shape), tap[..., None], axis=-1)[
            ..., 0
        ]
        flat = result.dx[n].reshape(problem.channels, -1)
        np.add.at(flat, (channels, winner), np.asarray(dy[n], np.float64))
    return result


def _windows(problem: SlidingWindow, padded: np.ndarray) -> np.ndarray:
    """View padded planes (..., H, W) as windows (..., P, Q, R, S)."""
    rows, cols = (
        d * (k - 1) + 1 for k, d in zip(problem.kernel_size, problem.dilation, strict=True)
    )
    view = sliding_window_view(padded, (rows, cols), axis=(-2, -1))
    view = view[..., :: problem.stride[0], :: problem.stride[1], :, :]
    return view[..., :: problem.dilation[0], :: problem.dilation[1]]
