"""One process for each backend or program and thread count: it checks, times and trains on command.

So no timed code shares a process with another thread pool, and a crash only fails its own row.
`Worker` is the parent's end; `cnnbench.workers.session` has the commands.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from cnnbench.workers import affinity
from cnnbench.workers.child import Child, ChildError
from cnnkernels import plan
from cnnkernels.conformance import Outcome

KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
"""Makes glibc keep freed memory in workers.

By default it may or may not return memory to the system after a call, depending on its heap, and
getting it back takes longer than some convolutions.
"""

_UNBOUNDED = ("train", "train_in_pytorch", "capture", "start_model", "start_network", "steps")
"""Commands without a timeout: they have their own budget, or none."""


class WorkerError(RuntimeError):
    """The worker answered with an error, or died; the message is the reason."""

    outcome: Outcome = "failed"


class WorkerUnsupportedError(WorkerError):
    """The backend cannot run here, or cannot run this problem."""

    outcome = "unsupported"


class WorkerWrongError(WorkerError):
    """A timed call gave a wrong result."""

    outcome = "wrong"


_ERRORS = {
    error.outcome: error for error in (WorkerError, WorkerUnsupportedError, WorkerWrongError)
}
"""Errors by the outcome in a worker's answer."""


class Worker:
    """The parent's end of a backend, or of a training program, in its own process.

    Parameters
    ----------
    backend : str
        A name in `cnnbench.digits.trainers`.
    threads : int
        Thread count of every library in the process.
    environment : dict, optional
        More environment variables, such as the cache of compiled code.
    timeout : float
        Seconds after which an unanswered command has failed.
    load : bool
        Whether to load the backend at once; if not, call `load` first.
    slower : float
        The fraction by which every timed call is slowed down, to test the measuring.

    Raises
    ------
    WorkerUnsupportedError
        If the backend cannot run here.
    WorkerError
        If loading it fails.
    """

    def __init__(
        self,
        backend: str,
        threads: int,
        environment: dict[str, str] | None = None,
        timeout: float = 600.0,
        *,
        load: bool = True,
        slower: float = 0.0,
    ) -> None:
        self.backend, self.threads = backend, threads
        self._timeout, self._slower = timeout, slower
        count = str(threads)
        self._child = Child(
            "cnnbench.workers.session",
            {
                "GLIBC_TUNABLES": KEPT_MEMORY,
                **os.environ,
                "OMP_NUM_THREADS": count,
                "MKL_NUM_THREADS": count,
                "OPENBLAS_NUM_THREADS": count,
                "NUMBA_NUM_THREADS": count,
                "PJRT_NPROC": count,  # JAX's threads
                "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in the worker: no processes of its own
                **(environment or {}),
            },
        )
        self.about: dict[str, Any] = {}
        if load:
            self.load()

    def load(self) -> None:
        """Load the backend and set `about` to its description; if that fails, close the worker.

        Raises
        ------
        WorkerUnsupportedError, WorkerError
            As for the constructor.
        """
        try:
            self.about = self.ask(
                "load", backend=self.backend, threads=self.threads, slower=self._slower
            )
        except BaseException:
            self.close()
            raise

    def pin(self, *, on: bool = True) -> None:
        """Keep the process on the cores of its thread count, or let it use all."""
        self._child.pin(affinity.cores_for(self.threads) if on else None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._child.alive

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the child's answer to a command.

        Raises
        ------
        WorkerUnsupportedError
            If the backend cannot run it.
        WorkerWrongError
            If a timed call gave a wrong result.
        WorkerError
            If the command raises, the process dies, or the answer is late.
        """
        timeout = None if command in _UNBOUNDED else self._timeout
        try:
            answer = self._child.ask({"command": command, **arguments}, timeout)
        except ChildError as error:
            raise WorkerError(str(error)) from None
        for text in answer["warnings"]:
            warnings.warn(f"{self.backend}: {text}", plan.PlanWarning, stacklevel=2)
        if "outcome" in answer:
            raise _ERRORS[answer["outcome"]](answer["reason"])
        return answer["result"]

    def close(self) -> None:
        """Kill the process."""
        self._child.close()
