"""Well-known networks as ordinary PyTorch models, not converted, to choose a backend for.

Each function returns a new network with the layers of its paper, and with as many parameters as its
common implementations. Weights are random: PyTorch's own initialization draws them. All take
color images and return 1000 scores, except `unet`, which returns two scores a pixel.

Run cnnbench recommend on them from the folder above examples/:

    cnnbench recommend examples.networks:resnet50 --input 8,3,224,224
    cnnbench recommend examples.networks:vgg11_bn --input 8,3,224,224
    cnnbench recommend examples.networks:mobilenet_v3_small --input 32,3,224,224
    cnnbench recommend examples.networks:densenet121 --input 8,3,224,224
    cnnbench recommend examples.networks:squeezenet1_1 --input 32,3,224,224
    cnnbench recommend examples.networks:efficientnet_b0 --input 8,3,224,224
    cnnbench recommend examples.networks:convnext_tiny --input 8,3,224,224
    cnnbench recommend examples.networks:unet --input 2,3,256,256
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

CLASSES = 1000

# --------------------------------------------------------------------------------------------
# parts that networks share


class Branches(nn.ModuleList):
    """Several modules that take the same images; the base of `Sum`, `Product` and `Concat`."""

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return the output of each branch."""
        return [branch(x) for branch in self]


class Sum(Branches):
    """Two branches, added."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches' outputs."""
        a, b = self.outputs(x)
        return a + b


class Product(Branches):
    """Two branches, multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of the branches' outputs."""
        a, b = self.outputs(x)
        return a * b


class Concat(Branches):
    """Branches whose channels are put one after another."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' channels."""
        return torch.cat(self.outputs(x), 1)


class StochasticDepth(nn.Module):
    """Drops whole images of a residual branch in training (Huang et al. 2016, arXiv:1603.09382).

    Parameters
    ----------
    p : float
        The probability that an image is set to zero. The others are divided by 1 - p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, some of which are zero."""
        if not self.training or not self.p:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p:.3g}"


def _convolution(
    channels: int, filters: int, size: int = 1, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Return a convolution with "same" padding."""
    return nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=bias)


_Norm = Callable[[int], nn.Module]
_Activation = Callable[..., nn.Module]


def _unit(
    channels: int,
    filters: int,
    size: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    norm: _Norm = nn.BatchNorm2d,
    activation: _Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution, a normalization and an activation, which None leaves out."""
    layers = [_convolution(channels, filters, size, stride, groups, bias), norm(filters)]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def _stem() -> list[nn.Module]:
    """Return the first layers of ResNet and DenseNet, which divide each side by four."""
    return [_convolution(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]


def _head(channels: int, *before: nn.Module) -> list[nn.Module]:
    """Return the last layers: the mean over all pixels, a few modules, and the scores."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *before, nn.Linear(channels, CLASSES)]


# --------------------------------------------------------------------------------------------
# residual networks


def _bottleneck(channels: int, width: int, stride: int) -> nn.Module:
    """Return a block of ResNet: 1x1, 3x3 and 1x1, beside a shortcut."""
    filters = 4 * width
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or channels != filters:
        shortcut = _unit(channels, filters, 1, stride, activation=None)
    inside = nn.Sequential(
        _unit(channels, width),
        _unit(width, width, 3, stride),
        _unit(width, filters, activation=None),
    )
    return nn.Sequential(Sum([shortcut, inside]), nn.ReLU(True))


def resnet50() -> nn.Module:
    """Return ResNet-50 (He et al. 2015, arXiv:1512.03385), version 1.5.

    The 3x3 convolution of a block has the stride. In the paper the first 1x1 convolution has it.
    """
    blocks, channels = [], 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            blocks.append(_bottleneck(channels, width, 1 if index else stride))
            channels = 4 * width
    return nn.Sequential(*_stem(), *blocks, *_head(channels))


class _Scale(nn.Module):
    """Multiplies each channel, the last axis, by a learned number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled channels."""
        return x * self.weight


class _Permute(nn.Module):
    """Reorders the axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return a view with reordered axes."""
        return x.permute(self.axes)


_channels_last = partial(_Permute, 0, 2, 3, 1)
_channels_first = partial(_Permute, 0, 3, 1, 2)
_layer_norm = partial(nn.LayerNorm, eps=1e-6)


def _norm_of_channels(channels: int) -> nn.Module:
    """Return a layer normalization over the channels of each pixel."""
    return nn.Sequential(_channels_last(), _layer_norm(channels), _channels_first())


def _convnext_block(channels: int, drop: float) -> nn.Module:
    """Return a block of ConvNeXt: a depthwise 7x7 convolution and two layers on each pixel."""
    inside = nn.Sequential(
        _convolution(channels, channels, 7, groups=channels, bias=True),
        _channels_last(),
        _layer_norm(channels),
        nn.Linear(channels, 4 * channels),
        nn.GELU(),
        nn.Linear(4 * channels, channels),
        _Scale(channels),
        _channels_first(),
        StochasticDepth(drop),
    )
    return Sum([nn.Identity(), inside])


def convnext_tiny() -> nn.Module:
    """Return ConvNeXt-T (Liu et al. 2022, arXiv:2201.03545)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), _norm_of_channels(96)]
    widths, depths = (96, 192, 384, 768), (3, 3, 9, 3)
    last = sum(depths) - 1
    drops = (0.1 * block / last for block in range(sum(depths)))
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if index:
            layers += [_norm_of_channels(width // 2), nn.Conv2d(width // 2, width, 2, 2)]
        layers += [_convnext_block(width, next(drops)) for _ in range(depth)]
    pool, *scores = _head(768)
    return nn.Sequential(*layers, pool, _norm_of_channels(768), *scores)


# --------------------------------------------------------------------------------------------
# mobile networks

_mobile_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)  # as in the papers' own code


def _squeeze_excitation(
    channels: int, squeezed: int, activation: _Activation, gate: _Activation
) -> nn.Module:
    """Return a product of the images and one factor a channel, which depends on all pixels."""
    factors = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        _convolution(channels, squeezed, bias=True),
        activation(),
        _convolution(squeezed, channels, bias=True),
        gate(),
    )
    return Product([nn.Identity(), factors])


