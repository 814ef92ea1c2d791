"""Benchmarks of training the digits CNN: a step, the whole run, and its accuracy."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import numpy as np
from asv_runner.benchmarks.mark import SkipNotImplemented

from asv_suite import cases, session

EPOCHS = 10
BATCH = 64
_LEARNING_RATE, _MOMENTUM = 0.05, 0.9


@functools.cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, shuffled: images (N, 1, 8, 8) and labels (N, 10) of 0 and 1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    return images, np.eye(10, dtype=np.float32)[digits.target[order]]


class Network:
    """Two convolutions, each with ReLU and max-pool, and a linear layer, on a backend's kernels.

    Apart from the kernels it uses only operations common to NumPy and PyTorch arrays.

    Parameters
    ----------
    name : str
        The backend's name.
    """

    def __init__(self, name: str) -> None:
        from cnnkernels import contract

        loaded = cases.load(name)
        self._backend, put = loaded, loaded.arrays.put
        random = np.random.default_rng(0)
        self._convolutions = [
            contract.Conv2D(BATCH, 1, 8, 8, 8, 3, padding=1),
            contract.Conv2D(BATCH, 8, 4, 4, 16, 3, padding=1),
        ]
        self._pools = [
            contract.MaxPool2D(BATCH, 8, 8, 8, 2),
            contract.MaxPool2D(BATCH, 16, 4, 4, 2),
        ]
        for problem in (*self._convolutions, *self._pools):
            cases.load(name, problem)
        self._weights: list[Any] = []
        for shape in ((8, 1, 3, 3), (16, 8, 3, 3), (64, 10)):
            fan_in = shape[0] if len(shape) == 2 else math.prod(shape[1:])
            normals = random.standard_normal(shape, dtype=np.float32)
            outputs = shape[1] if len(shape) == 2 else shape[0]
            self._weights.append(put(normals * np.float32(math.sqrt(2 / fan_in))))
            self._weights.append(put(np.zeros(outputs, np.float32)))
        self._velocities = [0.0 * weights for weights in self._weights]
        images, labels = _data()
        # Whole batches only, so each shape is compiled once. The last few are test images.
        batches = [
            (put(images[at : at + BATCH].copy()), put(labels[at : at + BATCH].copy()))
            for at in range(0, len(images) - BATCH + 1, BATCH)
        ]
        self.train, self.test = batches[:21], batches[21:]

    def _forward(self, images: Any) -> tuple[Any, list[Any]]:
        x, kept = images, []
        for i in range(2):
            w, b = self._weights[2 * i : 2 * i + 2]
            y, cache = self._backend.convolution.forward(self._convolutions[i], x, w, b)
            active = y > 0
            pooled, winners = self._backend.pooling.forward(self._pools[i], y * active)
            kept.append((x, cache, active, winners))
            x = pooled
        features = x.reshape(BATCH, 64)
        return features @ self._weights[4] + self._weights[5], [*kept, features]

    def step(self, images: Any, labels: Any) -> Any:
        """Take a step; return the mean likelihood of the right classes before it."""
        logits, (*kept, features) = self._forward(images)
        powers = math.e ** (logits - logits.max())
        shares = powers / powers.sum(1)[:, None]
        dlogits = (shares - labels) * (1 / BATCH)
        gradients = [features.T @ dlogits, dlogits.sum(0)]
        dy = (dlogits @ self._weights[4].T).reshape(BATCH, 16, 2, 2)
        for i in (1, 0):
            x, cache, active, winners = kept[i]
            dy = self._backend.pooling.backward(self._pools[i], dy, winners) * active
            dx, dw, db = self._backend.convolution.backward(
                self._convolutions[i], dy, x, self._weights[2 * i], cache
            )
            gradients[:0] = [dw, db]
            dy = dx
        for weights, velocity, gradient in zip(
            self._weights, self._velocities, gradients, strict=True
        ):
            velocity *= _MOMENTUM
            velocity -= _LEARNING_RATE * gradient
            weights += velocity
        self._backend.arrays.synchronize()
        return (shares * labels).sum() / BATCH

    def run(self) -> None:
        """Train for `EPOCHS` epochs."""
        for _ in range(EPOCHS):
            for images, labels in self.train:
                self.step(images, labels)

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""
        right = [
            float((self._forward(images)[0].argmax(1) == labels.argmax(1)).sum()) / BATCH
            for images, labels in self.test
        ]
        return sum(right) / len(right)


class Training:
    """The digits CNN trained layer by layer: gradients, losses and updates included."""

    # Not naive: each of the 210 steps takes seconds, over ten minutes in all.
    params: ClassVar = [
        "numpy", "numba", "numba-simd", "torch-cpu", "torch-cuda", "torch-cpu-nhwc",
    ]  # fmt: skip
    param_names = ("backend",)
    version = "1"
    number = 1
    repeat = (3, 40, 0.5)
    rounds = 2
    warmup_time = 0

    def setup(self, backend: str) -> None:
        """Compile and warm up in the first call; fail if the training does not learn."""
        _learnt(backend)

    def time_step(self, backend: str) -> None:
        """Time a step on a batch of 64."""
        network = _learnt(backend)
        network.step(*network.train[0])

    def time_run(self, backend: str) -> None:
        """Time 10 epochs of 21 batches."""
        _learnt(backend).run()

    def track_mistakes(self, backend: str) -> float:
        """Return the share of misclassified test images after 10 epochs."""
        return 1.0 - _learnt(backend).accuracy()

    track_mistakes.unit = "of the test images"  # type: ignore[attr-defined]

    def track_ratio(self, backend: str) -> float:
        """Return a step's time relative to torch-cpu, timed in turns in one process."""
        ours = _learnt(backend)
        try:
            theirs = Network(cases.BASELINE)
        except NotImplementedError as reason:  # outside setup, asv skips only for its own exception
            raise SkipNotImplemented(str(reason)) from None
        return session.relative_seconds(
            lambda: ours.step(*ours.train[0]), lambda: theirs.step(*theirs.train[0])
        )

    track_ratio.unit = "of torch-cpu's time"  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=1)
def _learnt(backend: str) -> Network:
    """Return a trained network.

    Raises
    ------
    AssertionError
        If its accuracy is below 90 %.
    """
    network = Network(backend)
    network.run()
    right = network.accuracy()
    if right < 0.9:
        raise AssertionError(f"expected an accuracy of 90 % after {EPOCHS} epochs, got {right:.0%}")
    return network
