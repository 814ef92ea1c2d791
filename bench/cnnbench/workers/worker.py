"""One process per backend or program and thread count: it checks, times and trains on command.

Nothing that is timed shares a process with another thread pool, and a crash is one row's `failed`.
A `Worker` is the parent's end; the commands are those of `cnnbench.workers.session`.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from cnnbench.workers.child import Child, ChildError
from cnnkernels import plan
from cnnkernels.conformance import Outcome

KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
"""Workers keep the memory that they free, where the C library is glibc.

It may give it back to the system after each call, or not, as its heap happens to lie; taking it
anew costs more than some convolutions do.
"""

_UNBOUNDED = ("train", "train_in_pytorch", "capture", "start_model", "start_network", "steps")
"""Commands that may take as long as they take: they have a budget of their own, or none."""


class WorkerError(RuntimeError):
    """The worker answered with an error, or died; the message is the reason."""

    outcome: Outcome = "failed"


class WorkerUnsupportedError(WorkerError):
    """The backend declined: it cannot run here, or cannot run this."""

    outcome = "unsupported"


class WorkerWrongError(WorkerError):
    """The backend gave a wrong result to a timed call."""

    outcome = "wrong"


_ERRORS = {
    error.outcome: error for error in (WorkerError, WorkerUnsupportedError, WorkerWrongError)
}
"""By the outcome that a worker answers with."""


class Worker:
    """The parent's end: a backend, or a program that trains, in a process of its own.

    Parameters
    ----------
    backend : str
        Which it loads; one of `cnnbench.digits.trainers`.
    threads : int
        How many threads every library in it may use.
    environment : dict, optional
        More environment variables, such as where compiled code is cached.
    timeout : float
        Seconds after which a command without an answer counts as failed.
    load : bool
        Whether the backend is loaded at once; else `load` has to be called first.

    Raises
    ------
    WorkerUnsupportedError
        If the backend cannot run here.
    WorkerError
        If it cannot be loaded.
    """

    def __init__(
        self,
        backend: str,
        threads: int,
        environment: dict[str, str] | None = None,
        timeout: float = 600.0,
        *,
        load: bool = True,
    ) -> None:
        self.backend, self.threads = backend, threads
        self._timeout = timeout
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
        """Load the backend; `about` says then what it is. A worker that cannot is closed.

        Raises
        ------
        WorkerUnsupportedError, WorkerError
            As the constructor.
        """
        try:
            self.about = self.ask("load", backend=self.backend, threads=self.threads)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self._child.alive

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the child's answer to a command.

        Raises
        ------
        WorkerUnsupportedError
            If the backend declined.
        WorkerWrongError
            If it gave a wrong result to a timed call.
        WorkerError
            If the command raised, the process died, or no answer came in time.
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
        """End the process, whatever it does."""
        self._child.close()
