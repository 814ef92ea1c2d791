"""Check every case on every backend, each in its own process, and return rows."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnnbench.budget import CALL_SECONDS, Progress
from cnnbench.cases import CaseSet
from cnnbench.results import UNFINISHED, Row, Run
from cnnbench.words import counted
from cnnbench.workers.pool import WorkerPool, note, note_threading
from cnnbench.workers.worker import WorkerError
from cnnkernels.conformance.fills import STORED
from cnnkernels.contract import Conv2D, Direction, Problem, directions
from cnnkernels.descriptor import Case


def check(
    run: Run,
    sets: Sequence[CaseSet],
    backends: Sequence[str],
    threads: Sequence[int],
    progress: Progress,
    call_seconds: float | None = CALL_SECONDS,
) -> None:
    """Check every case on every backend at every thread count, and add the rows to the run.

    A deterministic backend must give the same bits at every thread count.
    """
    cases = [case for group in sets for case in group.cases]
    progress.begin(len(threads) * len(cases) * len(backends))
    for count in threads:
        note(run, UNFINISHED, count, list(map(str, cases)))
    digests: dict[tuple[str, str], tuple[int, str]] = {}
    for count in threads:
        with WorkerPool(backends, count) as pool, fills_folder() as folder:
            for number, case in enumerate(cases, start=1):
                for backend in backends:
                    progress.step(f"checking {backend} on {case.label}")
                    found = check_case(pool, backend, case, folder, call_seconds)
                    if found["deterministic"] and found["outcome"] == "ok":
                        first, digest = digests.setdefault(
                            (str(case), backend), (count, found["digest"])
                        )
                        if found["digest"] != digest:
                            found["outcome"] = "wrong"
                            counts = f"{counted(count, 'thread')} than with {first}"
                            found["reason"] = f"gave different bits with {counts}"
                    run.rows.extend(rows_of(case, backend, count, found))
                clear(folder)
                note(run, UNFINISHED, count, list(map(str, cases[number:])))
                run.write()
            note_threading(run, pool)
    del run.environment[UNFINISHED]


def check_at_once(
    pool: WorkerPool,
    cases: Iterable[Case],
    backends: Sequence[str],
    folder: Path,
    progress: Progress,
    call_seconds: float | None,
    *,
    at_once: int,
    timed_later: bool = False,
) -> Iterator[tuple[Case, dict[str, dict[str, Any]]]]:
    """Check every case on every backend, several at once, and yield the findings of each case.

    An interrupt closes the pool.

    Parameters
    ----------
    pool : WorkerPool
        Has a worker of each backend.
    cases, backends
        All different.
    folder : path
        In which workers share inputs and expected results, in a folder for each case; these are
        deleted after its last check.
    progress, call_seconds
        As for `check`.
    at_once : int
        The most checks at once. Beside others, a worker with several threads can't estimate how
        long a call takes, unless its threads yield.
    timed_later : bool
        Whether to keep spots of the expected results, for checks of timed calls.

    Yields
    ------
    Case, dict of str to dict
        In the given order: a case, and by backend what `check_case` returns.
    """
    ended: dict[Case, Future[None]] = {case: Future() for case in cases}
    found: dict[tuple[Case, str], dict[str, Any]] = {}
    telling = threading.Lock()
    turns = _Turns([(case, backend) for case in ended for backend in backends])

    def check_one(case: Case, backend: str) -> None:
        of_case = folder_of(folder, case)
        of_case.mkdir(exist_ok=True)
        with telling:
            progress.step(f"checking {backend} on {case.label}")
        finding = found[case, backend] = check_case(pool, backend, case, of_case, call_seconds)
        if timed_later and finding["outcome"] == "ok":
            with contextlib.suppress(WorkerError):
                pool.ask(backend, "spot", descriptor=str(case.problem), folder=str(of_case))

    def check_some() -> None:
        while (task := turns.take()) is not None:
            try:
                check_one(*task)
            except BaseException as error:
                for end in ended.values():  # the others may never end
                    with contextlib.suppress(InvalidStateError):
                        end.set_exception(error)
                turns.stop()
                return
            if turns.end(task):
                clear(folder_of(folder, task[0]))  # gigabytes, if all of a network were kept
                with contextlib.suppress(InvalidStateError):
                    ended[task[0]].set_result(None)

    executor = ThreadPoolExecutor(max_workers=at_once)
    try:
        for _ in range(at_once):
            executor.submit(check_some)
        for case, end in ended.items():
            if backends:
                end.result()
            yield case, {backend: found[case, backend] for backend in backends}
    except BaseException:
        turns.stop()
        pool.close()
        raise
    finally:
        executor.shutdown()


class _Turns:
    """Hands out checks to threads.

    A backend's worker makes one check at a time. The first check of a case computes expected
    results, which others of the case read: they wait for it.

    Parameters
    ----------
    tasks : list of (Case, str)
        The cases and backends to check.
    """

    def __init__(self, tasks: list[tuple[Case, str]]) -> None:
        self._tasks = tasks
        self._running: set[tuple[Case, str]] = set()
        self._begun: set[Case] = set()
        self._changed = threading.Condition()

    def take(self) -> tuple[Case, str] | None:
        """Return the first check that can begin, as soon as there is one; None after the last."""
        with self._changed:
            while self._tasks:
                task = next(filter(self._can_begin, self._tasks), None)
                if task is not None:
                    self._tasks.remove(task)
                    self._running.add(task)
                    return task
                self._changed.wait()
            return None

    def _can_begin(self, task: tuple[Case, str]) -> bool:
        case, backend = task
        if any(backend == other for _, other in self._running):
            return False
        return case in self._begun or all(case != other for other, _ in self._running)

    def end(self, task: tuple[Case, str]) -> bool:
        """Note that a check has ended; return whether it was the last of its case."""
        with self._changed:
            self._running.remove(task)
            self._begun.add(task[0])
            self._changed.notify_all()
            return all(case != task[0] for case, _ in (*self._running, *self._tasks))

    def stop(self) -> None:
        """Hand out no further checks."""
        with self._changed:
            self._tasks.clear()
            self._changed.notify_all()


def check_case(
    pool: WorkerPool, backend: str, case: Case, folder: Path, call_seconds: float | None
) -> dict[str, Any]:
    """Return the worker's findings, or the reason why there are none."""
    blank: dict[str, Any] = {
        "error_over_bound": {},
        "repeatable": None,
        "digest": "",
        "deterministic": False,
        "algorithm": None,
        "owner": "",
    }
    if backend in pool.absent:
        outcome, reason = pool.absent[backend]
        return {**blank, "outcome": outcome, "reason": reason}
    try:
        found = pool.ask(
            backend,
            "check",
            descriptor=str(case.problem),
            folder=str(folder),
            budget=call_seconds,
        )
    except WorkerError as error:
        return {**blank, "outcome": error.outcome, "reason": str(error)}
    return {**blank, **found, "deterministic": pool.about(backend)["deterministic"]}


