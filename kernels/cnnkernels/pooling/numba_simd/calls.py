"""What the drivers of this package share: arguments of kernels, and how kernels are launched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnkernels import memory, parallel, records, simd
from cnnkernels.contract import FORWARD, MaxPool2D

COPY = 16 * 1024
"""Elements of a copy, about: it stays in the second cache, and half of it in the first."""

NO_TABLE = np.empty(0, np.int64)
"""A table of a blocking that has its sizes only."""


class ForwardCall(NamedTuple):
    """Arguments of a kernel that takes maxima."""

    x: np.ndarray
    """Pixels of all planes."""
    y: np.ndarray
    """Maxima of the windows of all planes."""
    winners: np.ndarray
    """Numbers of the winning taps, in the shape of y."""
    shares: int
    """Shares that the work is cut in."""
    planes: int
    """Planes in the arrays."""
    blocking: int
    """Address of the blocking of a plane."""


class BackwardCall(NamedTuple):
    """Arguments of a kernel that gives gradients to the winners."""

    dy: np.ndarray
    """Gradients of the windows of all planes."""
    winners: np.ndarray
    """Numbers of the winning taps, in the shape of dy."""
    dx: np.ndarray
    """Gradients of the pixels of all planes."""
    shares: int
    """Shares that the work is cut in."""
    planes: int
    """Planes in the arrays."""
    blocking: int
    """Address of the blocking of a plane."""


class Launch(NamedTuple):
    """How a problem is computed, whatever is in its arrays."""

    kernel: parallel.ParallelKernel
    blocking: Callable[[Any], records.Record[Any]]
    """Function that returns the blocking of a plane, given the geometry."""
    geometry: object
    """Everything that the blocking depends on; the batch is no part of it."""
    planes: int
    """Planes in the arrays, each of the size that the blocking is for."""
    units: int
    """Shares that the work can be cut in, at the most."""
    winner: str
    """Dtype of the winners."""


def winner_dtype(problem: MaxPool2D) -> str:
    """Return the dtype of the winners: one byte where it can number all taps."""
    return "uint8" if taps(problem) <= 255 else "int64"


def taps(problem: MaxPool2D) -> int:
    """Return how many taps a window has."""
    return math.prod(problem.kernel_size)


def lanes(problem: MaxPool2D) -> int:
    """Return how many pixels a vector holds."""
    return simd.lanes(np.dtype(problem.dtype).itemsize)


def planes(problem: MaxPool2D) -> int:
    """Return how many planes the images have."""
    return problem.batch * problem.channels


def one_plane(problem: MaxPool2D) -> MaxPool2D:
    """Return the problem of one plane."""
    return memory.first_equal(dataclasses.replace(problem, batch=1, channels=1))


def fits(problem: MaxPool2D, elements: int, numbers: int) -> bool:
    """Return whether a call may take so many elements of scratch memory and int64 of tables."""
    needed = elements * np.dtype(problem.dtype).itemsize + numbers * 8
    return needed <= memory.allowed(problem.bytes_moved(FORWARD))
