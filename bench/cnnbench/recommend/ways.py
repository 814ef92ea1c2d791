"""The ways of training a PyTorch model: unchanged, in the other layout, or converted."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.recommend.networks import ModelError
from cnnbench.recommend.recommendation import AUTOCAST, CHANNELS_LAST, COMPILED, NATIVE
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import host
from cnnkernels import plan as plans
from cnnkernels.plan import Plan

PYTORCH = "torch eager"
"""The worker with PyTorch; it uses our kernels only in converted models."""

AGAIN = f"{NATIVE}, again"
"""The unchanged model in a second process, for the A/A floor."""

_SPARE = "spare.json"
"""Where a worker that starts before its plan is known looks for the plan."""

UNCHANGED: Mapping[str, Mapping[str, bool]] = {
    NATIVE: {},
    CHANNELS_LAST: {"channels_last": True},
    AUTOCAST: {"autocast": True},
    AGAIN: {},
    COMPILED: {"compiled": True},
}
"""The ways without conversion, each with the arguments of `torch_model.Training`."""


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
        Takes a step; returns the seconds of its 'layers', and of 'others', as `Training.watch`
        does.
    about : dict of str to float
        A profile, if one was taken: 'profiled_seconds' of a step, and 'rest_seconds' of it outside
        the layers that backends compute.
    """

    seconds: float
    take: Callable[[int], float]
    watch: Callable[[], Mapping[str, Any]] | None = None
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
        self._prepared: dict[str, Future[Worker]] = {}
        self._spare: Future[Worker] | None = None
        self._folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-")))

    def start(self, name: str, plan: Plan | None = None, *, compiled: bool = False) -> Taker:
        """Return the worker of a way; start it unless it runs with the same plan.

        Parameters
        ----------
        name : str
            One of `UNCHANGED`, or any other name with a plan.
        plan : Plan, optional
            The plan to convert the model with.
        compiled : bool
            Whether the converted model is compiled by `torch.compile`.

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
        if name in self._prepared:
            worker = self._prepared.pop(name).result()
        else:
            worker = self._begun(name, plan, compiled)
        taker = Taker(
            worker.ask("steps", steps=1),
            lambda steps: float(worker.ask("steps", steps=steps)),
            lambda: dict(worker.ask("watch")),
        )
        self._started[name] = plan, taker
        return taker

    def prepare(self, ways: Mapping[str, Plan | None]) -> None:
        """Take a first step in several ways at once; imports and compiling take most of its time.

        An error is raised when the way is started. A spare worker does the imports for a plan that
        is not known yet.
        """
        executor = ThreadPoolExecutor(max_workers=host.cores())
        try:
            self._prepared = {
                name: executor.submit(self._begun, name, plan) for name, plan in ways.items()
            }
            spare = executor.submit(self._importing)
            wait([*self._prepared.values(), spare])
            self._spare = spare
        except BaseException:
            self.close()
            raise
        finally:
            executor.shutdown(cancel_futures=True)

    def _begun(self, name: str, plan: Plan | None, compiled: bool = False) -> Worker:
        """Return a worker that has taken a first step."""
        if plan is None:
            worker = self._worker()
        elif self._spare is not None:
            plan.save(self._folder / _SPARE)
            worker, self._spare = self._spare.result(), None
        else:
            path = self._folder / f"{id(plan)}.json"
            plan.save(path)
            worker = self._worker(path)
        how = UNCHANGED.get(name, {"converted": True, "compiled": compiled})
        worker.ask("start_model", model=self._model, shape=self._shape, **how)
        return worker

    def _importing(self) -> Worker:
        """Return a worker that has imported PyTorch, for a plan that is saved later."""
        worker = self._worker(self._folder / _SPARE)
        worker.ask("import_pytorch")
        return worker

    def _worker(self, plan: Path | None = None) -> Worker:
        environment = {} if plan is None else {plans.VARIABLE: str(plan)}
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
