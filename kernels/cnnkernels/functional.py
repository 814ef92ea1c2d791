"""Public functions on NumPy arrays, with PyTorch's argument names.

They validate arrays against the problem before compiled code gets a pointer. Any memory layout is
accepted (strided views, Fortran order, read-only, misaligned, big-endian) and copied if a kernel
needs that. Results are C-contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnkernels import contract, registry
from cnnkernels.contract import (
    Backend,
    Conv2D,
    Conv2DGradients,
    MaxPool2D,
    Needs,
    Problem,
    Unsupported,
)

_Sizes = int | Sequence[int]
_Pads = int | Sequence[int] | Sequence[Sequence[int]] | str


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: _Sizes = 1,
    padding: _Pads = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    backend: str | Backend,
) -> np.ndarray:
    """Cross-correlate images with filters on a backend, like `torch.nn.functional.conv2d`.

    Parameters
    ----------
    x : array, (N, C, H, W)
        Images, float32 or float64.
    w : array, (K, C/groups, R, S)
        Filters, of the dtype of x.
    b : array, (K,), optional
        One bias per filter.
    stride, dilation : int or (int, int)
        Along rows and columns, in pixels.
    padding : int, (int, int), ((top, bottom), (left, right)), 'same' or 'valid'
        Zeros around the images, in pixels.
    groups : int
        Number of groups; an output channel reads only the input channels of its group.
    backend : str or Backend
        A registered name, such as 'numba', or a backend object.

    Returns
    -------
    y : array, (N, K, P, Q)

    Raises
    ------
    ValueError
        If shapes do not match, or the backend is unknown.
    TypeError
        If an array is not a NumPy array, or has another dtype.
    Unsupported
        If the backend cannot run here, or cannot run this problem.
    """
    found = _backend(backend)
    x, w = _images("x", x), _images("w", w, "(K, C/groups, R, S)")
    problem = _conv2d(x, w, b is not None, stride, padding, dilation, groups)
    _refuse(found, problem)
    w = _fitting("w", w, problem.shapes.w, problem.dtype)
    b = None if b is None else _fitting("b", b, problem.shapes.b, problem.dtype)
    put = found.arrays.put
    y, _ = found.convolution.forward(problem, put(x), put(w), None if b is None else put(b))
    return found.arrays.get(y)


def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    *,
    bias: bool = True,
    stride: _Sizes = 1,
    padding: _Pads = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    needs: Needs = contract.ALL,
    backend: str | Backend,
) -> Conv2DGradients:
    """Return the gradients of ``sum(conv2d(x, w, b) * dy)`` with respect to x, w and b.

    Parameters
    ----------
    dy : array, (N, K, P, Q)
        Gradient of the output.
    x, w, stride, padding, dilation, groups, backend
        As in `conv2d`.
    bias : bool
        Whether the convolution has a bias; without it db is None.
    needs : Needs
        The gradients to compute; the others are None.

    Returns
    -------
    Conv2DGradients
        dx, dw and db.

    Raises
    ------
    ValueError, TypeError, Unsupported
        As `conv2d`.
    """
    found = _backend(backend)
    needs = Needs(*needs)
    x, w = _images("x", x), _images("w", w, "(K, C/groups, R, S)")
    problem = _conv2d(x, w, bias, stride, padding, dilation, groups)
    _refuse(found, problem)
    w = _fitting("w", w, problem.shapes.w, problem.dtype)
    dy = _fitting("dy", dy, problem.shapes.y, problem.dtype)
    put, get = found.arrays.put, found.arrays.get
    x_, w_ = put(x), put(w)
    cache: contract.Cache = ()
    if found.convolution.cache_spec(problem):
        b_ = put(np.zeros(problem.shapes.b, problem.dtype)) if bias else None
        _, cache = found.convolution.forward(problem, x_, w_, b_)
    gradients = found.convolution.backward(problem, put(dy), x_, w_, cache, needs)
    return Conv2DGradients(*(None if g is None else get(g) for g in gradients))


def max_pool2d(
    x: np.ndarray,
    kernel_size: _Sizes,
    *,
    stride: _Sizes | None = None,
    padding: _Pads = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    backend: str | Backend,
) -> np.ndarray:
    """Return the maximum of each window, like `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    x : array, (N, C, H, W)
        Images, float32 or float64.
    kernel_size, stride, dilation : int or (int, int)
        Along rows and columns, in pixels; `stride` defaults to `kernel_size`.
    padding : int, (int, int), ((top, bottom), (left, right)) or 'valid'
        Minus infinity around the images, in pixels.
    ceil_mode : bool
        Whether to include a last window that ends beyond the padding.
    backend : str or Backend
        A registered name, such as 'numba', or a backend object.

    Returns
    -------
    y : array, (N, C, P, Q)

    Raises
    ------
    ValueError, TypeError, Unsupported
        As `conv2d`; also if a window would see no pixel.
    """
    found = _backend(backend)
    x = _images("x", x)
    problem = _max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    _refuse(found, problem)
    y, _ = found.pooling.forward(problem, found.arrays.put(x))
    return found.arrays.get(y)


def max_pool2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    kernel_size: _Sizes,
    *,
    stride: _Sizes | None = None,
    padding: _Pads = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    backend: str | Backend,
) -> np.ndarray:
    """Return the gradient of ``sum(max_pool2d(x) * dy)`` with respect to x.

    Parameters
    ----------
    dy : array, (N, C, P, Q)
        Gradient of the output.
    x, kernel_size, stride, padding, dilation, ceil_mode, backend
        As in `max_pool2d`.

    Returns
    -------
    dx : array, (N, C, H, W)

    Raises
    ------
    ValueError, TypeError, Unsupported
        As `max_pool2d`.
    """
    found = _backend(backend)
    x = _images("x", x)
    problem = _max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    _refuse(found, problem)
    dy = _fitting("dy", dy, problem.shapes.y, problem.dtype)
    put = found.arrays.put
    _, cache = found.pooling.forward(problem, put(x))
    return found.arrays.get(found.pooling.backward(problem, put(dy), cache))


def _backend(backend: str | Backend) -> Backend:
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(f"backend: expected a name or a Backend, got {type(backend).__name__}")
    return registry.load(backend)


def _refuse(backend: Backend, problem: Problem) -> None:
    reason = backend.unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{backend.name}: {reason}")


def _native(name: str, array: object) -> np.ndarray:
    """Return the array C-contiguous, aligned and in native byte order, copied if necessary."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    try:
        dtype = contract.dtype_name(array.dtype)
    except TypeError:
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}") from None
    return np.require(array, dtype=dtype, requirements=("C", "A"))


def _images(name: str, array: object, axes: str = "(N, C, H, W)") -> np.ndarray:
    native = _native(name, array)
    if native.ndim != 4:
        raise ValueError(f"{name}: expected 4 axes {axes}, got shape {native.shape}")
    return native


def _fitting(name: str, array: object, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    native = _native(name, array)
    if native.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, the dtype of x, got {native.dtype}")
    if native.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {native.shape}")
    return native


def _conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: bool,
    stride: _Sizes,
    padding: _Pads,
    dilation: _Sizes,
    groups: int,
) -> Conv2D:
    return Conv2D(
        batch=x.shape[0],
        in_channels=x.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        out_channels=w.shape[0],
        kernel_size=(w.shape[2], w.shape[3]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        dtype=x.dtype,
    )


def _max_pool2d(
    x: np.ndarray,
    kernel_size: _Sizes,
    stride: _Sizes | None,
    padding: _Pads,
    dilation: _Sizes,
    ceil_mode: bool,
) -> MaxPool2D:
    return MaxPool2D(
        batch=x.shape[0],
        channels=x.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        dtype=x.dtype,
    )
