"""Train a small ResNet with PyTorch, then converted, and compare losses and times.

    python examples/train_resnet.py                      # converted to numba-simd
    python examples/train_resnet.py --plan plan.json     # as cnnbench recommend planned

This makes a plan for it:

    cnnbench recommend examples.models:resnet_digits --input 64,1,8,8 --output plan.json
"""

from __future__ import annotations

import argparse
import time

import torch
from models import resnet_digits
from sklearn.datasets import load_digits
from torch import nn

import cnnkernels.torch
from cnnkernels import plan


def train(network: nn.Module, epochs: int, batch: int = 64) -> tuple[list[float], float]:
    """Train on scikit-learn's digits; return the loss of each epoch, and the seconds in all."""
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
    parser.add_argument("--backend", default="numba-simd", help="backend of converted layers")
    parser.add_argument("--plan", help="a plan file, instead of one backend")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()

    torch.manual_seed(0)
    plain = resnet_digits()
    converted = resnet_digits()
    converted.load_state_dict(plain.state_dict())
    follow = plan.load(given.plan) if given.plan else given.backend
    cnnkernels.torch.convert(converted, follow)
    for network in (plain, converted):  # compile in a first step, untimed
        start = {name: value.clone() for name, value in network.state_dict().items()}
        images = torch.zeros(64, 1, 8, 8)
        network(images).sum().backward()
        network.load_state_dict(start)
    layers = [type(layer) for layer in converted.modules()]
    print(
        f"converted: {layers.count(cnnkernels.torch.Conv2d)} convolutions and "
        f"{layers.count(cnnkernels.torch.MaxPool2d)} max-pooling; threads "
        f"{cnnkernels.torch.threads()}"
    )
    theirs, their_seconds = train(plain, given.epochs)
    ours, our_seconds = train(converted, given.epochs)
    print("epoch   PyTorch  converted")
    for epoch, (right, mine) in enumerate(zip(theirs, ours, strict=True), start=1):
        print(f"{epoch:5d}  {right:8.5f}   {mine:8.5f}")
    print(f"seconds {their_seconds:7.2f}   {our_seconds:8.2f}")


if __name__ == "__main__":
    main()
