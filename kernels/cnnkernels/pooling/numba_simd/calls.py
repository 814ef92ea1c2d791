"""Shared by the drivers of this package: arguments of kernels, and their launch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnkernels import memory, parallel, records, simd
from cnnkernels.contract import FORWARD, MaxPool2D

COPY = 16 * 1024
"""Approximate elements of a copy: it fits L2, and half of it fits L1."""

NO_TABLE = np.empty(0, np.int64)
"""Placeholder for the tables of a blocking with sizes only."""


class ForwardCall(NamedTuple):
    """Arguments of a forward kernel."""

    x: np.ndarray
    """Pixels of all planes."""
    y: np.ndarray
    """Maxima of the windows of all planes."""
    winners: np.ndarray
    """Numbers of the winning taps, in the shape of y."""
    shares: int
    """Shares of the work."""
    planes: int
    """Planes in the arrays."""
    blocking: int
    """Address of the blocking of a plane."""


class BackwardCall(NamedTuple):
    """Arguments of a backward kernel."""

    dy: np.ndarray
    """Gradients of the windows of all planes."""
    winners: np.ndarray
    """Numbers of the winning taps, in the shape of dy."""
    dx: np.ndarray
    """Gradients of the pixels of all planes."""
    shares: int
    """Shares of the work."""
    planes: int
    """Planes in the arrays."""
    blocking: int
    """Address of the blocking of a plane."""


class Launch(NamedTuple):
    """How to compute a problem, independent of its data."""

    kernel: parallel.ParallelKernel
    blocking: Callable[[Any], records.Record[Any]]
    """Function that returns the blocking of a plane, given the geometry."""
    geometry: object
    """Everything that determines the blocking; the batch does not."""
    planes: int
    """Planes in the arrays, each with the size of the blocking."""
    units: int
    """Maximum number of shares of the work."""
    winner: str
    """Dtype of the winners."""


def winner_dtype(problem: MaxPool2D) -> str:
    """Return the winners' dtype: uint8 if it can number all taps."""
    return "uint8" if taps(problem) <= 255 else "int64"


def taps(problem: MaxPool2D) -> int:
    """Return the number of taps of a window."""
    return math.prod(problem.kernel_size)


def lanes(problem: MaxPool2D) -> int:
    """Return the number of pixels in a vector."""
    return simd.lanes(np.dtype(problem.dtype).itemsize)


def planes(problem: MaxPool2D) -> int:
    """Return the number of planes of the images."""
    return problem.batch * problem.channels


def one_plane(problem: MaxPool2D) -> MaxPool2D:
    """Return the problem reduced to one plane."""
    return memory.first_equal(dataclasses.replace(problem, batch=1, channels=1))


def fits(problem: MaxPool2D, elements: int, numbers: int) -> bool:
    """Return whether a call may use so much scratch memory (elements) and tables (int64s)."""
    needed = elements * np.dtype(problem.dtype).itemsize + numbers * 8
    return needed <= memory.allowed(problem.bytes_moved(FORWARD))