def rows_of(case: Case, backend: str, threads: int, found: dict[str, Any]) -> list[Row]:
    """Return a check's findings as rows without times, one for each direction."""
    return [
        Row(
            case=case.label,
            problem=str(case),
            op=operation(case.problem),
            direction=direction,
            backend=backend,
            threads=threads,
            outcome=found["outcome"],
            reason=found["reason"],
            error_over_bound=found["error_over_bound"].get(direction),
            layers=case.layers,
            check=found["digest"],
            repeatable=found["repeatable"],
            details=_details(backend, direction, found),
        )
        for direction in directions(case.problem)
    ]


def _details(backend: str, direction: Direction, found: dict[str, Any]) -> dict[str, Any]:
    """Return what `Row` documents of a declared algorithm, and of a kernel of another backend."""
    details: dict[str, Any] = {}
    if found["owner"] not in ("", backend):
        details["owner"] = found["owner"]
    if found["algorithm"] is not None:
        algorithm = dict(found["algorithm"])
        details["algorithm"] = algorithm.pop("name")
        details |= {name: values.get(direction) for name, values in algorithm.items()}
    return details


def operation(problem: Problem) -> str:
    """Return 'conv2d' or 'max_pool2d'."""
    return "conv2d" if isinstance(problem, Conv2D) else "max_pool2d"


@contextlib.contextmanager
def fills_folder() -> Iterator[Path]:
    """Yield a folder in which workers share inputs and expected results."""
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name:
        yield Path(name)


def folder_of(folder: Path, case: Case) -> Path:
    """Return the folder in which workers share the inputs and expected results of a case."""
    return folder / hashlib.sha256(str(case).encode()).hexdigest()[:16]


def clear(folder: Path) -> None:
    """Remove the inputs and results: large cases fill the folder fast. Spots of them stay."""
    for path in folder.glob(STORED):
        path.unlink()
