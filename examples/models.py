"""Ordinary PyTorch models, not converted, to choose a backend for.

Run cnnbench recommend on them from the folder above examples/:

    cnnbench recommend examples.models:resnet_digits --input 64,1,8,8
    cnnbench recommend examples.models:resnet18_cifar --input 32,3,32,32
    cnnbench recommend examples.models:vgg_cifar --input 32,3,32,32
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is the identity or a 1x1 convolution."""

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
        """Return the sum of the convolutions' output and the shortcut."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.around(x)).relu()


def _stem(channels: int, filters: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(filters), nn.ReLU()]


def resnet_digits() -> nn.Module:
    """Return a small ResNet for the digits, 8x8 gray images."""
    return nn.Sequential(
        *_stem(1, 32),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
        Block(64, 128, 2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def resnet18_cifar() -> nn.Module:
    """Return a ResNet-18 for 32x32 color images, with a first layer of 3x3 instead of 7x7."""
    blocks, channels = [], 64
    for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(channels, filters, stride), Block(filters, filters, 1)]
        channels = filters
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    return nn.Sequential(*_stem(3, 64), *blocks, *head)


def vgg_cifar() -> nn.Module:
    """Return a VGG for 32x32 color images: five stages of convolutions and a max-pooling."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, times in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(times):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))
