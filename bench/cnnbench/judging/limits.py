"""The machine's ceilings, measured in their own process, and times that exceed them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from cnnbench.results import Row
from cnnbench.words import counted
from cnnbench.workers import affinity
from cnnbench.workers.child import Child, ChildError
from cnnkernels.contract import Conv2D, Direction, Problem

IMPOSSIBLE = 1.05
"""Factor of the measured FMA peak above which a speed is impossible; the margin covers noise."""


def measure_ceilings(threads: int) -> dict[str, Any]:
    """Return this machine's ceilings for a thread count, or {'reason': ...} if that fails."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    with Child("cnnbench.judging.ceilings", environment) as child:
        child.pin(affinity.cores_for(threads))
        try:
            measured: dict[str, Any] = child.ask(threads)
        except ChildError as error:
            return {"reason": str(error)}
    return measured


def judge(
    row: Row, problem: Problem, device: str, ceilings: dict[str, Any], judged: Iterable[Row]
) -> None:
    """Compare a time with the machine's ceilings, and withdraw it above the FMA peak.

    An algorithm that declares fewer products than direct sums is judged by these.
    Before the first withdrawal at a thread count the peak is measured again.

    Parameters
    ----------
    row : Row
        Receives GFLOP/s and its share of the ceiling, or loses its time.
    problem : Conv2D or MaxPool2D
    device : str
        The backend's device; ceilings apply to the CPU.
    ceilings : dict
        From `measure_ceilings`; receives the peak if it is measured again.
    judged : iterable of Row
        Earlier rows; their shares change with the peak.
    """
    if row.outcome != "ok" or row.seconds is None:
        return
    direction: Direction = row.direction  # type: ignore[assignment]
    on_cpu = device == "cpu" and "reason" not in ceilings
    if isinstance(problem, Conv2D):
        row.gflops = problem.flops(direction) / row.seconds / 1e9
        if not on_cpu:
            return
        products = row.details.get("products")
        flops = problem.flops(direction) if products is None else 2 * products
        rate = flops / row.seconds
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
    """Take the higher of two FMA peaks: another program may have lowered the first."""
    before = ceilings["flops"]
    again = measure_ceilings(threads).get("flops", before)
    ceilings["flops"] = {kind: max(peak, again[kind]) for kind, peak in before.items()}
    ceilings["flops_again"] = again
    for row in judged:
        if row.threads == threads and row.gflops is not None and row.ceiling_fraction is not None:
            row.ceiling_fraction *= before[dtype] / ceilings["flops"][dtype]


def _bandwidth(ceilings: dict[str, Any], working_set: int) -> float:
    """Return the bandwidth measured at the nearest working set."""
    rates = {int(size): rate for size, rate in ceilings["bandwidth"].items()}
    nearest = min(rates, key=lambda size: abs(math.log(size / max(1, working_set))))
    return float(rates[nearest])
