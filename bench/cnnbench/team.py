"""The workers of several backends, and what becomes of rows when one declines or dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnnbench.results import Row, Run
from cnnbench.worker import Worker, WorkerError, WorkerUnsupportedError
from cnnkernels.conformance import Outcome


class Team:
    """The workers of some backends at one thread count, and why the others have none.

    Parameters
    ----------
    backends : sequence of str
    threads : int
    caches : path, optional
        Where each backend has a folder of its own for compiled code; else the user's is used.
    """

    def __init__(self, backends: Sequence[str], threads: int, caches: Path | None = None) -> None:
        self.backends, self.threads = tuple(dict.fromkeys(backends)), threads
        self._caches = caches
        self.absent: dict[str, tuple[Outcome, str]] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._workers: dict[str, Worker] = {}
        try:
            # Most of a worker's start is imports, and nothing is timed yet.
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as executor:
                list(executor.map(self._open, self.backends))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def present(self) -> list[str]:
        """The backends that can be asked."""
        return [name for name in self.backends if name in self._workers]

    def ask(self, backend: str, command: str, **arguments: Any) -> Any:
        """Ask a backend's worker; if it dies over it, it is replaced for the next command."""
        if backend not in self._workers:
            raise WorkerError(self.absent[backend][1])
        worker = self._workers[backend]
        try:
            return worker.ask(command, **arguments)
        except WorkerError:
            if not worker.alive:
                worker.close()
                del self._workers[backend]
                self._open(backend)
            raise

    def about(self, backend: str) -> dict[str, Any]:
        """Return what the backend's worker said of it when it was loaded."""
        return self._about[backend]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _open(self, backend: str) -> None:
        try:
            cache = cache_of(backend, self._caches)
            self._workers[backend] = worker = Worker(backend, self.threads, cache)
            self._about[backend] = worker.about
        except WorkerUnsupportedError as declined:
            self.absent[backend] = ("unsupported", str(declined))
        except WorkerError as failed:
            self.absent[backend] = ("failed", str(failed))


def cache_of(backend: str, caches: Path | None) -> dict[str, str]:
    """Return the environment variables that tell compilers a backend's folder for their code."""
    if caches is None:
        return {}
    return dict.fromkeys(("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"), str(caches / backend))


def baseline_for(team: Team, wanted: str) -> str:
    """Return the baseline: the one wanted, or the first that can run where it cannot."""
    if wanted in team.present or not team.present:
        return wanted
    faster = [name for name in team.present if name != "naive"]
    return (faster or team.present)[0]


@contextlib.contextmanager
def failing(rows: Sequence[Row]) -> Iterator[None]:
    """Turn a worker's failure into the rows' outcome."""
    try:
        yield
    except WorkerError as failed:
        declined = isinstance(failed, WorkerUnsupportedError)
        for row in rows:
            row.withdraw("unsupported" if declined else "failed", str(failed))


def note(run: Run, what: str, threads: int, value: Any) -> None:
    """Keep in the run's environment what was measured at a thread count."""
    run.environment.setdefault(what, {})[str(threads)] = value


def note_threading(run: Run, team: Team) -> None:
    """Keep in the run's environment which thread pools the workers used."""
    for backend in team.present:
        with contextlib.suppress(WorkerError):
            pools = team.ask(backend, "threading")
            run.environment.setdefault("threading", {}).setdefault(str(team.threads), {})[
                backend
            ] = pools
