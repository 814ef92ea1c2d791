"""Choosing a backend for each layer of a network, and finding out whether that pays in a step."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench import speed, timing
from cnnbench.digits.options import Options
from cnnbench.effort import Effort, Progress
from cnnbench.models import Call, Layer, ModelError, Network, of_calls
from cnnbench.report import numbers
from cnnbench.results import Row, Run
from cnnbench.team import Team, cache_of
from cnnbench.timing import Contestant
from cnnbench.worker import Worker, WorkerError, WorkerUnsupportedError, rest
from cnnkernels import plan as plans
from cnnkernels.contract import FORWARD, Problem
from cnnkernels.plan import Choice, Plan
from cnnkernels.registry import AUTO

NATIVE = "torch-cpu"
"""The backend whose kernels PyTorch's own layers call."""

PYTORCH = "torch eager"
"""The worker that has PyTorch, and no kernels of ours until a model is converted."""

CHANNELS_LAST = "torch-cpu, channels_last"
"""A whole PyTorch model in the other layout."""

STEP_SIDE_SECONDS = 0.1
SLOWEST = 4e9
"""Floating-point operations a second: a backend that does fewer on the largest layer is refused."""

PROFILE_SECONDS = 0.5
STEPS_SECONDS = 15.0
"""How long one way of taking steps is timed, at the most, but for the least number of rounds."""


@dataclass(frozen=True)
class Wishes:
    """What a person asks of a plan beside speed.

    Attributes
    ----------
    max_error : float or None
        The largest error allowed, in units of what rounding can make.
    deterministic : bool
        Whether backends have to promise the same bits on every run.
    pins : dict of str to str
        Backends of layers, by name or pattern, whatever is measured.
    """

    max_error: float | None = None
    deterministic: bool = False
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Candidate:
    """A backend for a layer: a forward and the backward that training needs, in seconds."""

    backend: str
    seconds: float
    samples: list[float]


@dataclass
class Decision:
    """Who computes a layer, and the others that could."""

    layer: Layer
    choice: Choice | None
    candidates: dict[str, Candidate]
    refused: dict[str, str]


@dataclass
class Recommendation:
    """What was found.

    Attributes
    ----------
    network : Network
    plan : Plan
        To be followed as it is: where the whole step is no faster, it stays with the baseline.
    decisions : list of Decision
        Layer by layer, as measured alone.
    steps : list of Row
        Training steps, measured side by side; empty where there is no model to train.
    baseline : str
    overheads : dict of str to float
        Seconds a layer and step beside the kernels, 'converted' and 'native'; empty for what is no
        PyTorch model.
    follow : bool
        Whether the plan is worth following.
    answer : str
    """

    network: Network
    plan: Plan
    decisions: list[Decision]
    steps: list[Row]
    baseline: str
    overheads: dict[str, float]
    follow: bool = True
    answer: str = ""

    def total(self, backend: str | None) -> float | None:
        """Return a step's seconds in the layers on a backend; None: each on its own choice."""
        seconds = 0.0
        for decision in self.decisions:
            of_layer = backend or (decision.choice.backend if decision.choice else "")
            candidate = decision.candidates.get(of_layer)
            if candidate is None:
                return None
            seconds += len(decision.layer.names) * candidate.seconds
        return seconds


def budget(network: Network) -> float:
    """Return the seconds that one call may take: nobody trains with what takes longer.

    Half a second, or what the largest layer takes at `SLOWEST` operations a second.
    """
    work = max((layer.problem.flops(FORWARD) for layer in network.layers), default=0)
    return max(0.5, work / SLOWEST)


def capture(model: str, shape: Sequence[int], threads: int) -> Network:
    """Return what a step of a PyTorch model's training asks of kernels.

    Raises
    ------
    ModelError
        If PyTorch is not installed, or the model cannot be made or run.
    """
    with _model_worker(threads) as worker:
        found = _asked(worker, "capture", model=model, shape=list(shape))
    calls = [Call(**call) for call in found["calls"]]
    if not calls:
        raise ModelError(f"{model}: no Conv2d or MaxPool2d of it can be computed by a backend")
    return of_calls(model, calls, found["left"])


