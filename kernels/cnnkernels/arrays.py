"""NumPy arrays that kernels take and return: where they begin, and what is required of them."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy as np

from cnnkernels.problem import NATIVE

LINE = 64
"""Bytes of a cache line. Vectors that lie across two of them take up to twice as long to store."""


def address_of(array: np.ndarray) -> int:
    """Return where an array's elements begin, several times faster than NumPy's own attributes.

    The pointer is what follows an object's header in ``PyArrayObject``; NumPy's C interface is
    inlined into whatever is compiled against it, so that its place is a part of NumPy's ABI.
    """
    return POINTER_AT(id(array) + HEADER).value or 0


POINTER_AT, HEADER = ctypes.c_void_p.from_address, object.__basicsize__
"""What `address_of` is made of."""


def _empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = NATIVE[dtype] if dtype in NATIVE else np.dtype(dtype)
    count, size = math.prod(shape), kind.itemsize
    memory = np.empty(count + LINE // size, kind)
    first = -address_of(memory) % LINE // size  # whole elements: memory is aligned to these
    return memory[first : first + count].reshape(shape)


_allocate: ContextVar[Callable[..., np.ndarray]] = ContextVar("allocate", default=_empty)


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new C-contiguous NumPy array of arbitrary contents, which begins with a cache line.

    The kernels of this package allocate what they return here and nowhere else, so that
    conformance can hand out poisoned memory between fences and see who misuses it.
    """
    return _allocate.get()(shape, dtype)


@contextlib.contextmanager
def allocating(allocate: Callable[..., np.ndarray]) -> Iterator[None]:
    """Let `empty` call `allocate(shape, dtype)` inside the with block."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def require(name: str, array: object, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse an array that does not fit its problem, before compiled code sees a pointer.

    Raises
    ------
    TypeError
        If it is no NumPy array, or of another dtype.
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
