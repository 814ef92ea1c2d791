"""Differentiable functions of tensors, called through PyTorch operators or directly.

For the smallest layers, dispatching a Python operator takes several times as long as the layer. So
functions are called directly, unless a compiler, a dispatch mode or a tracer needs the operator.
Transforms of `torch.func` map both over batches, by the rules in `batching`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cnnkernels.torch import batching
from cnnkernels.torch.batching import Batch, Fold

_NAMESPACE = "cnnkernels"
"""Operators are named cnnkernels::conv2d and so on."""


class Differentiable:
    """A differentiable function that returns y.

    Parameters
    ----------
    name : str
        Name of the operator; the gradients' operator adds ``_backward``.
    function : callable
        Returns y and the cache, a list of tensors that is not differentiated.
    backward : callable
        Returns a list of gradients; double backward is not supported.
    fake, fake_backward : callable
        Return tensors of the same shapes and dtypes as these two functions, for compilers.
    folds : (Fold, Fold)
        Fold a batch of `torch.func.vmap` into the images, for these two functions.
    keep : callable
        Saves what `gradients` needs; takes PyTorch's context, the inputs and the cache.
    gradients : callable
        Returns the gradient, or None, of every input; takes PyTorch's context, dy, and `backward`
        or its operator. Called only if a gradient is needed.

    Attributes
    ----------
    operator, backward_operator
        The registered operators, for compilers and dispatch modes.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., tuple[Tensor, list[Tensor]]],
        backward: Callable[..., list[Tensor]],
        *,
        fake: Callable[..., tuple[Tensor, list[Tensor]]],
        fake_backward: Callable[..., list[Tensor]],
        folds: tuple[Fold, Fold],
        keep: Callable[[Any, tuple[Any, ...], list[Tensor]], None],
        gradients: Callable[[Any, Tensor, Callable[..., Any]], tuple[Any, ...]],
    ) -> None:
        self.operator = registered(name, function, fake)
        self.backward_operator = registered(f"{name}_backward", backward, fake_backward)

        def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
            _, cache = output
            ctx.mark_non_differentiable(*cache)
            ctx.set_materialize_grads(False)
            keep(ctx, inputs, cache)

        def found(ctx: Any, dy: Tensor | None, compute: Callable[..., Any]) -> tuple[Any, ...]:
            if dy is None or not any(ctx.needs_input_grad):
                return (None,) * len(ctx.needs_input_grad)
            return gradients(ctx, dy, compute)

        def through_operators(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
            return found(ctx, dy, self.backward_operator)

        self.operator.register_vmap(_rule(self.operator, folds[0]))
        self.backward_operator.register_vmap(_rule(self.backward_operator, folds[1]))
        self.operator.register_autograd(through_operators, setup_context=setup)
        self.backward_operator.register_autograd(_refuse_double_backward)

        class Directly(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Tensor:
                output = function(*inputs)
                setup(ctx, inputs, output)
                return output[0]

            @staticmethod
            def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
                again = torch.is_grad_enabled()  # double backward, which the operator rejects
                return found(ctx, dy, self.backward_operator if again or followed() else backward)

        Directly.__name__ = f"{_NAMESPACE}::{name}"  # profilers show it
        self._directly = Directly.apply
        self._transformed = _transformed(name, function, backward, setup, found, folds)

    def __call__(self, *inputs: Any) -> Tensor:
        """Return y."""
        plain = all(is_plain(one) for one in inputs if isinstance(one, Tensor))
        transformed = torch._C._are_functorch_transforms_active()
        y: Tensor
        if torch.compiler.is_compiling():
            y = (self._transformed if transformed else self.operator)(*inputs)[0]
        elif not plain or followed() or (transformed and _functionalized()):
            y = self.operator(*inputs)[0]
        else:
            y = self._transformed(*inputs)[0] if transformed else self._directly(*inputs)
        return y


def registered(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Return a function as an operator of PyTorch; `fake` returns its outputs without data."""
    operator = torch.library.custom_op(
        f"{_NAMESPACE}::{name}", function, mutates_args=(), device_types="cpu"
    )
    operator.register_fake(fake)
    return operator


def _transformed(
    name: str,
    function: Callable[..., tuple[Tensor, list[Tensor]]],
    backward: Callable[..., list[Tensor]],
    setup: Callable[..., None],
    found: Callable[..., tuple[Any, ...]],
    folds: tuple[Fold, Fold],
) -> Callable[..., Any]:
    """Return a function for transforms of `torch.func`; its outputs are y and the cache's arrays.

    Calling it takes PyTorch tens of microseconds longer than calling `Directly`.
    """

    def outputs(*inputs: Any) -> tuple[Tensor, ...]:
        y, cache = function(*inputs)
        return y, *cache

    def setup_outputs(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
        setup(ctx, inputs, (outputs[0], list(outputs[1:])))

    def slopes(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        return found(ctx, dy, gradients.apply)

    fold, fold_backward = folds
    gradients = _function(
        f"{name}_backward",
        lambda *inputs: tuple(backward(*inputs)),
        lambda *_: None,
        _refuse_double_backward,
        fold_backward,
    )
    apply: Callable[..., Any] = torch.compiler.disable(
        _function(name, outputs, setup_outputs, slopes, fold).apply,
        reason="torch.func transforms of converted layers run uncompiled; PyTorch's own layers can "
        "be compiled with them: cnnkernels.torch.revert(model)",
    )
    return apply


def _function(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    fold: Fold,
) -> Any:
    """Return an autograd function that maps over batches."""

    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        return batching.mapped(made.apply, fold, Batch(info.batch_size, in_dims, inputs))

    methods = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": backward,
        "vmap": vmap,
    }
    made: Any = type(
        f"{_NAMESPACE}::{name}",
        (torch.autograd.Function,),
        {name: staticmethod(method) for name, method in methods.items()},
    )
    return made


def _rule(operator: Any, fold: Fold) -> Callable[..., Any]:
    """Return an operator's rule for `torch.func.vmap`."""

    def rule(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        def flat(*inputs: Any) -> tuple[Tensor, ...]:
            nested.append(operator(*inputs))
            return tuple(pytree.tree_leaves(nested[-1]))

        nested: list[Any] = []
        found, dims = batching.mapped(flat, fold, Batch(info.batch_size, in_dims, inputs))
        shape = pytree.tree_structure(nested[-1])
        return pytree.tree_unflatten(found, shape), pytree.tree_unflatten(dims, shape)

    return rule


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of a class that does not intercept operators."""
    return type(tensor) in (Tensor, nn.Parameter)


def followed() -> bool:
    """Whether a dispatch mode is active or `torch.jit.trace` runs: both see each operator."""
    modes = torch._C._len_torch_dispatch_stack()
    return bool(modes) or torch._C._get_tracing_state() is not None


def _functionalized() -> bool:
    """Whether `torch.func.functionalize` is active, which handles operators only."""
    active = torch._C._functorch.get_interpreter_stack() or ()
    return any(one.key() == torch._C._functorch.TransformType.Functionalize for one in active)


def _refuse_double_backward(*_: Any) -> None:
    raise NotImplementedError(
        "converted layers do not support double backward (the gradient of a gradient); "
        "PyTorch's own do: cnnkernels.torch.revert(model)"
    )
