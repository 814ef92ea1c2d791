"""Time whole training steps in several ways, in turns, to see whether a plan pays."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget, Progress
from cnnbench.digits.options import Options
from cnnbench.judging.comparing import compare
from cnnbench.recommend import parts
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    CHANNELS_LAST,
    COMPILED,
    COMPILED_PLAN,
    LAYOUTS,
    NATIVE,
    Recommendation,
)
from cnnbench.recommend.ways import AGAIN, Taker, Ways
from cnnbench.results import Row
from cnnbench.timing import Contestant, Samples
from cnnbench.workers.pool import cache_of, failing
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import plan as plans
from cnnkernels.registry import AUTO

SIDE_SECONDS = 0.1
"""Each timed side takes as many steps as fit into this."""

PROFILE_SECONDS = 0.5

FLOOR_ROUNDS = 4
"""Rounds of the second process of unchanged PyTorch."""

WATCHED = 2
"""Steps of the mix whose operators are timed, to show where its time goes."""

MOST_SECONDS = 15.0
"""The longest time for one way of training, unless the minimum number of rounds takes longer."""


def measure(
    found: Recommendation,
    trained: Options | Ways,
    candidates: Sequence[str],
    budget: Budget,
    progress: Progress,
    caches: Path,
    floor: float,
    *,
    compiled: bool = False,
) -> float:
    """Time training steps side by side, each way of training in its own process.

    PyTorch's own layouts are always measured: a converted model is compared with them. A second
    process of unchanged PyTorch gives the A/A floor of these steps.

    Parameters
    ----------
    found : Recommendation
        Has the plan, and receives the rows.
    trained : Options or Ways
        Options for one of the suite's own networks, or the ways to train a PyTorch model.
    budget, progress, caches
        As `choose.recommend` takes them.
    candidates : sequence of str
        Backends that may be chosen.
    floor : float
        The A/A floor, for one of the suite's own networks.
    compiled : bool
        Whether to time a PyTorch model under `torch.compile` as well, which takes minutes.

    Returns
    -------
    float
        The A/A floor.
    """
    contestants: list[tuple[Row, Contestant]] = []
    takers: dict[str, Taker] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-")))
        able = sorted(
            (name for name in candidates if found.total(name) is not None),
            key=lambda name: found.total(name) or 0.0,
        )
        starts: dict[str, Callable[[], Taker]] = {}
        if isinstance(trained, Options):
            for name in able:
                starts[name] = _own(stack, name, cache_of(name, caches), found, trained)
            if found.mixed or not able:
                found.plan.save(folder / "plan.json")
                environment = {plans.VARIABLE: str(folder / "plan.json"), **cache_of(AUTO, caches)}
                starts[AUTO] = _own(stack, AUTO, environment, found, trained)
        else:
            starts = _of_model(found, trained, able, compiled=compiled)
        progress.begin(len(starts) + budget.rounds)
        for name, start in starts.items():
            progress.step(f"a training step by {name}")
            row = Row(found.network.name, "", "step", "step", name, found.plan.threads, "ok")
            if name != AGAIN:
                found.steps.append(row)
            with failing([row]):
                takers[name] = start()
                row.details = dict(takers[name].about)
                contestants.append((row, _step_contestant(row, takers[name], budget)))
                if name == AGAIN:
                    contestants[-1][1].rounds = FLOOR_ROUNDS
        random, taking_part = np.random.default_rng(), [one for _, one in contestants]
        try:
            for number in range(max((c.rounds for c in taking_part), default=0)):
                progress.step(f"training steps in turns, round {number + 1}")
                timing.run_rounds(taking_part, random, number, number + 1)
        finally:
            for row, contestant in contestants:
                if row.outcome == "ok" and contestant.samples:
                    row.samples, row.seconds = contestant.samples, contestant.seconds
            if AGAIN in starts:
                floor = _floor({row.backend: row.samples for row, _ in contestants})
            compare(found.steps, found.reference, floor)
            _compare_with_the_better_layout(found, floor)
            _predict(found)
        if AUTO in takers and (watch := takers[AUTO].watch) is not None:
            with contextlib.suppress(WorkerError):
                steps = [watch() for _ in range(WATCHED)]
                found.parts[AUTO] = parts.of_steps(found.network, steps)
    return floor


def _floor(samples: Mapping[str, Sequence[float]]) -> float:
    """Return the A/A floor of two processes that train unchanged PyTorch; nan without them."""
    pair = (Samples(samples.get(name, ())) for name in (AGAIN, NATIVE))
    return timing.floor_of([timing.ratio(*pair)])


def _step_contestant(row: Row, taker: Taker, budget: Budget) -> Contestant:
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
) -> Callable[[], Taker]:
    """Return a way to train one of the suite's networks with a backend."""
    asked = dataclasses.asdict(options)

    def start() -> Taker:
        worker = stack.enter_context(Worker(name, found.plan.threads, environment))
        once = worker.ask("start_network", **asked)
        profile = worker.ask("profile", seconds=PROFILE_SECONDS, **asked)
        names = [layer_name for layer in found.network.layers for layer_name in layer.names]
        in_layers = sum(sum(profile["layers"][layer_name].values()) for layer_name in names)
        about = {
            "profiled_seconds": profile["step"],
            "rest_seconds": profile["step"] - in_layers,
        }
        return Taker(once, lambda steps: float(worker.ask("steps", steps=steps)), about=about)

    return start


