"""The workers of several backends, and what becomes of rows when one declines or dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnnbench.results import Row, Run
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels.conformance import Outcome


class WorkerPool:
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
        # Most of a worker's start is imports, and nothing is timed yet.
        with ThreadPoolExecutor(max_workers=host.cores()) as executor:
            try:
                for backend in self.backends:
                    self._start(backend)
                list(executor.map(self._load, self.backends))
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> WorkerPool:
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
            if not worker.alive and self._workers.get(backend) is worker:
                worker.close()
                self._start(backend)
                self._load(backend)
            raise

    def about(self, backend: str) -> dict[str, Any]:
        """Return the description of a backend that its worker gave when it was loaded."""
        return self._about[backend]

    def close(self) -> None:
        """End all workers, also those that are asked from other threads."""
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.close()

    def _start(self, backend: str) -> None:
        cache = cache_of(backend, self._caches)
        self._workers[backend] = Worker(backend, self.threads, cache, load=False)

    def _load(self, backend: str) -> None:
        worker = self._workers[backend]
        try:
            worker.load()
            self._about[backend] = worker.about
        except WorkerError as error:
            self.absent[backend] = (error.outcome, str(error))
            self._workers.pop(backend, None)


def cache_of(backend: str, caches: Path | None) -> dict[str, str]:
    """Return the environment variables that tell compilers a backend's folder for their code."""
    if caches is None:
        return {}
    return dict.fromkeys(("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"), str(caches / backend))


def baseline_for(pool: WorkerPool, wanted: str) -> str:
    """Return the baseline: the one wanted, or the first that can run where it cannot."""
    if wanted in pool.present or not pool.present:
        return wanted
    faster = [name for name in pool.present if name != "naive"]
    return (faster or pool.present)[0]


@contextlib.contextmanager
def failing(rows: Sequence[Row]) -> Iterator[None]:
    """Turn a worker's failure into the rows' outcome."""
    try:
        yield
    except WorkerError as error:
        for row in rows:
            row.withdraw(error.outcome, str(error))


def note(run: Run, what: str, threads: int, value: Any) -> None:
    """Keep in the run's environment what was measured at a thread count."""
    run.environment.setdefault(what, {})[str(threads)] = value


def note_threading(run: Run, pool: WorkerPool) -> None:
    """Keep in the run's environment which thread pools the workers used."""
    for backend in pool.present:
        with contextlib.suppress(WorkerError):
            pools = pool.ask(backend, "threading")
            run.environment.setdefault("threading", {}).setdefault(str(pool.threads), {})[
                backend
            ] = pools
