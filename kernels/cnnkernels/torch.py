"""Layers for PyTorch models that compute with a backend's kernels, or with those of a plan.

``convert(model, "numba-simd")`` or ``convert(model, plan)`` lets a model that exists already
compute its convolutions and max-poolings here; ``revert(model)`` undoes it. Parameters,
`state_dict`, hooks and optimizers stay what they are: a layer changes its class and nothing else.

Below the layers are two operators for each kind, forward and backward, registered by
`torch.library`, so that autograd, `torch.compile` and DistributedDataParallel know them. They take
CPU tensors of any memory layout, and give contiguous ones. Who computes is found out before, once
for forward and backward: an operator is told a backend by its name, and knows no plans. What
`torch.compile` has compiled stays with the backends that were chosen then.

On a GPU there is one backend, torch-cuda, whose kernels are PyTorch's own: a layer that is given
CUDA tensors takes no other, and calls them without an operator between. As everywhere, that backend
turns TF32 off in the whole process.

Kernels compute gradients, not tangents. Where forward mode is on, PyTorch's own functions compute;
an operator that is called there by itself, by a graph compiled or exported before, refuses.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from cnnkernels import host, registry
from cnnkernels import plan as plans
from cnnkernels.contract import Backend, Conv2D, MaxPool2D, Needs, Problem, Unsupported
from cnnkernels.plan import Plan, PlanWarning

_OURS = "cnnkernels"
_NATIVE = "torch-cpu"
"""Whom a plan chooses where PyTorch's own layer is the fastest: that layer then computes."""

_CUDA = "torch-cuda"
"""Whose kernels are those of PyTorch's own layers, on tensors of a GPU."""

_LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"
"""The environment variable by which torchrun says how many processes it has started here."""

Module = TypeVar("Module", bound=nn.Module)


class ConversionWarning(UserWarning):
    """A layer that cannot be converted, or converted back, stays as it is; the message says why."""


# --------------------------------------------------------------------------------------------
# who computes


def _checked(backend: str | Plan) -> str | Plan:
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


@torch.compiler.assume_constant_result
def _chosen(backend: str | Plan, measuring: bool, kind: type[Problem], *of: Any) -> str:
    """Return who computes a problem, by name; compilers ask once, and go on with the answer."""
    with _threads_kept():
        if isinstance(_checked(backend), str) and backend != registry.AUTO:
            return _usable(registry.load(backend)).name
        plan = plans.current() if isinstance(backend, str) else backend
        return _usable(plan.backend_for(_PROBLEMS[kind](*of), measuring=measuring)).name


def _stays_native(backend: str | Plan, chosen: str, x: Tensor) -> bool:
    """Whether PyTorch's own layer computes, which needs no operator then.

    Raises
    ------
    ValueError
        If images are not where who was chosen computes.
    """
    device, where = ("cuda", "a GPU") if chosen == _CUDA else ("cpu", "the CPU")
    if x.device.type != device:
        raise ValueError(
            f"x: expected a tensor on {where}, where {chosen} computes, got one on {x.device}; "
            f"for a GPU convert the model to {_CUDA!r}, or give it PyTorch's own layers back: "
            "cnnkernels.torch.revert(model)"
        )
    follows = isinstance(backend, Plan) or backend == registry.AUTO
    return chosen == _CUDA or (chosen == _NATIVE and follows) or _forward_mode()


@torch.compiler.assume_constant_result
def _forward_mode() -> bool:
    """Whether tensors may carry tangents, inside `torch.func.jvp` or a dual level.

    That a certain one carries none cannot be seen from here, where transforms are nested.
    """
    on: bool = forward_ad._current_level >= 0
    return on


def _usable(backend: Backend) -> Backend:
    """Return the backend, if layers can call it."""
    if backend.arrays.device != "cpu" and backend.name != _CUDA:
        raise Unsupported(
            f"{backend.name} computes on {backend.arrays.device}; layers take backends that "
            f"compute on the CPU, and {_CUDA}"
        )
    return backend


