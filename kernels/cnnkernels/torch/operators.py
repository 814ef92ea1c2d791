"""Differentiable convolution and max-pooling of tensors on a named backend.

Registers the PyTorch operators cnnkernels::conv2d, cnnkernels::conv2d_backward,
cnnkernels::max_pool2d and cnnkernels::max_pool2d_backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnkernels import registry
from cnnkernels.contract import Backend, Needs, Problem, Unsupported
from cnnkernels.torch import choosing, problems, thread_counts
from cnnkernels.torch.differentiable import Differentiable
from cnnkernels.torch.problems import Geometry


def _backend(name: str, problem: Problem) -> Backend:
    """Return an operator's backend, set to PyTorch's current number of threads.

    Raises
    ------
    NotImplementedError
        In forward mode, because operators would silently drop tangents.
    Unsupported
        If the backend cannot run the problem, with the reason.
    """
    if choosing.forward_mode():
        raise NotImplementedError(
            "operators of converted layers have no forward-mode derivative: inside torch.func.jvp "
            "or dual_level call the model itself, not a graph compiled, exported or recorded "
            "before, or restore PyTorch's own layers: cnnkernels.torch.revert(model)"
        )
    with thread_counts.kept():
        backend = registry.load(name)
    reason = backend.unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{backend.name}: {reason}")
    thread_counts.follow()
    return backend


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def _tensor(backend: Backend, array: Any) -> Tensor:
    return torch.from_numpy(backend.arrays.get(array))


def _empty(spec: Sequence[tuple[tuple[int, ...], str]]) -> list[Tensor]:
    return [torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in spec]


# --------------------------------------------------------------------------------------------
# convolution


def _conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: list[int], backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.conv2d(x, w, b is not None, geometry)
    found = _backend(backend, problem)
    put = found.arrays.put
    bias = None if b is None else put(_array(b))
    y, cache = found.convolution.forward(problem, put(_array(x)), put(_array(w)), bias)
    return _tensor(found, y), [_tensor(found, array) for array in cache]


def _fake_conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.conv2d(x, w, b is not None, geometry)
    found = _backend(backend, problem)
    return x.new_empty(problem.shapes.y), _empty(found.convolution.cache_spec(problem))


def _conv2d_backward(
    dy: Tensor,
    x: Tensor,
    w: Tensor,
    cache: list[Tensor],
    bias: bool,
    geometry: list[int],
    backend: str,
    needs: list[bool],
) -> list[Tensor]:
    """Return the needed gradients among dx, dw and db, in this order."""
    problem = problems.conv2d(x, w, bias, geometry)
    found = _backend(backend, problem)
    dy_, x_, w_, *kept = (found.arrays.put(_array(tensor)) for tensor in (dy, x, w, *cache))
    gradients = found.convolution.backward(problem, dy_, x_, w_, tuple(kept), Needs(*needs))
    return [_tensor(found, gradient) for gradient in gradients if gradient is not None]


def _fake_conv2d_backward(dy: Tensor, x: Tensor, w: Tensor, *more: Any) -> list[Tensor]:
    shapes, needs = (x.shape, w.shape, w.shape[:1]), more[-1]
    return [dy.new_empty(shape) for shape, needed in zip(shapes, needs, strict=True) if needed]


def _keep_of_conv2d(ctx: Any, inputs: tuple[Any, ...], cache: list[Tensor]) -> None:
    x, w, b, geometry, backend = inputs
    ctx.save_for_backward(x, w, *cache)
    ctx.how = b is not None, geometry, backend


def _conv2d_gradients(ctx: Any, dy: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    x, w, *cache = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    found = iter(backward(dy, x, w, cache, *ctx.how, needs))
    return *(next(found) if needed else None for needed in needs), None, None


conv2d = Differentiable(
    "conv2d",
    _conv2d,
    _conv2d_backward,
    fake=_fake_conv2d,
    fake_backward=_fake_conv2d_backward,
    keep=_keep_of_conv2d,
    gradients=_conv2d_gradients,
)


# --------------------------------------------------------------------------------------------
# max-pooling


def _max_pool2d(
    x: Tensor, geometry: list[int], ceil_mode: bool, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.max_pool2d(x.shape, x.dtype, geometry, ceil_mode)
    found = _backend(backend, problem)
    y, cache = found.pooling.forward(problem, found.arrays.put(_array(x)))
    return _tensor(found, y), [_tensor(found, array) for array in cache]


def _fake_max_pool2d(
    x: Tensor, geometry: Geometry, ceil_mode: bool, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.max_pool2d(x.shape, x.dtype, geometry, ceil_mode)
    found = _backend(backend, problem)
    return x.new_empty(problem.shapes.y), _empty(found.pooling.cache_spec(problem))


def _max_pool2d_backward(
    dy: Tensor,
    cache: list[Tensor],
    x_shape: list[int],
    geometry: list[int],
    ceil_mode: bool,
    backend: str,
) -> Tensor:
    """Return dx."""
    problem = problems.max_pool2d(x_shape, dy.dtype, geometry, ceil_mode)
    found = _backend(backend, problem)
    put = found.arrays.put
    kept = tuple(put(_array(tensor)) for tensor in cache)
    return _tensor(found, found.pooling.backward(problem, put(_array(dy)), kept))


def _fake_max_pool2d_backward(dy: Tensor, _: list[Tensor], x_shape: list[int], *__: Any) -> Tensor:
    return dy.new_empty(x_shape)


def _keep_of_max_pool2d(ctx: Any, inputs: tuple[Any, ...], cache: list[Tensor]) -> None:
    x, *how = inputs
    ctx.save_for_backward(*cache)
    ctx.x_shape, ctx.how = list(x.shape), how


def _max_pool2d_gradients(ctx: Any, dy: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    dx = backward(dy, list(ctx.saved_tensors), ctx.x_shape, *ctx.how)
    return dx, None, None, None


max_pool2d = Differentiable(
    "max_pool2d",
    _max_pool2d,
    _max_pool2d_backward,
    fake=_fake_max_pool2d,
    fake_backward=_fake_max_pool2d_backward,
    keep=_keep_of_max_pool2d,
    gradients=_max_pool2d_gradients,
)
