"""The contract between kernels and their callers: protocols, gradients and backends.

A *problem* is one convolution or pooling without its data. A *kernel* is a plain module of
functions that take a problem and arrays. A *backend* joins a convolution kernel, a pooling kernel
and the arrays they compute on.

Axes and loop indices are named as in the literature: n image, c input channel, h w input row and
column, k output channel, r s kernel row and column, p q output row and column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from cnnkernels.accuracy import Accuracy
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
    "Accuracy",
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
    "declared",
    "directions",
    "dtype_name",
]

Array: TypeAlias = Any
"""A dense array of a backend's own kind: `numpy.ndarray`, or `torch.Tensor` on some device."""

Cache: TypeAlias = tuple[Array, ...]
"""Arrays that forward saves for backward; only the kernel that made them can read them.

An array whose first axis is as long as the batch has one entry for each image, so that batches can
be joined and split along it.
"""

ArraySpec: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and dtype name of one array."""


class Unsupported(NotImplementedError):
    """A backend cannot run on this machine or on this problem; the message says why.

    Derived from NotImplementedError, which asv reports as a skip.
    """


class Needs(NamedTuple):
    """The gradients that the caller needs; a kernel returns None for the others."""

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
        Also None if the problem has no bias.
    """

    dx: Array | None
    dw: Array | None
    db: Array | None


class Conv2DKernel(Protocol):
    """The functions of a convolution kernel, a plain module that satisfies this protocol."""

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why this kernel cannot run the problem, or None; refuse anything unknown."""
        ...

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return the shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: Conv2D, x: Array, w: Array, b: Array | None) -> tuple[Array, Cache]:
        """Cross-correlate images with filters, and add the bias.

        ``y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] * x[n, c, p*stride + r*dilation - top,
        q*stride + s*dilation - left]``, where pixels outside the image are zero.

        A NaN or an infinite pixel reaches the outputs whose window sees it, and no others. An
        algorithm that declares its accuracy may also spoil outputs up to `Accuracy.reach` pixels
        further, and may turn infinities into NaNs.

        Parameters
        ----------
        problem : Conv2D
            Shapes and geometry; one that `unsupported` accepts.
        x : array, (N, C, H, W)
            Images. Not written to.
        w : array, (K, C/groups, R, S)
            Filters. Not written to.
        b : array, (K,), or None
            One bias per filter; None if and only if `problem.bias` is False.

        Returns
        -------
        y : array, (N, K, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            What `backward` needs besides its arguments, as declared by `cache_spec`; never the
            inputs.
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
            The gradients to compute; the others are None, and so is db without a bias.

        Returns
        -------
        Conv2DGradients
            Freshly allocated, of `problem.dtype`.
        """
        ...


def declared(kernel: Conv2DKernel, problem: Conv2D) -> Accuracy | None:
    """Return the accuracy that a kernel declares for a problem; None for direct sums."""
    declare: Callable[[Conv2D], Accuracy | None] | None = getattr(kernel, "accuracy", None)
    return None if declare is None else declare(problem)


class MaxPool2DKernel(Protocol):
    """The functions of a pooling kernel, a plain module that satisfies this protocol."""

    def unsupported(self, problem: MaxPool2D) -> str | None:
        """Return why this kernel cannot run the problem, or None; refuse anything unknown."""
        ...

    def cache_spec(self, problem: MaxPool2D) -> tuple[ArraySpec, ...]:
        """Return the shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: MaxPool2D, x: Array) -> tuple[Array, Cache]:
        """Return the maximum of each window, and record its position.

        The first maximum in the row-major order of the window wins. A NaN beats any number, and
        the last NaN beats the others. Pixels outside the image never win.

        Parameters
        ----------
        problem : MaxPool2D
            Shapes and geometry; one that `unsupported` accepts.
        x : array, (N, C, H, W)
            Images. Not written to.

        Returns
        -------
        y : array, (N, C, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            The winners' positions, in the kernel's own format.
        """
        ...

    def backward(self, problem: MaxPool2D, dy: Array, cache: Cache) -> Array:
        """Add each window's gradient to its winning pixel; overlapping windows accumulate.

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
    """Conversion between NumPy arrays and the device and layout of a backend."""

    layout: str
    """Memory order of the axes, such as 'NCHW'; 4-D arrays are always indexed as NCHW."""

    device: str
    """The device that the backend computes on, such as 'cpu'."""

    def put(self, array: np.ndarray) -> Array:
        """Return a backend array with the same contents; it may share memory."""
        ...

    def get(self, array: Array) -> np.ndarray:
        """Return a C-contiguous NumPy array with the same contents; it may share memory."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished all submitted work."""
        ...


@dataclass(frozen=True)
class Backend:
    """A convolution kernel, a pooling kernel, and the arrays both compute on.

    Attributes
    ----------
    name : str
        The name in the registry.
    description : str
        One line, shown in tables.
    convolution, pooling : module
        The kernels.
    arrays : Arrays
        Conversion to and from the arrays that the kernels take and return.
    deterministic : bool
        Whether the backend promises bit-identical results on every run, at any number of
        threads. Conformance enforces the promise; for other backends it only reports it.
    fallback : str
        The backend whose kernels compute max-poolings, and convolutions that the kernel of a
        `fallback.WithFallback` leaves to them. Empty if a backend has none.
    """

    name: str
    description: str
    convolution: Conv2DKernel
    pooling: MaxPool2DKernel
    arrays: Arrays
    deterministic: bool = False
    fallback: str = ""

    def unsupported(self, problem: Problem) -> str | None:
        """Return why this backend cannot run the problem, or None if it can."""
        if isinstance(problem, Conv2D):
            return self.convolution.unsupported(problem)
        return self.pooling.unsupported(problem)

    def accuracy(self, problem: Problem) -> Accuracy | None:
        """Return the accuracy that the problem's kernel declares; None for direct sums."""
        return declared(self.convolution, problem) if isinstance(problem, Conv2D) else None

    def owner(self, problem: Problem) -> str:
        """Return the backend whose kernel computes a problem: this one's name, or `fallback`."""
        chosen = getattr(self.convolution, "chosen", None)
        if not self.fallback or (
            chosen is not None
            and isinstance(problem, Conv2D)
            and chosen(problem) is self.convolution.kernel  # type: ignore[attr-defined]
        ):
            return self.name
        return self.fallback
