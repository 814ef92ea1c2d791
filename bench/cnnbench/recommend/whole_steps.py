"""Time whole training steps in several ways, in turns, to see whether a plan pays."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget, Progress
from cnnbench.digits.options import Options
from cnnbench.judging.comparing import compare
from cnnbench.recommend.networks import ModelError
from cnnbench.recommend.recommendation import CHANNELS_LAST, LAYOUTS, NATIVE, Recommendation
from cnnbench.results import Row
from cnnbench.timing import Contestant
from cnnbench.workers.pool import cache_of, failing
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import plan as plans
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

PYTORCH = "torch eager"
"""The worker with PyTorch; it uses our kernels only in converted models."""

SIDE_SECONDS = 0.1
"""Each timed side takes as many steps as fit into this."""

PROFILE_SECONDS = 0.5

MOST_SECONDS = 15.0
"""The longest time for one way of training, unless the minimum number of rounds takes longer."""


def measure(
    found: Recommendation,
    trained: Options | Sequence[int],
    candidates: Sequence[str],
    budget: Budget,
    progress: Progress,
    caches: Path,
    floor: float,
) -> None:
    """Time training steps side by side, each way of training in its own process.

    PyTorch's own layouts are always measured: a converted model is compared with them.

    Parameters
    ----------
    found : Recommendation
        Has the plan, and receives the rows.
    trained, budget, progress, caches
        As `choose.recommend` takes them.
    candidates : sequence of str
        Backends that may be chosen.
    floor : float
        The A/A floor.
    """
    contestants: list[tuple[Row, Contestant]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-")))

        def following(plan: Plan, name: str) -> dict[str, str]:
            plan.save(folder / f"{name}.json")
            return {plans.VARIABLE: str(folder / f"{name}.json"), **cache_of(name, caches)}

        able = sorted(
            (name for name in candidates if found.total(name) is not None),
            key=lambda name: found.total(name) or 0.0,
        )
        ways: dict[str, _Way] = {}
        if isinstance(trained, Options):
            for name in able:
                ways[name] = _own(stack, name, cache_of(name, caches), found, trained)
            if found.mixed or not able:
                ways[AUTO] = _own(stack, AUTO, following(found.plan, AUTO), found, trained)
        else:
            ways[NATIVE] = _converted(stack, {}, found, trained)
            ways[CHANNELS_LAST] = _converted(stack, {}, found, trained, channels_last=True)
            for name in [name for name in able if name != NATIVE][:1]:
                environment = following(found.uniform(name), name)
                ways[name] = _converted(stack, environment, found, trained, converted=True)
            if found.mixed or not set(ways) & set(able):
                environment = following(found.plan, AUTO)
                ways[AUTO] = _converted(stack, environment, found, trained, converted=True)
        progress.begin(len(ways) + budget.rounds)
        for name, start in ways.items():
            progress.step(f"a training step by {name}")
            row = Row(found.network.name, "", "step", "step", name, found.plan.threads, "ok")
            found.steps.append(row)
            with failing([row]):
                taker = start()
                row.details = dict(taker.about)
                contestants.append((row, _step_contestant(row, taker, budget)))
        random, taking_part = np.random.default_rng(), [one for _, one in contestants]
        try:
            for number in range(max((c.rounds for c in taking_part), default=0)):
                progress.step(f"training steps in turns, round {number + 1}")
                timing.run_rounds(taking_part, random, number, number + 1)
        finally:
            for row, contestant in contestants:
                if row.outcome == "ok" and contestant.samples:
                    row.samples, row.seconds = contestant.samples, contestant.seconds
            compare(found.steps, found.reference, floor)
            _compare_with_the_better_layout(found, floor)
            _predict(found)


@dataclass(frozen=True)
class _Taker:
    """One way of taking training steps, in a worker.

    Attributes
    ----------
    seconds : float
        Rough time of a step.
    take : callable
        Takes a number of steps, and returns the seconds of one.
    about : dict of str to float
        A profile, if one was taken: 'profiled_seconds' of a step, 'rest_seconds' of it outside the
        layers that backends compute, and 'left_seconds' of the rest in other convolutions and
        max-poolings.
    """

    seconds: float
    take: Callable[[int], float]
    about: Mapping[str, float] = field(default_factory=dict)


_Way = Callable[[], _Taker]
"""Starts a worker."""


def _step_contestant(row: Row, taker: _Taker, budget: Budget) -> Contestant:
    steps = max(1, math.ceil(SIDE_SECONDS / taker.seconds))

    def side() -> float:
        timing.rest()
        seconds = math.nan
        if row.outcome == "ok":
            with failing([row]):
                seconds = taker.take(steps)
        return seconds

    rounds = budget.rounds_for(steps * taker.seconds, MOST_SECONDS)
    return Contestant(row.backend, side, max(min(budget.rounds, timing.LEAST_ROUNDS), rounds))


def _own(
    stack: contextlib.ExitStack,
    name: str,
    environment: dict[str, str],
    found: Recommendation,
    options: Options,
) -> _Way:
    """Return a way to train one of the suite's networks with a backend."""
    asked = dataclasses.asdict(options)

    def start() -> _Taker:
        worker = stack.enter_context(Worker(name, found.plan.threads, environment))
        once = worker.ask("start_network", **asked)
        profile = worker.ask("profile", seconds=PROFILE_SECONDS, **asked)
        names = [layer_name for layer in found.network.layers for layer_name in layer.names]
        in_layers = sum(sum(profile["layers"][layer_name].values()) for layer_name in names)
        about = {
            "profiled_seconds": profile["step"],
            "rest_seconds": profile["step"] - in_layers,
            "left_seconds": 0.0,
        }
        return _Taker(once, lambda steps: float(worker.ask("steps", steps=steps)), about)

    return start


