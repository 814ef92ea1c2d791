"""The backend that computes a layer: the one that was named, or the one that a plan has chosen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from cnnkernels import plan as plans
from cnnkernels import registry
from cnnkernels.contract import Backend, Problem, Unsupported
from cnnkernels.plan import Plan
from cnnkernels.torch import problems, thread_counts

_NATIVE = "torch-cpu"
"""The backend that a plan chooses where PyTorch's own layer is the fastest: that then computes."""

_CUDA = "torch-cuda"
"""The backend whose kernels are those of PyTorch's own layers, on tensors of a GPU."""


def checked(backend: str | Plan) -> str | Plan:
    """Return the backend or plan.

    Raises
    ------
    UnknownBackendError
        If no backend has the name.
    TypeError
        If it is neither.
    """
    if isinstance(backend, str):
        registry.require_known(backend)
    elif not isinstance(backend, Plan):
        raise TypeError(
            f"backend: expected a backend's name or a Plan, got {type(backend).__name__}"
        )
    return backend


def usable(backend: Backend) -> Backend:
    """Return the backend, if layers can call it."""
    if backend.arrays.device != "cpu" and backend.name != _CUDA:
        raise Unsupported(
            f"{backend.name} computes on {backend.arrays.device}; layers take backends that "
            f"compute on the CPU, and {_CUDA}"
        )
    return backend


@torch.compiler.assume_constant_result
def chosen(backend: str | Plan, measuring: bool, kind: type[Problem], *facts: Any) -> str:
    """Return the name of the backend for a problem; compilers ask once, and go on with the answer.

    Parameters
    ----------
    backend : str or Plan
        As layers take it.
    measuring : bool
        Whether a plan may measure now what it has not measured.
    kind, *facts
        The problem, as `problems.problem_of` takes it.
    """
    with thread_counts.kept():
        if isinstance(checked(backend), str) and backend != registry.AUTO:
            return usable(registry.load(backend)).name
        plan = plans.current() if isinstance(backend, str) else backend
        problem = problems.problem_of(kind, *facts)
        return usable(plan.backend_for(problem, measuring=measuring)).name


def stays_native(backend: str | Plan, chosen: str, x: Tensor) -> bool:
    """Whether PyTorch's own layer computes, which needs no operator then.

    Raises
    ------
    ValueError
        If the images are not where the chosen backend computes.
    """
    device, where = ("cuda", "a GPU") if chosen == _CUDA else ("cpu", "the CPU")
    if x.device.type != device:
        raise ValueError(
            f"x: expected a tensor on {where}, where {chosen} computes, got one on {x.device}; "
            f"for a GPU convert the model to {_CUDA!r}, or give it PyTorch's own layers back: "
            "cnnkernels.torch.revert(model)"
        )
    follows = isinstance(backend, Plan) or backend == registry.AUTO
    return chosen == _CUDA or (chosen == _NATIVE and follows) or forward_mode()


@torch.compiler.assume_constant_result
def forward_mode() -> bool:
    """Whether tensors may carry tangents, inside `torch.func.jvp` or a dual level.

    That a certain one carries none cannot be seen from here, where transforms are nested.
    """
    on: bool = forward_ad._current_level >= 0
    return on
