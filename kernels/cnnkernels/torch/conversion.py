"""Converting and reverting models: only the class of a layer changes."""

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
from cnnkernels.torch.choosing import ConversionWarning, checked, usable
from cnnkernels.torch.functional import require
from cnnkernels.torch.layers import (
    NO_INDICES,
    BackendLayer,
    BatchNorm2d,
    Conv2d,
    MaxPool2d,
    padded,
)

Module = TypeVar("Module", bound=nn.Module)


_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.MaxPool2d: MaxPool2d,
    nn.BatchNorm2d: BatchNorm2d,
}


def convert(
    model: Module,
    backend: str | Plan,
    *,
    keep: Callable[[str, nn.Module], bool] | None = None,
) -> Module:
    """Run a model's convolutions and max-poolings on a backend or a plan; convert in place.

    Layers remain the same objects, with their parameters, hooks and names; a `state_dict` saved
    before conversion loads afterwards, and vice versa. Layers that cannot be converted stay
    PyTorch's, with a warning. These return indices, have no weights yet (`torch.nn.LazyConv2d`),
    are marked for quantization, or have a class derived from PyTorch's. A layer of a class derived
    from this package's `Conv2d` or `MaxPool2d` keeps its class and gets the new backend.

    Batch normalizations get faster statistics in training, whatever the backend: see `BatchNorm2d`.

    Parameters
    ----------
    model : Module
        The model to convert.
    backend : str or Plan
        A registered CPU backend; 'torch-cuda', for a model on a GPU; 'auto', which follows the
        active plan; or a plan.
    keep : callable, optional
        A predicate of a layer's name and the layer. Layers for which it returns True are not
        changed, whether PyTorch's or converted earlier.

    Returns
    -------
    Module
        The same model.

    Raises
    ------
    UnknownBackendError, TypeError
        If there is no such backend.
    Unsupported
        If the backend, or one that the plan has chosen, cannot run here or in layers.

    Notes
    -----
    Forward mode (`torch.func.jvp`, dual numbers) runs PyTorch's own functions: see `conv2d`.

    Parametrizations (such as `torch.nn.utils.parametrizations.weight_norm`) are preserved, and can
    be registered and removed before and after. The same holds for the hooks of
    `torch.nn.utils.weight_norm` and `torch.nn.utils.prune`.

    Under `torch.autocast`, PyTorch's own functions run, with a warning.

    Call `revert` before `torch.jit.script`, which supports PyTorch's own layers only, and before
    `torch.ao.quantization.fuse_modules`, which knows them by their class.

    Call `revert` before quantization. `torch.ao.quantization` (`prepare`, `prepare_qat`) replaces
    PyTorch's own layers only and would leave converted ones in floating point, so a converted layer
    raises `Unsupported` when it gets a ``qconfig``. Quantizers of exported graphs silently skip
    this package's operators, so call `revert` before `torch.export.export`. `quantize_dynamic`
    works on converted models, because it does not touch convolutions.
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
            if theirs is not nn.BatchNorm2d:  # of no backend, so that nobody has asked for it
                _left(where, f"PyTorch's: {reason}")
            continue
        if parametrize.type_before_parametrizations(layer) is theirs:
            _become(layer, _CONVERTED[theirs])
        if isinstance(layer, BackendLayer):
            layer.backend = backend
    return model


def revert(model: Module) -> Module:
    """Restore PyTorch's own layers in a converted model, in place; return the model.

    A layer of a class derived from one of this package's is not reverted, with a warning.
    """
    for where, layer in model.named_modules():
        theirs = _theirs(layer)
        if theirs is None or not isinstance(layer, _CONVERTED[theirs]):
            continue
        kind = parametrize.type_before_parametrizations(layer)
        if kind is _CONVERTED[theirs]:
            if isinstance(layer, BackendLayer):
                del layer.backend
            _become(layer, theirs)
        else:
            ours = _named(_CONVERTED[theirs])
            _left(where, f"cnnkernels': {_named(kind)} is derived from {ours}")
    return model


def _theirs(layer: nn.Module) -> type[nn.Module] | None:
    """Return the PyTorch class of a layer, or of its base class; None if not convertible."""
    return next((kind for kind in _CONVERTED if isinstance(layer, kind)), None)


def _why_not(layer: nn.Module, theirs: type[nn.Module]) -> str | None:
    """Return why a layer cannot be converted, or None."""
    kind = parametrize.type_before_parametrizations(layer)
    if isinstance(layer, LazyModuleMixin):
        return f"{kind.__name__} has no weights yet; convert the model after its first images"
    if kind is not theirs and not isinstance(layer, _CONVERTED[theirs]):
        return f"{_named(kind)} is derived from torch.nn.{theirs.__name__}"
    if getattr(layer, "return_indices", False):
        return NO_INDICES
    if getattr(layer, "qconfig", None) is not None:
        return "its qconfig marks it for quantization, which supports PyTorch's own layers only"
    return None


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _become(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Change only the class of a layer.

    PyTorch gives a parametrized layer a generated class, derived from its original one. Copies of
    the layer may share it, so this generates a new one.
    """
    if parametrize.is_parametrized(layer):
        made = type(layer)
        kind = type(made.__name__, (kind,), dict(vars(made)))
    layer.__class__ = kind


def _left(where: str, why: str) -> None:
    warnings.warn(f"{where or 'the model'} stays {why}", ConversionWarning, stacklevel=3)


def problem_of(layer: nn.Module, x: Tensor) -> Problem:
    """Return the problem of a layer applied to images, whether converted or not.

    Raises
    ------
    Unsupported
        If backends cannot compute the layer, with the reason.
    """
    theirs = _theirs(layer)
    if theirs in (None, nn.BatchNorm2d):
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
            return problems.conv2d(images.shape, x.dtype, w, layer.bias is not None, geometry)
        window = problems.max_pool2d_geometry(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation
        )
        shape = (1, *x.shape) if x.ndim == 3 else x.shape
        return problems.max_pool2d(shape, x.dtype, window, layer.ceil_mode)
    except (TypeError, ValueError) as error:
        raise Unsupported(str(error)) from None


def _weight(layer: nn.Conv2d) -> Tensor:
    """Return a layer's weight; use a copy, because reading it advances spectral_norm."""
    if not parametrize.is_parametrized(layer, "weight"):
        weight: Tensor = layer.weight
    else:
        with torch.no_grad():
            weight = copy.deepcopy(layer.parametrizations.weight)()
    return weight