def recommend(
    run: Run,
    network: Network,
    trained: Options | Sequence[int] | None,
    backends: Sequence[str],
    threads: int,
    baseline: str,
    wishes: Wishes,
    effort: Effort,
    progress: Progress,
    caches: Path,
) -> Recommendation:
    """Measure every capable backend on each layer, choose, and measure whole steps.

    Parameters
    ----------
    run : Run
        Takes the rows.
    network : Network
    trained : Options, sequence of int or None
        How one of the suite's own networks is trained; the shape of a PyTorch model's images; None
        if the network is layers alone, so that no step can be measured.
    backends, threads, baseline, effort, progress, caches
        As `speed.time` takes them.
    wishes : Wishes

    Raises
    ------
    ModelError
        If no backend is left for any layer, or a pin fits none.
    """
    if wishes.deterministic:
        backends = _promising(backends, threads)
    is_model = trained is not None and not isinstance(trained, Options)
    directions = {layer.problem: layer.directions for layer in network.layers}
    speed.time(
        run, [network.cases], backends, [threads], baseline, effort, progress, caches, directions
    )
    floor = run.environment["aa_floor"][str(threads)]
    base = run.environment["baseline"][str(threads)]
    overheads: dict[str, float] = {}
    if is_model:
        with _model_worker(threads) as worker:
            overheads = _asked(worker, "overheads")
        run.environment["overheads"] = overheads
    decisions = [
        _decide(layer, run.rows, base, floor, wishes, overheads) for layer in network.layers
    ]
    _pin(decisions, wishes.pins)
    choices = {d.layer.problem: d.choice for d in decisions if d.choice is not None}
    if not choices:
        why = next((w for d in decisions for w in d.refused.values()), "no backend was given")
        raise ModelError(f"no backend is left for {network.name}: {why}")
    made = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(run.environment["command"]),
        "commit": str(run.environment["commit"]),
    }
    fallback = NATIVE if is_model else _fallback(decisions)
    found = Recommendation(
        network, Plan(choices, fallback, threads, made=made), decisions, [], base, overheads
    )
    if trained is not None:
        try:
            _measure_steps(found, trained, backends, effort, progress, caches, floor)
        finally:
            run.add(found.steps)
    _conclude(found, floor)
    return found


def _promising(backends: Sequence[str], threads: int) -> list[str]:
    """Return the backends that promise the same bits on every run."""
    with Team(backends, threads) as team:
        kept = [name for name in team.present if team.about(name)["deterministic"]]
    if not kept:
        raise ModelError(
            f"--deterministic: none of {', '.join(backends)} promises the same bits on every run"
        )
    return kept


# --------------------------------------------------------------------------------------------
# layer by layer


def _decide(
    layer: Layer,
    rows: Sequence[Row],
    baseline: str,
    floor: float,
    wishes: Wishes,
    overheads: Mapping[str, float],
) -> Decision:
    """Choose the fastest; the baseline where the rounds do not agree that another is faster.

    Faster by less than two equal processes differ here is likely, not certain: whole steps decide.
    """
    of_layer: dict[str, list[Row]] = {}
    for row in rows:
        if row.problem == str(layer.case):
            of_layer.setdefault(row.backend, []).append(row)
    decision = Decision(layer, None, {}, {})
    for backend, theirs in of_layer.items():
        reason = _refusal(theirs, wishes)
        if reason is not None:
            decision.refused[backend] = reason
            continue
        overhead = overheads.get("native" if backend == NATIVE else "converted", 0.0)
        sides = [row.details.get("nchw_samples") or row.samples for row in theirs]
        medians = [row.nchw_seconds or row.seconds or math.nan for row in theirs]
        decision.candidates[backend] = Candidate(
            backend,
            overhead + sum(medians),
            [overhead + sum(parts) for parts in zip(*sides, strict=False)],
        )
    if not decision.candidates:
        return decision
    best = min(decision.candidates.values(), key=lambda candidate: candidate.seconds)
    base = decision.candidates.get(baseline)
    if base is None:
        decision.choice = _choice(decision, best.backend, "the fastest", baseline)
    elif best is base:
        decision.choice = _choice(decision, baseline, "the fastest", baseline)
    else:
        found = timing.ratio(best.samples, base.samples)
        if timing.verdict(found, floor) == "FASTER":
            decision.choice = _choice(decision, best.backend, "faster", baseline)
        elif found.low > 1.0:
            decision.choice = _choice(decision, best.backend, "likely faster", baseline)
        else:
            decision.choice = _choice(decision, baseline, "a tie", baseline)
    return decision


