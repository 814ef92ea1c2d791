"""The digits CNN as a JAX program: a step is one compiled function, on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnbench.digits import data
from cnnbench.digits.network import initial_weights
from cnnbench.digits.training import Options, Training, train_compiled

_NHWC = ("NHWC", "HWIO", "NHWC")
"""Images and weights as XLA's own kernels for the CPU take them."""


def train(options: Options) -> Training:
    """Train with JAX: gradients by transformation, steps compiled for each size of batch."""
    jax.config.update("jax_platforms", "cpu")
    with jax.enable_x64(options.dtype == "float64"):
        return train_compiled(_JaxSteps, options)


class _JaxSteps:
    """`Steps` of one compiled function each."""

    def __init__(self, options: Options) -> None:
        one, two, linear = initial_weights(options.dtype, np.random.default_rng(options.seed))
        # Features stand as (channels, height, width) elsewhere; here channels come last.
        linear = linear.reshape(-1, 2, 2, linear.shape[1]).transpose(1, 2, 0, 3)
        weights = (
            one.transpose(2, 3, 1, 0),
            two.transpose(2, 3, 1, 0),
            linear.reshape(-1, linear.shape[3]),
        )
        self._parameters: Any = [(jnp.array(w), jnp.zeros(w.shape[-1], w.dtype)) for w in weights]
        self._velocities = jax.tree.map(jnp.zeros_like, self._parameters)
        rates = options.learning_rate, options.momentum, options.weight_decay
        self._step = functools.partial(_step, rates)
        digits = data.load()
        self._train_set, self._test_set = (
            (jnp.array(images.transpose(0, 2, 3, 1), options.dtype), jnp.array(labels))
            for images, labels in (
                (digits.train_images, digits.train_labels),
                (digits.test_images, digits.test_labels),
            )
        )

    def place(self, order: np.ndarray) -> np.ndarray:
        return order  # slices of a JAX array would be computed, one by one

    def step(self, batch: np.ndarray) -> jax.Array:
        self._parameters, self._velocities, loss = self._step(
            self._parameters, self._velocities, *self._train_set, batch
        )
        return loss

    def accuracies(self) -> tuple[float, float]:
        train, test = (
            int(_hits(self._parameters, images, labels)) / len(labels)
            for images, labels in (self._train_set, self._test_set)
        )
        return train, test


def _logits(parameters: Any, images: jax.Array) -> jax.Array:
    *convolutions, (linear, bias) = parameters
    x = images
    for w, b in convolutions:
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_NHWC) + b
        window = (1, 2, 2, 1)
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, window, window, "VALID")
    return x.reshape(len(x), -1) @ linear + bias


def _loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    likelihoods = jax.nn.log_softmax(_logits(parameters, images))
    return -jnp.mean(jnp.take_along_axis(likelihoods, labels[:, None], axis=1))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _step(
    rates: tuple[float, float, float],
    parameters: Any,
    velocities: Any,
    images: jax.Array,
    labels: jax.Array,
    batch: jax.Array,
) -> tuple[Any, Any, jax.Array]:
    learning_rate, momentum, weight_decay = rates
    loss, gradients = jax.value_and_grad(_loss)(parameters, images[batch], labels[batch])

    def faster(velocity: jax.Array, gradient: jax.Array, value: jax.Array) -> jax.Array:
        decayed = gradient + weight_decay * value if value.ndim > 1 else gradient
        return momentum * velocity - learning_rate * decayed

    velocities = jax.tree.map(faster, velocities, gradients, parameters)
    return jax.tree.map(jnp.add, parameters, velocities), velocities, loss


@jax.jit  # type: ignore[untyped-decorator]
def _hits(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(jnp.argmax(_logits(parameters, images), axis=1) == labels)
