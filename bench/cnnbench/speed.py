"""Time every case on every backend that passed its check, side by side, and return rows.

All backends are checked on every case before anything is timed. Backends that fail a check are not
timed on its case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnbench.budget import Budget, Progress
from cnnbench.cases import CaseSet
from cnnbench.checking import check_at_once, fills_folder, operation, rows_of
from cnnbench.comparison import Comparison
from cnnbench.races import AGAIN
from cnnbench.results import UNFINISHED, Run
from cnnbench.words import counted
from cnnbench.workers.pool import Copy, WorkerPool, baseline_for, cache_of, note, note_threading
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels.contract import FORWARD, Direction, Problem, directions
from cnnkernels.descriptor import Case

_FIRST_CALL_SECONDS = 60.0
"""Time for one first call, with compiling; plain Python would take minutes on large layers."""


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
    copies: Mapping[str, Copy] | None = None,
) -> None:
    """Check every case on every backend, time it side by side, and add the rows to the run.

    Each case is timed in several processes of each backend, one after another, until its verdicts
    stand. Rows are written after each process, and become more certain with the next.

    Compiled code goes to `caches`, an empty folder: the first calls fill it, later calls use it.
    With `only`, just the given directions of each problem are timed, and no first calls. `copies`
    are those among the backends that are others under another name.
    """
    first = len(backends) if budget.first_steps and only is None else 0
    progress.begin(len(threads) * steps(sets, backends, budget) + first)
    first_calls: dict[tuple[str, str, str], tuple[float, float]] = {}
    for count in threads:
        note(run, UNFINISHED, count, list(map(str, _cases(sets))))
    for count in threads:
        with (
            fills_folder() as folder,
            WorkerPool(backends, count, caches, copies=copies) as pool,
        ):
            if first and count == threads[0]:
                for backend in backends:
                    progress.step(f"first calls of {backend}")
                    if backend in pool.present:
                        first_calls |= _first_calls(backend, count, sets, caches)
            comparison = check(
                run, sets, backends, baseline, budget, progress, pool, folder, only, copies
            )
            for row in run.rows:
                if row.outcome == "ok" and row.threads == count == threads[0]:
                    row.first_call_seconds, row.cached_first_call_seconds = first_calls.get(
                        (row.backend, row.problem, row.direction), (None, None)
                    )
            compare(comparison, sets, budget, progress, pool, caches, copies)
        note(run, UNFINISHED, count, [])
    del run.environment[UNFINISHED]


def steps(sets: Sequence[CaseSet], backends: Sequence[str], budget: Budget) -> int:
    """Return the number of steps of `check` and `compare` together."""
    return len(_cases(sets)) * (len(backends) + budget.processes) + budget.processes


def check(
    run: Run,
    sets: Sequence[CaseSet],
    backends: Sequence[str],
    baseline: str,
    budget: Budget,
    progress: Progress,
    pool: WorkerPool,
    folder: Path,
    only: Mapping[Problem, Sequence[Direction]] | None = None,
    copies: Mapping[str, Copy] | None = None,
) -> Comparison:
    """Check every case on every backend, and return the comparison of those that passed.

    Parameters
    ----------
    pool : WorkerPool
        Has a worker of each backend.
    folder : path
        In which workers share inputs and expected results.
    run, sets, backends, baseline, budget, progress, only, copies
        As for `time`.
    """
    base = baseline_for(pool, backends, baseline)
    note(run, "baseline", pool.threads, base)
    comparison = Comparison(run, sets, pool.threads, base, budget, folder)
    room = host.cores() if budget.call_seconds is None else host.cores() // pool.threads
    with pool.spread():
        checks = check_at_once(
            pool,
            _cases(sets),
            backends,
            folder,
            progress,
            budget.call_seconds,
            at_once=max(1, room),
            timed_later=True,
        )
        for case, found in checks:
            for name in copies or ():
                found[name]["owner"] = ""  # a copy is timed, like a backend of its own
            rows = [
                row
                for backend in backends
                for row in rows_of(case, backend, pool.threads, found[backend])
                if only is None or row.direction in only[case.problem]
            ]
            comparison.enter(pool, case, rows)
    note_threading(run, pool)
    return comparison


def compare(
    comparison: Comparison,
    sets: Sequence[CaseSet],
    budget: Budget,
    progress: Progress,
    pool: WorkerPool,
    caches: Path | None,
    copies: Mapping[str, Copy] | None = None,
) -> None:
    """Time the rows that passed their check, first in the pool's processes, then in new ones."""
    count, cases = pool.threads, _cases(sets)
    progress.step(f"measuring this machine's ceilings, {counted(count, 'thread')}")
    comparison.measure_ceilings()
    copies = {**(copies or {}), AGAIN: Copy(comparison.baseline)}
    if pool.present:
        pool.add(AGAIN, copies[AGAIN])
    for case in cases:
        progress.step(f"timing {case.label}, {counted(count, 'thread')}")
        comparison.take(pool, case)
    comparison.settle()
    for number in range(2, budget.processes + 1):
        open_ = comparison.open()
        comparison.note_unfinished(open_)
        passed_over = len(cases) - len(open_)
        progress.step(f"starting process {number} of each backend", passed_over + 1)
        if not open_:
            continue
        needed = sorted(set().union(*open_.values()))
        with WorkerPool(needed, count, caches, copies=copies) as further:
            for case in open_:
                progress.step(f"timing {case.label}, process {number}")
                comparison.take(further, case)
        comparison.settle()


def _cases(sets: Sequence[CaseSet]) -> list[Case]:
    """Return the cases, each once, however many sets have it."""
    return list(dict.fromkeys(case for group in sets for case in group.cases))


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
    what earlier ones did not, so their sum is the cost of compiling. One that takes too long ends
    them: such a backend is not timed anyway.
    """
    by_size = sorted(
        (c for group in sets for c in group.cases), key=lambda c: c.problem.bytes_moved(FORWARD)
    )
    smallest = {operation(case.problem): case for case in reversed(by_size)}
    times: dict[tuple[str, str, str], float] = {}
    with (
        contextlib.suppress(WorkerError),
        Worker(backend, threads, cache_of(backend, caches), _FIRST_CALL_SECONDS) as worker,
    ):
        for case in smallest.values():
            for direction in directions(case.problem):
                times[backend, str(case), direction] = worker.ask(
                    "first_call", descriptor=str(case.problem), direction=direction
                )
    return times
