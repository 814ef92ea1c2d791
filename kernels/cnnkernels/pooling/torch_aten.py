"""PyTorch's own max-pooling, called below autograd: `aten::max_pool2d_with_indices`."""

from __future__ import annotations

import torch

from cnnkernels.contract import ArraySpec, Cache, MaxPool2D
from cnnkernels.geometry import Pair

_aten = torch.ops.aten

_MOST = 2**31 - 1
"""The largest window parameter that PyTorch accepts."""


def unsupported(problem: MaxPool2D) -> str | None:
    """Return why PyTorch cannot run the problem, or None."""
    padding, _ = _padding(problem)
    if padding is None:
        return f"PyTorch pads the same on both sides, not {problem.padding}"
    if any(2 * pad > kernel for pad, kernel in zip(padding, problem.kernel_size, strict=True)):
        return f"PyTorch pads at most half the kernel {problem.kernel_size}, not {padding}"
    most = max(*problem.kernel_size, *problem.stride, *problem.dilation)
    if most > _MOST:
        return f"PyTorch's window parameters are limited to {_MOST}, got {most}"
    return None


def cache_spec(problem: MaxPool2D) -> tuple[ArraySpec, ...]:
    """Return the indices' spec: the flat index in the plane of each window's winner."""
    return ((problem.shapes.y, "int64"),)


def forward(problem: MaxPool2D, x: torch.Tensor) -> tuple[torch.Tensor, Cache]:
    """Call `aten::max_pool2d_with_indices`.

    See `contract.MaxPool2DKernel.forward` for parameters and the rules for ties and NaNs.
    """
    y, indices = _aten.max_pool2d_with_indices.default(x, *_window(problem))
    return y, (indices,)


def backward(problem: MaxPool2D, dy: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Call `aten::max_pool2d_with_indices_backward`.

    See `contract.MaxPool2DKernel.backward` for parameters.
    """
    (indices,) = cache
    layout = torch.contiguous_format if dy.is_contiguous() else torch.channels_last
    # PyTorch requires the images but reads only their shape and layout, so this stays untouched.
    x = torch.empty(problem.shapes.x, dtype=dy.dtype, device=dy.device, memory_format=layout)
    return _aten.max_pool2d_with_indices_backward.default(dy, x, *_window(problem), indices)


def _padding(problem: MaxPool2D) -> tuple[Pair | None, bool]:
    """Return equivalent symmetric padding or None, and whether it needs ceil mode."""
    if problem.symmetric_padding is not None:
        return problem.symmetric_padding, False
    high, wide = problem.padding[0][0], problem.padding[1][0]
    try:
        ceiled = MaxPool2D(
            problem.batch,
            problem.channels,
            problem.height,
            problem.width,
            problem.kernel_size,
            problem.stride,
            (high, wide),
            problem.dilation,
            ceil_mode=True,
            dtype=problem.dtype,
        )
    except ValueError:  # the kernel fits, or sees a pixel, by uneven padding alone
        return None, False
    return ((high, wide), True) if ceiled == problem else (None, False)


def _window(problem: MaxPool2D) -> tuple[Pair, Pair, Pair | None, Pair, bool]:
    padding, ceil_mode = _padding(problem)
    return problem.kernel_size, problem.stride, padding, problem.dilation, ceil_mode
