"""The digits CNN as a PyTorch program: its layers, autograd and optimizer; eager, or compiled.

Not one of our backends under PyTorch's clothes, but what a person would write for speed: tensors in
place, batches by index, and losses read once an epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnbench.digits import data
from cnnbench.digits.network import initial_weights
from cnnbench.digits.training import Options, Training, train_compiled
from cnnkernels.contract import Unsupported

_Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def train_eager(options: Options) -> Training:
    """Train with PyTorch as it is."""
    return train_compiled(functools.partial(_TorchSteps, _loss), options)


def train_compiled_by_torch(options: Options) -> Training:
    """Train with the network and its loss, forward and backward, compiled by ``torch.compile``.

    What is left for an epoch's last batch is not worth a compilation, and no more are evaluations:
    they are eager.

    Raises
    ------
    Unsupported
        If there is no C++ compiler.
    """
    compiled = torch.compile(_loss, dynamic=False)
    try:
        return train_compiled(functools.partial(_TorchSteps, compiled), options)
    except RuntimeError as error:
        if "InvalidCxxCompiler" in str(error):
            raise Unsupported("torch.compile finds no C++ compiler here") from None
        raise


def _loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(images), labels)


class _TorchSteps:
    """`Steps` of a loss, in full batches, that may be compiled."""

    def __init__(self, loss: _Loss, options: Options) -> None:
        digits = data.load()
        dtype = getattr(torch, options.dtype)
        self._loss, self._batch_size = loss, options.batch_size
        self._model = _digits_cnn(options)
        self._optimizer = torch.optim.SGD(
            [
                {"params": [p for p in self._model.parameters() if p.ndim > 1]},
                {"params": [p for p in self._model.parameters() if p.ndim == 1], "weight_decay": 0},
            ],
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self._train_set, self._test_set = (
            (torch.from_numpy(images).to(dtype), torch.from_numpy(labels))
            for images, labels in (
                (digits.train_images, digits.train_labels),
                (digits.test_images, digits.test_labels),
            )
        )

    def place(self, order: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(order)

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        images, labels = self._train_set
        loss_of = self._loss if len(batch) == self._batch_size else _loss
        loss = loss_of(self._model, images[batch], labels[batch])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def accuracies(self) -> tuple[float, float]:
        train, test = (
            int((self._model(images).argmax(dim=1) == labels).sum()) / len(labels)
            for images, labels in (self._train_set, self._test_set)
        )
        return train, test


def _digits_cnn(options: Options) -> nn.Module:
    weights = initial_weights(options.dtype, np.random.default_rng(options.seed))
    one, two, linear = map(torch.from_numpy, weights)
    layers: list[Any] = []
    for w in (one, two):
        filters, channels, *size = w.shape
        layers += [nn.Conv2d(channels, filters, size, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(*linear.shape)).to(linear.dtype)
    with torch.no_grad():
        for layer, w in zip((model[0], model[3], model[7]), (one, two, linear.T), strict=True):
            layer.weight.copy_(w)
            layer.bias.zero_()
    return model