def _backend(name: str, problem: Problem) -> Backend:
    """Return an operator's backend, with as many threads as PyTorch has now.

    Raises
    ------
    NotImplementedError
        If forward mode is on, since operators would drop tangents without a word.
    Unsupported
        With the backend's reason, if it cannot.
    """
    if _forward_mode():
        raise NotImplementedError(
            "operators of converted layers have no forward-mode derivative: inside torch.func.jvp "
            "or dual_level call the model itself, not what was compiled, exported or computed of "
            "it before, or give it PyTorch's own layers back: cnnkernels.torch.revert(model)"
        )
    with _threads_kept():
        backend = registry.load(name)
    reason = backend.unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{backend.name}: {reason}")
    _follow_threads()
    return backend


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """Keep PyTorch's number of threads, which launching Numba's pool would reset."""
    known, count = "numba" in sys.modules, torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        if "numba" in sys.modules and not known:
            _follow_threads()


def _follow_threads() -> None:
    """Let Numba use as many threads as PyTorch does, as far as it has them.

    Asking Numba launches its pool, which resets PyTorch's count, so that it is set once more.
    """
    numba = sys.modules.get("numba")
    if numba is None:
        return
    from cnnkernels import parallel

    count = torch.get_num_threads()
    wanted = min(count, parallel.most_threads())
    if numba.get_num_threads() != wanted:
        numba.set_num_threads(wanted)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def set_threads(processes: int | None = None) -> int:
    """Let this process compute with its share of the cores, in PyTorch and in Numba.

    Parameters
    ----------
    processes : int, optional
        How many train on this machine. Without it, as many as ``torchrun`` has started here, which
        is what it sets LOCAL_WORLD_SIZE to; one where that is not set. Where each process may use
        cores of its own already, 1.

    Returns
    -------
    int
        The threads: the cores that the process may use, by the processes, and at the least 1.

    Raises
    ------
    ValueError
        If there is less than one process.
    """
    if processes is None:
        processes = _local_processes()
    if processes < 1:
        raise ValueError(f"processes: expected 1 or more, got {processes}")
    count = max(1, host.cores() // processes)
    with contextlib.suppress(Unsupported):  # where there is no Numba, PyTorch is alone
        registry.load("numba")
    torch.set_num_threads(count)
    _follow_threads()
    return count


def _local_processes() -> int:
    text = os.environ.get(_LOCAL_PROCESSES, "1")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{_LOCAL_PROCESSES}: expected a number, got {text!r}") from None


def threads() -> dict[str, int]:
    """Return how many threads each library of this process computes with; print it when in doubt.

    Set it by `set_threads`, by ``torch.set_num_threads``, or by OMP_NUM_THREADS before the process
    starts; what is converted follows. ``torchrun`` sets one thread a process unless OMP_NUM_THREADS
    says another.
    """
    found = {"torch": torch.get_num_threads()}
    _follow_threads()
    if "numba" in sys.modules:
        found["numba"] = int(sys.modules["numba"].get_num_threads())
    return found


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def _tensor(backend: Backend, array: Any) -> Tensor:
    return torch.from_numpy(backend.arrays.get(array))


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(int, values))  # what torch.compile holds open is fixed here


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _empty(spec: Sequence[tuple[tuple[int, ...], str]]) -> list[Tensor]:
    return [torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in spec]


def _operator(name: str, function: Callable[..., Any]) -> Any:
    """Return a function as an operator of PyTorch's, for compilers and others that follow them."""
    return torch.library.custom_op(
        f"{_OURS}::{name}", function, mutates_args=(), device_types="cpu"
    )


