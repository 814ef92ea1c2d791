"""One process per backend or program and thread count: it checks, times and trains on command.

Nothing that is timed shares a process with another thread pool, and a crash is one row's `failed`.
The parent holds a `Worker`; `cnnbench.child` runs `main` in the other process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnbench.child import Channel, Child, ChildError
from cnnbench.digits import trainers, weights
from cnnbench.digits.options import Options
from cnnbench.digits.profile import FullBatches, profile
from cnnbench.digits.training import Training
from cnnkernels import plan, registry
from cnnkernels.conformance import (
    Call,
    ChangingCall,
    Check,
    Outcome,
    Spots,
    WrongResult,
    check,
    filled,
    spots_of,
)
from cnnkernels.contract import FORWARD, Backend, Conv2D, Direction, MaxPool2D, Problem, Unsupported
from cnnkernels.descriptor import parse

SIDE_SECONDS = 0.02
"""A timed side lasts about this long, 5 ms at the very least."""

PARTS = 7
"""A side is timed in parts, and their median counts: one hiccup of the system does not."""

WARM_SECONDS = 0.05
"""Calls shorter than this are called once, outside the clock, before a side."""

REST_SECONDS = 0.02
"""Idle time before a side: thread pools of other processes spin for a while, then sleep."""

KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
"""Workers keep the memory that they free, where the C library is glibc.

It may give it back to the system after each call, or not, as its heap happens to lie; taking it
anew costs more than some convolutions do.
"""

LARGE = 2**24
"""Bytes of a problem above which checking each side would cost a noticeable part of its time."""

CHECKED_LARGE = 4
"""Of a large problem one in so many sides is checked, the first among them."""

CALL_BUDGET_SECONDS = 20.0
"""A problem of which one call would take longer is not run."""


_GROWING = ((4, 4), (4, 8), (4, 16), (4, 32), (8, 32), (16, 32), (32, 32), (64, 32), (64, 64))
"""Channels and size of problems that tell a backend's pace: each has some four times more work.

The last have as many channels as layers of networks; with few of them fast backends are slow.
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
            __name__,
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


# --------------------------------------------------------------------------------------------
# the child


