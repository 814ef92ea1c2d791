"""Train a ResNet with PyTorch, then converted, side by side: loss, test accuracy and time.

    python examples/train_resnet.py                      # converted to numba-simd
    python examples/train_resnet.py --plan plan.json     # as cnnbench recommend planned
    python examples/train_resnet.py --float64 --backends numba-simd,numba-winograd-f4
    python examples/train_resnet.py --images textures --channels-last --epochs 8 --reach 0.9

The networks take turns, an epoch each, so that they meet the same machine. This makes a plan:

    cnnbench recommend examples.models:resnet_digits --input 64,1,8,8 --output plan.json
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import NamedTuple

import torch
from models import resnet18_cifar, resnet_digits
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cnnkernels.torch
from cnnkernels import plan


class Images(NamedTuple):
    """Images with their labels, to train on and to test with."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    batch: int


def digits() -> Images:
    """Return scikit-learn's digits, 8x8 pixels in ten classes."""
    found = load_digits()
    images = torch.tensor(found.images[:, None], dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    return Images((images[:-357], labels[:-357]), (images[-357:], labels[-357:]), 64)


def textures(number: int = 1536, tests: int = 512) -> Images:
    """Return made-up color images, 32x32 pixels in ten classes.

    Each class has a texture of its own; an image shows it moved, weaker than its noise.
    """
    random = torch.Generator().manual_seed(20)
    coarse = torch.randn(10, 3, 8, 8, generator=random)
    textured = nn.functional.interpolate(coarse, 32, mode="bicubic")
    labels = torch.randint(10, (number + tests,), generator=random)
    moves = torch.randint(32, (number + tests, 2), generator=random)
    images = torch.stack(
        [
            textured[label].roll(move, (1, 2))
            for label, move in zip(labels.tolist(), map(tuple, moves.tolist()), strict=True)
        ]
    )
    images += 2 * torch.randn(images.shape, generator=random)
    return Images((images[:number], labels[:number]), (images[number:], labels[number:]), 32)


class Training:
    """A network in training.

    Parameters
    ----------
    network : Module
    images : Images
    layout : torch.memory_format
        Of batches.
    """

    def __init__(self, network: nn.Module, images: Images, layout: torch.memory_format) -> None:
        self._network = network
        self._layout = layout
        self._dtype = next(network.parameters()).dtype
        self._images = images
        self._optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
        self._order = torch.Generator().manual_seed(0)
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.seconds: list[float] = []

    def epoch(self) -> None:
        """Train for an epoch; keep its mean loss and its seconds, and test, untimed."""
        images, labels = self._images.train
        images = images.to(self._dtype)
        total = 0.0
        orders = torch.randperm(len(images), generator=self._order).split(self._images.batch)
        began = time.perf_counter()
        for chosen in orders[:-1]:  # the last batch may be smaller
            self._optimizer.zero_grad()
            batch = images[chosen].to(memory_format=self._layout)
            loss = nn.functional.cross_entropy(self._network(batch), labels[chosen])
            loss.backward()
            self._optimizer.step()
            total += loss.item()
        self.seconds.append(time.perf_counter() - began)
        self.losses.append(total / (len(orders) - 1))
        self.accuracies.append(self._accuracy())

    def _accuracy(self) -> float:
        images, labels = self._images.test
        self._network.eval()
        with torch.no_grad():
            found = self._network(images.to(self._dtype)).argmax(1)
        self._network.train()
        return float((found == labels).double().mean())


def main() -> None:
    """Train in each way, and show losses, accuracies and times side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", default="numba-simd", help="backends of converted layers, comma-separated"
    )
    parser.add_argument("--plan", help="a plan file, instead of backends")
    parser.add_argument("--float64", action="store_true", help="also train PyTorch in float64")
    parser.add_argument(
        "--channels-last", action="store_true", help="also train PyTorch in that layout"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", choices=("digits", "textures"), default="digits")
    parser.add_argument("--reach", type=float, help="say when this test accuracy was reached")
    parser.add_argument("--csv", type=Path, help="write the curves to this file")
    given = parser.parse_args()

    images, make = (
        (digits(), resnet_digits) if given.images == "digits" else (textures(), resnet18_cifar)
    )
    torch.manual_seed(0)
    networks = {"PyTorch": make()}
    layouts = {"channels_last": torch.channels_last} if given.channels_last else {}
    for name, layout in layouts.items():
        networks[name] = make().to(memory_format=layout)
    if given.float64:
        networks["float64"] = make().double()
    followed = {"the plan": plan.load(given.plan)} if given.plan else {}
    for name, follow in followed.items() or ((b, b) for b in given.backends.split(",")):
        networks[name] = cnnkernels.torch.convert(make(), follow)
    start = {name: value.clone() for name, value in networks["PyTorch"].state_dict().items()}
    trainings = {}
    for name, network in networks.items():
        first = images.train[0][: images.batch].to(next(network.parameters()).dtype)
        network(first).sum().backward()  # compile in a first step, untimed
        network.load_state_dict(start)
        layout = layouts.get(name, torch.contiguous_format)
        trainings[name] = Training(network, images, layout)
    layers = [type(layer) for layer in network.modules()]
    print(
        f"converted: {layers.count(cnnkernels.torch.Conv2d)} convolutions and "
        f"{layers.count(cnnkernels.torch.MaxPool2d)} max-pooling; threads "
        f"{cnnkernels.torch.threads()}"
    )
    print("mean loss of an epoch, and test accuracy after it")
    width = max(16, *map(len, networks))
    print("epoch  ", *(f"{name:>{width}}" for name in networks))
    for epoch in range(given.epochs):
        order = list(trainings.values())
        for training in order if epoch % 2 == 0 else reversed(order):
            training.epoch()
        cells = (f"{t.losses[-1]:.5f} {100 * t.accuracies[-1]:5.1f} %" for t in order)
        print(f"{epoch + 1:5d}  ", *(f"{cell:>{width}}" for cell in cells), flush=True)
        if given.csv is not None:
            write(given.csv, trainings)
    print("seconds", *(f"{sum(t.seconds):{width}.2f}" for t in trainings.values()))
    for name, training in trainings.items() if given.reach else ():
        reached = [a >= given.reach for a in training.accuracies]
        epochs = reached.index(True) + 1 if any(reached) else None
        print(
            f"{name}: {100 * given.reach:g} % not reached" if epochs is None else
            f"{name}: {100 * given.reach:g} % after epoch {epochs}, "
            f"{sum(training.seconds[:epochs]):.1f} s"
        )  # fmt: skip


def write(path: Path, trainings: dict[str, Training]) -> None:
    """Write the curves, a line for each network and epoch."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["network", "epoch", "seconds", "loss", "test_accuracy"])
        for name, training in trainings.items():
            seconds = 0.0
            curves = zip(training.seconds, training.losses, training.accuracies, strict=True)
            for epoch, (of_epoch, loss, accuracy) in enumerate(curves, start=1):
                seconds += of_epoch
                lines.writerow([name, epoch, f"{seconds:.4f}", f"{loss:.6f}", f"{accuracy:.4f}"])


if __name__ == "__main__":
    main()
