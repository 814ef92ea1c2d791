"""The commands of a worker, run in its own process: checking, timing and training."""

from __future__ import annotations

import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnbench.digits import trainers, weights
from cnnbench.digits.options import Options
from cnnbench.digits.profile import FullBatches, profile
from cnnbench.digits.training import Training
from cnnbench.words import counted
from cnnbench.workers import caches, clock, memory
from cnnbench.workers.child import Channel
from cnnbench.workers.pace import Pace
from cnnkernels import plan, registry
from cnnkernels.conformance import (
    Call,
    ChangingCall,
    Check,
    Spots,
    WrongResult,
    check,
    real_inputs,
    spots,
)
from cnnkernels.contract import FORWARD, Backend, Conv2D, Direction, MaxPool2D, Unsupported
from cnnkernels.descriptor import parse

_LARGE = 2**24
"""Bytes of a problem above which checking every side takes noticeable time."""

_CHECKED_LARGE = 4
"""For large problems, every n-th side is checked, starting with the first."""


class _Session:
    """The worker's state between commands; each public method is a command."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._cache: Any = None
        self._spots: dict[str, Spots] = {}
        self._timed: dict[tuple[Direction, bool], tuple[ChangingCall, int]] = {}
        self._slower = 0.0
        self._training: Any = None

    def load(self, backend: str, threads: int, slower: float = 0.0) -> dict[str, Any]:
        """Load a backend or program, and set the thread count of every library here.

        Timed calls take longer by the fraction `slower`.
        """
        self._slower = slower
        if backend == registry.AUTO:
            plan.current().load()  # before threads are set
        self._trainer = trainers.load(backend)
        if self._trainer.backend is not None:
            self._pace = Pace(self._trainer.backend)
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
        """Return the thread pools of this process, after it has computed something."""
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
        """Check a problem, unless one call would exceed the budget in seconds."""
        problem = parse(descriptor)
        reason = self._backend.unsupported(problem)
        if reason is None and budget is not None:
            reason = self._pace.too_slow(problem, budget)
        if reason is not None:
            return asdict(Check(self._backend.name, str(problem), "unsupported", reason))
        return asdict(check(self._backend, problem, Path(folder) if folder else None))

    def spot(self, descriptor: str, folder: str) -> None:
        """Keep spots of a problem's expected results in the folder, for checks of timed calls."""
        problem = parse(descriptor)
        spots(problem, Path(folder), self._backend.accuracy(problem))

    def owners(self, descriptors: list[str]) -> list[str | None]:
        """Return for each problem the backend whose kernel computes it; None if unsupported."""
        problems = [parse(descriptor) for descriptor in descriptors]
        return [
            self._backend.owner(problem) if self._backend.unsupported(problem) is None else None
            for problem in problems
        ]

    def pace(self, pooling: bool) -> float:
        """Return the rough seconds of one multiply-add, or of one comparison in max-pooling."""
        return self._pace.seconds_a_tap(MaxPool2D if pooling else Conv2D)

    def call_pace(self, descriptor: str) -> float:
        """Return the rough seconds of a problem's forward call."""
        problem = parse(descriptor)
        reason = self._backend.unsupported(problem)
        if reason is not None:
            raise Unsupported(reason)
        return self._pace.seconds_of_call(problem)

    def prepare(self, descriptor: str, folder: str | None) -> None:
        """Prepare a problem's arrays, and call forward once."""
        problem = parse(descriptor)
        reason = self._backend.unsupported(problem)
        if reason is not None:
            raise Unsupported(reason)
        accuracy = self._backend.accuracy(problem)
        self._call = Call(self._backend, problem, real_inputs(problem))
        self._spots = spots(problem, Path(folder) if folder else None, accuracy)
        self._timed.clear()
        _, self._cache = self._call.forward()

    def release(self) -> None:
        """Drop the arrays."""
        self._call = self._cache = None
        self._timed.clear()
        gc.collect()

    def probe(self, direction: Direction, nchw: bool) -> dict[str, Any]:
        """Return the rough seconds of one call, and its memory.

        Short calls are timed warm. `extra_bytes` is the peak memory beyond inputs and outputs, None
        where unknown.
        """
        run = self._runner(direction, nchw)
        growing = memory.growth
        if self._backend.arrays.device == "cuda":
            growing = memory.growth_on_cuda
        seconds = 0.0

        def timed() -> object:
            nonlocal seconds
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            return result

        growth = growing(timed)
        if growth is not None and direction != "forward":
            growth += memory.bytes_of(self._cache)
        if seconds <= clock.WARM_SECONDS:
            seconds = min(clock.seconds_of(run, 1) for _ in range(2))
        return {"seconds": seconds, "extra_bytes": growth}

    def side(
        self,
        direction: Direction,
        nchw: bool,
        calls: int,
        parts: int,
        warm: bool,
        cold: bool = False,
    ) -> dict[str, float]:
        """Return the seconds of a call, the median over parts of `calls` calls each, and a canary.

        Inputs change between calls, and the last result is checked: always for small problems, on
        some sides for large ones. If `cold`, the caches are emptied before each call. `clock.Watch`
        explains the canary and the time that was lost.

        Raises
        ------
        WrongResult
            If the result is wrong.
        """
        assert self._call is not None
        timed, number = self._timed.get((direction, nchw), (None, 0))
        if timed is None:
            timed = ChangingCall(self._call, direction, self._cache, self._spots, nchw)
        self._timed[direction, nchw] = timed, number + 1
        small = self._call.problem.bytes_moved(FORWARD) <= _LARGE
        checked = small or number % _CHECKED_LARGE == 0
        with timed.scaled() if checked else contextlib.nullcontext():
            function = clock.slowed(timed.function(), self._slower)
            if warm:
                function()
            seconds = []
            with clock.Watch() as watch:
                for _ in range(parts):
                    result = None  # freed first, as between the calls of a part
                    before = caches.empty if cold else None
                    of_part, result = clock.seconds_of_changing(timed, function, calls, before)
                    seconds.append(of_part)
            if checked:
                timed.require_right(result)
        return {
            "seconds": statistics.median(seconds),
            "canary": watch.canary,
            "lost": watch.lost,
        }

    def first_call(self, descriptor: str, direction: Direction) -> float:
        """Return the seconds of the first call of a direction, with arrays prepared."""
        if self._call is None or self._call.problem != parse(descriptor):
            self._call = Call(self._backend, parse(descriptor), real_inputs(parse(descriptor)))
            self._cache = None
        if direction != "forward" and self._cache is None:
            _, self._cache = self._call.forward()
        return clock.seconds_of(self._runner(direction, False), 1)

    def train(self, **options: Any) -> dict[str, Any]:
        """Train a network, and return the results, with weights as text."""
        return _as_json(self._trainer.name, self._trainer.train(Options(**options)), options)

    def profile(self, seconds: float, **options: Any) -> dict[str, Any]:
        """Return a profile of a training step."""
        return asdict(profile(self._backend, Options(**options), seconds))

    def train_in_pytorch(self, **options: Any) -> dict[str, Any]:
        """Train the PyTorch notebook's TinyCNN, and return the results."""
        from cnnbench.digits.torch_notebook import train

        return _as_json(self._trainer.name, train(Options(**options)), options)

    def capture(self, model: str, shape: list[int]) -> dict[str, Any]:
        """Return the problems of a PyTorch model's layers, and the layers without one."""
        from cnnbench.recommend.torch_model import Training as ModelTraining

        calls, left = ModelTraining(model, shape).capture()
        return {"calls": [asdict(call) for call in calls], "left": left}

    def import_pytorch(self) -> None:
        """Import PyTorch and the modules that train a model, which takes seconds."""
        from cnnbench.recommend import torch_model  # noqa: F401

    def start_model(self, model: str, shape: list[int], **how: bool) -> None:
        """Build a PyTorch model, and take a first training step, which may compile kernels."""
        from cnnbench.recommend.torch_model import Training as ModelTraining

        self._training = ModelTraining(model, shape, **how)
        self.steps(1)

    def start_network(self, **options: Any) -> float:
        """Build one of the suite's networks, take two steps, and return the second's seconds."""
        self._training = FullBatches(self._backend, Options(**options))
        self.steps(1)
        return self.steps(1)

    def steps(self, steps: int) -> float:
        """Return the seconds of a step of the started training, measured over several."""
        seconds: float = self._training.seconds(steps)
        return seconds

    def watch(self) -> dict[str, Any]:
        """Take a step of the PyTorch model; return the seconds of its layers, and of the rest."""
        of_layers, others = self._training.watch()
        return {"layers": of_layers, "others": others}

    @property
    def _backend(self) -> Backend:
        if self._trainer.backend is None:
            raise Unsupported(f"{self._trainer.name} is a whole program, not made of kernels")
        return self._trainer.backend

    def _runner(self, direction: Direction, nchw: bool) -> Callable[[], object]:
        call, cache = self._call, self._cache
        assert call is not None
        of_call = call.timed_from_nchw if nchw else call.timed
        return clock.slowed(of_call(direction, cache), self._slower)


