"""Optimizers, written once over NumPy and PyTorch arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import array_api_compat

from cnnbench.digits.layers import Parameter
from cnnkernels.contract import Array

LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3}
"""Default learning rates, by optimizer."""


class Optimizer(Protocol):
    """Updates parameters by their gradients."""

    def step(self) -> None:
        """Take a step."""
        ...


class SGD:
    """Stochastic gradient descent with momentum.

    v = momentum*v - learning_rate*(dw + weight_decay*w), w = w + v; biases do not decay.

    Parameters
    ----------
    parameters : sequence of Parameter
    learning_rate, momentum, weight_decay : float
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self._rates = learning_rate, momentum, weight_decay
        self._velocities = [(parameter, _zeros(parameter)) for parameter in parameters]

    def step(self) -> None:
        """Take a step."""
        learning_rate, momentum, weight_decay = self._rates
        for i, (parameter, velocity) in enumerate(self._velocities):
            gradient = _decayed(parameter, weight_decay)
            velocity = momentum * velocity - learning_rate * gradient
            parameter.value = parameter.value + velocity
            self._velocities[i] = parameter, velocity


class Adam:
    """Adam [1]_ with betas 0.9 and 0.999, epsilon 1e-8, and decay added to the gradient.

    Parameters
    ----------
    parameters : sequence of Parameter
    learning_rate, weight_decay : float

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """

    BETAS = 0.9, 0.999
    EPSILON = 1e-8

    def __init__(
        self, parameters: Sequence[Parameter], learning_rate: float, weight_decay: float
    ) -> None:
        self._rates = learning_rate, weight_decay
        self._moments = [
            (parameter, _zeros(parameter), _zeros(parameter)) for parameter in parameters
        ]
        self._steps = 0

    def step(self) -> None:
        """Take a step."""
        learning_rate, weight_decay = self._rates
        first, second = self.BETAS
        self._steps += 1
        rate = learning_rate / (1 - first**self._steps)
        seen = (1 - second**self._steps) ** 0.5
        for i, (parameter, mean, square) in enumerate(self._moments):
            gradient = _decayed(parameter, weight_decay)
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient * gradient
            xp = array_api_compat.array_namespace(square)
            parameter.value = parameter.value - rate * mean / (
                xp.sqrt(square) / seen + self.EPSILON
            )
            self._moments[i] = parameter, mean, square


def _zeros(parameter: Parameter) -> Array:
    return array_api_compat.array_namespace(parameter.value).zeros_like(parameter.value)


def _decayed(parameter: Parameter, weight_decay: float) -> Array:
    """Return the gradient, plus weight decay where it applies."""
    if not parameter.decays:
        return parameter.gradient
    return parameter.gradient + weight_decay * parameter.value
