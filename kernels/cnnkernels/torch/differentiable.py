"""Functions of tensors with gradients, called through operators of PyTorch's or directly.

PyTorch's dispatcher takes several times as long around an operator in Python as the smallest layers
take. So a function is called without one where neither a compiler nor a mode follows operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_NAMESPACE = "cnnkernels"
"""Operators are named cnnkernels::conv2d and so on."""

_PLAIN = (Tensor, nn.Parameter)
"""The classes of tensors that follow no operators themselves."""


class Differentiable:
    """A function with gradients, which gives y.

    Parameters
    ----------
    name : str
        The operator's; the operator of the gradients has the same with ``_backward``.
    function : callable
        Returns y and a list of tensors, the cache, which is not differentiated.
    backward : callable
        Returns gradients; they are not differentiated again.
    fake, fake_backward : callable
        Return tensors of the same shapes and dtypes as those two, for compilers.
    keep : callable
        Takes PyTorch's context, the inputs and the cache; keeps what `gradients` needs.
    gradients : callable
        Takes PyTorch's context, dy, and `backward` or its operator, where a gradient is needed;
        returns the gradient, or None, of every input.

    Attributes
    ----------
    operator, backward_operator
        For compilers, and others that follow operators.
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
                again = torch.is_grad_enabled()  # the gradient may be differentiated, which raises
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
    """Whether a mode sees each operator."""
    return bool(torch._C._len_torch_dispatch_stack())


def _refuse_double_backward(*_: Any) -> None:
    raise NotImplementedError(
        "converted layers have no gradient of their gradient (double backward): "
        "cnnkernels.torch.revert(model) gives PyTorch's own, which have"
    )
