"""Gradients and protocols: what every kernel is asked and has to answer.

A *problem* is one convolution or pooling without its data. A *kernel* is a plain module of
functions that take a problem and arrays. A *backend* joins a convolution kernel, a pooling kernel
and the arrays they compute on.

Axes and loop indices are named as in the literature: n image, c input channel, h w input row and
column, k output channel, r s kernel row and column, p q output row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from cnnkernels.problem import (
    BACKWARD,
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    DTYPES,
    FORWARD,
    Conv2D,
    Conv2DShapes,
    Direction,
    MaxPool2D,
    MaxPool2DShapes,
    Problem,
    directions,
    dtype_name,
)

__all__ = [
    "ALL",
    "BACKWARD",
    "BACKWARD_DATA",
    "BACKWARD_WEIGHTS",
    "DTYPES",
    "FORWARD",
    "Array",
    "ArraySpec",
    "Arrays",
    "Backend",
    "Cache",
    "Conv2D",
    "Conv2DGradients",
    "Conv2DKernel",
    "Conv2DShapes",
    "Direction",
    "MaxPool2D",
    "MaxPool2DKernel",
    "MaxPool2DShapes",
    "Needs",
    "Problem",
    "Unsupported",
    "directions",
    "dtype_name",
]

Array: TypeAlias = Any
"""A dense array of a backend's own kind: `numpy.ndarray`, or `torch.Tensor` on some device."""

Cache: TypeAlias = tuple[Array, ...]
"""What forward leaves for backward; opaque to everyone but the kernel that made it."""

ArraySpec: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and dtype name of one array."""


class Unsupported(NotImplementedError):
    """A backend cannot run here, or cannot run this problem; the message is the reason.

    A subclass of NotImplementedError, which asv already counts as a skip.
    """


class Needs(NamedTuple):
    """Which gradients the caller wants; a kernel returns None for the others."""

    dx: bool = True
    dw: bool = True
    db: bool = True


ALL = Needs()


class Conv2DGradients(NamedTuple):
    """Gradients of a convolution.

    Attributes
    ----------
    dx : array, (N, C, H, W), or None
    dw : array, (K, C/groups, R, S), or None
    db : array, (K,), or None
        None also where the problem has no bias.
    """

    dx: Array | None
    dw: Array | None
    db: Array | None


class Conv2DKernel(Protocol):
    """The functions of a convolution module (PEP 544: a module fits)."""

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why this kernel cannot do the problem, or None if it can: an allow-list."""
        ...

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: Conv2D, x: Array, w: Array, b: Array | None) -> tuple[Array, Cache]:
        """Cross-correlate images with filters, and add the bias.

        ``y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] * x[n, c, p*stride + r*dilation - top,
        q*stride + s*dilation - left]``, where pixels outside the image are zero.

        Parameters
        ----------
        problem : Conv2D
            Shapes and geometry; must not be refused by `unsupported`.
        x : array, (N, C, H, W)
            Images. Not written to.
        w : array, (K, C/groups, R, S)
            Filters. Not written to.
        b : array, (K,), or None
            One bias per filter; None exactly where `problem.bias` is False.

        Returns
        -------
        y : array, (N, K, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            What `backward` needs beside its arguments, as `cache_spec` says; never the inputs.
        """
        ...

    def backward(
        self,
        problem: Conv2D,
        dy: Array,
        x: Array,
        w: Array,
        cache: Cache,
        needs: Needs = ALL,
    ) -> Conv2DGradients:
        """Return the gradients of ``sum(y * dy)`` with respect to x, w and b.

        Parameters
        ----------
        problem : Conv2D
            As given to `forward`.
        dy : array, (N, K, P, Q)
            Gradient of y. Not written to.
        x, w : array
            As given to `forward`.
        cache : tuple of arrays
            As returned by `forward`.
        needs : Needs
            The gradients wanted; the others are None, and so is db without a bias.

        Returns
        -------
        Conv2DGradients
            Freshly allocated, of `problem.dtype`.
        """
        ...


class MaxPool2DKernel(Protocol):
    """The functions of a pooling module (PEP 544: a module fits)."""

    def unsupported(self, problem: MaxPool2D) -> str | None:
        """Return why this kernel cannot do the problem, or None if it can: an allow-list."""
        ...

    def cache_spec(self, problem: MaxPool2D) -> tuple[ArraySpec, ...]:
        """Return shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: MaxPool2D, x: Array) -> tuple[Array, Cache]:
        """Take the maximum of each window, and remember where it was.

        The first maximum in row-major order of the window wins; a NaN wins over any number, and
        the last NaN over other NaNs. Pixels outside the image never win.

        Parameters
        ----------
        problem : MaxPool2D
            Shapes and geometry; must not be refused by `unsupported`.
        x : array, (N, C, H, W)
            Images. Not written to.

        Returns
        -------
        y : array, (N, C, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            The winners, in a form of the kernel's own.
        """
        ...

    def backward(self, problem: MaxPool2D, dy: Array, cache: Cache) -> Array:
        """Give each window's gradient to its winner; windows that overlap add up.

        Parameters
        ----------
        problem : MaxPool2D
            As given to `forward`.
        dy : array, (N, C, P, Q)
            Gradient of y. Not written to.
        cache : tuple of arrays
            As returned by `forward`.

        Returns
        -------
        dx : array, (N, C, H, W)
            Freshly allocated, of `problem.dtype`.
        """
        ...


class Arrays(Protocol):
    """How data reaches the place and the layout a backend computes on, and comes back."""

    layout: str
    """'NCHW', or another order of the axes in memory; 4-D arrays are indexed NCHW all the same."""

    device: str
    """'cpu', or what else it computes on."""

    def put(self, array: np.ndarray) -> Array:
        """Return the backend's own array of the same contents; it may share memory."""
        ...

    def get(self, array: Array) -> np.ndarray:
        """Return a C-contiguous NumPy array of the same contents; it may share memory."""
        ...

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""
        ...


@dataclass(frozen=True)
class Backend:
    """A convolution kernel, a pooling kernel, and the arrays both compute on.

    Attributes
    ----------
    name : str
        As registered.
    description : str
        One line for tables.
    convolution, pooling : module
        The kernels.
    arrays : Arrays
        What the kernels take and give.
    deterministic : bool
        Whether it promises the same bits on every run, at any number of threads. Conformance
        holds it to that; of other backends it is only reported.
    """

    name: str
    description: str
    convolution: Conv2DKernel
    pooling: MaxPool2DKernel
    arrays: Arrays
    deterministic: bool = False

    def unsupported(self, problem: Problem) -> str | None:
        """Return why this backend cannot do the problem, or None if it can."""
        if isinstance(problem, Conv2D):
            return self.convolution.unsupported(problem)
        return self.pooling.unsupported(problem)
