"""A convolution kernel for some problems, with another kernel for the rest."""

from __future__ import annotations

import functools

from cnnkernels.accuracy import Accuracy
from cnnkernels.contract import (
    ALL,
    Array,
    ArraySpec,
    Cache,
    Conv2D,
    Conv2DGradients,
    Conv2DKernel,
    Needs,
    declared,
)

_CHOICES = 4096
"""The most problems whose kernel is remembered: asking takes longer than a small call."""


class WithFallback:
    """Passes each problem to one kernel if that supports it, else to another.

    Parameters
    ----------
    kernel, fallback : module or object
        Both satisfy `contract.Conv2DKernel`.

    Attributes
    ----------
    chosen : callable
        Returns the kernel of a problem.
    """

    def __init__(self, kernel: Conv2DKernel, fallback: Conv2DKernel) -> None:
        self.kernel, self.fallback = kernel, fallback
        self.chosen = functools.lru_cache(_CHOICES)(self._chosen)

    def _chosen(self, problem: Conv2D) -> Conv2DKernel:
        return self.kernel if self.kernel.unsupported(problem) is None else self.fallback

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why neither kernel can run the problem, in the fallback's words, or None."""
        return self.chosen(problem).unsupported(problem)

    def accuracy(self, problem: Conv2D) -> Accuracy | None:
        """Return what the problem's kernel declares; None for direct sums."""
        return declared(self.chosen(problem), problem)

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return the cache specification of the problem's kernel."""
        return self.chosen(problem).cache_spec(problem)

    def forward(self, problem: Conv2D, x: Array, w: Array, b: Array | None) -> tuple[Array, Cache]:
        """Run the problem's kernel; see `contract.Conv2DKernel.forward`."""
        return self.chosen(problem).forward(problem, x, w, b)

    def backward(
        self, problem: Conv2D, dy: Array, x: Array, w: Array, cache: Cache, needs: Needs = ALL
    ) -> Conv2DGradients:
        """Run the problem's kernel; see `contract.Conv2DKernel.backward`."""
        return self.chosen(problem).backward(problem, dy, x, w, cache, needs)
