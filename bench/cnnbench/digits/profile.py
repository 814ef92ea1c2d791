"""Profile a training step by layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cnnbench.digits import data
from cnnbench.digits.options import Options
from cnnbench.digits.training import LayerByLayer
from cnnkernels.contract import Array, Backend

MOST_STEPS = 100


@dataclass
class Profile:
    """The times of a median step, in seconds.

    Attributes
    ----------
    step : float
        The whole step, with batch selection, loss and optimizer.
    layers : dict of str to dict of str to float
        'forward' and 'backward' of each layer, first to last.
    """

    step: float = 0.0
    layers: dict[str, dict[str, float]] = field(default_factory=dict)


class FullBatches:
    """Training steps that repeat the first batch, so all have the same size.

    Parameters
    ----------
    backend : Backend
    options : Options
    """

    def __init__(self, backend: Backend, options: Options) -> None:
        self.training = LayerByLayer(backend, options)
        count = len(data.load(options.data).train_labels)
        self._batch = self.training.place(np.arange(count))[: options.batch_size]
        self._synchronize = backend.arrays.synchronize

    def seconds(self, steps: int) -> float:
        """Return the median seconds of several steps."""
        taken = []
        for _ in range(steps):
            self._synchronize()
            began = time.perf_counter()
            self.training.step(self._batch)
            self._synchronize()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def profile(backend: Backend, options: Options, seconds: float) -> Profile:
    """Take steps, and time each layer.

    Parameters
    ----------
    backend : Backend
    options : Options
    seconds : float
        Approximate duration, after an untimed step that may compile; at least one step.
    """
    batches = FullBatches(backend, options)
    synchronize = backend.arrays.synchronize
    current = Profile()

    def clocked(name: str, direction: str, function: Callable[[Array], Array]) -> object:
        def call(x: Array) -> Array:
            synchronize()
            began = time.perf_counter()
            result = function(x)
            synchronize()
            current.layers.setdefault(name, {})[direction] = time.perf_counter() - began
            return result

        return call

    batches.seconds(1)
    for name, layer in batches.training.network.layers.items():
        for direction in ("forward", "backward"):
            setattr(layer, direction, clocked(name, direction, getattr(layer, direction)))
    taken: list[Profile] = []
    deadline = time.perf_counter() + seconds
    while not taken or (len(taken) < MOST_STEPS and time.perf_counter() < deadline):
        current = Profile()
        current.step = batches.seconds(1)
        taken.append(current)
    return sorted(taken, key=lambda one: one.step)[len(taken) // 2]