def _apart(setup: Callable[..., None]) -> Callable[..., None]:
    """Return an operator's setup that says of its caches that they are not differentiated."""

    def marked(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
        ctx.mark_non_differentiable(*output[1])
        setup(ctx, inputs, output)

    return marked


def _directly(*tensors: Tensor) -> bool:
    """Whether nobody follows operators, so that kernels can be called without one.

    PyTorch's dispatcher takes several times as long around an operator in Python as the smallest
    layers take.
    """
    plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
    return plain and not torch.compiler.is_compiling() and not _followed()


def _followed() -> bool:
    """Whether a mode sees each operator."""
    return bool(torch._C._len_torch_dispatch_stack())


def _again(operator: Any, function: Callable[..., Any]) -> Any:
    """Return what computes gradients: the operator where they might be differentiated again."""
    return operator if torch.is_grad_enabled() or _followed() else function


# --------------------------------------------------------------------------------------------
# layers


class _Layer(nn.Module):
    """Base of `Conv2d` and `MaxPool2d` here; each names it before PyTorch's class."""

    backend: str | Plan

    def __init__(self, *args: Any, backend: str | Plan = registry.AUTO, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = _checked(backend)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch.ao.quantization sets it everywhere, and then replaces PyTorch's exact classes only.
        if name == "qconfig" and value is not None:
            raise Unsupported(
                f"qconfig: quantization knows PyTorch's own layers only, not {_OURS}' "
                f"{type(self).__name__}; give the model those back before it is prepared: "
                "cnnkernels.torch.revert(model)"
            )
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return PyTorch's words and the backend."""
        return f"{super().extra_repr()}, backend={_shown(self.backend)}"


def _shown(backend: str | Plan) -> str:
    if isinstance(backend, Plan):
        return f"a plan of {len(backend.choices)} problems"
    return repr(backend)


# --------------------------------------------------------------------------------------------
# convolution


_Geometry: TypeAlias = list[int]
"""Of a convolution: stride (2), padding top, bottom, left, right, dilation (2), groups."""


def _conv2d_problem(x: Tensor, w: Tensor, bias: bool, geometry: _Geometry) -> Conv2D:
    return _conv2d_of(_ints(x.shape), _ints(w.shape), bias, _ints(geometry), _dtype(x))


@functools.lru_cache(maxsize=4096)
def _conv2d_of(
    x: tuple[int, ...], w: tuple[int, ...], bias: bool, geometry: tuple[int, ...], dtype: str
) -> Conv2D:
    batch, channels, height, width = x
    filters, _, *kernel_size = w
    down, across, top, bottom, left, right, *dilation, groups = geometry
    problem = Conv2D(
        batch,
        channels,
        height,
        width,
        filters,
        kernel_size,
        stride=(down, across),
        padding=((top, bottom), (left, right)),
        dilation=dilation,
        groups=groups,
        bias=bias,
        dtype=dtype,
    )
    if problem.shapes.w != w:
        raise ValueError(f"w: expected shape {problem.shapes.w} for x of shape {x}, got {w}")
    return problem


def _compute_conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: list[int], backend: str
) -> tuple[Tensor, list[Tensor]]:
    """Return y and the kernel's cache."""
    problem = _conv2d_problem(x, w, b is not None, geometry)
    found = _backend(backend, problem)
    put = found.arrays.put
    bias = None if b is None else put(_array(b))
    y, cache = found.convolution.forward(problem, put(_array(x)), put(_array(w)), bias)
    return _tensor(found, y), [_tensor(found, array) for array in cache]


_conv2d = _operator("conv2d", _compute_conv2d)


@_conv2d.register_fake
def _(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: _Geometry, backend: str
) -> tuple[Tensor, list[Tensor]]:
    problem = _conv2d_problem(x, w, b is not None, geometry)
    found = _backend(backend, problem)
    return x.new_empty(problem.shapes.y), _empty(found.convolution.cache_spec(problem))


def _compute_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    w: Tensor,
    cache: list[Tensor],
    bias: bool,
    geometry: list[int],
    backend: str,
    needs: list[bool],
) -> list[Tensor]:
    """Return those of dx, dw and db that are needed."""
    problem = _conv2d_problem(x, w, bias, geometry)
    found = _backend(backend, problem)
    dy_, x_, w_, *kept = (found.arrays.put(_array(tensor)) for tensor in (dy, x, w, *cache))
    gradients = found.convolution.backward(problem, dy_, x_, w_, tuple(kept), Needs(*needs))
    return [_tensor(found, gradient) for gradient in gradients if gradient is not None]


_conv2d_backward = _operator("conv2d_backward", _compute_conv2d_backward)


@_conv2d_backward.register_fake
def _(dy: Tensor, x: Tensor, w: Tensor, *more: Any) -> list[Tensor]:
    shapes, needs = (x.shape, w.shape, w.shape[:1]), more[-1]
    return [dy.new_empty(shape) for shape, needed in zip(shapes, needs, strict=True) if needed]


def _conv2d_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    x, w, b, geometry, backend = inputs
    _, cache = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, w, *cache)
    ctx.how = b is not None, geometry, backend


