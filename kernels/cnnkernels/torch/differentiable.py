"""Differentiable functions of tensors, called through PyTorch operators or directly.

For the smallest layers, dispatching a Python operator takes several times as long as the layer. So
functions are called directly, unless a compiler or a dispatch mode needs to see the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_NAMESPACE = "cnnkernels"
"""Operators are named cnnkernels::conv2d and so on."""

_PLAIN = (Tensor, nn.Parameter)
"""Tensor classes that do not intercept operators."""


class Differentiable:
    """A differentiable function that returns y.

    Parameters
    ----------
    name : str
        Name of the operator; the gradients' operator adds ``_backward``.
    function : callable
        Returns y and the cache, a list of tensors that is not differentiated.
    backward : callable
        Returns the gradients; double backward is not supported.
    fake, fake_backward : callable
        Return tensors of the same shapes and dtypes as these two functions, for compilers.
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
        backward: Callable[..., Any],
        *,
        fake: Callable[..., tuple[Tensor, list[Tensor]]],
        fake_backward: Callable[..., Any],
        keep: Callable[[Any, tuple[Any, ...], list[Tensor]], None],
        gradients: Callable[[Any, Tensor, Callable[..., Any]], tuple[Any, ...]],
    ) -> None:
        self.operator = _operator(name, function, fake)
        self.backward_operator = _operator(f"{name}_backward", backward, fake_backward)

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
                return found(ctx, dy, self.backward_operator if again or _followed() else backward)

        self._directly = Directly.apply

    def __call__(self, *inputs: Any) -> Tensor:
        """Return y."""
        plain = all(type(one) in _PLAIN for one in inputs if isinstance(one, Tensor))
        y: Tensor
        if plain and not torch.compiler.is_compiling() and not _followed():
            y = self._directly(*inputs)
        else:
            y = self.operator(*inputs)[0]
        return y


def _operator(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    operator = torch.library.custom_op(
        f"{_NAMESPACE}::{name}", function, mutates_args=(), device_types="cpu"
    )
    operator.register_fake(fake)
    return operator


def _followed() -> bool:
    """Whether a dispatch mode is active, which sees each operator."""
    return bool(torch._C._len_torch_dispatch_stack())


def _refuse_double_backward(*_: Any) -> None:
    raise NotImplementedError(
        "converted layers do not support double backward (the gradient of a gradient); "
        "PyTorch's own do: cnnkernels.torch.revert(model)"
    )