def _inverted(
    channels: int,
    inner: int,
    filters: int,
    size: int,
    stride: int,
    activation: _Activation,
    excitation: nn.Module | None,
    drop: float = 0.0,
) -> nn.Module:
    """Return an inverted residual block (Sandler et al. 2018, arXiv:1801.04381).

    It expands the channels, convolves each alone and projects them to fewer.
    """
    unit = partial(_unit, norm=_mobile_norm)
    layers: list[nn.Module] = []
    if inner != channels:
        layers.append(unit(channels, inner, activation=activation))
    layers.append(unit(inner, inner, size, stride, groups=inner, activation=activation))
    if excitation is not None:
        layers.append(excitation)
    layers.append(unit(inner, filters, activation=None))
    if stride != 1 or channels != filters:
        return nn.Sequential(*layers)
    return Sum([nn.Identity(), nn.Sequential(*layers, StochasticDepth(drop))])


def mobilenet_v3_small() -> nn.Module:
    """Return MobileNetV3-Small (Howard et al. 2019, arXiv:1905.02244, table 2)."""
    relu, swish = nn.ReLU, nn.Hardswish
    table = (  # size, inner, filters, excitation, activation, stride
        (3, 16, 16, True, relu, 2),
        (3, 72, 24, False, relu, 2),
        (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1),
        (5, 240, 40, True, swish, 1),
        (5, 120, 48, True, swish, 1),
        (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2),
        (5, 576, 96, True, swish, 1),
        (5, 576, 96, True, swish, 1),
    )
    unit = partial(_unit, norm=_mobile_norm, activation=swish)
    blocks, channels = [], 16
    for size, inner, filters, excited, activation, stride in table:
        excitation = None
        if excited:
            squeezed = (inner // 4 + 4) // 8 * 8  # the nearest multiple of 8
            excitation = _squeeze_excitation(inner, squeezed, nn.ReLU, nn.Hardsigmoid)
        blocks.append(_inverted(channels, inner, filters, size, stride, activation, excitation))
        channels = filters
    head = _head(1024, nn.Linear(576, 1024), swish(), nn.Dropout(0.2))
    return nn.Sequential(unit(3, 16, 3, 2), *blocks, unit(channels, 576), *head)


def efficientnet_b0() -> nn.Module:
    """Return EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1)."""
    table = (  # expansion, size, stride, filters, depth
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    total = sum(depth for *_, depth in table)
    unit = partial(_unit, norm=_mobile_norm, activation=nn.SiLU)
    blocks: list[nn.Module] = []
    channels = 32
    for expansion, size, stride, filters, depth in table:
        for index in range(depth):
            inner = expansion * channels
            excitation = _squeeze_excitation(inner, channels // 4, nn.SiLU, nn.Sigmoid)
            drop = 0.2 * len(blocks) / total
            step = 1 if index else stride
            blocks.append(
                _inverted(channels, inner, filters, size, step, nn.SiLU, excitation, drop)
            )
            channels = filters
    head = _head(1280, nn.Dropout(0.2))
    return nn.Sequential(unit(3, 32, 3, 2), *blocks, unit(channels, 1280), *head)


# --------------------------------------------------------------------------------------------
# networks that concatenate channels


def _normalized(channels: int, filters: int, size: int = 1) -> list[nn.Module]:
    """Return a normalization, an activation and a convolution."""
    return [nn.BatchNorm2d(channels), nn.ReLU(True), _convolution(channels, filters, size)]


def densenet121() -> nn.Module:
    """Return DenseNet-121 with 32 new channels a layer (Huang et al. 2016, arXiv:1608.06993)."""
    growth = 32
    layers, channels = _stem(), 64
    for index, depth in enumerate((6, 12, 24, 16)):
        if index:
            layers += [*_normalized(channels, channels // 2), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            inner = _normalized(channels, 4 * growth) + _normalized(4 * growth, growth, 3)
            layers.append(Concat([nn.Identity(), nn.Sequential(*inner)]))
            channels += growth
    last = nn.BatchNorm2d(channels), nn.ReLU(True)
    return nn.Sequential(*layers, *last, *_head(channels))


def _activated(channels: int, filters: int, size: int = 1) -> nn.Sequential:
    """Return a convolution with a bias, and an activation."""
    return nn.Sequential(_convolution(channels, filters, size, bias=True), nn.ReLU(True))


def _fire(channels: int, squeezed: int, expanded: int) -> nn.Module:
    """Return a fire module: few channels, then 1x1 and 3x3 convolutions side by side."""
    expand = [_activated(squeezed, expanded), _activated(squeezed, expanded, 3)]
    return nn.Sequential(_activated(channels, squeezed), Concat(expand))


def squeezenet1_1() -> nn.Module:
    """Return SqueezeNet 1.1, the faster version (Iandola et al. 2016, arXiv:1602.07360)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(True)]
    channels = 64
    for stage in (((16, 64),) * 2, ((32, 128),) * 2, ((48, 192),) * 2 + ((64, 256),) * 2):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeezed, expanded in stage:
            layers.append(_fire(channels, squeezed, expanded))
            channels = 2 * expanded
    head = nn.Dropout(0.5), _activated(channels, CLASSES), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, *head)


def _twice(channels: int, filters: int) -> nn.Module:
    """Return two 3x3 convolutions."""
    return nn.Sequential(_unit(channels, filters, 3), _unit(filters, filters, 3))


def unet() -> nn.Module:
    """Return a U-Net with five levels and two classes (Ronneberger et al. 2015, arXiv:1505.04597).

    Batch normalization and padding, so that a map is as large as its image, came after the paper.
    The sides of an image are multiples of 16. Transposed convolutions stay PyTorch's.
    """

    def level(channels: int, filters: int) -> nn.Module:
        """Return a level with all that lies below it."""
        if filters == 1024:
            return _twice(channels, filters)
        below = nn.Sequential(
            nn.MaxPool2d(2),
            level(filters, 2 * filters),
            nn.ConvTranspose2d(2 * filters, filters, 2, 2),
        )
        skip = Concat([nn.Identity(), below])
        return nn.Sequential(_twice(channels, filters), skip, _twice(2 * filters, filters))

    return nn.Sequential(level(3, 64), nn.Conv2d(64, 2, 1))


# --------------------------------------------------------------------------------------------
# a plain network


def vgg11_bn() -> nn.Module:
    """Return VGG-11 with batch normalization (Simonyan and Zisserman 2014, arXiv:1409.1556)."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, depth in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(depth):
            layers.append(_unit(channels, filters, 3, bias=True))
            channels = filters
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    for inputs in (channels * 7 * 7, 4096):
        layers += [nn.Linear(inputs, 4096), nn.ReLU(True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(4096, CLASSES))
