"""Let processes that are compared run on the same cores.

Cores differ: each may share its arithmetic units with another program, or another virtual machine.
Two single-threaded processes of one backend differed by up to 50 % on two cores, by a few percent
on one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
PROCESSES = Path("/proc")


def cores_for(threads: int) -> set[int] | None:
    """Return the cores for processes of this many threads, None if they may use every core.

    They are cores of their own rather than two hyperthreads of one, and the first core is the last
    choice, because it answers most interrupts.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    if threads >= len(allowed):
        return None
    first = min(allowed)
    siblings: dict[str, list[int]] = {}
    for core in sorted(allowed):
        siblings.setdefault(_siblings(core), []).append(core)
    turns = sorted(
        (number, core == first, core)
        for group in siblings.values()
        for number, core in enumerate(group)
    )
    return {core for *_, core in turns[:threads]}


def pin(process: int, cores: set[int] | None) -> None:
    """Keep all threads of a process, and those it will start, on these cores; None means all."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0) if cores is None else cores
    for thread in _threads(process):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, cores)


def _siblings(core: int) -> str:
    """Return the hyperthreads of a core's arithmetic units, as the kernel lists them."""
    try:
        return (SYSTEM / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def _threads(process: int) -> Iterator[int]:
    try:
        yield from (int(path.name) for path in (PROCESSES / str(process) / "task").iterdir())
    except OSError:
        yield process
