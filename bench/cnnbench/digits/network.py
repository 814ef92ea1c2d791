"""The digits CNN: two convolutions, each with ReLU and max-pool, and a linear layer on top."""

from __future__ import annotations

import itertools
import math

import numpy as np

from cnnbench.digits.data import CLASSES
from cnnbench.digits.layers import (
    Convolution,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Parameter,
    ReLU,
)
from cnnkernels.contract import Array, Backend

_CHANNELS = (1, 8, 16)
_FEATURES = 16 * 2 * 2


class Network:
    """Layers in a row.

    Parameters
    ----------
    layers : list of Layer
        First to last.
    """

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    @property
    def parameters(self) -> list[Parameter]:
        """Of all layers."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    def forward(self, images: Array) -> Array:
        """Return the logits (N, classes) of images (N, 1, 8, 8)."""
        x = images
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dlogits: Array) -> None:
        """Set the gradients of all parameters."""
        dy = dlogits
        for layer in reversed(self.layers):
            dy = layer.backward(dy)


def digits_cnn(backend: Backend, dtype: str, random: np.random.Generator) -> Network:
    """Return the network with its initial weights, the same for every backend.

    Parameters
    ----------
    backend : Backend
        Whose kernels it computes with.
    dtype : str
        'float32' or 'float64'.
    random : Generator
        As `initial_weights` takes it.
    """
    *convolutions, linear = initial_weights(dtype, random)
    layers: list[Layer] = []
    for weights in convolutions:
        layers.append(Convolution(backend, weights, padding=1, first=not layers))
        layers.append(ReLU())
        layers.append(MaxPool(backend, 2, dtype))
    layers.append(Flatten())
    layers.append(Linear(backend, linear))
    return Network(layers)


def initial_weights(dtype: str, random: np.random.Generator) -> list[np.ndarray]:
    """Return the weights of conv1, conv2 and the linear layer: He's [1]_; biases start at zero.

    Parameters
    ----------
    dtype : str
        'float32' or 'float64'.
    random : Generator
        Draws float32 normals for the layers in this order.

    Returns
    -------
    list of numpy.ndarray
        (8, 1, 3, 3), (16, 8, 3, 3) and (64, 10); the 64 features are (16, 2, 2) in C order.

    References
    ----------
    .. [1] K. He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    convolutions = [
        _he_normal(random, (filters, channels, 3, 3), channels * 9, dtype)
        for channels, filters in itertools.pairwise(_CHANNELS)
    ]
    return [*convolutions, _he_normal(random, (_FEATURES, CLASSES), _FEATURES, dtype)]


def _he_normal(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, dtype: str
) -> np.ndarray:
    normals = random.standard_normal(shape).astype(np.float32)
    return (normals * np.float64(math.sqrt(2.0 / fan_in))).astype(dtype)
