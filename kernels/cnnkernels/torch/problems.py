"""Problems made from tensors and PyTorch's arguments; their geometry as one list."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cnnkernels import geometry
from cnnkernels.contract import Conv2D, MaxPool2D, Problem

Geometry: TypeAlias = list[int]
"""The geometry of a layer as one list of integers, which operators take.

Convolution: stride (2), padding top, bottom, left, right, dilation (2), groups. Max-pooling:
kernel_size, stride, padding and dilation, two each.
"""


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    """Return numbers as Python integers; this fixes torch.compile's symbolic sizes."""
    return tuple(map(int, values))


def problem_of(kind: type[Problem], *facts: Any) -> Problem:
    """Return the problem for the result of `conv2d_facts` or `max_pool2d_facts`."""
    return _MAKERS[kind](*facts)


# --------------------------------------------------------------------------------------------
# convolution


def conv2d_geometry(
    w: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    """Return a convolution's geometry from the arguments of `torch.nn.functional.conv2d`."""
    strides, dilations = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    if isinstance(padding, str):
        high, wide = geometry.padding_pairs(padding, w.shape[2:], strides, dilations)
    else:
        rows, columns = _pair("padding", padding, 0)
        high, wide = (rows, rows), (columns, columns)
    return [*strides, *high, *wide, *dilations, groups]


def conv2d_facts(
    shape: Sequence[int], dtype: torch.dtype, w: Tensor, bias: bool, geometry: Sequence[int]
) -> tuple[Any, ...]:
    """Return everything that determines a convolution's problem, as a hashable tuple."""
    return _ints(shape), _ints(w.shape), bias, tuple(geometry), _name(dtype)


def conv2d(
    shape: Sequence[int], dtype: torch.dtype, w: Tensor, bias: bool, geometry: Geometry
) -> Conv2D:
    """Return the problem of a convolution, for images of the given shape."""
    return _conv2d(*conv2d_facts(shape, dtype, w, bias, _ints(geometry)))


@functools.lru_cache(maxsize=4096)
def _conv2d(
    x: tuple[int, ...], w: tuple[int, ...], bias: bool, geometry: tuple[int, ...], dtype: str
) -> Conv2D:
    batch, channels, height, width = x
    filters, _, *kernel_size = w
    down, across, top, bottom, left, right, *dilation, groups = geometry
    problem = Conv2D(
        batch,
        channels,
        height,
        width,
        filters,
        kernel_size,
        stride=(down, across),
        padding=((top, bottom), (left, right)),
        dilation=dilation,
        groups=groups,
        bias=bias,
        dtype=dtype,
    )
    if problem.shapes.w != w:
        raise ValueError(f"w: expected shape {problem.shapes.w} for x of shape {x}, got {w}")
    return problem


# --------------------------------------------------------------------------------------------
# max-pooling


def max_pool2d_geometry(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> Geometry:
    """Return a max-pooling's geometry from the arguments of `torch.nn.functional.max_pool2d`."""
    kernel = _pair("kernel_size", kernel_size, 1)
    strides = kernel if stride is None or stride == [] else _pair("stride", stride, 1)
    pads, dilations = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    return [*kernel, *strides, *pads, *dilations]


def max_pool2d_facts(
    shape: Sequence[int], dtype: torch.dtype, geometry: Sequence[int], ceil_mode: bool
) -> tuple[Any, ...]:
    """Return everything that determines a max-pooling's problem, as a hashable tuple."""
    return _ints(shape), _name(dtype), tuple(geometry), ceil_mode


def max_pool2d(
    shape: Sequence[int], dtype: torch.dtype, geometry: Geometry, ceil_mode: bool
) -> MaxPool2D:
    """Return the problem of a max-pooling, for images of the given shape."""
    return _max_pool2d(*max_pool2d_facts(shape, dtype, _ints(geometry), ceil_mode))


@functools.lru_cache(maxsize=4096)
def _max_pool2d(
    shape: tuple[int, ...], dtype: str, geometry: tuple[int, ...], ceil_mode: bool
) -> MaxPool2D:
    batch, channels, height, width = shape
    kernel, stride, padding, dilation = (geometry[i : i + 2] for i in (0, 2, 4, 6))
    return MaxPool2D(
        batch, channels, height, width, kernel, stride, padding, dilation, ceil_mode, dtype
    )


_MAKERS: dict[type[Problem], Callable[..., Problem]] = {Conv2D: _conv2d, MaxPool2D: _max_pool2d}


def _name(dtype: torch.dtype) -> str:
    """Return a dtype's name, as used in problems."""
    return str(dtype).removeprefix("torch.")


def _pair(name: str, value: int | Sequence[int], least: int) -> geometry.Pair:
    """Like `geometry.pair`, but take one number in a sequence for both axes, as PyTorch does.

    Plain integers are left to the problem's own checks.
    """
    if type(value) is int:
        return value, value
    if type(value) is tuple and tuple(map(type, value)) == (int, int):
        return value
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    return geometry.pair(name, value, least)
