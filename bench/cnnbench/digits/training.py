"""Train a network on the same batches, in the same order, for every trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import array_api_compat
import numpy as np

from cnnbench.digits import data
from cnnbench.digits import weights as saved
from cnnbench.digits.data import Dataset
from cnnbench.digits.layers import softmax_cross_entropy
from cnnbench.digits.network import Network, Plan, State, plan
from cnnbench.digits.optimizers import SGD, Adam, Optimizer
from cnnbench.digits.options import Options
from cnnkernels.contract import Array, Backend


@dataclass
class Epoch:
    """Mean loss of an epoch's batches, and the accuracies after it, from 0 to 1."""

    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass
class Training:
    """The result of a training.

    Attributes
    ----------
    epochs : list of Epoch
        The finished epochs.
    step_losses : list of float
        The loss of every batch.
    steps, all_steps : int
        Steps done, and steps in all.
    seconds : float
        From the first batch to the last evaluation, without preparing data and weights.
    step_seconds : float or None
        The part spent in steps; None where unknown.
    compile_seconds : float
        Compile time before the first batch.
    state : dict of str to numpy.ndarray
        The trained weights, named as in `cnnbench.digits.network.initial_state`.
    """

    epochs: list[Epoch] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    steps: int = 0
    all_steps: int = 0
    seconds: float = 0.0
    step_seconds: float | None = None
    compile_seconds: float = 0.0
    state: State = field(default_factory=dict)


class Steps(Protocol):
    """Takes the steps of a training, starting from the initial weights."""

    def place(self, order: np.ndarray) -> Array:
        """Return the order of an epoch as an array to slice, on the trainer's device.

        Parameters
        ----------
        order : numpy.ndarray of int64, (N,)
        """
        ...

    def step(self, batch: Array) -> Array:
        """Take a step on the images with these numbers.

        Parameters
        ----------
        batch : array, (images,)
            A slice of the array from `place`.

        Returns
        -------
        array of one element, on the trainer's device
            The mean loss of the images, before the step.
        """
        ...

    def accuracies(self) -> tuple[float, float]:
        """Return the accuracies on training and test images, from 0 to 1."""
        ...

    def state(self) -> State:
        """Return the trained weights."""
        ...


def train(backend: Backend, options: Options) -> Training:
    """Train layer by layer with a backend's kernels.

    Parameters
    ----------
    backend : Backend
        The backend of kernels and arrays.
    options : Options
    """
    return take_steps(LayerByLayer(backend, options), options)


def train_compiled(start: Callable[[Options], Steps], options: Options) -> Training:
    """Train after a rehearsal, in which the steps may compile.

    Parameters
    ----------
    start : callable
        Takes the options, and returns new `Steps` from the initial weights.
    options : Options
    """
    began = time.perf_counter()
    rehearsal = start(options)
    count = len(data.load(options.data).train_labels)
    everyone = rehearsal.place(np.arange(count))
    for first in dict.fromkeys((0, (count - 1) // options.batch_size * options.batch_size)):
        float(rehearsal.step(everyone[first : first + options.batch_size]))
    rehearsal.accuracies()
    compile_seconds = time.perf_counter() - began
    done = take_steps(start(options), options)
    done.compile_seconds = compile_seconds
    return done


def take_steps(steps: Steps, options: Options) -> Training:
    """Train by the given steps, on the same batches in the same order."""
    count = len(data.load(options.data).train_labels)
    done = Training(all_steps=options.epochs * -(-count // options.batch_size))
    step_seconds = 0.0
    began = time.perf_counter()
    for order in orders(options):
        shuffled = steps.place(order)
        losses = []
        epoch_began = time.perf_counter()
        for first in range(0, count, options.batch_size):
            losses.append(steps.step(shuffled[first : first + options.batch_size]))
            done.steps += 1
            if _stops(done, options, began):
                break
        done.step_losses.extend(float(loss) for loss in losses)
        step_seconds += time.perf_counter() - epoch_began
        if done.steps < done.all_steps and _stops(done, options, began):
            break
        mean = float(np.mean(done.step_losses[-len(losses) :]))
        done.epochs.append(Epoch(mean, *steps.accuracies()))
    done.seconds = time.perf_counter() - began
    done.step_seconds = step_seconds
    done.state = steps.state()
    return done


def planned(options: Options) -> Plan:
    """Return the layers of the network to train.

    Raises
    ------
    DataError
        If the images are too small for the network.
    """
    dataset = data.load(options.data)
    return plan(
        options.architecture, dataset.shape, dataset.classes, options.batch_size, options.dtype,
        batchnorm=options.batchnorm,
    )  # fmt: skip


def start(options: Options) -> tuple[Dataset, Plan, State]:
    """Return the images, layers and initial weights of every training with these options."""
    its_plan = planned(options)
    return data.load(options.data), its_plan, saved.start(its_plan, options)


def orders(options: Options) -> Iterator[np.ndarray]:
    """Yield the shuffled numbers of the training images for each epoch."""
    count = len(data.load(options.data).train_labels)
    random = np.random.default_rng(options.seed)
    if options.skipped_draws:
        random.choice(count, options.skipped_draws, replace=False)
    for _ in range(options.epochs):
        yield random.permutation(count)


class LayerByLayer:
    """Steps made of a backend's kernels, one layer after another.

    Parameters
    ----------
    backend : Backend
        The backend of kernels and arrays.
    options : Options
    """

    def __init__(self, backend: Backend, options: Options) -> None:
        self._arrays = backend.arrays
        self._dataset, its_plan, state = start(options)
        self.network = Network(its_plan, backend, state)
        self._optimizer = _optimizer(self.network, options)
        one_hot = np.eye(self._dataset.classes, dtype=options.dtype)[self._dataset.train_labels]
        self._images, self._wanted, self._test_images = map(
            backend.arrays.put,
            (
                self._dataset.train_images.astype(options.dtype),
                one_hot,
                self._dataset.test_images.astype(options.dtype),
            ),
        )

    def place(self, order: np.ndarray) -> Array:
        """Copy the order to the backend's device."""
        return self._arrays.put(order)

    def step(self, batch: Array) -> Array:
        """Run forward, backward and the optimizer."""
        xp = array_api_compat.array_namespace(self._images)
        images, wanted = (xp.take(array, batch, axis=0) for array in (self._images, self._wanted))
        loss, dlogits = softmax_cross_entropy(self.network.forward(images), wanted)
        self.network.backward(dlogits)
        self._optimizer.step()
        return loss

    def accuracies(self) -> tuple[float, float]:
        """Run forward on all images at once, and compare on the host."""
        self.network.train(False)
        found = (
            self._accuracy(self._images, self._dataset.train_labels),
            self._accuracy(self._test_images, self._dataset.test_labels),
        )
        self.network.train(True)
        return found

    def _accuracy(self, images: Array, labels: np.ndarray) -> float:
        predicted = self._arrays.get(self.network.forward(images)).argmax(axis=1)
        return float(np.mean(predicted == labels))

    def state(self) -> State:
        """Return the trained weights from the network."""
        return self.network.state


def _optimizer(network: Network, options: Options) -> Optimizer:
    if options.optimizer == "adam":
        return Adam(network.parameters, options.learning_rate, options.weight_decay)
    return SGD(network.parameters, options.learning_rate, options.momentum, options.weight_decay)


def _stops(done: Training, options: Options, began: float) -> bool:
    if options.most_steps is not None and done.steps >= options.most_steps:
        return True
    elapsed = time.perf_counter() - began
    return options.budget_seconds is not None and elapsed > options.budget_seconds