def _refusal(rows: Sequence[Row], wishes: Wishes) -> str | None:
    for row in rows:
        if row.outcome != "ok":
            return f"{row.outcome}: {row.reason}"
        if row.seconds is None:
            return "not timed"
        if wishes.max_error is not None and not (row.error_over_bound or 0.0) <= wishes.max_error:
            return (
                f"its error is {numbers.of_bound(row.error_over_bound)} of the bound, "
                f"above {wishes.max_error:g}"
            )
    return None


def _choice(decision: Decision, backend: str, why: str, baseline: str) -> Choice:
    chosen, base = decision.candidates[backend], decision.candidates.get(baseline)
    ratio = low = high = None
    if base is not None:
        found = timing.ratio(chosen.samples, base.samples)
        ratio, low, high = (
            None if math.isnan(x) else x for x in (found.value, found.low, found.high)
        )
    return Choice(
        backend,
        why,
        {name: candidate.seconds for name, candidate in decision.candidates.items()},
        {name: candidate.samples for name, candidate in decision.candidates.items()},
        baseline,
        ratio,
        low,
        high,
    )


def _pin(decisions: Sequence[Decision], pins: Mapping[str, str]) -> None:
    for pattern, backend in pins.items():
        meant = [
            decision
            for decision in decisions
            if any(fnmatch.fnmatchcase(name, pattern) for name in decision.layer.names)
        ]
        if not meant:
            names = [name for decision in decisions for name in decision.layer.names]
            raise ModelError(f"--pin {pattern}={backend}: no such layer; there are {_list(names)}")
        for decision in meant:
            if backend not in decision.candidates:
                why = decision.refused.get(backend, "it was not measured")
                raise ModelError(f"--pin {pattern}={backend}: {decision.layer.names[0]}: {why}")
            assert decision.choice is not None
            decision.choice = _choice(decision, backend, "pinned", decision.choice.baseline)


