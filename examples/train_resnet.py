"""Train a small ResNet with PyTorch, and again converted: the same losses, another time.

    python examples/train_resnet.py                      # converted to numba-simd
    python examples/train_resnet.py --plan plan.json     # as cnnbench recommend planned

A plan for it is made by

    cnnbench recommend examples.train_resnet:model --input 64,1,8,8
"""

from __future__ import annotations

import argparse
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cnnkernels.torch
from cnnkernels import plan


class Block(nn.Module):
    """Two 3x3 convolutions around which the images also go unchanged, or in 1x1."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.around = nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, with what the block has found in them."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.around(x)).relu()


def model() -> nn.Module:
    """Return a ResNet of 13 convolutions for the digits' 8x8 grey images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
        Block(64, 128, 2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train(network: nn.Module, epochs: int, batch: int = 64) -> tuple[list[float], float]:
    """Train on scikit-learn's digits; return the loss of each epoch, and the seconds of all."""
    digits = load_digits()
    images = torch.tensor(digits.images[:, None], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    losses = []
    began = time.perf_counter()
    for _ in range(epochs):
        total = 0.0
        chosen = torch.randperm(len(images), generator=order).split(batch)[:-1]  # whole batches
        for some in chosen:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[some]), labels[some])
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(chosen))
    return losses, time.perf_counter() - began


def main() -> None:
    """Train both ways, and show the losses side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="numba-simd", help="of converted layers")
    parser.add_argument("--plan", help="a plan's file, in place of one backend")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()

    torch.manual_seed(0)
    plain = model()
    converted = model()
    converted.load_state_dict(plain.state_dict())
    follow = plan.load(given.plan) if given.plan else given.backend
    cnnkernels.torch.convert(converted, follow)
    for network in (plain, converted):  # what is compiled in a first step is not timed
        start = {name: value.clone() for name, value in network.state_dict().items()}
        images = torch.zeros(64, 1, 8, 8)
        network(images).sum().backward()
        network.load_state_dict(start)
    print("threads:", cnnkernels.torch.threads())
    theirs, their_seconds = train(plain, given.epochs)
    ours, our_seconds = train(converted, given.epochs)
    print("epoch   PyTorch  converted")
    for epoch, (right, mine) in enumerate(zip(theirs, ours, strict=True), start=1):
        print(f"{epoch:5d}  {right:8.5f}   {mine:8.5f}")
    print(f"seconds {their_seconds:7.2f}   {our_seconds:8.2f}")


if __name__ == "__main__":
    main()
