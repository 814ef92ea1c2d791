"""Keeping the thread counts of PyTorch and Numba equal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

from cnnkernels import host, registry
from cnnkernels.contract import Unsupported

_LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"
"""The environment variable in which torchrun stores its number of processes per machine."""


def set_threads(processes: int | None = None) -> int:
    """Set the threads of PyTorch and Numba to this process's share of the cores.

    Parameters
    ----------
    processes : int, optional
        Number of processes that train on this machine. By default ``torchrun``'s LOCAL_WORLD_SIZE,
        or 1 if it is not set. Pass 1 if each process is already bound to its own cores.

    Returns
    -------
    int
        The number of threads: usable cores divided by processes, at least 1.

    Raises
    ------
    ValueError
        If `processes` is less than 1.
    """
    if processes is None:
        processes = _local_processes()
    if processes < 1:
        raise ValueError(f"processes: expected 1 or more, got {processes}")
    count = max(1, host.cores() // processes)
    with contextlib.suppress(Unsupported):  # without Numba, set PyTorch's only
        registry.load("numba")
    torch.set_num_threads(count)
    follow()
    return count


def _local_processes() -> int:
    text = os.environ.get(_LOCAL_PROCESSES, "1")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{_LOCAL_PROCESSES}: expected a number, got {text!r}") from None


def threads() -> dict[str, int]:
    """Return the number of threads of each library in this process.

    Change it by `set_threads`, by ``torch.set_num_threads``, or by OMP_NUM_THREADS before the
    process starts; converted layers follow PyTorch. ``torchrun`` sets one thread per process unless
    OMP_NUM_THREADS is set.
    """
    found = {"torch": torch.get_num_threads()}
    follow()
    if "numba" in sys.modules:
        found["numba"] = int(sys.modules["numba"].get_num_threads())
    return found


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Preserve PyTorch's number of threads, which launching Numba's pool resets."""
    known, count = "numba" in sys.modules, torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        if "numba" in sys.modules and not known:
            follow()


def follow() -> None:
    """Set Numba's number of threads to PyTorch's, limited by the size of Numba's pool.

    Querying Numba launches its pool, which resets PyTorch's count; so this restores the count.
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
