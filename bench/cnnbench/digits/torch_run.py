"""The networks as a PyTorch program: its layers, autograd and optimizers; eager, or compiled.

It uses no backend of ours. It is written for speed, as a PyTorch user would: tensors in place,
batches by index, and losses read once an epoch.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cnnbench.digits.layers import BatchNorm
from cnnbench.digits.network import Plan, State
from cnnbench.digits.optimizers import Adam
from cnnbench.digits.options import Options
from cnnbench.digits.training import Training, start, train_compiled
from cnnkernels.contract import MaxPool2D, Unsupported

_Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def train_eager(options: Options) -> Training:
    """Train with eager PyTorch."""
    return train_compiled(functools.partial(_TorchSteps, _loss), options)


def train_compiled_by_torch(options: Options) -> Training:
    """Train with the network and its loss, forward and backward, compiled by ``torch.compile``.

    The smaller last batch of an epoch and the evaluations are eager: compiling them doesn't pay.

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
    """`Steps` with a loss that may be compiled for full batches."""

    def __init__(self, loss: _Loss, options: Options) -> None:
        dataset, plan, state = start(options)
        dtype = getattr(torch, options.dtype)
        self._loss, self._batch_size = loss, options.batch_size
        self._model = _model(plan, state)
        self._optimizer = _optimizer(self._model, options)
        self._train_set, self._test_set = (
            (torch.from_numpy(images).to(dtype), torch.from_numpy(labels))
            for images, labels in (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
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
        self._model.eval()
        train, test = (
            int((self._model(images).argmax(dim=1) == labels).sum()) / len(labels)
            for images, labels in (self._train_set, self._test_set)
        )
        self._model.train()
        return train, test

    def state(self) -> State:
        return {
            _ours(name): _turned(name, value.numpy()).copy()
            for name, value in self._model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }


_THEIRS = {"mean": "running_mean", "variance": "running_var"}


def _ours(name: str) -> str:
    for ours, theirs in _THEIRS.items():
        name = name.replace(theirs, ours)
    return name


def _turned(name: str, value: np.ndarray) -> np.ndarray:
    """Convert a value to or from PyTorch, which transposes the linear layer's weights."""
    return value.T if name == "linear.weight" else value


def _model(plan: Plan, state: State) -> nn.Module:
    layers: dict[str, nn.Module] = {}
    for name, problem in plan.layers.items():
        if isinstance(problem, MaxPool2D):
            layers[name] = nn.MaxPool2d(problem.kernel_size)
            continue
        number = name.removeprefix("conv")
        filters, channels, *size = problem.shapes.w
        layers[name] = nn.Conv2d(
            channels, filters, size, stride=problem.stride, padding=1, bias=problem.bias
        )
        if plan.batchnorm:
            layers[f"norm{number}"] = nn.BatchNorm2d(
                filters, eps=BatchNorm.EPSILON, momentum=BatchNorm.NEWEST
            )
        layers[f"relu{number}"] = nn.ReLU()
    layers |= {"flatten": nn.Flatten(), "linear": nn.Linear(plan.features, plan.classes)}
    model = nn.Sequential(OrderedDict(layers)).to(torch.from_numpy(state["linear.bias"]).dtype)
    for name, value in model.state_dict().items():
        if _ours(name) in state:
            value.copy_(torch.from_numpy(_turned(name, state[_ours(name)])))
    return model


def _optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0},
    ]
    rates = {"lr": options.learning_rate, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, betas=Adam.BETAS, eps=Adam.EPSILON, **rates)
    return torch.optim.SGD(groups, momentum=options.momentum, **rates)
