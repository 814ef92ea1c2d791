"""The ways of training a PyTorch model: unchanged, in the other layout, or converted."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.recommend.networks import ModelError
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels import plan as plans
from cnnkernels.plan import Plan

PYTORCH = "torch eager"
"""The worker with PyTorch; it uses our kernels only in converted models."""


@dataclass(frozen=True)
class Taker:
    """A worker that takes training steps in one way.

    Attributes
    ----------
    seconds : float
        Rough time of a step.
    take : callable
        Takes a number of steps, and returns the seconds of one.
    watch : callable
        Takes a step; returns the seconds of its 'layers', and of those 'left', as
        `Training.watch` does. With an argument of True, it takes another step before, without inner
        clocks, and returns its seconds as 'step'.
    about : dict of str to float
        A profile, if one was taken: 'profiled_seconds' of a step, 'rest_seconds' of it outside the
        layers that backends compute, and 'left_seconds' of the rest in other convolutions and
        max-poolings.
    """

    seconds: float
    take: Callable[[int], float]
    watch: Callable[[bool], Mapping[str, Any]] | None = None
    about: Mapping[str, float] = field(default_factory=dict)


class Ways(contextlib.ExitStack):
    """Workers that train one model in different ways, each in its own process.

    Parameters
    ----------
    model : str
        As for `torch_model.load`.
    shape : sequence of int
        Shape of a batch of images.
    threads : int
    """

    def __init__(self, model: str, shape: Sequence[int], threads: int) -> None:
        super().__init__()
        self.threads = threads
        self._model, self._shape = model, list(shape)
        self._started: dict[str, tuple[Plan | None, Taker]] = {}
        self._prepared: dict[str, Worker] = {}
        self._folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-")))

    def start(self, name: str, plan: Plan | None = None, **how: bool) -> Taker:
        """Return the worker of a way; start it unless it runs with the same plan.

        Parameters
        ----------
        name : str
        plan : Plan, optional
            The plan to convert the model with.
        **how : bool
            As for `torch_model.Training`.

        Raises
        ------
        ModelError
            If PyTorch is not installed.
        WorkerError
            If the model cannot be trained in this way.
        """
        earlier, taker = self._started.get(name, (None, None))
        if taker is not None and _same(earlier, plan):
            return taker
        worker = self._prepared.pop(name, None) or self._worker(plan)
        seconds = worker.ask(
            "start_model",
            model=self._model,
            shape=self._shape,
            converted=plan is not None,
            **how,
        )
        taker = Taker(
            seconds,
            lambda steps: float(worker.ask("steps", steps=steps)),
            lambda whole: dict(worker.ask("watch", whole=whole)),
        )
        self._started[name] = plan, taker
        return taker

    def prepare(self, ways: Mapping[str, Plan | None]) -> None:
        """Start the processes of several ways at once; they spend this time on imports."""
        with ThreadPoolExecutor(max_workers=host.cores()) as executor:
            workers = executor.map(self._worker, ways.values())
            self._prepared = dict(zip(ways, workers, strict=True))

    def _worker(self, plan: Plan | None) -> Worker:
        environment: dict[str, str] = {}
        if plan is not None:
            path = self._folder / f"{id(plan)}.json"
            plan.save(path)
            environment[plans.VARIABLE] = str(path)
        return self.enter_context(model_worker(self.threads, environment))


def _same(one: Plan | None, other: Plan | None) -> bool:
    """Whether two plans choose the same backends."""
    if one is None or other is None:
        return one is other
    chosen = ({p: c.backend for p, c in plan.choices.items()} for plan in (one, other))
    first, second = chosen
    return first == second


@contextlib.contextmanager
def model_worker(threads: int, environment: dict[str, str] | None = None) -> Iterator[Worker]:
    """Yield a worker with PyTorch.

    Raises
    ------
    ModelError
        If PyTorch is not installed.
    """
    try:
        worker = Worker(PYTORCH, threads, environment)
    except WorkerError as error:
        raise ModelError(f"a PyTorch model needs PyTorch: {error}") from None
    with worker:
        yield worker
