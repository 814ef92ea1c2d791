"""The functions that converted layers call: PyTorch's arguments, plus a backend or a plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from cnnkernels import registry
from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.plan import Plan
from cnnkernels.torch import choosing, operators, problems


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str | Plan = registry.AUTO,
) -> Tensor:
    """Cross-correlate images with filters, like `torch.nn.functional.conv2d`; differentiable.

    Parameters
    ----------
    x : Tensor, (N, C, H, W) or (C, H, W)
        Images, float32 or float64, in any memory layout; on a GPU for torch-cuda, else on the CPU.
    w : Tensor, (K, C/groups, R, S)
    b : Tensor, (K,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int), 'same' or 'valid'
    groups : int
    backend : str or Plan
        A registered CPU backend; 'torch-cuda'; 'auto', which follows the active plan; or a plan.

    Returns
    -------
    Tensor, (N, K, P, Q) or (K, P, Q)
        Contiguous, unless PyTorch's own function runs: for torch-cuda, if a plan has chosen
        torch-cpu, in forward mode, under `torch.autocast`, and for tensors without data (meta).

    Raises
    ------
    TypeError, ValueError
        If the tensors' shapes or dtypes do not match, or they are on another device than the
        backend.
    Unsupported
        If the backend cannot run this problem.

    Notes
    -----
    Kernels compute gradients, not tangents. Inside `torch.func.jvp`, `torch.func.jacfwd` and
    `torch.autograd.forward_ad.dual_level`, PyTorch's own function runs, with and without
    `torch.compile`. A graph compiled or exported outside of them raises an error inside.
    """
    y: Tensor
    if has_torch_function((x, w, b)):  # a subclass, or what torch.fx traces with
        named = {"stride": stride, "padding": padding, "dilation": dilation}
        y = handle_torch_function(
            conv2d, (x, w, b), x, w, b, **named, groups=groups, backend=backend
        )
        return y
    if isinstance(x, Tensor) and choosing.pytorch_decides(x):
        y = functional.conv2d(x, w, b, stride, padding, dilation, groups)
        return y
    for name, tensor in (("x", x), ("w", w), ("b", b)):
        require(name, tensor, x)
    geometry = problems.conv2d_geometry(w, stride, padding, dilation, groups)
    images = x[None] if x.ndim == 3 else x
    if choosing.follows_plan(backend):
        choosing.require_one_size(images)
        facts = problems.conv2d_facts(images.shape, x.dtype, w, b is not None, geometry)
        chosen = choosing.planned(backend, not isinstance(x, FakeTensor), Conv2D, *facts)
    else:
        chosen = choosing.named(backend)
    if choosing.stays_native(backend, chosen, x):
        y = functional.conv2d(x, w, b, stride, padding, dilation, groups)
        return y
    y = operators.conv2d(images, w, b, geometry, chosen)
    return y[0] if x.ndim == 3 else y


def max_pool2d(
    x: Tensor,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    backend: str | Plan = registry.AUTO,
) -> Tensor:
    """Return the maximum of each window, like `torch.nn.functional.max_pool2d`; differentiable.

    Parameters
    ----------
    x : Tensor, (N, C, H, W) or (C, H, W)
        As in `conv2d`.
    kernel_size, stride, padding, dilation, ceil_mode
        As in PyTorch.
    backend : str or Plan
        As in `conv2d`.

    Returns
    -------
    Tensor, (N, C, P, Q) or (C, P, Q)
        Contiguous under the same conditions as for `conv2d`.

    Raises
    ------
    TypeError, ValueError, Unsupported
        As `conv2d`.
    """
    y: Tensor
    if has_torch_function((x,)):
        named = {"stride": stride, "padding": padding, "dilation": dilation}
        y = handle_torch_function(
            max_pool2d, (x,), x, kernel_size, **named, ceil_mode=ceil_mode, backend=backend
        )
        return y
    if isinstance(x, Tensor) and choosing.pytorch_decides(x):
        y = functional.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
        return y
    require("x", x, x)
    geometry = problems.max_pool2d_geometry(kernel_size, stride, padding, dilation)
    images = x[None] if x.ndim == 3 else x
    if choosing.follows_plan(backend):
        choosing.require_one_size(images)
        facts = problems.max_pool2d_facts(images.shape, x.dtype, geometry, ceil_mode)
        chosen = choosing.planned(backend, not isinstance(x, FakeTensor), MaxPool2D, *facts)
    else:
        chosen = choosing.named(backend)
    if choosing.stays_native(backend, chosen, x):
        y = functional.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
        return y
    y = operators.max_pool2d(images, geometry, ceil_mode, chosen)
    return y[0] if x.ndim == 3 else y


def require(name: str, tensor: object, x: Tensor) -> None:
    """Reject a tensor that kernels cannot combine with x; accept None, an absent bias."""
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    if tensor.device != x.device:
        raise ValueError(
            f"{name}: expected a tensor on {x.device}, where x is, got one on {tensor.device}: "
            "move the model to where its images are"
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: expected float32 or float64, got {tensor.dtype}; in other "
            "dtypes use PyTorch's own layers: cnnkernels.torch.revert(model)"
        )
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: expected {x.dtype}, the dtype of x, got {tensor.dtype}")
    if tensor is x and x.ndim not in (3, 4):
        raise ValueError(
            f"x: expected images (N, C, H, W) or (C, H, W), got shape {tuple(x.shape)}"
        )
