"""Time every case on every backend that passed its check, side by side, and return rows.

All backends are checked on a case before any is timed on it, in the same process with the same
arrays. Backends that fail the check are not timed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget, Progress
from cnnbench.cases import CaseSet
from cnnbench.checking import check_case, clear, fills_folder, operation, rows_of
from cnnbench.judging.comparing import compare
from cnnbench.judging.floor import measure_floor, probes
from cnnbench.judging.limits import judge, measure_ceilings
from cnnbench.results import Row, Run, distinct
from cnnbench.sides import contestant
from cnnbench.timing import Contestant
from cnnbench.words import counted
from cnnbench.workers.pool import WorkerPool, baseline_for, cache_of, failing, note, note_threading
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels.contract import FORWARD, Direction, Problem, directions
from cnnkernels.descriptor import Case

_NCHW = " from nchw"


@dataclass(frozen=True)
class _Conditions:
    """The conditions shared by all timings at one thread count."""

    baseline: str
    floor: float
    ceilings: dict[str, Any]
    budget: Budget
    random: np.random.Generator
    done: Sequence[Row]
    """The run's rows so far."""


def time(
    run: Run,
    sets: Sequence[CaseSet],
    backends: Sequence[str],
    threads: Sequence[int],
    baseline: str,
    budget: Budget,
    progress: Progress,
    caches: Path,
    only: Mapping[Problem, Sequence[Direction]] | None = None,
) -> None:
    """Check every case on every backend, time it side by side, and add the rows to the run.

    Compiled code goes to `caches`, an empty folder: the first calls fill it, later calls use it.
    Without `Budget.first_steps` several backends compile at once, and first calls have no times.
    With `only`, just the given directions of each problem are timed, and no first calls.
    """
    total = sum(len(group.cases) for group in sets)
    first = 0 if only is not None else len(backends) if budget.first_steps else 1
    progress.begin(len(threads) * (total * (len(backends) + 1) + 2) + first)
    first_calls: dict[tuple[str, str, str], tuple[float, float]] = {}
    for count in threads:
        progress.step(f"measuring this machine's ceilings, {counted(count, 'thread')}")
        ceilings = measure_ceilings(count)
        with WorkerPool(backends, count, caches) as pool, fills_folder() as folder:
            base = baseline_for(pool, baseline)
            if count == threads[0] and only is None:
                first_calls = _all_first_calls(pool, sets, caches, budget, progress)
            progress.step(f"A/A floor of {base}, {counted(count, 'thread')}")
            floor = (
                measure_floor(base, count, probes(sets), budget, caches)
                if pool.present
                else math.nan
            )
            note(run, "baseline", count, base)
            note(run, "aa_floor", count, floor)
            note(run, "ceilings", count, ceilings)
            random = np.random.default_rng()
            conditions = _Conditions(base, floor, ceilings, budget, random, run.rows)
            for group in sets:
                of_group: list[Row] = []
                for case in group.cases:
                    checks = {}
                    for backend in backends:
                        progress.step(f"checking {backend} on {case.label}")
                        checks[backend] = check_case(
                            pool, backend, case, folder, budget.call_seconds
                        )
                    rows = [
                        row
                        for backend, found in checks.items()
                        for row in rows_of(case, backend, count, found)
                        if only is None or row.direction in only[case.problem]
                    ]
                    for row in rows:
                        if row.outcome == "ok" and count == threads[0]:
                            row.first_call_seconds, row.cached_first_call_seconds = first_calls.get(
                                (row.backend, row.problem, row.direction), (None, None)
                            )
                    progress.step(f"timing {case.label}, {counted(count, 'thread')}")
                    try:
                        _time_case(pool, case, rows, conditions, folder)
                    finally:
                        run.add(rows)
                    of_group.extend(rows)
                    clear(folder)
                run.add(_sums(group, of_group, base, floor, count))
            note_threading(run, pool)
            run.write()