def _as_json(name: str, done: Training, options: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a training as JSON values."""
    trained = weights.Trained(name, Options(**options), done.state)
    result = {key: value for key, value in vars(done).items() if key != "state"}
    result["epochs"] = [asdict(epoch) for epoch in done.epochs]
    return result | {"weights": weights.as_text(trained) if done.state else None}


def _set_threads(threads: int) -> dict[str, int]:
    """Set the thread count of the libraries in this process, and return each library's count.

    The environment variables were set before the process began. Numba's pool must start before
    PyTorch's count is set: starting it later undoes that. With Numba, the matrix library gets one
    thread: two pools in a process disturb each other.
    """
    import threadpoolctl

    counts = {}
    if "numba" in sys.modules:
        threadpoolctl.threadpool_limits(1, user_api="blas")
        numba = sys.modules["numba"]
        numba.set_num_threads(threads)
        counts["numba"] = int(numba.get_num_threads())
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(threads)
        counts["torch"] = int(torch.get_num_threads())
    wrong = {library: count for library, count in counts.items() if count != threads}
    if wrong:
        raise RuntimeError(f"expected {counted(threads, 'thread')}, got {wrong}")
    return counts


def main(channel: Channel) -> None:
    """Answer commands until the channel is closed."""
    session = _Session()
    heard: list[str] = []
    with contextlib.suppress(EOFError), plan.hearing(heard.append):
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
            channel.send(answer | {"warnings": heard})
            heard.clear()
