"""Choosing the backend of a layer: the one named, or the one that a plan has chosen."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from cnnkernels import plan as plans
from cnnkernels import registry
from cnnkernels.contract import Backend, Problem, Unsupported
from cnnkernels.plan import Plan
from cnnkernels.torch import problems, thread_counts


class ConversionWarning(UserWarning):
    """A layer stays PyTorch's, or runs PyTorch's own function; the message says why."""


_NATIVE = "torch-cpu"
"""The backend that a plan chooses if PyTorch's own layer is fastest; that layer then runs."""

_CUDA = "torch-cuda"
"""The backend for GPU tensors; its kernels are those of PyTorch's own layers."""


def checked(backend: str | Plan) -> str | Plan:
    """Return the argument if it is a known backend's name or a plan.

    Raises
    ------
    UnknownBackendError
        If no backend has this name.
    TypeError
        If the argument is neither a string nor a plan.
    """
    if isinstance(backend, str):
        registry.require_known(backend)
    elif not isinstance(backend, Plan):
        raise TypeError(
            f"backend: expected a backend's name or a Plan, got {type(backend).__name__}"
        )
    return backend


def usable(backend: Backend) -> Backend:
    """Return the backend; raise `Unsupported` if layers cannot call it."""
    if backend.arrays.device != "cpu" and backend.name != _CUDA:
        raise Unsupported(
            f"{backend.name} computes on {backend.arrays.device}; layers support backends that "
            f"compute on the CPU, and {_CUDA}"
        )
    return backend


def follows_plan(backend: str | Plan) -> bool:
    """Whether a plan chooses the backend of each problem."""
    return isinstance(backend, Plan) or backend == registry.AUTO


def require_one_size(x: Tensor) -> None:
    """Reject images whose number `torch.export` leaves open: a plan chooses by it."""
    if not torch.compiler.is_dynamo_compiling() and isinstance(x.shape[0], torch.SymInt):
        raise Unsupported(
            "a plan chooses backends for batches of one size; for batches of any size name a "
            'backend, as in cnnkernels.torch.convert(model, "numba-simd")'
        )


@torch.compiler.assume_constant_result
def named(backend: str | Plan) -> str:
    """Return the name of a backend for layers; `torch.compile` treats it as a constant."""
    with thread_counts.kept():
        return usable(registry.load(checked(backend))).name


@torch.compiler.assume_constant_result
def planned(backend: str | Plan, measuring: bool, kind: type[Problem], *facts: Any) -> str:
    """Return the backend that a plan has chosen; `torch.compile` treats it as a constant.

    Parameters
    ----------
    backend : str or Plan
        A plan, or 'auto', which follows the active plan.
    measuring : bool
        Whether the plan may now measure a problem without a choice.
    kind, *facts
        The problem, as arguments of `problems.problem_of`.
    """
    with thread_counts.kept():
        plan = backend if isinstance(backend, Plan) else plans.current()
        problem = problems.problem_of(kind, *facts)
        return usable(plan.backend_for(problem, measuring=measuring)).name


@torch.compiler.assume_constant_result
def _autocast(device: str) -> bool:
    """Whether autocast is on for a type of device; warn if it is."""
    on: bool = torch.is_autocast_enabled(device)
    if on:
        warnings.warn(
            "under torch.autocast, converted layers run PyTorch's own functions",
            ConversionWarning,
            stacklevel=2,
        )
    return on


def pytorch_decides(x: Tensor) -> bool:
    """Whether PyTorch's own function runs because PyTorch also chooses dtypes or has no data."""
    kind: str = x.device.type
    return kind == "meta" or _autocast(kind)


def stays_native(backend: str | Plan, chosen: str, x: Tensor) -> bool:
    """Whether PyTorch's own function runs, without an operator.

    Raises
    ------
    ValueError
        If the images are on another device than the chosen backend.
    """
    device, where = ("cuda", "a GPU") if chosen == _CUDA else ("cpu", "the CPU")
    if x.device.type != device:
        raise ValueError(
            f"x: expected a tensor on {where}, where {chosen} computes, got one on {x.device}; "
            f"for a GPU convert the model to {_CUDA!r}, or restore PyTorch's own layers: "
            "cnnkernels.torch.revert(model)"
        )
    left_to_pytorch = chosen == _NATIVE and follows_plan(backend)
    return chosen == _CUDA or left_to_pytorch or forward_mode()


@torch.compiler.assume_constant_result
def forward_mode() -> bool:
    """Whether tensors may carry tangents, inside `torch.func.jvp` or a dual level.

    Under nested transforms it is impossible to see whether a particular tensor carries one.
    """
    on: bool = forward_ad._current_level >= 0
    return on