def _time_case(
    pool: WorkerPool, case: Case, rows: Sequence[Row], conditions: _Conditions, folder: Path
) -> None:
    """Time the rows of a case that passed the check, direction by direction.

    A kernel of another backend that takes part is timed once, under its own backend's name.
    """
    passed = [row for row in rows if row.outcome == "ok"]
    own = distinct(passed)
    shared = [row for row in passed if row not in own]
    timed = list(dict.fromkeys(row.backend for row in own))
    for backend in timed:
        with failing([row for row in rows if row.backend == backend]):
            pool.ask(backend, "prepare", descriptor=str(case.problem), folder=str(folder))
    for direction in directions(case.problem):
        of_direction = [row for row in rows if row.direction == direction]
        contestants: dict[str, Contestant] = {}
        for row in of_direction:
            if row.outcome != "ok" or row in shared:
                continue
            asked = _Asked(pool, row)
            with failing([row]):
                nchw = {row.backend: False}
                if pool.about(row.backend)["layout"] != "NCHW":
                    nchw[row.backend + _NCHW] = True
                for name, converted in nchw.items():
                    contestants[name], extra_bytes = contestant(
                        name, asked, direction, converted, conditions.budget
                    )
                    if not converted:
                        row.extra_bytes = extra_bytes
        try:
            base = next((r for r in shared if r.backend == conditions.baseline), None)
            timing.compete(
                list(contestants.values()),
                conditions.baseline if base is None else base.owner,
                conditions.floor,
                conditions.random,
            )
        finally:
            for row in of_direction:
                if row.outcome == "ok" and row.backend in contestants:
                    row.samples = contestants[row.backend].samples
                    row.seconds = timing.finite(contestants[row.backend].seconds)
                if row.seconds is not None and row.backend + _NCHW in contestants:
                    from_nchw = contestants[row.backend + _NCHW]
                    row.nchw_seconds = timing.finite(from_nchw.seconds)
                    row.details["nchw_samples"] = from_nchw.samples
                device = pool.about(row.backend)["device"] if row.outcome == "ok" else ""
                judge(row, case.problem, device, conditions.ceilings, [*conditions.done, *rows])
            for row in of_direction:
                if row in shared:
                    _copy_times(next(r for r in of_direction if r.backend == row.owner), row)
            compare(of_direction, conditions.baseline, conditions.floor)
        for lost in [row for row in of_direction if row.outcome in ("failed", "wrong")]:
            for row in [r for r in rows if r.backend == lost.backend and r.outcome == "ok"]:
                if lost.outcome == "wrong":
                    row.withdraw("wrong", f"{direction}: {lost.reason}")
                elif row.seconds is None:
                    row.withdraw("failed", f"not timed: {direction} {lost.reason}")
    for backend in timed:
        with contextlib.suppress(WorkerError):
            pool.ask(backend, "release")


def _copy_times(timed: Row, row: Row) -> None:
    """Give a row the times of its kernel under another backend's name."""
    if timed.outcome != "ok":
        row.withdraw(timed.outcome, f"{timed.backend}: {timed.reason}")
        return
    row.samples, row.seconds, row.extra_bytes = timed.samples, timed.seconds, timed.extra_bytes
    row.gflops, row.ceiling_fraction = timed.gflops, timed.ceiling_fraction
    row.nchw_seconds = timed.nchw_seconds


class _Asked:
    """Sends commands to a worker for one row; if the worker dies, only this row fails."""

    def __init__(self, pool: WorkerPool, row: Row) -> None:
        self._pool, self._row = pool, row

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the answer, None if the row fails or has failed before."""
        answer: Any = None
        if self._row.outcome == "ok":
            with failing([self._row]):
                answer = self._pool.ask(self._row.backend, command, **arguments)
        return answer


def _sums(
    group: CaseSet, rows: Sequence[Row], baseline: str, floor: float, threads: int
) -> list[Row]:
    """Sum a set's cases, weighted by layers: one row for each operation, direction and backend."""
    sums: list[Row] = []
    for op in dict.fromkeys(row.op for row in rows):
        cases = [row.case for row in rows if row.op == op]
        if not group.name or len(set(cases)) < 2:
            continue
        for direction in dict.fromkeys(row.direction for row in rows if row.op == op):
            of_direction = []
            for backend in dict.fromkeys(row.backend for row in rows):
                parts = [
                    row
                    for row in rows
                    if (row.op, row.direction, row.backend) == (op, direction, backend)
                ]
                of_direction.append(_sum(group.name, parts, threads))
            compare(of_direction, baseline, floor)
            sums.extend(of_direction)
    return sums