def _conv2d_autograd(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
    return _conv2d_gradients(ctx, dy, _conv2d_backward)


def _conv2d_gradients(ctx: Any, dy: Tensor | None, backward: Callable[..., Any]) -> tuple[Any, ...]:
    needs = list(ctx.needs_input_grad[:3])
    found: Iterator[Tensor] = iter(())
    if dy is None:
        needs = [False] * 3
    elif any(needs):
        x, w, *cache = ctx.saved_tensors
        found = iter(backward(dy, x, w, cache, *ctx.how, needs))
    return *(next(found) if needed else None for needed in needs), None, None


class _Conv2dDirectly(torch.autograd.Function):
    """The operator and its gradients, called without PyTorch's dispatcher: see `_directly`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _compute_conv2d(*inputs)
        _conv2d_setup(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
        return _conv2d_gradients(ctx, dy, _again(_conv2d_backward, _compute_conv2d_backward))


def _refuse_double_backward(*_: Any) -> None:
    raise NotImplementedError(
        "converted layers have no gradient of their gradient (double backward): "
        "cnnkernels.torch.revert(model) gives PyTorch's own, which have"
    )


_conv2d.register_autograd(_conv2d_autograd, setup_context=_apart(_conv2d_setup))
_conv2d_backward.register_autograd(_refuse_double_backward)


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
    """Cross-correlate images with filters, as `torch.nn.functional.conv2d`, with gradients.

    Parameters
    ----------
    x : Tensor, (N, C, H, W) or (C, H, W)
        Images, float32 or float64, on the CPU or for torch-cuda on a GPU, in any memory layout.
    w : Tensor, (K, C/groups, R, S)
    b : Tensor, (K,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int), 'same' or 'valid'
    groups : int
    backend : str or Plan
        A registered CPU backend; 'torch-cuda'; 'auto', which follows the plan in force; or a plan.

    Returns
    -------
    Tensor, (N, K, P, Q) or (K, P, Q)
        Contiguous, but where PyTorch's own function computes: for torch-cuda, where a plan has
        chosen torch-cpu, and in forward mode.

    Raises
    ------
    TypeError, ValueError
        If the tensors do not fit, are of another dtype, or not where the backend computes.
    Unsupported
        If the backend cannot do it.

    Notes
    -----
    Kernels compute gradients, not tangents: inside `torch.func.jvp`, `torch.func.jacfwd` and
    `torch.autograd.forward_ad.dual_level` PyTorch's own function computes, with and without
    `torch.compile`. What was compiled or exported outside of them is refused inside.
    """
    for name, tensor in (("x", x), ("w", w), ("b", b)):
        _require(name, tensor, x)
    geometry = _geometry(w, stride, padding, dilation, groups)
    images = x[None] if x.ndim == 3 else x
    what = _ints(images.shape), _ints(w.shape), b is not None, tuple(geometry), _dtype(x)
    chosen = _chosen(backend, not isinstance(x, FakeTensor), Conv2D, *what)
    y: Tensor
    if _stays_native(backend, chosen, x):
        y = functional.conv2d(x, w, b, stride, padding, dilation, groups)
        return y
    if _directly(images, w):
        y = _Conv2dDirectly.apply(images, w, b, geometry, chosen)
    else:
        y = _conv2d(images, w, b, geometry, chosen)[0]
    return y[0] if x.ndim == 3 else y


def _geometry(
    w: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> _Geometry:
    strides, dilations = _pair(stride), _pair(dilation)
    if padding == "same":
        if max(strides) > 1:
            raise ValueError("padding='same' is for stride 1, here as in PyTorch")
        around = [d * (size - 1) for size, d in zip(w.shape[2:], dilations, strict=True)]
        pads = [half for total in around for half in (total // 2, total - total // 2)]
    elif isinstance(padding, str) and padding != "valid":
        raise ValueError(f"padding: expected 'same', 'valid' or numbers, got {padding!r}")
    else:
        down, across = (0, 0) if isinstance(padding, str) else _pair(padding)
        pads = [down, down, across, across]
    return [*strides, *pads, *dilations, groups]


class Conv2d(_Layer, nn.Conv2d):
    """A `torch.nn.Conv2d` that a backend or a plan computes.

    Parameters
    ----------
    *args, **kwargs
        As `torch.nn.Conv2d` takes.
    backend : str or Plan
        As `conv2d` takes.

    Notes
    -----
    Where a plan has chosen torch-cpu, PyTorch's own function computes, without an operator between.
    The layer takes tensors on the CPU. With ``backend="torch-cuda"`` it takes those on a GPU alone,
    where PyTorch's own function computes, too.

    The layer holds its plan, so that the plan is pickled and copied with it.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = _padded(self, x)
        return conv2d(
            x,
            weight,
            bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            backend=self.backend,
        )


def _padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Any]:
    """Return images and the zeros that a layer pads them with; other padding is put on first."""
    if layer.padding_mode == "zeros":
        return x, layer.padding
    around = layer._reversed_padding_repeated_twice
    return functional.pad(x, around, mode=layer.padding_mode), 0