def _converted(
    stack: contextlib.ExitStack,
    environment: dict[str, str],
    found: Recommendation,
    shape: Sequence[int],
    **how: bool,
) -> _Way:
    """Return a way to train a PyTorch model: unchanged, in the other layout, or converted."""

    def start() -> _Taker:
        worker = stack.enter_context(model_worker(found.plan.threads, environment))
        once = worker.ask("start_model", model=found.network.name, shape=list(shape), **how)
        about = {}
        if not how:
            profile = worker.ask("profile_model", seconds=PROFILE_SECONDS)
            calls = sum(len(layer.names) for layer in found.network.layers)
            # The overhead of PyTorch's layers counts as part of the layers, not of the rest.
            in_layers = profile["layers"] + calls * found.overheads["native"]
            about = {
                "profiled_seconds": profile["step"],
                "rest_seconds": max(0.0, profile["step"] - in_layers),
                "left_seconds": profile["left"],
            }
        return _Taker(once, lambda steps: float(worker.ask("steps", steps=steps)), about)

    return start


def _compare_with_the_better_layout(found: Recommendation, floor: float) -> None:
    """Set the ratio of each step to the faster of PyTorch's two layouts."""
    own = [row for row in found.taken if row.backend in LAYOUTS]
    for row in found.taken if own else []:
        apart = timing.ratio(row.samples, own[0].samples)
        value, low, high = apart.known()
        row.details["better_layout"] = {
            "layout": own[0].backend,
            "ratio": value,
            "low": low,
            "high": high,
            "verdict": "SAME" if row is own[0] else timing.verdict(apart, floor),
        }


def _predict(found: Recommendation) -> None:
    """Set the predicted time of each step: the layers, each measured alone, plus the rest.

    The rest comes from a profile of the same way of training, or, for a PyTorch model, from a
    profile of the unchanged model.
    """
    profiled = {row.backend: row.details.get("rest_seconds") for row in found.steps}
    for row in found.steps:
        rest_of = NATIVE if found.kind == "model" else row.backend
        total, rest_seconds = found.total(row.backend), profiled.get(rest_of)
        row.details["layer_seconds"] = total
        if total is not None and rest_seconds is not None:
            row.details |= {"rest_of": rest_of, "predicted_seconds": total + rest_seconds}


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
