"""Allocation, addresses and validation of the NumPy arrays that kernels take and return."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy as np

from cnnkernels.problem import NATIVE

LINE = 64
"""Bytes of a cache line. Storing a vector across two lines takes up to twice as long."""


def address_of(array: np.ndarray) -> int:
    """Return the address of an array's first element, several times faster than ``ctypes.data``.

    The data pointer directly follows the object header in ``PyArrayObject``. NumPy's C interface
    is inlined into compiled extensions, so this position is part of NumPy's ABI.
    """
    return POINTER_AT(id(array) + HEADER).value or 0


POINTER_AT, HEADER = ctypes.c_void_p.from_address, object.__basicsize__
"""The parts of `address_of`, for callers that inline it."""


def _empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = NATIVE[dtype] if dtype in NATIVE else np.dtype(dtype)
    count, size = math.prod(shape), kind.itemsize
    memory = np.empty(count + LINE // size, kind)
    first = -address_of(memory) % LINE // size  # memory is aligned to whole elements
    return memory[first : first + count].reshape(shape)


_allocate: ContextVar[Callable[..., np.ndarray]] = ContextVar("allocate", default=_empty)


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new uninitialized C-contiguous array, aligned to a cache line.

    The kernels of this package allocate their results only here, so that conformance can
    substitute poisoned, fenced memory and detect misuse.
    """
    return _allocate.get()(shape, dtype)


@contextlib.contextmanager
def allocating(allocate: Callable[..., np.ndarray]) -> Iterator[None]:
    """Make `empty` call `allocate(shape, dtype)` inside the with block."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def require(name: str, array: object, shape: tuple[int, ...], dtype: str) -> None:
    """Reject an array that does not match its problem, before compiled code gets its pointer.

    Raises
    ------
    TypeError
        If it is not a NumPy array, or has another dtype.
    ValueError
        If it has another shape, or is not C-contiguous, aligned and in native byte order.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    kind, flags = array.dtype, array.flags
    native = kind is NATIVE.get(dtype) or kind == dtype
    if not native and kind.name != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {kind.name}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not (native and flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"{name}: expected a C-contiguous, aligned array in native byte order; "
            "numpy.ascontiguousarray(array) makes one"
        )
