"""The layers of the digits CNN, written once over NumPy and PyTorch arrays.

Convolution and pooling are a backend's kernels; all else is array API, so that two backends of one
array library differ in those kernels alone. Each layer keeps what its backward needs.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import array_api_compat
import numpy as np

from cnnkernels.contract import Array, Backend, Conv2D, MaxPool2D, Needs


class Parameter:
    """Weights or a bias, its gradient, and the velocity that momentum keeps.

    Parameters
    ----------
    value : array
        Initial, on the backend.
    decays : bool
        Whether weight decay applies: to weights, not to biases.
    """

    def __init__(self, value: Array, decays: bool) -> None:
        self.value = value
        self.decays = decays
        self.gradient: Array = None
        self.velocity: Array = array_api_compat.array_namespace(value).zeros_like(value)


class Layer(Protocol):
    """A function of one array with a backward."""

    parameters: tuple[Parameter, ...]

    def forward(self, x: Array) -> Array:
        """Return the output, and keep what backward needs."""
        ...

    def backward(self, dy: Array) -> Array:
        """Return dx for the last forward, and set the parameters' gradients."""
        ...


class Convolution:
    """Convolution by a backend's kernel.

    Parameters
    ----------
    backend : Backend
        Whose kernel.
    weights : numpy.ndarray, (K, C, R, S)
        Initial, of the dtype to compute in. The bias starts at zero.
    padding : int
        In pixels.
    first : bool
        Whether it is the network's first layer, whose dx nobody needs.
    """

    def __init__(self, backend: Backend, weights: np.ndarray, padding: int, *, first: bool) -> None:
        self._kernel = backend.convolution
        self._weights = Parameter(backend.arrays.put(weights), decays=True)
        bias = np.zeros(len(weights), weights.dtype)
        self._bias = Parameter(backend.arrays.put(bias), decays=False)
        self.parameters: tuple[Parameter, ...] = (self._weights, self._bias)
        self._needs = Needs(not first, True, True)
        filters, _, *size = weights.shape

        @functools.cache
        def problem(shape: tuple[int, int, int, int]) -> Conv2D:
            return Conv2D(*shape, filters, size, padding=padding, dtype=weights.dtype)

        self._problem = problem
        self._kept: Any = None

    def forward(self, x: Array) -> Array:
        """Return the convolved images."""
        problem = self._problem(tuple(x.shape))
        y, cache = self._kernel.forward(problem, x, self._weights.value, self._bias.value)
        self._kept = problem, x, cache
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx, None for the first layer."""
        problem, x, cache = self._kept
        gradients = self._kernel.backward(problem, dy, x, self._weights.value, cache, self._needs)
        self._weights.gradient, self._bias.gradient = gradients.dw, gradients.db
        return gradients.dx


class MaxPool:
    """Max-pooling of windows side by side, by a backend's kernel."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self, backend: Backend, size: int, dtype: str) -> None:
        self._kernel = backend.pooling

        @functools.cache
        def problem(shape: tuple[int, int, int, int]) -> MaxPool2D:
            return MaxPool2D(*shape, size, dtype=dtype)

        self._problem = problem
        self._kept: Any = None

    def forward(self, x: Array) -> Array:
        """Return the maxima."""
        problem = self._problem(tuple(x.shape))
        y, cache = self._kernel.forward(problem, x)
        self._kept = problem, cache
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradients at the winners."""
        problem, cache = self._kept
        return self._kernel.backward(problem, dy, cache)


class ReLU:
    """Zero for what is negative."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self) -> None:
        self._positive: Array = None

    def forward(self, x: Array) -> Array:
        """Return x where it is positive, and zero elsewhere."""
        self._positive = x > 0
        return x * self._positive

    def backward(self, dy: Array) -> Array:
        """Return dy where x was positive."""
        return dy * self._positive


class Flatten:
    """Images (N, C, H, W) as vectors (N, C*H*W)."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: Array) -> Array:
        """Return the vectors."""
        self._shape = tuple(x.shape)
        return x.reshape(self._shape[0], -1)

    def backward(self, dy: Array) -> Array:
        """Return the images."""
        return dy.reshape(self._shape)


class Linear:
    """A matrix product and a bias.

    Parameters
    ----------
    backend : Backend
        Whose arrays.
    weights : numpy.ndarray, (inputs, outputs)
        Initial; the bias starts at zero.
    """

    def __init__(self, backend: Backend, weights: np.ndarray) -> None:
        self._weights = Parameter(backend.arrays.put(weights), decays=True)
        bias = np.zeros(weights.shape[1], weights.dtype)
        self._bias = Parameter(backend.arrays.put(bias), decays=False)
        self.parameters: tuple[Parameter, ...] = (self._weights, self._bias)
        self._x: Array = None

    def forward(self, x: Array) -> Array:
        """Return x (N, inputs) as (N, outputs)."""
        self._x = x
        return x @ self._weights.value + self._bias.value

    def backward(self, dy: Array) -> Array:
        """Return dx (N, inputs)."""
        self._weights.gradient = self._x.T @ dy
        self._bias.gradient = dy.sum(0)
        return dy @ self._weights.value.T


def softmax_cross_entropy(logits: Array, wanted: Array) -> tuple[Array, Array]:
    """Return the mean cross-entropy of the softmax, and its gradient.

    Parameters
    ----------
    logits : array, (N, classes)
    wanted : array, (N, classes)
        One where the label is, zero elsewhere.

    Returns
    -------
    loss : array of one element, still where the backend computes
    dlogits : array, (N, classes)
    """
    xp = array_api_compat.array_namespace(logits)
    exponentials = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
    likelihoods = exponentials / xp.sum(exponentials, axis=1, keepdims=True)
    images = logits.shape[0]
    # What is added keeps the logarithm of a likelihood finite that rounded to zero.
    loss = -xp.sum(wanted * xp.log(likelihoods + 1e-12)) / images
    return loss, (likelihoods - wanted) / images
