"""The machine's ceilings, measured by a process of their own, and times that exceed them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from cnnbench.results import Row
from cnnbench.words import counted
from cnnbench.workers.child import Child, ChildError
from cnnkernels.contract import Conv2D, Direction, Problem

IMPOSSIBLE = 1.05
"""Times the measured FMA peak: beyond it a time cannot be true. The margin is for noise."""


def measure_ceilings(threads: int) -> dict[str, Any]:
    """Return this machine's ceilings for a number of threads; {'reason': ...} where they fail."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    with Child("cnnbench.judging.ceilings", environment) as child:
        try:
            measured: dict[str, Any] = child.ask(threads)
        except ChildError as error:
            return {"reason": str(error)}
    return measured


def judge(
    row: Row, problem: Problem, device: str, ceilings: dict[str, Any], judged: Iterable[Row]
) -> None:
    """Hold a time against the machine's ceilings: what is above the FMA peak cannot be true.

    The peak is measured again, once a thread count, before a time is refused for it.

    Parameters
    ----------
    row : Row
        Gets its GFLOP/s and its share of the ceiling, or loses its time.
    problem : Conv2D or MaxPool2D
    device : str
        Where the backend computes; ceilings are the CPU's.
    ceilings : dict
        As `measure_ceilings` returns; takes what is measured again.
    judged : iterable of Row
        Whose shares change where the peak does.
    """
    if row.outcome != "ok" or row.seconds is None:
        return
    direction: Direction = row.direction  # type: ignore[assignment]
    on_cpu = device == "cpu" and "reason" not in ceilings
    if isinstance(problem, Conv2D):
        rate = problem.flops(direction) / row.seconds
        row.gflops = rate / 1e9
        if not on_cpu:
            return
        if rate > IMPOSSIBLE * ceilings["flops"][problem.dtype] and "flops_again" not in ceilings:
            _measure_peak_again(ceilings, row.threads, problem.dtype, judged)
        peak = ceilings["flops"][problem.dtype]
        row.ceiling_fraction = rate / peak
        if rate > IMPOSSIBLE * peak:
            row.withdraw(
                "failed",
                f"{rate / 1e9:.0f} GFLOP/s cannot be true: the FMA peak of "
                f"{counted(row.threads, 'thread')} here is {peak / 1e9:.0f}",
            )
    elif on_cpu:
        moved = problem.bytes_moved(direction)
        row.ceiling_fraction = moved / row.seconds / _bandwidth(ceilings, moved)


def _measure_peak_again(
    ceilings: dict[str, Any], threads: int, dtype: str, judged: Iterable[Row]
) -> None:
    """Keep the higher of two FMA peaks: others may have had a core while one was measured."""
    before = ceilings["flops"]
    again = measure_ceilings(threads).get("flops", before)
    ceilings["flops"] = {kind: max(peak, again[kind]) for kind, peak in before.items()}
    ceilings["flops_again"] = again
    for row in judged:
        if row.threads == threads and row.gflops is not None and row.ceiling_fraction is not None:
            row.ceiling_fraction *= before[dtype] / ceilings["flops"][dtype]


def _bandwidth(ceilings: dict[str, Any], working_set: int) -> float:
    """Return the bandwidth at the measured working set that is nearest."""
    rates = {int(size): rate for size, rate in ceilings["bandwidth"].items()}
    nearest = min(rates, key=lambda size: abs(math.log(size / max(1, working_set))))
    return float(rates[nearest])
