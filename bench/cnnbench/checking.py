"""Check every case on every backend, each in its own process, and return rows."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnbench.budget import CALL_SECONDS, Progress
from cnnbench.cases import CaseSet
from cnnbench.results import Row, Run
from cnnbench.words import counted
from cnnbench.workers.pool import WorkerPool, note_threading
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
    progress.begin(len(threads) * sum(len(group.cases) for group in sets) * len(backends))
    digests: dict[tuple[str, str], tuple[int, str]] = {}
    for count in threads:
        with WorkerPool(backends, count) as pool, fills_folder() as folder:
            for case in (case for group in sets for case in group.cases):
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
                run.write()
            note_threading(run, pool)


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


def clear(folder: Path) -> None:
    """Remove the inputs and results: large cases fill the folder fast. Spots of them stay."""
    for path in folder.glob(STORED):
        path.unlink()