def _of_model(
    found: Recommendation, ways: Ways, able: Sequence[str], *, compiled: bool
) -> dict[str, Callable[[], Taker]]:
    """Return the ways to train a PyTorch model: PyTorch's own, and converted."""
    starts: dict[str, Callable[[], Taker]] = {
        name: functools.partial(ways.start, name)
        for name in (NATIVE, AGAIN, CHANNELS_LAST, AUTOCAST, *([COMPILED] if compiled else ()))
    }
    best = next((name for name in able if name != NATIVE), None)
    if best is not None:
        starts[best] = lambda: ways.start(best, found.uniform(best))
    if found.mixed or not {NATIVE, best} & set(able):
        starts[AUTO] = lambda: ways.start(AUTO, found.plan)
    if compiled:
        chosen = AUTO if AUTO in starts else best
        if chosen is not None:
            plan = found.plan if chosen == AUTO else found.uniform(chosen)
            starts[COMPILED_PLAN] = lambda: ways.start(COMPILED_PLAN, plan, compiled=True)
    return starts


def _compare_with_the_better_layout(found: Recommendation, floor: float) -> None:
    """Set the ratio of each step to the faster of PyTorch's two layouts."""
    own = [row for row in found.taken if row.backend in LAYOUTS]
    for row in found.taken if own else []:
        apart = timing.ratio(row.measured, own[0].measured)
        value, low, high = apart.known()
        row.details["better_layout"] = {
            "layout": own[0].backend,
            "ratio": value,
            "low": low,
            "high": high,
            "verdict": "SAME" if row is own[0] else timing.verdict(apart, floor),
        }


def _predict(found: Recommendation) -> None:
    """Set the predicted time of each step: its layers, and the rest of a step.

    A network of the suite's own has a rest for each way, from a profile. For a PyTorch model,
    layers and rests were measured before, together. The machine's speed may have changed since, so
    they predict how each step compares with that of unchanged PyTorch, whose time is measured.
    """
    rows = {row.backend: row for row in found.steps}
    native, usual = rows.get(NATIVE), _modelled(found, NATIVE)
    for row in found.steps:
        if found.kind != "model":
            in_layers, rest = found.total(row.backend), row.details.get("rest_seconds")
            if in_layers is not None and rest is not None:
                row.details["predicted_seconds"] = in_layers + rest
            continue
        seconds = _modelled(found, row.backend)
        if seconds and usual and native is not None and native.seconds is not None:
            row.details["predicted_seconds"] = native.seconds * seconds / usual


def _modelled(found: Recommendation, way: str) -> float | None:
    """Return the seconds of a step's layers and rest, as measured before; None if unknown."""
    in_layers, rest = found.total(way), _rest(found, way)
    return None if in_layers is None or rest is None else in_layers + rest


def _rest(found: Recommendation, way: str) -> float | None:
    """Return the rest of a step; that of the mix is the rest of another converted model."""
    if way in found.parts:
        return parts.rest(found.parts[way])
    converted = [parts.rest(of_way) for name, of_way in found.parts.items() if name not in LAYOUTS]
    return statistics.median(converted) if way == AUTO and converted else None
