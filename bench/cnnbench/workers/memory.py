"""The memory that a call takes beyond its inputs and outputs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def bytes_of(result: Any) -> int:
    """Return the bytes of the arrays in what a kernel returned."""
    if isinstance(result, tuple | list):
        return sum(bytes_of(part) for part in result)
    return 0 if result is None else int(result.nbytes)


def growth(function: Callable[[], object]) -> int | None:
    """Return by how much resident memory grew during a call, at the most; Linux alone tells.

    What the call returned is not counted. Freed memory is given back first, so that it has to be
    taken anew and is seen; what is smaller than some pages may still hide.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        kept = function()
        after = _resident("VmHWM")
    except (OSError, AttributeError, ValueError):
        return None
    return max(0, after - before - bytes_of(_outputs(kept)))


def growth_on_cuda(function: Callable[[], object]) -> int | None:
    """Return the same of the memory that PyTorch holds on the GPU."""
    cuda = sys.modules["torch"].cuda
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    kept = function()
    return max(0, int(cuda.max_memory_allocated() - before) - bytes_of(_outputs(kept)))


def _outputs(result: Any) -> Any:
    """Return the outputs of a kernel, without the cache of a forward."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple):
        return result[0]
    return result


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(key)
