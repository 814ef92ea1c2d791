"""Train a small ResNet with PyTorch, then converted, and compare losses and times.

    python examples/train_resnet.py                      # converted to numba-simd
    python examples/train_resnet.py --plan plan.json     # as cnnbench recommend planned
    python examples/train_resnet.py --float64 --backends numba-simd,numba-winograd-f4

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
    dtype = next(network.parameters()).dtype
    images = torch.tensor(digits.images[:, None], dtype=dtype) / 16
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
    """Train in each way, and show the losses side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", default="numba-simd", help="backends of converted layers, comma-separated"
    )
    parser.add_argument("--plan", help="a plan file, instead of backends")
    parser.add_argument("--float64", action="store_true", help="also train PyTorch in float64")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()

    torch.manual_seed(0)
    networks = {"PyTorch": resnet_digits()}
    if given.float64:
        networks["float64"] = resnet_digits().double()
    followed = {"the plan": plan.load(given.plan)} if given.plan else {}
    for name, follow in followed.items() or ((b, b) for b in given.backends.split(",")):
        networks[name] = cnnkernels.torch.convert(resnet_digits(), follow)
    start = {name: value.clone() for name, value in networks["PyTorch"].state_dict().items()}
    losses, seconds = {}, {}
    for name, network in networks.items():
        first = torch.zeros(64, 1, 8, 8, dtype=next(network.parameters()).dtype)
        network(first).sum().backward()  # compile in a first step, untimed
        network.load_state_dict(start)
        losses[name], seconds[name] = train(network, given.epochs)
    layers = [type(layer) for layer in network.modules()]
    print(
        f"converted: {layers.count(cnnkernels.torch.Conv2d)} convolutions and "
        f"{layers.count(cnnkernels.torch.MaxPool2d)} max-pooling; threads "
        f"{cnnkernels.torch.threads()}"
    )
    width = max(9, *map(len, networks))
    print("epoch  ", *(f"{name:>{width}}" for name in networks))
    for epoch in range(given.epochs):
        print(f"{epoch + 1:5d}  ", *(f"{losses[name][epoch]:{width}.5f}" for name in networks))
    print("seconds", *(f"{seconds[name]:{width}.2f}" for name in networks))


if __name__ == "__main__":
    main()
