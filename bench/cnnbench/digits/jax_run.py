"""The networks as a JAX program: a step is one compiled function, on the CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnbench.digits.layers import BatchNorm
from cnnbench.digits.network import Plan, State
from cnnbench.digits.optimizers import Adam
from cnnbench.digits.options import Options
from cnnbench.digits.training import Training, start, train_compiled
from cnnkernels.contract import MaxPool2D

_NHWC = ("NHWC", "HWIO", "NHWC")
"""The layouts of images and weights in XLA's CPU kernels."""

_Arrays = dict[str, jax.Array]


def train(options: Options) -> Training:
    """Train with JAX, with steps compiled for each batch size."""
    jax.config.update("jax_platforms", "cpu")
    with jax.enable_x64(options.dtype == "float64"):
        return train_compiled(_JaxSteps, options)


class _JaxSteps:
    """`Steps`, each one compiled function."""

    def __init__(self, options: Options) -> None:
        dataset, plan, state = start(options)
        self._features = _features(plan)
        arrays = {
            name: jnp.array(_channels_last(name, state[name], self._features)) for name in state
        }
        self._statistics = {n: arrays.pop(n) for n in state if n.endswith((".mean", ".variance"))}
        self._parameters = arrays
        zeros = jax.tree.map(jnp.zeros_like, arrays)
        self._moments: Any = (zeros, jax.tree.map(jnp.copy, zeros), 0)
        self._program = _Program(plan, options)
        self._train_set, self._test_set = (
            (jnp.array(images.transpose(0, 2, 3, 1), options.dtype), jnp.array(labels))
            for images, labels in (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
            )
        )

    def place(self, order: np.ndarray) -> np.ndarray:
        return order  # slicing a JAX array would run a computation each time

    def step(self, batch: np.ndarray) -> jax.Array:
        self._parameters, self._statistics, self._moments, loss = self._program.step(
            self._parameters, self._statistics, self._moments, *self._train_set, batch
        )
        return loss

    def accuracies(self) -> tuple[float, float]:
        train, test = (
            int(self._program.hits(self._parameters, self._statistics, images, labels))
            / len(labels)
            for images, labels in (self._train_set, self._test_set)
        )
        return train, test

    def state(self) -> State:
        arrays = self._parameters | self._statistics
        return {
            name: _channels_first(name, np.array(array), self._features)
            for name, array in arrays.items()
        }


def _features(plan: Plan) -> tuple[int, int, int]:
    """Return the channels, height and width of the linear layer's input."""
    _, channels, height, width = list(plan.layers.values())[-1].shapes.y
    return channels, height, width


def _channels_last(name: str, array: np.ndarray, features: tuple[int, int, int]) -> np.ndarray:
    """Convert weights to this program's layout, with channels last in images and features."""
    if name == "linear.weight":
        return array.reshape(*features, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _channels_first(name: str, array: np.ndarray, features: tuple[int, int, int]) -> np.ndarray:
    """Undo `_channels_last`."""
    if name == "linear.weight":
        channels, height, width = features
        by_pixel = array.reshape(height, width, channels, -1)
        return by_pixel.transpose(2, 0, 1, 3).reshape(array.shape)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


class _Program:
    """The compiled functions for a network and its training."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self._plan, self._options = plan, options
        self.step = jax.jit(self._step, donate_argnums=(0, 1, 2))
        self.hits = jax.jit(self._hits)

    def _logits(
        self, parameters: _Arrays, statistics: _Arrays, images: jax.Array, training: bool
    ) -> tuple[jax.Array, _Arrays]:
        """Return the logits, and the statistics updated by this batch."""
        x, kept = images, dict(statistics)
        for name, problem in self._plan.layers.items():
            if isinstance(problem, MaxPool2D):
                window = (1, *problem.kernel_size, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
                continue
            pad = [(1, 1), (1, 1)]
            x = lax.conv_general_dilated(
                x, parameters[f"{name}.weight"], problem.stride, pad, dimension_numbers=_NHWC
            )
            if self._plan.batchnorm:
                x = self._normalized(x, name.replace("conv", "norm"), parameters, kept, training)
            else:
                x = x + parameters[f"{name}.bias"]
            x = jax.nn.relu(x)
        linear, bias = parameters["linear.weight"], parameters["linear.bias"]
        return x.reshape(len(x), -1) @ linear + bias, kept

    @staticmethod
    def _normalized(
        x: jax.Array, name: str, parameters: _Arrays, kept: _Arrays, training: bool
    ) -> jax.Array:
        mean, variance = kept[f"{name}.mean"], kept[f"{name}.variance"]
        if training:
            mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            count = x.size // x.shape[3]
            newest = (mean, variance * (count / max(1, count - 1)))
            for what, new in zip(("mean", "variance"), newest, strict=True):
                old = kept[f"{name}.{what}"]
                kept[f"{name}.{what}"] = (1 - BatchNorm.NEWEST) * old + BatchNorm.NEWEST * new
        scale = parameters[f"{name}.weight"] / jnp.sqrt(variance + BatchNorm.EPSILON)
        return (x - mean) * scale + parameters[f"{name}.bias"]

    def _loss(
        self, parameters: _Arrays, statistics: _Arrays, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, _Arrays]:
        logits, kept = self._logits(parameters, statistics, images, True)
        likelihoods = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(likelihoods, labels[:, None], axis=1)), kept

    def _step(
        self,
        parameters: _Arrays,
        statistics: _Arrays,
        moments: Any,
        images: jax.Array,
        labels: jax.Array,
        batch: jax.Array,
    ) -> tuple[_Arrays, _Arrays, Any, jax.Array]:
        (loss, statistics), gradients = jax.value_and_grad(self._loss, has_aux=True)(
            parameters, statistics, images[batch], labels[batch]
        )
        decay = self._options.weight_decay
        gradients = jax.tree.map(
            lambda dw, w: dw + decay * w if w.ndim > 1 else dw, gradients, parameters
        )
        descend = self._adam if self._options.optimizer == "adam" else self._sgd
        parameters, moments = descend(parameters, gradients, moments)
        return parameters, statistics, moments, loss

    def _sgd(self, parameters: _Arrays, gradients: _Arrays, moments: Any) -> tuple[_Arrays, Any]:
        velocities, unused, steps = moments
        momentum, rate = self._options.momentum, self._options.learning_rate
        velocities = jax.tree.map(lambda v, dw: momentum * v - rate * dw, velocities, gradients)
        return jax.tree.map(jnp.add, parameters, velocities), (velocities, unused, steps)

    def _adam(self, parameters: _Arrays, gradients: _Arrays, moments: Any) -> tuple[_Arrays, Any]:
        means, squares, steps = moments
        first, second = Adam.BETAS
        steps = steps + 1
        means = jax.tree.map(lambda m, dw: first * m + (1 - first) * dw, means, gradients)
        squares = jax.tree.map(
            lambda v, dw: second * v + (1 - second) * dw * dw, squares, gradients
        )
        rate = self._options.learning_rate / (1 - first**steps)
        seen = jnp.sqrt(1 - second**steps)
        parameters = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) / seen + Adam.EPSILON),
            parameters,
            means,
            squares,
        )
        return parameters, (means, squares, steps)

    def _hits(
        self, parameters: _Arrays, statistics: _Arrays, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        logits, _ = self._logits(parameters, statistics, images, False)
        return jnp.sum(jnp.argmax(logits, axis=1) == labels)