def _list(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _fallback(decisions: Sequence[Decision]) -> str:
    """Return the fastest of those backends that compute the most layers."""
    totals: dict[str, tuple[int, float]] = {}
    for decision in decisions:
        for name, candidate in decision.candidates.items():
            done, seconds = totals.get(name, (0, 0.0))
            totals[name] = done - 1, seconds + len(decision.layer.names) * candidate.seconds
    return min(totals, key=totals.__getitem__)


# --------------------------------------------------------------------------------------------
# whole steps


def _measure_steps(
    found: Recommendation,
    trained: Options | Sequence[int],
    backends: Sequence[str],
    effort: Effort,
    progress: Progress,
    caches: Path,
    floor: float,
) -> None:
    """Time training steps side by side, each way of taking them in a process of its own."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-")))

        def following(plan: Plan, name: str) -> dict[str, str]:
            plan.save(folder / f"{name}.json")
            return {plans.VARIABLE: str(folder / f"{name}.json"), **cache_of(AUTO, caches)}

        able = [name for name in backends if found.total(name) is not None]
        ways: dict[str, _Way] = {}
        if isinstance(trained, Options):
            for name in able:
                ways[name] = _own(stack, name, cache_of(name, caches), found, trained)
            ways[AUTO] = _own(stack, AUTO, following(found.plan, AUTO), found, trained)
        else:
            ways[NATIVE] = _converted(stack, {}, found, trained)
            ways[CHANNELS_LAST] = _converted(stack, {}, found, trained, channels_last=True)
            ours = sorted((name for name in able if name != NATIVE), key=_totals(found))
            for name in ours[:1]:
                environment = following(_uniform(found, name), name)
                ways[name] = _converted(stack, environment, found, trained, converted=True)
            if len({choice.backend for choice in found.plan.choices.values()}) > 1:
                environment = following(found.plan, AUTO)
                ways[AUTO] = _converted(stack, environment, found, trained, converted=True)
        contestants = []
        progress.begin(len(ways) + effort.rounds)
        for name, start in ways.items():
            progress.step(f"a training step by {name}")
            row = Row(found.network.name, "", "step", "step", name, found.plan.threads, "ok")
            found.steps.append(row)
            try:
                taker = start()
            except WorkerError as error:
                declined = isinstance(error, WorkerUnsupportedError)
                row.withdraw("unsupported" if declined else "failed", str(error))
                continue
            row.details["rest_seconds"] = taker.rest_seconds
            contestants.append(_step_contestant(name, taker, effort))
        random = np.random.default_rng()
        for number in range(max((c.rounds for c in contestants), default=0)):
            progress.step(f"training steps in turns, round {number + 1}")
            timing.run_rounds(contestants, random, number, number + 1)
    for contestant in contestants:
        row = next(row for row in found.steps if row.backend == contestant.name)
        row.samples, row.seconds = contestant.samples, contestant.seconds
    speed.compare(found.steps, found.baseline, floor)
    _predict(found)


@dataclass(frozen=True)
class _Taker:
    """What takes training steps, in a worker.

    Attributes
    ----------
    seconds : float
        Of a step, roughly.
    take : callable
        Takes some steps, and returns the seconds of one.
    rest_seconds : float or None
        Of a step outside convolutions and poolings, where that is known of this taker.
    """

    seconds: float
    take: Callable[[int], float]
    rest_seconds: float | None = None


_Way = Callable[[], _Taker]
"""Starts a worker."""


def _step_contestant(name: str, taker: _Taker, effort: Effort) -> Contestant:
    steps = max(1, math.ceil(STEP_SIDE_SECONDS / taker.seconds))

    def side() -> float:
        rest()
        return taker.take(steps)

    rounds = effort.rounds_for(steps * taker.seconds, STEPS_SECONDS)
    return Contestant(name, side, max(min(effort.rounds, timing.LEAST_ROUNDS), rounds))


def _own(
    stack: contextlib.ExitStack,
    name: str,
    environment: dict[str, str],
    found: Recommendation,
    options: Options,
) -> _Way:
    """Return one of the suite's networks, trained by a backend."""
    asked = dataclasses.asdict(options)

    def start() -> _Taker:
        worker = stack.enter_context(Worker(name, found.plan.threads, environment))

        def take(steps: int) -> float:
            done = worker.ask("train", **asked | {"most_steps": steps})
            return float(done["step_seconds"]) / int(done["steps"])

        take(1)
        profile = worker.ask("profile", seconds=PROFILE_SECONDS, **asked)
        names = [layer_name for layer in found.network.layers for layer_name in layer.names]
        in_layers = sum(sum(profile["layers"][layer_name].values()) for layer_name in names)
        return _Taker(take(1), take, profile["step"] - in_layers)

    return start


def _converted(
    stack: contextlib.ExitStack,
    environment: dict[str, str],
    found: Recommendation,
    shape: Sequence[int],
    **how: bool,
) -> _Way:
    """Return a PyTorch model in training: as it is, in the other layout, or converted."""

    def start() -> _Taker:
        worker = stack.enter_context(_model_worker(found.plan.threads, environment))
        once = worker.ask("start_model", model=found.network.name, shape=list(shape), **how)
        return _Taker(once, lambda steps: float(worker.ask("model_steps", steps=steps)))

    return start


def _totals(found: Recommendation) -> Callable[[str], float]:
    return lambda name: found.total(name) or math.inf


def _uniform(found: Recommendation, backend: str) -> Plan:
    """Return the plan with one backend for every layer that it can compute, pins aside."""
    changed = {
        decision.layer.problem: _choice(decision, backend, "for the whole step", found.baseline)
        for decision in found.decisions
        if backend in decision.candidates and decision.choice and decision.choice.why != "pinned"
    }
    choices: dict[Problem, Choice] = {**found.plan.choices, **changed}
    return dataclasses.replace(found.plan, choices=choices)


def _predict(found: Recommendation) -> None:
    """Set what each step was expected to take: its layers, measured alone, and the rest.

    The rest is what a profile found; of a PyTorch model, what the baseline's step has beside its
    layers.
    """
    base = next((r for r in found.steps if r.backend == found.baseline and r.seconds), None)
    of_base = found.total(found.baseline)
    for row in found.steps:
        total = found.total(None if row.backend == AUTO else row.backend)
        rest_seconds = row.details.get("rest_seconds")
        if rest_seconds is None and base is not None and base.seconds and of_base is not None:
            rest_seconds = base.seconds - of_base
        row.details |= {"rest_seconds": rest_seconds, "layer_seconds": total}
        if total is not None and rest_seconds is not None:
            row.details["predicted_seconds"] = rest_seconds + total


def _conclude(found: Recommendation, floor: float) -> None:
    """Say what to train with: the plan if its step is faster than any other, else the fastest."""
    name, base = found.network.name, found.baseline
    if not found.steps:
        layers, theirs = found.total(None), found.total(base)
        found.follow = {choice.backend for choice in found.plan.choices.values()} != {base}
        gain = ""
        if layers is not None and theirs is not None:
            gain = f": {numbers.seconds(layers)} a step, {numbers.seconds(theirs)} with {base}"
        found.answer = (
            f"For {name} take {_words(found.plan)}{gain}; these are layers alone, so that no whole "
            "step was measured."
            if found.follow
            else f"For {name} stay with {base}: no other backend is faster on any layer."
        )
        return
    taken = sorted(
        (row for row in found.steps if row.outcome == "ok" and row.samples),
        key=lambda row: row.seconds or math.inf,
    )
    others = [row for row in taken if row.backend != AUTO]
    planned = next((row for row in taken if row.backend == AUTO), None)
    if not taken:
        found.follow = False
        found.answer = f"No step of {name} could be measured: {found.steps[0].reason}"
        return
    best = others[0] if others else taken[0]
    if planned is not None and (
        not others or timing.verdict(timing.ratio(planned.samples, best.samples), floor) == "FASTER"
    ):
        best = planned
    else:
        found.plan = _uniform(found, NATIVE if best.backend == CHANNELS_LAST else best.backend)
    # Of a PyTorch model the rival is the better of its two layouts; else the baseline.
    rivals = [row for row in others if row.backend in (base, NATIVE, CHANNELS_LAST)]
    seconds = numbers.seconds(best.seconds)
    if best in rivals and (found.overheads or best.backend == base):
        found.follow = False
        found.answer = f"Stay with {best.backend} for {name}: {seconds} a step"
        following = next((row for row in taken if row not in rivals), None)
        if following is not None:
            found.answer += f", {_apart(best, following)} as fast as {_way(following)}, the next"
        found.answer += "."
        return
    found.answer = f"Train {name} with {_words(found.plan)}: {seconds} a step"
    if rivals and best is not rivals[0]:
        found.answer += f", {_apart(best, rivals[0])} as fast as {rivals[0].backend}"
    if planned is not None and best is not planned:
        found.answer += f"; the mix of what is fastest on each layer alone takes {numbers.seconds(planned.seconds)}"
    found.answer += "."


def _apart(one: Row, other: Row) -> str:
    found = timing.ratio(one.samples, other.samples)
    low, high = (None if math.isnan(value) else value for value in (found.low, found.high))
    return numbers.interval(found.value, low, high)


def _way(row: Row) -> str:
    return "the mix" if row.backend == AUTO else row.backend


def _words(plan: Plan) -> str:
    counts: dict[str, int] = {}
    for choice in plan.choices.values():
        counts[choice.backend] = counts.get(choice.backend, 0) + 1
    if len(counts) == 1:
        return f"{next(iter(counts))} for every layer"
    parts = sorted(counts, key=lambda name: -counts[name])
    return "a mix: " + ", ".join(f"{name} for {counts[name]}" for name in parts) + " problems"


# --------------------------------------------------------------------------------------------
# PyTorch models in workers


@contextlib.contextmanager
def _model_worker(threads: int, environment: dict[str, str] | None = None) -> Iterator[Worker]:
    try:
        worker = Worker(PYTORCH, threads, environment)
    except WorkerError as error:
        raise ModelError(f"a PyTorch model needs PyTorch: {error}") from None
    with worker:
        yield worker


def _asked(worker: Worker, command: str, **arguments: Any) -> Any:
    try:
        return worker.ask(command, **arguments)
    except WorkerError as error:
        raise ModelError(str(error).removeprefix("ModelError: ")) from None
