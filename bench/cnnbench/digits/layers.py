"""Layers of convolutional networks, written once over NumPy and PyTorch arrays.

Convolution and pooling use a backend's kernels, and everything else the array API. So backends on
one array library differ only in their kernels. Each layer stores what its backward needs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import array_api_compat

from cnnkernels.contract import Array, Backend, Conv2D, MaxPool2D, Needs


class Parameter:
    """Weights or a bias with its gradient, or running statistics without one.

    Parameters
    ----------
    name : str
        Such as 'conv1.weight'.
    value : array
        Initial value, on the backend.
    decays : bool
        Whether weight decay applies; it does to weights, not to biases.
    """

    def __init__(self, name: str, value: Array, decays: bool = False) -> None:
        self.name = name
        self.value = value
        self.decays = decays
        self.gradient: Array = None


class Layer:
    """A function of one array with a backward.

    Attributes
    ----------
    parameters : tuple of Parameter
        The trained parameters.
    statistics : tuple of Parameter
        Running statistics of the batches.
    training : bool
        Whether forward is in training mode.
    """

    parameters: tuple[Parameter, ...] = ()
    statistics: tuple[Parameter, ...] = ()
    training: bool = True

    def forward(self, x: Array) -> Array:
        """Return the output, and store what backward needs."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Return dx for the last forward, and set the parameters' gradients."""
        raise NotImplementedError


class Convolution(Layer):
    """Convolution by a backend's kernel.

    Parameters
    ----------
    backend : Backend
        The backend of the kernel.
    problem : Conv2D
        What it computes, for any batch.
    weights : Parameter, (K, C, R, S)
    bias : Parameter, (K,), or None
    first : bool
        Whether it is the network's first layer, which needs no dx.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Conv2D,
        weights: Parameter,
        bias: Parameter | None,
        *,
        first: bool,
    ) -> None:
        self._kernel = backend.convolution
        self._weights, self._bias = weights, bias
        self.parameters = (weights,) if bias is None else (weights, bias)
        self._needs = Needs(not first, True, bias is not None)
        self._problem = functools.cache(functools.partial(_of_batch, problem))
        self._kept: Any = None

    def forward(self, x: Array) -> Array:
        """Return the convolved images."""
        problem = self._problem(x.shape[0])
        bias = None if self._bias is None else self._bias.value
        y, cache = self._kernel.forward(problem, x, self._weights.value, bias)
        self._kept = problem, x, cache
        return y

    def backward(self, dy: Array) -> Array:
        """Return dx, None for the first layer."""
        problem, x, cache = self._kept
        gradients = self._kernel.backward(problem, dy, x, self._weights.value, cache, self._needs)
        self._weights.gradient = gradients.dw
        if self._bias is not None:
            self._bias.gradient = gradients.db
        return gradients.dx


class MaxPool(Layer):
    """Max-pooling by a backend's kernel.

    Parameters
    ----------
    backend : Backend
        The backend of the kernel.
    problem : MaxPool2D
        What it computes, for any batch.
    """

    def __init__(self, backend: Backend, problem: MaxPool2D) -> None:
        self._kernel = backend.pooling
        self._problem = functools.cache(functools.partial(_of_batch, problem))
        self._kept: Any = None

    def forward(self, x: Array) -> Array:
        """Return the maxima."""
        problem = self._problem(x.shape[0])
        y, cache = self._kernel.forward(problem, x)
        self._kept = problem, cache
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradients at the winners."""
        problem, cache = self._kept
        return self._kernel.backward(problem, dy, cache)


def _of_batch(problem: Any, images: int) -> Any:
    return dataclasses.replace(problem, batch=images)


class BatchNorm(Layer):
    """Batch normalization [1]_: each channel with mean 0 and variance 1, then scaled and shifted.

    In training, mean and variance are those of the batch; else, running means of those of the
    batches seen.

    Parameters
    ----------
    weight, bias : Parameter, (C,)
        The scale and the shift.
    mean, variance : Parameter, (C,)
        Of the batches seen; the variance as of a sample, divided by n - 1.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015.
    """

    NEWEST = 0.1
    """The weight of a batch's statistics in the running means; PyTorch's momentum."""

    EPSILON = 1e-5

    def __init__(
        self, weight: Parameter, bias: Parameter, mean: Parameter, variance: Parameter
    ) -> None:
        self._weight, self._bias, self._mean, self._variance = weight, bias, mean, variance
        self.parameters = (weight, bias)
        self.statistics = (mean, variance)
        self._kept: Any = None

    def forward(self, x: Array) -> Array:
        """Return the normalized images."""
        xp = array_api_compat.array_namespace(x)
        if self.training:
            mean = xp.mean(x, axis=(0, 2, 3))
            variance = xp.mean((x - _channels(mean)) ** 2, axis=(0, 2, 3))
            count = x.shape[0] * x.shape[2] * x.shape[3]
            for kept, new in (
                (self._mean, mean),
                (self._variance, variance * (count / max(1, count - 1))),
            ):
                kept.value = (1 - self.NEWEST) * kept.value + self.NEWEST * new
        else:
            mean, variance = self._mean.value, self._variance.value
        scale = 1 / xp.sqrt(variance + self.EPSILON)
        normal = (x - _channels(mean)) * _channels(scale)
        self._kept = normal, scale
        return normal * _channels(self._weight.value) + _channels(self._bias.value)

    def backward(self, dy: Array) -> Array:
        """Return dx, with the terms from the batch's mean and variance."""
        xp = array_api_compat.array_namespace(dy)
        normal, scale = self._kept
        self._weight.gradient = xp.sum(dy * normal, axis=(0, 2, 3))
        self._bias.gradient = xp.sum(dy, axis=(0, 2, 3))
        count = dy.shape[0] * dy.shape[2] * dy.shape[3]
        mean, slope = self._bias.gradient / count, self._weight.gradient / count
        rest = dy - _channels(mean) - normal * _channels(slope)
        return rest * _channels(scale * self._weight.value)


def _channels(values: Array) -> Array:
    """Reshape values (C,) to broadcast over the channels of images (N, C, H, W)."""
    return values[None, :, None, None]


class ReLU(Layer):
    """Rectified linear unit: negative values become zero."""

    def __init__(self) -> None:
        self._positive: Array = None

    def forward(self, x: Array) -> Array:
        """Return x where it is positive, and zero elsewhere."""
        self._positive = x > 0
        return x * self._positive

    def backward(self, dy: Array) -> Array:
        """Return dy where x was positive."""
        return dy * self._positive


class Flatten(Layer):
    """Images (N, C, H, W) as vectors (N, C*H*W)."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: Array) -> Array:
        """Return the vectors."""
        self._shape = tuple(x.shape)
        return x.reshape(self._shape[0], -1)

    def backward(self, dy: Array) -> Array:
        """Return the images."""
        return dy.reshape(self._shape)


class Linear(Layer):
    """A matrix product and a bias.

    Parameters
    ----------
    weights : Parameter, (inputs, outputs)
    bias : Parameter, (outputs,)
    """

    def __init__(self, weights: Parameter, bias: Parameter) -> None:
        self._weights, self._bias = weights, bias
        self.parameters = (weights, bias)
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
    # The summand keeps the logarithm finite where a likelihood rounds to zero.
    loss = -xp.sum(wanted * xp.log(likelihoods + 1e-12)) / images
    return loss, (likelihoods - wanted) / images
