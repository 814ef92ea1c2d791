"""PyTorch's own training: a small CNN with BatchNorm, Adam, autograd and a DataLoader.

It uses no backend of ours, and is written as a PyTorch user would.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnbench.digits import data
from cnnbench.digits.options import Options
from cnnbench.digits.training import Epoch, Training

_EVALUATED_AT_ONCE = 256


class TinyCNN(nn.Module):  # type: ignore[misc]  # PyTorch is not looked into
    """The digits CNN with BatchNorm instead of convolution biases."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, filters in ((1, 8), (8, 16)):
            layers += [
                nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=2),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(16 * 2 * 2, data.CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes) of images (N, 1, 8, 8)."""
        return self.head(self.features(images).flatten(1))


def train(options: Options) -> Training:
    """Train TinyCNN with Adam, on a GPU if available.

    Parameters
    ----------
    options : Options
        Only epochs, batch size, learning rate, weight decay and seed are used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digits = data.load()
    train_set, test_set = (
        TensorDataset(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
        for images, labels in (
            (digits.train_images, digits.train_labels),
            (digits.test_images, digits.test_labels),
        )
    )
    batches = DataLoader(train_set, batch_size=options.batch_size, shuffle=True)
    torch.manual_seed(options.seed)
    model = TinyCNN().to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    loss_of = nn.CrossEntropyLoss()

    done = Training(all_steps=options.epochs * len(batches))
    step_seconds = 0.0
    start = time.perf_counter()
    for _ in range(options.epochs):
        model.train()
        losses = []
        epoch_start = time.perf_counter()
        for images, labels in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        step_seconds += time.perf_counter() - epoch_start
        done.steps += len(losses)
        done.step_losses.extend(losses)
        done.epochs.append(
            Epoch(float(np.mean(losses)), _accuracy(model, train_set), _accuracy(model, test_set))
        )
    done.seconds = time.perf_counter() - start
    done.step_seconds = step_seconds
    return done


@torch.no_grad()  # type: ignore[untyped-decorator]
def _accuracy(model: nn.Module, images: TensorDataset) -> float:
    # Use loaders, as in training: each evaluation also draws from PyTorch's generator, and so
    # changes the order of the images in the next epoch.
    model.eval()
    hits = 0
    for batch, labels in DataLoader(images, batch_size=_EVALUATED_AT_ONCE, shuffle=False):
        hits += int((model(batch).argmax(dim=1) == labels).sum())
    return hits / len(images)
