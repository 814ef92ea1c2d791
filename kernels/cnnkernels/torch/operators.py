"""Differentiable convolution and max-pooling of tensors on a named backend.

Registers the PyTorch operators cnnkernels::conv2d, cnnkernels::conv2d_backward,
cnnkernels::max_pool2d and cnnkernels::max_pool2d_backward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count, register_flop_formula

from cnnkernels import registry
from cnnkernels.contract import ArraySpec, Backend, Needs, Problem, Unsupported
from cnnkernels.torch import choosing, problems, thread_counts
from cnnkernels.torch.batching import Batch
from cnnkernels.torch.differentiable import Differentiable
from cnnkernels.torch.problems import Geometry

Kernel: TypeAlias = Any
"""A convolution or pooling kernel."""


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
    tensor = tensor.detach().contiguous()
    if tensor.data_ptr() % tensor.element_size():  # a view of some buffer's bytes
        tensor = tensor.clone()
    array: np.ndarray = tensor.numpy()
    return array


def _tensor(backend: Backend, array: Any) -> Tensor:
    return torch.from_numpy(backend.arrays.get(array))


def _fake_outputs(x: Tensor, problem: Problem, kernel: Kernel) -> tuple[Tensor, list[Tensor]]:
    """Return y and the cache without data, for the problem of representative images."""

    def empty(shape: Sequence[int], dtype: torch.dtype, by_image: bool) -> Tensor:
        return x.new_empty((x.shape[0], *shape[1:]) if by_image else shape, dtype=dtype)

    return empty(problem.shapes.y, x.dtype, True), [
        empty(shape, getattr(torch, dtype), by_image)
        for (shape, dtype), by_image in _specs(kernel, problem)
    ]


def _representative(x: Tensor) -> Sequence[int]:
    """Return the shape of images, with some batch if it is symbolic: a graph holds for all."""
    return (2, *x.shape[1:]) if isinstance(x.shape[0], torch.SymInt) else x.shape


def _specs(kernel: Kernel, problem: Problem) -> list[tuple[ArraySpec, bool]]:
    """Return the cache's arrays, and whether the first axis of each is the batch."""
    more = dataclasses.replace(problem, batch=problem.batch + 1)
    pairs = zip(kernel.cache_spec(problem), kernel.cache_spec(more), strict=True)
    return [
        (spec, spec[0][:1] == (problem.batch,) and larger[0][:1] == (more.batch,))
        for spec, larger in pairs
    ]


def _cached_by_image(kernel: Kernel, problem: Problem) -> bool:
    """Whether caches can be joined and split by images."""
    return all(by_image for _, by_image in _specs(kernel, problem))


# --------------------------------------------------------------------------------------------
# convolution


def _conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: list[int], backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.conv2d(x.shape, x.dtype, w, b is not None, geometry)
    found = _backend(backend, problem)
    put = found.arrays.put
    bias = None if b is None else put(_array(b))
    y, cache = found.convolution.forward(problem, put(_array(x)), put(_array(w)), bias)
    return _tensor(found, y), [_tensor(found, array) for array in cache]


def _fake_conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.conv2d(_representative(x), x.dtype, w, b is not None, geometry)
    return _fake_outputs(x, problem, _backend(backend, problem).convolution)


def _conv2d_backward(
    dy: Tensor,
    x: Tensor,
    w: Tensor,
    bias: bool,
    geometry: list[int],
    backend: str,
    needs: list[bool],
    cache: list[Tensor],
) -> list[Tensor]:
    """Return the needed gradients among dx, dw and db, in this order."""
    problem = problems.conv2d(x.shape, x.dtype, w, bias, geometry)
    found = _backend(backend, problem)
    dy_, x_, w_, *kept = (found.arrays.put(_array(tensor)) for tensor in (dy, x, w, *cache))
    gradients = found.convolution.backward(problem, dy_, x_, w_, tuple(kept), Needs(*needs))
    return [_tensor(found, gradient) for gradient in gradients if gradient is not None]


def _fold_conv2d(batch: Batch) -> list[Any] | None:
    x, w, b, geometry, backend = batch.elements[0]
    problem = problems.conv2d(x.shape, x.dtype, w, b is not None, geometry)
    if any(batch.batched[1:]) or not _cached_by_image(registry.load(backend).convolution, problem):
        return None
    return [batch.joined(0), w, b, geometry, backend]


def _fold_conv2d_backward(batch: Batch) -> list[Any] | None:
    _, x, w, bias, geometry, backend, needs, _ = batch.elements[0]
    problem = problems.conv2d(x.shape, x.dtype, w, bias, geometry)
    separate = batch.batched[2] or any(needs[1:])  # each element has its own weights or dw and db
    if separate or not _cached_by_image(registry.load(backend).convolution, problem):
        return None
    dy, x, cache = map(batch.joined, (0, 1, 7))
    return [dy, x, w, bias, geometry, backend, needs, cache]


