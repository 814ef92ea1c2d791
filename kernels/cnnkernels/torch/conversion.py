"""Models that are converted and reverted: a layer changes its class, and nothing else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from cnnkernels import plan as plans
from cnnkernels import registry
from cnnkernels.contract import Problem, Unsupported
from cnnkernels.plan import Plan, PlanWarning
from cnnkernels.torch import problems, thread_counts
from cnnkernels.torch.choosing import checked, usable
from cnnkernels.torch.functional import require
from cnnkernels.torch.layers import NO_INDICES, Conv2d, MaxPool2d, padded

Module = TypeVar("Module", bound=nn.Module)


class ConversionWarning(UserWarning):
    """A layer that cannot be converted, or converted back, stays as it is; the message says why."""


_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.MaxPool2d: MaxPool2d,
}


def convert(
    model: Module,
    backend: str | Plan,
    *,
    keep: Callable[[str, nn.Module], bool] | None = None,
) -> Module:
    """Let a backend or a plan compute a model's convolutions and max-poolings, in place.

    Every layer stays the object that it was, with its parameters, hooks and name; a `state_dict`
    saved before fits after, and the other way round. A layer that cannot be converted stays
    PyTorch's, with a warning: one that returns indices, has no weights yet (`torch.nn.LazyConv2d`),
    is marked for quantization, or is of a class derived from PyTorch's. One of a class derived from
    `Conv2d` or `MaxPool2d` of this package keeps its class, and takes the backend.

    Parameters
    ----------
    model : Module
    backend : str or Plan
        A registered CPU backend; 'torch-cuda', for a model on a GPU; 'auto', which follows the plan
        in force; or a plan.
    keep : callable, optional
        Takes a layer's name and the layer; those for which it is true stay as they are: PyTorch's,
        or with the backend that they were converted to before.

    Returns
    -------
    Module
        The same model.

    Raises
    ------
    UnknownBackendError, TypeError
        If there is no such backend.
    Unsupported
        If the backend, or one that the plan has chosen, cannot run here, or layers cannot call it.

    Notes
    -----
    Forward mode (`torch.func.jvp`, dual numbers) is computed by PyTorch's own functions: see
    `conv2d`.

    Parametrizations (`torch.nn.utils.parametrizations.weight_norm` and the like) stay, and can be
    registered and removed before and after; so do the hooks of `torch.nn.utils.weight_norm` and
    `torch.nn.utils.prune`.

    Quantization replaces PyTorch's own layers, and would leave converted ones in floating point. So
    a converted layer raises `Unsupported` when `torch.ao.quantization` (`prepare`, `prepare_qat`)
    gives it a ``qconfig``: call `revert` before. `quantize_dynamic`, which leaves convolutions
    alone, works on converted models. Other quantizers work on exported graphs, where they do not
    know our operators, and say nothing of them: call `revert` before `torch.export.export`.
    """
    if checked(backend) == registry.AUTO:
        plan: Plan | None = plans.current()
    else:
        plan = backend if isinstance(backend, Plan) else None
    with thread_counts.kept():
        for name in plan.load() if plan is not None else (backend,):
            usable(registry.load(name))
    if plan is not None and plan.threads != torch.get_num_threads():
        warnings.warn(
            f"the plan was measured with {plan.threads} threads, and PyTorch has "
            f"{torch.get_num_threads()} here",
            PlanWarning,
            stacklevel=2,
        )
    for where, layer in model.named_modules():
        theirs = _theirs(layer)
        if theirs is None or (keep is not None and keep(where, layer)):
            continue
        reason = _why_not(layer, theirs)
        if reason is not None:
            _left(where, f"PyTorch's: {reason}")
            continue
        if parametrize.type_before_parametrizations(layer) is theirs:
            _become(layer, _CONVERTED[theirs])
        layer.backend = backend
    return model


def revert(model: Module) -> Module:
    """Give a converted model PyTorch's own layers back, in place; return it.

    A layer of a class derived from `Conv2d` or `MaxPool2d` of this package stays what it is, with a
    warning.
    """
    for where, layer in model.named_modules():
        theirs = _theirs(layer)
        if theirs is None or not isinstance(layer, _CONVERTED[theirs]):
            continue
        kind = parametrize.type_before_parametrizations(layer)
        if kind is _CONVERTED[theirs]:
            _become(layer, theirs)
            del layer.backend
        else:
            ours = _named(_CONVERTED[theirs])
            _left(where, f"cnnkernels': {_named(kind)} is derived from {ours}")
    return model


def _theirs(layer: nn.Module) -> type[nn.Module] | None:
    """Return the class of PyTorch's that a layer is of, or is derived from."""
    return next((kind for kind in _CONVERTED if isinstance(layer, kind)), None)


def _why_not(layer: nn.Module, theirs: type[nn.Module]) -> str | None:
    """Return the reason why a layer cannot be converted, or None."""
    kind = parametrize.type_before_parametrizations(layer)
    if isinstance(layer, LazyModuleMixin):
        return f"{kind.__name__} has no weights yet; convert the model after its first images"
    if kind is not theirs and not isinstance(layer, _CONVERTED[theirs]):
        return f"{_named(kind)} is derived from torch.nn.{theirs.__name__}"
    if getattr(layer, "return_indices", False):
        return NO_INDICES
    if getattr(layer, "qconfig", None) is not None:
        return "its qconfig marks it for quantization, which knows PyTorch's own layers only"
    return None


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _become(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Change a layer's class, and nothing else.

    A layer with parametrizations is of a class of PyTorch's making, derived from that of the layer.
    It may be that of the layer's copies, too; so it is made anew.
    """
    if parametrize.is_parametrized(layer):
        made = type(layer)
        kind = type(made.__name__, (kind,), dict(vars(made)))
    layer.__class__ = kind


def _left(where: str, why: str) -> None:
    warnings.warn(f"{where or 'the model'} stays {why}", ConversionWarning, stacklevel=3)


def problem_of(layer: nn.Module, x: Tensor) -> Problem:
    """Return the problem that a layer computes on images, whether it is converted or not.

    Raises
    ------
    Unsupported
        If it is none that backends compute, with the reason.
    """
    theirs = _theirs(layer)
    if theirs is None:
        raise Unsupported(f"{type(layer).__name__} is neither Conv2d nor MaxPool2d")
    reason = _why_not(layer, theirs)
    if reason is not None:
        raise Unsupported(reason)
    try:
        require("x", x, x)
        if isinstance(layer, nn.Conv2d):
            x, padding = padded(layer, x.detach())
            w = _weight(layer)
            geometry = problems.conv2d_geometry(
                w, layer.stride, padding, layer.dilation, layer.groups
            )
            images = x[None] if x.ndim == 3 else x
            return problems.conv2d(images, w, layer.bias is not None, geometry)
        window = problems.max_pool2d_geometry(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation
        )
        shape = (1, *x.shape) if x.ndim == 3 else x.shape
        return problems.max_pool2d(shape, x.dtype, window, layer.ceil_mode)
    except (TypeError, ValueError) as error:
        raise Unsupported(str(error)) from None


def _weight(layer: nn.Conv2d) -> Tensor:
    """Return a layer's weight without changing the layer: reading it advances spectral_norm."""
    if not parametrize.is_parametrized(layer, "weight"):
        weight: Tensor = layer.weight
    else:
        with torch.no_grad():
            weight = copy.deepcopy(layer.parametrizations.weight)()
    return weight
