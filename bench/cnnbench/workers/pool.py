"""The workers of several backends; a failing worker only affects its own rows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnnbench.results import Row, Run
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels.conformance import Outcome

_YIELDING = {
    "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Copy:
    """A backend under another name, in a process of its own.

    Attributes
    ----------
    backend : str
    slower : float
        The fraction by which its timed calls are slowed down.
    """

    backend: str
    slower: float = 0.0


class WorkerPool:
    """The workers of several backends at one thread count.

    Parameters
    ----------
    backends : sequence of str
    threads : int
    caches : path, optional
        A folder in which each backend caches its compiled code, instead of the user's cache.
    yielding : bool
        Whether idle threads sleep instead of spinning, and matrix products take one thread. Workers
        that are asked at the same time then disturb each other less, and times are not those of
        other programs.
    copies : mapping of str to Copy, optional
        Those among `backends` that are copies, by name.
    """

    def __init__(
        self,
        backends: Sequence[str],
        threads: int,
        caches: Path | None = None,
        *,
        yielding: bool = False,
        copies: Mapping[str, Copy] | None = None,
    ) -> None:
        self.backends, self.threads = tuple(dict.fromkeys(backends)), threads
        self._caches, self._copies = caches, dict(copies or {})
        self._policy = _YIELDING if yielding else {}
        self.absent: dict[str, tuple[Outcome, str]] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._workers: dict[str, Worker] = {}
        # Workers spend their start on imports, so start them together; nothing is timed yet.
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
        """The backends with a worker."""
        return [name for name in self.backends if name in self._workers]

    def ask(self, backend: str, command: str, **arguments: Any) -> Any:
        """Send a command to a backend's worker; if the worker dies, a new one replaces it."""
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

    def add(self, name: str, copy: Copy) -> None:
        """Start a worker for a copy of a backend, unless there is one."""
        if name in self._workers:
            return
        self.backends, self._copies[name] = (*self.backends, name), copy
        self._start(name)
        self._load(name)

    @contextlib.contextmanager
    def spread(self) -> Iterator[None]:
        """Let workers use all cores inside the block, where nothing is timed."""
        for worker in self._workers.values():
            worker.pin(on=False)
        try:
            yield
        finally:
            for worker in self._workers.values():
                worker.pin()

    def about(self, backend: str) -> dict[str, Any]:
        """Return the description that a backend's worker gave when it loaded."""
        return self._about[backend]

    def close(self) -> None:
        """Kill all workers, even those in use by other threads."""
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.close()

    def _start(self, backend: str) -> None:
        copy = self._copies.get(backend, Copy(backend))
        environment = cache_of(copy.backend, self._caches) | self._policy
        self._workers[backend] = Worker(
            copy.backend, self.threads, environment, load=False, slower=copy.slower
        )

    def _load(self, backend: str) -> None:
        worker = self._workers[backend]
        try:
            worker.load()
            worker.pin()  # imports, and reading a plan, see every core
            self._about[backend] = worker.about
        except WorkerError as error:
            self.absent[backend] = (error.outcome, str(error))
            self._workers.pop(backend, None)


def ask_several(
    pool: WorkerPool, backends: Iterable[str], command: str, **arguments: Any
) -> dict[str, Any]:
    """Return the answers of the workers that can answer, asked several at once.

    An interrupt closes the pool: else it would have to wait for them.
    """

    def ask(backend: str) -> Any:
        return pool.ask(backend, command, **arguments)

    answers = {}
    with ThreadPoolExecutor(max_workers=host.cores()) as executor:
        try:
            for backend, answer in {name: executor.submit(ask, name) for name in backends}.items():
                with contextlib.suppress(WorkerError):
                    answers[backend] = answer.result()
        except BaseException:
            pool.close()
            raise
    return answers


def cache_of(backend: str, caches: Path | None) -> dict[str, str]:
    """Return environment variables that set a backend's folder for compiled code."""
    if caches is None:
        return {}
    return dict.fromkeys(("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"), str(caches / backend))


def baseline_for(pool: WorkerPool, backends: Sequence[str], wanted: str) -> str:
    """Return the wanted baseline, or the first of the backends that can run here if it cannot."""
    present = [name for name in pool.present if name in backends]
    if wanted in present or not present:
        return wanted
    faster = [name for name in present if name != "naive"]
    return (faster or present)[0]


@contextlib.contextmanager
def failing(rows: Sequence[Row]) -> Iterator[None]:
    """Turn a worker's error in the block into the rows' outcome."""
    try:
        yield
    except WorkerError as error:
        for row in rows:
            row.withdraw(error.outcome, str(error))


def note(run: Run, what: str, threads: int, value: Any) -> None:
    """Save a value measured at a thread count in the run's environment."""
    run.environment.setdefault(what, {})[str(threads)] = value


def note_threading(run: Run, pool: WorkerPool) -> None:
    """Save the workers' thread pools in the run's environment."""
    for backend in pool.present:
        with contextlib.suppress(WorkerError):
            pools = pool.ask(backend, "threading")
            run.environment.setdefault("threading", {}).setdefault(str(pool.threads), {})[
                backend
            ] = pools
