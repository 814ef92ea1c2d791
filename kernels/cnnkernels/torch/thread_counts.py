"""Threads of PyTorch and of Numba, as many in one as in the other."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

from cnnkernels import host, registry
from cnnkernels.contract import Unsupported

_LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"
"""The environment variable by which torchrun says how many processes it has started here."""


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
    follow()
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
    follow()
    if "numba" in sys.modules:
        found["numba"] = int(sys.modules["numba"].get_num_threads())
    return found


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep PyTorch's number of threads, which launching Numba's pool would reset."""
    known, count = "numba" in sys.modules, torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        if "numba" in sys.modules and not known:
            follow()


def follow() -> None:
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
