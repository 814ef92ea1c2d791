"""The A/A floor: how much two processes of one backend differ on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget
from cnnbench.cases import CaseSet
from cnnbench.checking import clear, fills_folder
from cnnbench.sides import contestant
from cnnbench.timing import Ratio
from cnnbench.workers.pool import cache_of
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels.contract import FORWARD, directions
from cnnkernels.descriptor import Case


def measure_floor(
    backend: str,
    threads: int,
    probes: Sequence[Case],
    budget: Budget,
    caches: Path | None = None,
) -> float:
    """Return the A/A floor: the fraction by which two processes of one backend differ.

    A floor too high for comparisons is measured three times, and the median is returned: now and
    then the threads of one process disturb each other for its whole life.

    Parameters
    ----------
    backend : str
        Usually the baseline.
    threads : int
    probes : sequence of Case
        The cases to time, forward and backward.
    budget : Budget
    caches : path, optional
        As for `WorkerPool`.

    Returns
    -------
    float
        nan if the backend cannot run any of the probes.
    """
    found = [_floor(backend, threads, probes, budget, caches)]
    if found[0] > timing.UNSTEADY:
        found += [_floor(backend, threads, probes, budget, caches) for _ in range(2)]
    return statistics.median(found)


def _floor(
    backend: str, threads: int, probes: Sequence[Case], budget: Budget, caches: Path | None
) -> float:
    """Measure the A/A floor once, in two new processes."""
    random = np.random.default_rng()
    ratios: list[Ratio] = []
    with (
        Worker(backend, threads, cache_of(backend, caches)) as one,
        Worker(backend, threads, cache_of(backend, caches)) as other,
        fills_folder() as folder,
    ):
        for case in probes:
            try:
                for worker in (one, other):
                    worker.ask("prepare", descriptor=str(case.problem), folder=str(folder))
                for direction in directions(case.problem)[:: len(directions(case.problem)) - 1]:
                    pair = [
                        contestant(name, worker, direction, False, budget)[0]
                        for name, worker in (("one", one), ("other", other))
                    ]
                    timing.run_rounds(pair, random, 0, max(c.rounds for c in pair))
                    ratios.append(timing.ratio(pair[0].samples, pair[1].samples))
                for worker in (one, other):
                    worker.ask("release")
            except WorkerError:
                continue
            clear(folder)
    return timing.floor_of(ratios)


def probes(sets: Sequence[CaseSet]) -> list[Case]:
    """Return the cases for measuring the floor: the smallest and the median one."""
    cases = sorted(
        (case for group in sets for case in group.cases if case.problem.batch),
        key=lambda case: case.problem.bytes_moved(FORWARD),
    )
    return list(dict.fromkeys([cases[0], cases[len(cases) // 2]])) if cases else []
