"""What the drivers of this package share: plans, and which kernel computes a problem by which."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnkernels import memory, parallel
from cnnkernels.contract import FORWARD, MaxPool2D

COPY = 16 * 1024
"""Elements of a copy, about: it stays in the second cache, and half of it in the first."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How a plane is copied and cut; how many there are is no part of it.

    Attributes
    ----------
    numbers : np.ndarray
        int64; sizes, and tables that a kernel reads.
    start : np.ndarray
        int32; for each place of a chunk's windows the first tap that lies on a pixel.
    work : int
        Elements of scratch memory.
    """

    numbers: np.ndarray
    start: np.ndarray
    work: int

    @functools.cached_property
    def tables(self) -> tuple[int, ...]:
        """Addresses and sizes of the tables."""
        return (
            self.numbers.ctypes.data, self.numbers.size, self.start.ctypes.data, self.start.size,
        )  # fmt: skip


class Way(NamedTuple):
    """How a problem is computed: by which kernel and plan, and what its batch comes to.

    Attributes
    ----------
    kernel : parallel.ParallelKernel
    plan : function
        Of the key; it returns the plan.
    key : MaxPool2D or tuple
        All that the plan depends on.
    planes, units : int
        How many the plan is for, and parts that the work can be cut in.
    winner : str
        The dtype of the winners.
    """

    kernel: parallel.ParallelKernel
    plan: Callable[[Any], Plan]
    key: object
    planes: int
    units: int
    winner: str


def taps(problem: MaxPool2D) -> int:
    """Return how many taps a window has."""
    rows, cols = problem.kernel_size
    return rows * cols


def plane(problem: MaxPool2D) -> MaxPool2D:
    """Return the problem of one plane."""
    return memory.first_equal(dataclasses.replace(problem, batch=1, channels=1))


def fits(problem: MaxPool2D, elements: int, numbers: int) -> bool:
    """Return whether elements of scratch memory and int64 of tables are in proportion."""
    needed = elements * np.dtype(problem.dtype).itemsize + numbers * 8
    return needed <= memory.allowed(problem.bytes_moved(FORWARD))