# --------------------------------------------------------------------------------------------
# max-pooling


def _max_pool2d_problem(
    shape: Sequence[int], dtype: str, geometry: _Geometry, ceil_mode: bool
) -> MaxPool2D:
    """Return the problem; the geometry is kernel_size, stride, padding and dilation, two each."""
    return _max_pool2d_of(_ints(shape), dtype, _ints(geometry), ceil_mode)


@functools.lru_cache(maxsize=4096)
def _max_pool2d_of(
    shape: tuple[int, ...], dtype: str, geometry: tuple[int, ...], ceil_mode: bool
) -> MaxPool2D:
    batch, channels, height, width = shape
    kernel, stride, padding, dilation = (geometry[i : i + 2] for i in (0, 2, 4, 6))
    return MaxPool2D(
        batch, channels, height, width, kernel, stride, padding, dilation, ceil_mode, dtype
    )


def _compute_max_pool2d(
    x: Tensor, geometry: list[int], ceil_mode: bool, backend: str
) -> tuple[Tensor, list[Tensor]]:
    """Return y and the kernel's cache."""
    problem = _max_pool2d_problem(x.shape, _dtype(x), geometry, ceil_mode)
    found = _backend(backend, problem)
    y, cache = found.pooling.forward(problem, found.arrays.put(_array(x)))
    return _tensor(found, y), [_tensor(found, array) for array in cache]


_max_pool2d = _operator("max_pool2d", _compute_max_pool2d)


@_max_pool2d.register_fake
def _(x: Tensor, geometry: _Geometry, ceil_mode: bool, backend: str) -> tuple[Tensor, list[Tensor]]:
    problem = _max_pool2d_problem(x.shape, _dtype(x), geometry, ceil_mode)
    found = _backend(backend, problem)
    return x.new_empty(problem.shapes.y), _empty(found.pooling.cache_spec(problem))


def _compute_max_pool2d_backward(
    dy: Tensor,
    cache: list[Tensor],
    x_shape: list[int],
    geometry: list[int],
    ceil_mode: bool,
    backend: str,
) -> Tensor:
    """Return dx."""
    problem = _max_pool2d_problem(x_shape, _dtype(dy), geometry, ceil_mode)
    found = _backend(backend, problem)
    put = found.arrays.put
    kept = tuple(put(_array(tensor)) for tensor in cache)
    return _tensor(found, found.pooling.backward(problem, put(_array(dy)), kept))


_max_pool2d_backward = _operator("max_pool2d_backward", _compute_max_pool2d_backward)


@_max_pool2d_backward.register_fake
def _(dy: Tensor, _: list[Tensor], x_shape: list[int], *__: Any) -> Tensor:
    return dy.new_empty(x_shape)


def _max_pool2d_setup(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]
) -> None:
    x, *how = inputs
    _, cache = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*cache)
    ctx.x_shape, ctx.how = list(x.shape), how


