"""Batch normalization in training, with fast statistics of contiguous images.

Registers the PyTorch operator cnnkernels::batch_norm_statistics. Everything else is PyTorch's own:
pixels are normalized, and gradients computed, by its operators. Compilers, tracers and transforms
get PyTorch's own batch normalization.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnkernels.torch import choosing, differentiable, thread_counts


def suits(x: Tensor, channels: int, epsilon: float) -> bool:
    """Whether the functions below take images; else PyTorch's own has to, or to refuse them."""
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or choosing.forward_mode()
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    return (
        differentiable.is_plain(x)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.ndim == 4
        and x.is_contiguous()
        and x.data_ptr() % x.element_size() == 0
        and x.shape[1] == channels
        and x.numel() > channels  # a single pixel has no variance
        and epsilon > 0
    )


class Statistics(NamedTuple):
    """Of each channel of some images, as `cnnkernels.normalization.statistics` returns them."""

    mean: Tensor
    variance: Tensor
    factor: Tensor


def statistics(x: Tensor, epsilon: float) -> Statistics:
    """Return the statistics of images that `suits` accepts; they carry no gradients."""
    compute: Any = _operator if differentiable.followed() else _statistics
    return Statistics(*compute(x.detach(), epsilon))


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, given: Statistics, epsilon: float
) -> Tensor:
    """Normalize images by their own statistics, like `torch.nn.functional.batch_norm`.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        Images that `suits` accepts.
    weight, bias : Tensor, (C,), optional
        Of the dtype of x.
    given : Statistics
        Those of x. Gradients take into account that they follow from x.
    epsilon : float
        As for `statistics`.

    Returns
    -------
    Tensor, (N, C, H, W)
        Differentiable, also twice.
    """
    y: Tensor = _Normalize.apply(x, weight, bias, *given, epsilon)
    return y


def _statistics(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, factor = map(torch.from_numpy, _kernel()(x.numpy(), epsilon))
    return mean, variance, factor


def _kernel() -> Callable[[np.ndarray, float], tuple[np.ndarray, ...]]:
    """Return the kernel, set to PyTorch's current number of threads."""
    with thread_counts.kept():
        from cnnkernels import normalization  # loads Numba
    thread_counts.follow()
    return normalization.statistics


_operator = differentiable.registered(
    "batch_norm_statistics",
    _statistics,
    lambda x, _: tuple(x.new_empty(x.shape[1]) for _ in Statistics._fields),
)


class _Normalize(torch.autograd.Function):
    """The function behind `normalize`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        factor: Tensor,
        epsilon: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, factor)
        ctx.epsilon = epsilon
        y, *_ = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, epsilon)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, factor = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        gradients = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, factor, True, ctx.epsilon, needs
        )
        return *gradients, None, None, None, None


_Normalize.__name__ = "cnnkernels::batch_norm"  # profilers show it