def _sum(name: str, parts: Sequence[Row], threads: int) -> Row:
    first = parts[0]
    total = Row(f"{name} (sum)", "", first.op, first.direction, first.backend, threads, "ok")
    total.layers = sum(row.layers for row in parts)
    owners = {row.owner for row in parts}
    if len(owners) == 1 and owners != {first.backend}:
        total.details["owner"] = first.owner
    bad = next((row for row in parts if row.outcome != "ok"), None)
    if bad is not None:
        total.outcome, total.reason = bad.outcome, f"{bad.case}: {bad.reason}"
        return total
    sides = min(len(row.samples) for row in parts)
    total.samples = [sum(row.layers * row.samples[side] for row in parts) for side in range(sides)]
    total.seconds = sum(row.layers * (row.seconds or 0.0) for row in parts)
    errors = [row.error_over_bound for row in parts if row.error_over_bound is not None]
    total.error_over_bound = max(errors, default=None)
    for rate in ("gflops", "ceiling_fraction"):
        of_parts = [(getattr(row, rate), row.layers * (row.seconds or 0.0)) for row in parts]
        if all(value is not None for value, _ in of_parts):
            setattr(total, rate, sum(v * seconds for v, seconds in of_parts) / total.seconds)
    return total


def _all_first_calls(
    pool: WorkerPool,
    sets: Sequence[CaseSet],
    caches: Path,
    budget: Budget,
    progress: Progress,
) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Make the first calls of all backends, one after another if they are timed."""
    found: dict[tuple[str, str, str], tuple[float, float]] = {}
    if budget.first_steps:
        for backend in pool.backends:
            progress.step(f"first calls of {backend}")
            if backend in pool.present:
                found |= _first_calls(backend, pool.threads, sets, caches)
        return found
    progress.step("compiling")
    with ThreadPoolExecutor(max_workers=host.cores()) as executor:
        list(executor.map(lambda one: _calls(one, pool.threads, sets, caches), pool.present))
    return found


def _first_calls(
    backend: str, threads: int, sets: Sequence[CaseSet], caches: Path
) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return first calls by (backend, case, direction): seconds without and with cached code.

    A second process repeats the calls if the first one cached compiled code.
    """
    cold = _calls(backend, threads, sets, caches)
    cached = _calls(backend, threads, sets, caches) if (caches / backend).exists() else cold
    return {key: (seconds, cached.get(key, seconds)) for key, seconds in cold.items()}


def _calls(
    backend: str, threads: int, sets: Sequence[CaseSet], caches: Path
) -> dict[tuple[str, str, str], float]:
    """Return the seconds of calls by (backend, case, direction) in a new process.

    It calls the smallest case of each operation once in each direction. Each call compiles only
    what earlier ones did not, so their sum is the cost of compiling.
    """
    by_size = sorted(
        (c for group in sets for c in group.cases), key=lambda c: c.problem.bytes_moved(FORWARD)
    )
    smallest = {operation(case.problem): case for case in reversed(by_size)}
    times: dict[tuple[str, str, str], float] = {}
    with (
        contextlib.suppress(WorkerError),
        Worker(backend, threads, cache_of(backend, caches)) as worker,
    ):
        for case in smallest.values():
            for direction in directions(case.problem):
                times[backend, str(case), direction] = worker.ask(
                    "first_call", descriptor=str(case.problem), direction=direction
                )
    return times