class _Session:
    """What the child holds between commands; each public method is one command."""

    def __init__(self) -> None:
        self._pace: dict[type, float] = {}
        self._call: Call | None = None
        self._cache: Any = None
        self._spots: dict[str, Spots] = {}
        self._timed: dict[tuple[Direction, bool], tuple[ChangingCall, int]] = {}
        self._training: Any = None

    def load(self, backend: str, threads: int) -> dict[str, Any]:
        """Load what is asked from here on, and hold every library here to the thread count."""
        if backend == registry.AUTO:
            plan.current().load()  # before threads are set
        self._trainer = trainers.load(backend)
        about = {
            "backend": backend,
            "description": self._trainer.description,
            "kernels": self._trainer.backend is not None,
            "threads": _set_threads(threads),
        }
        if self._trainer.backend is not None:
            about |= {
                "layout": self._backend.arrays.layout,
                "device": self._backend.arrays.device,
                "deterministic": self._backend.deterministic,
            }
        return about

    def threading(self) -> dict[str, Any]:
        """Return the thread pools in this process, once it has computed something."""
        import threadpoolctl

        pools = [
            {key: pool.get(key) for key in ("user_api", "internal_api", "version", "num_threads")}
            for pool in threadpoolctl.threadpool_info()
        ]
        layer = None
        if "numba" in sys.modules:
            with contextlib.suppress(ValueError):  # nothing parallel was run
                layer = sys.modules["numba"].threading_layer()
        return {"pools": pools, "numba_threading_layer": layer}

    def check(self, descriptor: str, folder: str | None, budget: float | None) -> dict[str, Any]:
        """Check a problem, unless one call of it would take longer than the budget."""
        problem = parse(descriptor)
        reason = self._backend.unsupported(problem)
        if reason is None and budget is not None:
            reason = self._too_slow(problem, budget)
        if reason is not None:
            return asdict(Check(self._backend.name, str(problem), "unsupported", reason))
        return asdict(check(self._backend, problem, Path(folder) if folder else None))

    def prepare(self, descriptor: str, folder: str | None) -> None:
        """Put a problem's arrays in place, and call forward once."""
        problem = parse(descriptor)
        reason = self._backend.unsupported(problem)
        if reason is not None:
            raise Unsupported(reason)
        inputs = filled(problem, "real", Path(folder) if folder else None)
        self._call = Call(self._backend, problem, inputs)
        self._spots = spots_of(inputs)
        self._timed.clear()
        _, self._cache = self._call.forward()

    def release(self) -> None:
        """Drop the arrays."""
        self._call = self._cache = None
        self._timed.clear()
        gc.collect()

    def probe(self, direction: Direction, nchw: bool) -> dict[str, Any]:
        """Return the seconds of one call, roughly, and the memory it takes.

        The seconds are those of a warm call where it is short. `extra_bytes` is the memory in use
        beyond inputs and outputs, at its highest during the call; None where that is not known.
        """
        run = self._runner(direction, nchw)
        growing = _growth_beyond_outputs
        if self._backend.arrays.device == "cuda":
            growing = _growth_beyond_outputs_on_cuda
        seconds = 0.0

        def timed() -> object:
            nonlocal seconds
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            return result

        growth = growing(timed)
        if growth is not None and direction != "forward":
            growth += _bytes_of(self._cache)
        if seconds <= WARM_SECONDS:
            seconds = min(_seconds(run, 1), _seconds(run, 1))
        return {"seconds": seconds, "extra_bytes": growth}

    def side(self, direction: Direction, nchw: bool, calls: int, parts: int, warm: bool) -> float:
        """Return the seconds of a call: the median over parts, each of `calls` in a row.

        Inputs change between calls, and the last result is checked: always of small problems, now
        and then of large ones.

        Raises
        ------
        WrongResult
            If it is wrong.
        """
        assert self._call is not None
        timed, number = self._timed.get((direction, nchw), (None, 0))
        if timed is None:
            timed = ChangingCall(self._call, direction, self._cache, self._spots, nchw)
        self._timed[direction, nchw] = timed, number + 1
        small = self._call.problem.bytes_moved(FORWARD) <= LARGE
        checked = small or number % CHECKED_LARGE == 0
        with timed.scaled() if checked else contextlib.nullcontext():
            function = timed.function()
            if warm:
                function()
            seconds = []
            for _ in range(parts):
                result = None  # freed first, as between the calls of a part
                of_part, result = _seconds_of_changing(timed, function, calls)
                seconds.append(of_part)
            if checked:
                timed.require_right(result)
        return statistics.median(seconds)

    def first_call(self, descriptor: str, direction: Direction) -> float:
        """Return the seconds of the first call of a direction, arrays in place."""
        if self._call is None or self._call.problem != parse(descriptor):
            self._call = Call(self._backend, parse(descriptor), filled(parse(descriptor), "real"))
            self._cache = None
        if direction != "forward" and self._cache is None:
            _, self._cache = self._call.forward()
        return _seconds(self._runner(direction, False), 1)

    def train(self, **options: Any) -> dict[str, Any]:
        """Train a network, and return what came of it, weights as text."""
        return _told(self._trainer.name, self._trainer.train(Options(**options)), options)

    def profile(self, seconds: float, **options: Any) -> dict[str, Any]:
        """Return where the time of a step goes."""
        return asdict(profile(self._backend, Options(**options), seconds))

    def train_in_pytorch(self, **options: Any) -> dict[str, Any]:
        """Train PyTorch's own TinyCNN, and return what came of it."""
        from cnnbench.digits.torch_notebook import train

        return _told(self._trainer.name, train(Options(**options)), options)

    def capture(self, model: str, shape: list[int]) -> dict[str, Any]:
        """Return which problems a PyTorch model's layers are, and those that are none."""
        from cnnbench.torch_model import Training as ModelTraining

        calls, left = ModelTraining(model, shape).capture()
        return {"calls": [asdict(call) for call in calls], "left": left}

    def start_model(self, model: str, shape: list[int], **how: bool) -> float:
        """Make a PyTorch model, take two steps of its training, and return the second's seconds."""
        from cnnbench.torch_model import Training as ModelTraining

        self._training = ModelTraining(model, shape, **how)
        self.steps(1)
        return self.steps(1)

    def start_network(self, **options: Any) -> float:
        """Do the same with a network of the suite's, over full batches."""
        self._training = FullBatches(self._backend, Options(**options))
        self.steps(1)
        return self.steps(1)

    def steps(self, steps: int) -> float:
        """Return the seconds of a step of the training that was started, of several in a row."""
        seconds: float = self._training.seconds(steps)
        return seconds

    def profile_model(self, seconds: float) -> dict[str, float]:
        """Return what a step of the PyTorch model takes, and how much of it in its layers."""
        found: dict[str, float] = self._training.profile(seconds)
        return found

    def overheads(self) -> dict[str, float]:
        """Return what a call of a PyTorch layer takes beside its kernels, converted and not."""
        from cnnbench.torch_model import overheads

        return overheads()

    @property
    def _backend(self) -> Backend:
        if self._trainer.backend is None:
            raise Unsupported(f"{self._trainer.name} is a whole program, not made of kernels")
        return self._trainer.backend

    def _runner(self, direction: Direction, nchw: bool) -> Callable[[], object]:
        call, cache = self._call, self._cache
        assert call is not None
        if nchw:
            return call.timed_from_nchw(direction, cache)
        return call.timed(direction, cache)

    def _too_slow(self, problem: Problem, budget: float) -> str | None:
        work, unit = _work(problem)
        seconds = work * self._seconds_a_tap(type(problem))
        if seconds <= budget:
            return None
        return (
            f"one call would take about {_words(seconds)} "
            f"({work:.2g} {unit}), above the budget of {_words(budget)}"
        )

    def _seconds_a_tap(self, kind: type[Problem]) -> float:
        """Return the time of one multiply-add or comparison, measured on growing problems.

        The best of several: a backend must not be refused for a hiccup, nor for its compiling.
        """
        if kind not in self._pace:
            pace = math.inf
            for channels, size in _GROWING:
                problem: Problem
                if kind is Conv2D:
                    problem = Conv2D(1, channels, size, size, channels, 3, padding=1)
                else:
                    problem = MaxPool2D(1, 4 * channels, size, size, 3, stride=1, padding=1)
                call = Call(self._backend, problem, filled(problem, "real"))
                seconds = _seconds(call.forward, 1)
                if seconds > 0.02:
                    seconds = min(seconds, *(_seconds(call.forward, 1) for _ in range(3)))
                pace = min(pace, seconds / _work(problem)[0])
                if seconds > 0.02:
                    break
            self._pace[kind] = pace
        return self._pace[kind]