def _fake_conv2d_backward(dy: Tensor, x: Tensor, w: Tensor, *more: Any) -> list[Tensor]:
    shapes, needs = (x.shape, w.shape, w.shape[:1]), more[-2]
    return [dy.new_empty(shape) for shape, needed in zip(shapes, needs, strict=True) if needed]


def _keep_of_conv2d(ctx: Any, inputs: tuple[Any, ...], cache: list[Tensor]) -> None:
    x, w, b, geometry, backend = inputs
    ctx.save_for_backward(x, w, *cache)
    ctx.how = b is not None, geometry, backend


def _conv2d_gradients(ctx: Any, dy: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    x, w, *cache = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    found = iter(backward(dy, x, w, *ctx.how, needs, cache))
    return *(next(found) if needed else None for needed in needs), None, None


conv2d = Differentiable(
    "conv2d",
    _conv2d,
    _conv2d_backward,
    fake=_fake_conv2d,
    fake_backward=_fake_conv2d_backward,
    folds=(_fold_conv2d, _fold_conv2d_backward),
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


def _fold_max_pool2d(batch: Batch) -> list[Any] | None:
    x, geometry, ceil_mode, backend = batch.elements[0]
    problem = problems.max_pool2d(x.shape, x.dtype, geometry, ceil_mode)
    if not _cached_by_image(registry.load(backend).pooling, problem):
        return None
    return [batch.joined(0), geometry, ceil_mode, backend]


def _fake_max_pool2d(
    x: Tensor, geometry: Geometry, ceil_mode: bool, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = problems.max_pool2d(_representative(x), x.dtype, geometry, ceil_mode)
    return _fake_outputs(x, problem, _backend(backend, problem).pooling)


def _max_pool2d_backward(
    dy: Tensor,
    x_shape: list[int],
    geometry: list[int],
    ceil_mode: bool,
    backend: str,
    cache: list[Tensor],
) -> list[Tensor]:
    """Return dx, alone in a list."""
    problem = problems.max_pool2d(x_shape, dy.dtype, geometry, ceil_mode)
    found = _backend(backend, problem)
    put = found.arrays.put
    kept = tuple(put(_array(tensor)) for tensor in cache)
    return [_tensor(found, found.pooling.backward(problem, put(_array(dy)), kept))]


def _fold_max_pool2d_backward(batch: Batch) -> list[Any] | None:
    dy, (images, *x_shape), geometry, ceil_mode, backend, _ = batch.elements[0]
    problem = problems.max_pool2d((images, *x_shape), dy.dtype, geometry, ceil_mode)
    if not _cached_by_image(registry.load(backend).pooling, problem):
        return None
    all_images = [batch.size * images, *x_shape]
    return [batch.joined(0), all_images, geometry, ceil_mode, backend, batch.joined(5)]


def _fake_max_pool2d_backward(dy: Tensor, x_shape: list[int], *_: Any) -> list[Tensor]:
    return [dy.new_empty(x_shape)]


def _keep_of_max_pool2d(ctx: Any, inputs: tuple[Any, ...], cache: list[Tensor]) -> None:
    x, *how = inputs
    ctx.save_for_backward(*cache)
    ctx.x_shape, ctx.how = list(x.shape), how


def _max_pool2d_gradients(ctx: Any, dy: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    (dx,) = backward(dy, ctx.x_shape, *ctx.how, list(ctx.saved_tensors))
    return dx, None, None, None


max_pool2d = Differentiable(
    "max_pool2d",
    _max_pool2d,
    _max_pool2d_backward,
    fake=_fake_max_pool2d,
    fake_backward=_fake_max_pool2d_backward,
    folds=(_fold_max_pool2d, _fold_max_pool2d_backward),
    keep=_keep_of_max_pool2d,
    gradients=_max_pool2d_gradients,
)


# --------------------------------------------------------------------------------------------
# counting operations


@register_flop_formula(conv2d.operator._opoverload.overloadpacket)
def _conv2d_flops(x: list[int], w: list[int], *_: Any, out_shape: Any, **__: Any) -> int:
    flops: int = conv_flop_count(x, w, out_shape[0])
    return flops


@register_flop_formula(conv2d.backward_operator._opoverload.overloadpacket)
def _conv2d_backward_flops(dy: list[int], x: list[int], w: list[int], *more: Any, **_: Any) -> int:
    _, geometry, _, needs, _ = more
    ignored = (None,) * 4
    flops: int = conv_backward_flop(
        dy, x, w, *ignored, False, None, geometry[-1], needs, out_val=(x, w)
    )
    return flops
