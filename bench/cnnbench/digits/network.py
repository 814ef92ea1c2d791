"""The networks: 3x3 convolutions with ReLU, max-pools or strides, and a final linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cnnbench.digits.data import DataError
from cnnbench.digits.layers import (
    BatchNorm,
    Convolution,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Parameter,
    ReLU,
)
from cnnkernels.contract import Array, Arrays, Backend, Conv2D, MaxPool2D, Problem
from cnnkernels.descriptor import Case

State = dict[str, np.ndarray]
"""The parameters and statistics of a network, by name; see `initial_state`."""


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution with one pixel of padding, followed by ReLU."""

    filters: int
    stride: int = 1


@dataclass(frozen=True)
class Pool:
    """A max-pool over adjacent 2x2 windows."""


ARCHITECTURES: dict[str, tuple[Conv | Pool, ...]] = {
    "digits": (Conv(8), Pool(), Conv(16), Pool()),
    "digits-deep": (Conv(8), Pool(), Conv(16), Conv(32), Pool()),
    "digits-strided": (Conv(8), Conv(8, stride=2), Conv(16), Conv(16, stride=2)),
}
"""Stages by architecture; digits-strided replaces max-pools by strides, as in [1]_.

References
----------
.. [1] J. T. Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015.
"""


@dataclass(frozen=True)
class Plan:
    """An architecture for a given image shape and batch size.

    Attributes
    ----------
    architecture : str
    layers : dict of str to Conv2D or MaxPool2D
        'conv1', 'pool1' and so on, first to last.
    features, classes : int
        Inputs and outputs of the linear layer.
    batchnorm : bool
        Whether batch normalization replaces the biases of convolutions.
    """

    architecture: str
    layers: dict[str, Problem]
    features: int
    classes: int
    batchnorm: bool

    @property
    def cases(self) -> tuple[Case, ...]:
        """The layers computed by kernels, as cases to check and time."""
        return tuple(
            Case(problem, f"{self.architecture}.{name}", 1) for name, problem in self.layers.items()
        )


def plan(
    architecture: str,
    shape: tuple[int, int, int],
    classes: int,
    batch_size: int,
    dtype: str = "float32",
    *,
    batchnorm: bool = False,
) -> Plan:
    """Return the layers of an architecture for images of a given shape.

    Parameters
    ----------
    architecture : str
    shape : tuple of int
        Channels, height and width of an image.
    classes, batch_size : int
    dtype : str
    batchnorm : bool

    Raises
    ------
    DataError
        If the images are too small for the architecture.
    """
    layers: dict[str, Problem] = {}
    channels, height, width = shape
    for stage in ARCHITECTURES[architecture]:
        problem: Problem
        kind = "conv" if isinstance(stage, Conv) else "pool"
        name = f"{kind}{1 + sum(known.startswith(kind) for known in layers)}"
        if isinstance(stage, Conv):
            problem = Conv2D(
                batch_size, channels, height, width, stage.filters, 3,
                stride=stage.stride, padding=1, bias=not batchnorm, dtype=dtype,
            )  # fmt: skip
        else:
            if min(height, width) < 2:
                raise DataError(
                    f"expected images of at least 4x4 pixels for {architecture}, "
                    f"got {shape[1]}x{shape[2]}"
                )
            problem = MaxPool2D(batch_size, channels, height, width, 2, dtype=dtype)
        layers[name] = problem
        _, channels, height, width = problem.shapes.y
    return Plan(architecture, layers, channels * height * width, classes, batchnorm)


def initial_state(plan: Plan, random: np.random.Generator) -> State:
    """Return He's initial weights [1]_; biases are zero, normalizations the identity.

    Parameters
    ----------
    plan : Plan
    random : Generator
        Draws float32 normals for the layers with weights in their order.

    Returns
    -------
    dict of str to numpy.ndarray
        'conv1.weight' (K, C, 3, 3) and 'conv1.bias' (K,) or 'norm1.weight', 'norm1.bias',
        'norm1.mean' and 'norm1.variance' (K,), and so on; 'linear.weight' (features, classes), the
        features as (C, H, W) in C order, and 'linear.bias' (classes,).

    References
    ----------
    .. [1] K. He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    state: State = {}
    dtype = next(iter(plan.layers.values())).dtype
    for name, problem in plan.layers.items():
        if not isinstance(problem, Conv2D):
            continue
        shape = problem.shapes.w
        state[f"{name}.weight"] = _he_normal(random, shape, math.prod(shape[1:]), dtype)
        if plan.batchnorm:
            norm = name.replace("conv", "norm")
            for what, value in (("weight", 1), ("bias", 0), ("mean", 0), ("variance", 1)):
                state[f"{norm}.{what}"] = np.full(shape[0], value, dtype)
        else:
            state[f"{name}.bias"] = np.zeros(shape[0], dtype)
    features, classes = plan.features, plan.classes
    state["linear.weight"] = _he_normal(random, (features, classes), features, dtype)
    state["linear.bias"] = np.zeros(classes, dtype)
    return state


def _he_normal(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, dtype: str
) -> np.ndarray:
    normals = random.standard_normal(shape).astype(np.float32)
    return (normals * np.float64(math.sqrt(2.0 / fan_in))).astype(dtype)


class Network:
    """A sequence of named layers.

    Parameters
    ----------
    plan : Plan
    backend : Backend
        The backend of its kernels.
    state : dict of str to numpy.ndarray
        Initial values, from `initial_state` or from `state` of such a network.
    """

    def __init__(self, plan: Plan, backend: Backend, state: State) -> None:
        self._arrays: Arrays = backend.arrays
        put = backend.arrays.put

        def parameter(name: str, *, decays: bool = False) -> Parameter:
            return Parameter(name, put(state[name]), decays)

        self.layers: dict[str, Layer] = {}
        for name, problem in plan.layers.items():
            if isinstance(problem, MaxPool2D):
                self.layers[name] = MaxPool(backend, problem)
                continue
            number = name.removeprefix("conv")
            weights = parameter(f"{name}.weight", decays=True)
            bias = parameter(f"{name}.bias") if problem.bias else None
            self.layers[name] = Convolution(backend, problem, weights, bias, first=not self.layers)
            if plan.batchnorm:
                self.layers[f"norm{number}"] = BatchNorm(
                    *(
                        parameter(f"norm{number}.{what}")
                        for what in ("weight", "bias", "mean", "variance")
                    )
                )
            self.layers[f"relu{number}"] = ReLU()
        self.layers["flatten"] = Flatten()
        self.layers["linear"] = Linear(
            parameter("linear.weight", decays=True), parameter("linear.bias")
        )

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters of all layers."""
        return [parameter for layer in self.layers.values() for parameter in layer.parameters]

    @property
    def state(self) -> State:
        """All parameters and statistics, as NumPy arrays."""
        return {
            part.name: np.array(self._arrays.get(part.value))
            for layer in self.layers.values()
            for part in (*layer.parameters, *layer.statistics)
        }

    def train(self, training: bool) -> None:
        """Switch all layers to training or to evaluation mode."""
        for layer in self.layers.values():
            layer.training = training

    def forward(self, images: Array) -> Array:
        """Return the logits (N, classes) of images (N, C, H, W)."""
        x = images
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def backward(self, dlogits: Array) -> None:
        """Set the gradients of all parameters."""
        dy = dlogits
        for layer in reversed(self.layers.values()):
            dy = layer.backward(dy)