def _told(name: str, done: Training, options: dict[str, Any]) -> dict[str, Any]:
    """Return what came of a training as JSON has it."""
    trained = weights.Trained(name, Options(**options), done.state)
    told = {key: value for key, value in vars(done).items() if key != "state"}
    told["epochs"] = [asdict(epoch) for epoch in done.epochs]
    return told | {"weights": weights.as_text(trained) if done.state else None}


def rest() -> None:
    """Wait until the thread pools of whatever ran before are asleep; outside any clock."""
    time.sleep(REST_SECONDS)


def _work(problem: Problem) -> tuple[int, str]:
    if isinstance(problem, Conv2D):
        return problem.multiply_adds, "multiply-adds"
    return problem.comparisons, "comparisons"


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _seconds(function: Callable[[], object], calls: int) -> float:
    with _no_collecting():
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls


def _seconds_of_changing(
    timed: ChangingCall, function: Callable[[], object], calls: int
) -> tuple[float, object]:
    """Return the seconds of a call, outside of which inputs change, and the last one's result."""
    seconds, clock = 0.0, time.perf_counter
    with _no_collecting():
        for _ in range(calls - 1):
            timed.change()
            start = clock()
            function()  # its result is freed within the clock, as in any loop
            seconds += clock() - start
        timed.restore()
        start = clock()
        result = function()
        seconds += clock() - start
    return seconds / calls, result


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _set_threads(threads: int) -> dict[str, int]:
    """Hold the libraries in this process to a thread count, and return what each then says.

    The environment was set before the process began. Numba's pool has to be launched before PyTorch
    is told, or launching it later would undo that. Where Numba has threads the matrix library gets
    one: of two pools in a process each spins in the other's way.
    """
    import threadpoolctl

    said = {}
    if "numba" in sys.modules:
        threadpoolctl.threadpool_limits(1, user_api="blas")
        numba = sys.modules["numba"]
        numba.set_num_threads(threads)
        said["numba"] = int(numba.get_num_threads())
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(threads)
        said["torch"] = int(torch.get_num_threads())
    wrong = {library: count for library, count in said.items() if count != threads}
    if wrong:
        raise RuntimeError(f"asked for {threads} threads, and {wrong} were set")
    return said


def _bytes_of(result: Any) -> int:
    """Return the bytes of the arrays in what a kernel returned."""
    if isinstance(result, tuple | list):
        return sum(_bytes_of(part) for part in result)
    return 0 if result is None else int(result.nbytes)


def _growth_beyond_outputs(function: Callable[[], object]) -> int | None:
    """Return by how much resident memory grew during a call, at the most; Linux alone tells.

    What the call returned is not counted. Freed memory is given back first, so that it has to be
    taken anew and is seen; what is smaller than some pages may still hide.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        kept = function()
        after = _resident("VmHWM")
    except (OSError, AttributeError, ValueError):
        return None
    return max(0, after - before - _bytes_of(_outputs(kept)))


def _growth_beyond_outputs_on_cuda(function: Callable[[], object]) -> int | None:
    """Return the same of the memory that PyTorch holds on the GPU."""
    cuda = sys.modules["torch"].cuda
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    kept = function()
    return max(0, int(cuda.max_memory_allocated() - before) - _bytes_of(_outputs(kept)))


def _outputs(result: Any) -> Any:
    """Return what a kernel returned, without the cache that forward leaves."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple):
        return result[0]
    return result


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(key)


def _plan_warnings() -> list[str]:
    """Return a list that takes what plans warn of from now on: nobody reads standard error."""
    told: list[str] = []
    show = warnings.showwarning

    def showwarning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, plan.PlanWarning):
            told.append(str(message))
        else:
            show(message, category, *where, **more)

    warnings.showwarning = showwarning
    return told


def main(channel: Channel) -> None:
    """Answer commands until the other end of the channel is closed."""
    session, told = _Session(), _plan_warnings()
    with contextlib.suppress(EOFError):
        while True:
            request = channel.receive()
            command = getattr(session, request.pop("command"))
            answer: dict[str, Any]
            try:
                answer = {"result": command(**request)}
            except Unsupported as declined:
                answer = {"outcome": "unsupported", "reason": str(declined)}
            except WrongResult as wrong:
                answer = {"outcome": "wrong", "reason": str(wrong)}
            except Exception as error:
                answer = {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"}
            channel.send(answer | {"warnings": told})
            told.clear()
