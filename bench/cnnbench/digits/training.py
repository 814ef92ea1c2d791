"""Training the digits CNN: SGD with momentum, the same batches in the same order everywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import array_api_compat
import numpy as np

from cnnbench.digits import data
from cnnbench.digits.layers import softmax_cross_entropy
from cnnbench.digits.network import Network, digits_cnn
from cnnkernels.contract import Array, Backend


@dataclass(frozen=True)
class Options:
    """What a training depends on beside the backend.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate, momentum, weight_decay : float
        v = momentum*v - learning_rate*(dw + weight_decay*w), w = w + v; biases do not decay.
    seed : int
        Of the initial weights, and of the order of the images.
    dtype : str
    skipped_draws : int
        Images drawn from the order's generator before training, as by a program that showed some.
    most_steps : int or None
        Stop after so many steps, without evaluating.
    budget_seconds : float or None
        Stop after the step that exceeds this, without evaluating.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 42
    dtype: str = "float32"
    skipped_draws: int = 0
    most_steps: int | None = None
    budget_seconds: float | None = None


@dataclass
class Epoch:
    """Mean loss of an epoch's batches, and the accuracies after it, from 0 to 1."""

    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass
class Training:
    """What came of a training.

    Attributes
    ----------
    epochs : list of Epoch
        Those that were finished.
    step_losses : list of float
        Of every batch.
    steps, all_steps : int
        Done, and asked for.
    seconds : float
        From the first batch to the last evaluation; data and weights were in place before.
    step_seconds : float
        Of it, in steps.
    """

    epochs: list[Epoch] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    steps: int = 0
    all_steps: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0


def train(backend: Backend, options: Options) -> Training:
    """Train the digits CNN on a backend, from the same weights, with the same batches.

    Parameters
    ----------
    backend : Backend
        Whose kernels and arrays.
    options : Options
    """
    digits = data.load()
    put = backend.arrays.put
    network = digits_cnn(backend, options.dtype, np.random.default_rng(options.seed))
    order = np.random.default_rng(options.seed)
    if options.skipped_draws:
        order.choice(len(digits.train_images), options.skipped_draws, replace=False)
    images = put(digits.train_images.astype(options.dtype))
    one_hot = np.eye(data.CLASSES, dtype=options.dtype)[digits.train_labels]
    wanted = put(one_hot)
    test_images = put(digits.test_images.astype(options.dtype))
    xp = array_api_compat.array_namespace(images)

    count = len(digits.train_images)
    done = Training(all_steps=options.epochs * -(-count // options.batch_size))
    start = time.perf_counter()
    for _ in range(options.epochs):
        shuffled = put(order.permutation(count))
        losses = []
        epoch_start = time.perf_counter()
        for first in range(0, count, options.batch_size):
            batch = shuffled[first : first + options.batch_size]
            losses.append(
                _step(
                    network, xp.take(images, batch, axis=0), xp.take(wanted, batch, axis=0), options
                )
            )
            done.steps += 1
            if _stops(done, options, start):
                break
        done.step_losses.extend(float(loss) for loss in losses)
        done.step_seconds += time.perf_counter() - epoch_start
        if done.steps < done.all_steps and _stops(done, options, start):
            break
        done.epochs.append(
            Epoch(
                float(np.mean(done.step_losses[-len(losses) :])),
                _accuracy(backend, network, images, digits.train_labels),
                _accuracy(backend, network, test_images, digits.test_labels),
            )
        )
    done.seconds = time.perf_counter() - start
    return done


def _step(network: Network, images: Array, wanted: Array, options: Options) -> Array:
    loss, dlogits = softmax_cross_entropy(network.forward(images), wanted)
    network.backward(dlogits)
    for parameter in network.parameters:
        gradient = parameter.gradient
        if parameter.decays:
            gradient = gradient + options.weight_decay * parameter.value
        parameter.velocity = (
            options.momentum * parameter.velocity - options.learning_rate * gradient
        )
        parameter.value = parameter.value + parameter.velocity
    return loss


def _stops(done: Training, options: Options, start: float) -> bool:
    if options.most_steps is not None and done.steps >= options.most_steps:
        return True
    elapsed = time.perf_counter() - start
    return options.budget_seconds is not None and elapsed > options.budget_seconds


def _accuracy(backend: Backend, network: Network, images: Array, labels: np.ndarray) -> float:
    predicted = backend.arrays.get(network.forward(images)).argmax(axis=1)
    return float(np.mean(predicted == labels))
