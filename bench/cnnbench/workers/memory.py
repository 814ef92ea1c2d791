"""Measure the memory of a call beyond its inputs and outputs."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MMAP_THRESHOLD, _MMAP_MAX = -3, -4
"""glibc's numbers: from which size, and how often, memory is taken from the system itself."""


def bytes_of(result: Any) -> int:
    """Return the bytes of the arrays in a kernel's result."""
    if isinstance(result, tuple | list):
        return sum(bytes_of(part) for part in result)
    return 0 if result is None else int(result.nbytes)


def growth(function: Callable[[], object]) -> int | None:
    """Return the peak growth of resident memory during a call, without its result.

    It works on Linux only, else it returns None. Freed memory goes back to the system first, and
    arrays come from there, so that reuse is counted; allocations of a few pages may be missed.
    """
    try:
        with _fresh_memory():
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = _resident("VmRSS")
            result = function()
            after = _resident("VmHWM")
    except (OSError, AttributeError, ValueError):
        return None
    return max(0, after - before - bytes_of(_outputs(result)))


@contextlib.contextmanager
def _fresh_memory() -> Iterator[None]:
    """Take arrays from the system and give them back at once, so that none reuses another's."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 2**16)
    libc.mallopt(_MMAP_MAX, 2**16)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 0)  # as while times are measured: freed memory is kept


def growth_on_cuda(function: Callable[[], object]) -> int | None:
    """Return the peak growth of PyTorch's GPU memory during a call, without its result."""
    cuda = sys.modules["torch"].cuda
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    result = function()
    return max(0, int(cuda.max_memory_allocated() - before) - bytes_of(_outputs(result)))


def _outputs(result: Any) -> Any:
    """Return a kernel's outputs, without the cache of a forward."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple):
        return result[0]
    return result


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(key)