def _max_pool2d_autograd(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
    return _max_pool2d_gradients(ctx, dy, _max_pool2d_backward)


def _max_pool2d_gradients(
    ctx: Any, dy: Tensor | None, backward: Callable[..., Any]
) -> tuple[Any, ...]:
    dx = None
    if dy is not None and ctx.needs_input_grad[0]:
        dx = backward(dy, list(ctx.saved_tensors), ctx.x_shape, *ctx.how)
    return dx, None, None, None


class _MaxPool2dDirectly(torch.autograd.Function):
    """As `_Conv2dDirectly`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _compute_max_pool2d(*inputs)
        _max_pool2d_setup(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
        compute = _again(_max_pool2d_backward, _compute_max_pool2d_backward)
        return _max_pool2d_gradients(ctx, dy, compute)


_max_pool2d.register_autograd(_max_pool2d_autograd, setup_context=_apart(_max_pool2d_setup))
_max_pool2d_backward.register_autograd(_refuse_double_backward)


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
    """Take the maximum of each window, as `torch.nn.functional.max_pool2d`, with gradients.

    Parameters
    ----------
    x : Tensor, (N, C, H, W) or (C, H, W)
        As in `conv2d`.
    kernel_size, stride, padding, dilation, ceil_mode
        As PyTorch takes them.
    backend : str or Plan
        As in `conv2d`.

    Returns
    -------
    Tensor, (N, C, P, Q) or (C, P, Q)
        Contiguous or not as that of `conv2d`.

    Raises
    ------
    TypeError, ValueError, Unsupported
        As `conv2d`.
    """
    _require("x", x, x)
    window = _window(kernel_size, stride, padding, dilation)
    images = x[None] if x.ndim == 3 else x
    what = _ints(images.shape), _dtype(x), tuple(window), ceil_mode
    chosen = _chosen(backend, not isinstance(x, FakeTensor), MaxPool2D, *what)
    y: Tensor
    if _stays_native(backend, chosen, x):
        y = functional.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
        return y
    if _directly(images):
        y = _MaxPool2dDirectly.apply(images, window, ceil_mode, chosen)
    else:
        y = _max_pool2d(images, window, ceil_mode, chosen)[0]
    return y[0] if x.ndim == 3 else y


def _window(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> _Geometry:
    stride = kernel_size if stride is None else stride
    return [*_pair(kernel_size), *_pair(stride), *_pair(padding), *_pair(dilation)]


class MaxPool2d(_Layer, nn.MaxPool2d):
    """A `torch.nn.MaxPool2d` that a backend or a plan computes.

    Parameters
    ----------
    *args, **kwargs
        As `torch.nn.MaxPool2d` takes; indices cannot be returned.
    backend : str or Plan
        As `conv2d` takes.

    Notes
    -----
    Which tensors it takes, and what becomes of a plan, is as for `Conv2d`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.return_indices:
            raise Unsupported(_INDICES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            backend=self.backend,
        )


_PROBLEMS: dict[type[Problem], Callable[..., Problem]] = {
    Conv2D: _conv2d_of,
    MaxPool2D: _max_pool2d_of,
}

_INDICES = "return_indices is for PyTorch's own MaxPool2d alone"


# --------------------------------------------------------------------------------------------
# whole models

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
    `Conv2d` or `MaxPool2d` of this module keeps its class, and takes the backend.

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
    if _checked(backend) == registry.AUTO:
        plan: Plan | None = plans.current()
    else:
        plan = backend if isinstance(backend, Plan) else None
    with _threads_kept():
        for name in plan.load() if plan is not None else (backend,):
            _usable(registry.load(name))
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

    A layer of a class derived from `Conv2d` or `MaxPool2d` of this module stays what it is, with a
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
            _left(where, f"{_OURS}': {_named(kind)} is derived from {_named(_CONVERTED[theirs])}")
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
        return _INDICES
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
        _require("x", x, x)
        if isinstance(layer, nn.Conv2d):
            x, padding = _padded(layer, x.detach())
            w = _weight(layer)
            geometry = _geometry(w, layer.stride, padding, layer.dilation, layer.groups)
            images = x[None] if x.ndim == 3 else x
            return _conv2d_problem(images, w, layer.bias is not None, geometry)
        window = _window(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        shape = (1, *x.shape) if x.ndim == 3 else x.shape
        return _max_pool2d_problem(shape, _dtype(x), window, layer.ceil_mode)
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


# --------------------------------------------------------------------------------------------
# arguments


def _require(name: str, tensor: object, x: Tensor) -> None:
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        told = f"{name}: expected a Tensor, got {type(tensor).__name__}"
        if isinstance(tensor, fx.Proxy):
            told += "; to trace a model by torch.fx, use cnnkernels.torch.revert(model) before"
        raise TypeError(told)
    if tensor.device != x.device:
        raise ValueError(
            f"{name}: expected a tensor on {x.device}, where x is, got one on {tensor.device}: "
            "move the model to where its images are"
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: expected float32 or float64, got {tensor.dtype}; under autocast and in other "
            "dtypes use PyTorch's own layers: cnnkernels.torch.revert(model)"
        )
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: expected {x.dtype}, the dtype of x, got {tensor.dtype}")
    if tensor is x and x.ndim not in (3, 4):
        raise ValueError(
            f"x: expected images (N, C, H, W) or (C, H, W), got shape {tuple(x.shape)}"
        )


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
