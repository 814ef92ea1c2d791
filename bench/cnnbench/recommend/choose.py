"""Choose a backend for each layer of a network, and test whether it speeds up a whole step."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench import speed, timing
from cnnbench.budget import Budget, Progress
from cnnbench.digits.options import Options
from cnnbench.recommend import in_steps, whole_steps
from cnnbench.recommend.conclude import conclude
from cnnbench.recommend.networks import Call, Layer, ModelError, Network, of_calls
from cnnbench.recommend.recommendation import (
    NATIVE,
    NATIVE_NHWC,
    PINNED,
    Candidate,
    Decision,
    Recommendation,
)
from cnnbench.recommend.ways import Ways, model_worker
from cnnbench.report import numbers
from cnnbench.results import TOO_SLOW, Row, Run, distinct, longest
from cnnbench.workers.pool import WorkerPool, note
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels.contract import FORWARD
from cnnkernels.plan import Plan

SLOWEST = 4e9
"""Operations a second on the largest layer, below which a backend is too slow."""

CLEAR_LEAD = 1.1
"""A lead inside steps that counts although its interval spans 1."""


@dataclass(frozen=True)
class Wishes:
    """Requirements on a plan besides speed.

    Attributes
    ----------
    max_error : float or None
        The largest error allowed, relative to the largest rounding error possible in direct sums.
        Algorithms that declare their accuracy must have a bound that is no larger. By default each
        kernel may have the error that it declares.
    deterministic : bool
        Whether backends must promise the same bits on every run.
    pins : dict of str to str
        Backends fixed for layers, by layer name or pattern.
    excluded : tuple of str
        Backends never chosen.
    """

    max_error: float | None = None
    deterministic: bool = False
    pins: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()


def budget(network: Network) -> float:
    """Return the seconds that one call may take; slower backends are useless for training.

    Half a second, or the time of the largest layer at `SLOWEST` operations a second.
    """
    work = max((layer.problem.flops(FORWARD) for layer in network.layers), default=0)
    return max(0.5, work / SLOWEST)


def capture(model: str, shape: Sequence[int], threads: int) -> Network:
    """Return the convolutions and max-poolings of a PyTorch model's training step.

    Raises
    ------
    ModelError
        If PyTorch is not installed, or the model cannot be made or run.
    """
    with model_worker(threads) as worker:
        found = _asked(worker, "capture", model=model, shape=list(shape))
    calls = [Call(**call) for call in found["calls"]]
    if not calls:
        why = "; ".join(f"{where}: {reason}" for where, reason in found["left"])
        raise ModelError(
            f"{model}: no backend can compute any of its Conv2d or MaxPool2d layers"
            + (f": {why}" if why else "")
        )
    return of_calls(model, calls, found["left"])


def recommend(
    run: Run,
    network: Network,
    trained: Options | Sequence[int] | None,
    backends: Sequence[str],
    threads: int,
    baseline: str,
    wishes: Wishes,
    budget: Budget,
    progress: Progress,
    caches: Path,
    *,
    full: bool = False,
) -> Recommendation:
    """Measure every capable backend on each layer, choose, and measure whole steps.

    Parameters
    ----------
    run : Run
        Receives the rows.
    network : Network
    trained : Options, sequence of int or None
        Options for one of the suite's own networks, the image shape for a PyTorch model, or None
        for layers alone, which have no whole step.
    backends, threads, baseline, budget, progress, caches
        As `speed.time` takes them.
    wishes : Wishes
    full : bool
        For a PyTorch model: whether to measure slow backends, and `torch.compile`.

    Raises
    ------
    ModelError
        If no backend is left for any layer, or a pin matches no layer.
    """
    is_model = trained is not None and not isinstance(trained, Options)
    _require_known_layers(network, wishes.pins)  # before anything is measured
    with contextlib.ExitStack() as stack:
        barred = {name: "it is excluded" for name in backends if name in wishes.excluded}
        candidates = [name for name in backends if name not in barred]
        pool = stack.enter_context(WorkerPool(candidates, threads, yielding=True))
        barred |= _barred(pool, wishes)
        candidates = [name for name in candidates if name not in barred]
        layers = in_steps.Measured()
        work: Options | Ways | None
        if trained is None or isinstance(trained, Options):
            work = trained
            only = {layer.problem: layer.directions for layer in network.layers}
            sets = [network.cases]
            pool.close()  # that of speed.time caches compiled code in its own folder
            speed.time(run, sets, candidates, [threads], baseline, budget, progress, caches, only)
        else:
            work = stack.enter_context(Ways(network.name, trained, threads))
            layers = in_steps.time(
                run,
                network,
                pool,
                candidates,
                baseline,
                budget,
                progress,
                work,
                everything=full,
                by_speed_alone=wishes.max_error is None,
                wanted=set(wishes.pins.values()),
            )
        # That of a model is measured later, with its whole steps, which decide.
        floor = run.environment.get("aa_floor", {}).get(str(threads), timing.SAME_WITHIN)
        base = run.environment["baseline"][str(threads)]
        decisions = [
            _decide(layer, run.rows, base, floor, wishes, is_model) for layer in network.layers
        ]
        _group_slow(decisions)
        _pin(decisions, wishes.pins, barred)
        choices = {d.layer.problem: d.choice for d in decisions if d.choice is not None}
        if not choices:
            why = next((w for d in decisions for w in d.refused.values()), "no backend was given")
            raise ModelError(f"no backend is left for {network.name}: {why}")
        made = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(run.environment["command"]),
            "commit": str(run.environment["commit"]),
        }
        found = Recommendation(
            network=network,
            kind="model" if is_model else "layers" if trained is None else "network",
            plan=Plan(choices, "", threads, made=made),
            decisions=decisions,
            barred=barred,
            baseline=base,
            slow=layers.slow,
            parts=layers.parts,
            max_error=wishes.max_error,
            options=dataclasses.asdict(trained) if isinstance(trained, Options) else {},
        )
        found.plan.fallback = _fallback(found, [n for n in candidates if n not in barred])
        if work is not None:
            try:
                floor = whole_steps.measure(
                    found, work, candidates, budget, progress, caches, floor, compiled=full
                )
            finally:
                # After an interrupt some rows may have no time yet.
                run.add(r for r in found.steps if r.outcome != "ok" or r.seconds is not None)
        if is_model:
            note(run, "aa_floor", threads, floor)
            in_steps.compare_layers((r for r in run.rows if r.op != "step"), base, floor)
    conclude(found, floor)
    run.environment["recommendation"] = found.as_json()
    return found


def _barred(pool: WorkerPool, wishes: Wishes) -> dict[str, str]:
    """Return the reason for each backend that may not be chosen."""
    reasons = {name: _unwished(pool.about(name), wishes) for name in pool.present}
    barred = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(barred) == len(pool.present):
        why = "; ".join(
            f"{name}: {barred[name] if name in barred else pool.absent[name][1]}"
            for name in pool.backends
        )
        raise ModelError(f"no backend is left to choose from: {why}")
    return barred


def _unwished(about: Mapping[str, Any], wishes: Wishes) -> str | None:
    """Return why a backend may not be chosen, given its worker's description; None if it may."""
    if about["device"] != "cpu":
        return f"it runs on {about['device']}; plans and converted layers run on the CPU"
    if wishes.deterministic and not about["deterministic"]:
        return "it does not promise the same bits on every run"
    return None


# --------------------------------------------------------------------------------------------
# layer by layer


def _decide(
    layer: Layer,
    rows: Sequence[Row],
    baseline: str,
    floor: float,
    wishes: Wishes,
    inside_steps: bool,
) -> Decision:
    """Choose the fastest backend, or the baseline if no other is reliably faster.

    A lead below the A/A floor counts as likely, not certain: whole steps decide. So does, inside
    steps, a clear lead whose interval spans 1.
    """
    of_layer: dict[str, list[Row]] = {}
    mine = [row for row in rows if row.problem == str(layer.case)]
    for row in mine:
        of_layer.setdefault(row.backend, []).append(row)
    owners = {row.backend for row in distinct(mine)}
    decision = Decision(layer, None, {}, {})
    for backend, theirs in of_layer.items():
        reason = _refusal(theirs, wishes)
        if reason is not None:
            decision.refused[backend] = reason
            continue
        sides = [row.details.get("nchw_samples") or row.samples for row in theirs]
        medians = [row.nchw_seconds or row.seconds or math.nan for row in theirs]
        if backend == NATIVE_NHWC:
            decision.channels_last = sum(row.seconds or math.nan for row in theirs)
            if (
                inside_steps
            ):  # of a whole model in this layout: a layer alone would need conversions
                continue
        decision.candidates[backend] = Candidate(
            sum(medians), [sum(parts) for parts in zip(*sides, strict=False)]
        )
    if not decision.candidates:
        return decision
    # A kernel that two backends share is chosen under its own backend's name.
    named = [name for name in decision.candidates if name in owners] or decision.candidates
    best = min(named, key=lambda name: decision.candidates[name].seconds)
    base = decision.candidates.get(baseline)
    why = "the fastest"
    if base is not None and best != baseline:
        fastest = decision.candidates[best]
        found = timing.ratio(timing.Samples(fastest.samples), timing.Samples(base.samples))
        if timing.verdict(found, floor) == "FASTER":
            why = "faster"
        elif found.low > 1.0 or (inside_steps and found.value > CLEAR_LEAD):
            why = "likely faster"  # inside steps a single hiccup of the system widens an interval
        else:
            best, why = baseline, "a tie"
    decision.choice = decision.choose(best, why, baseline)
    return decision


def _refusal(rows: Sequence[Row], wishes: Wishes) -> str | None:
    for row in rows:
        if row.outcome != "ok":
            return row.why
        if row.seconds is None:
            return "not timed"
        if wishes.max_error is None:
            continue
        if not (row.error_over_bound or 0.0) <= wishes.max_error:
            return (
                f"its error is {numbers.of_bound(row.error_over_bound)} times the largest rounding "
                f"error possible in direct sums, above {wishes.max_error:g}"
            )
        possible = row.details.get("worst_bound_ratio") or 0.0
        if possible > wishes.max_error:
            return (
                f"{row.details['algorithm']} can have an error {possible:.3g} times as large as "
                f"direct sums can, above {wishes.max_error:g}"
            )
    return None


def _group_slow(decisions: Sequence[Decision]) -> None:
    """Give the layers that a backend is too slow for one reason, which a table prints once."""
    start = f"skipped: {TOO_SLOW}"
    for backend in {name for decision in decisions for name in decision.refused}:
        slow = [d for d in decisions if d.refused.get(backend, "").startswith(start)]
        if slow:
            reasons = (d.refused[backend].removeprefix("skipped: ") for d in slow)
            reason = f"skipped: {longest(reasons)}"
            for decision in slow:
                decision.refused[backend] = reason


def _require_known_layers(network: Network, pins: Mapping[str, str]) -> None:
    names = [name for layer in network.layers for name in layer.names]
    for pattern, backend in pins.items():
        if not fnmatch.filter(names, pattern):
            raise ModelError(f"--pin {pattern}={backend}: no such layer; there are {_list(names)}")


def _pin(decisions: Sequence[Decision], pins: Mapping[str, str], barred: Mapping[str, str]) -> None:
    for pattern, backend in pins.items():
        meant = [
            decision
            for decision in decisions
            if any(fnmatch.fnmatchcase(name, pattern) for name in decision.layer.names)
        ]
        for decision in meant:
            if backend not in decision.candidates:
                why = decision.refused.get(backend, barred.get(backend, "it was not measured"))
                raise ModelError(f"--pin {pattern}={backend}: {decision.layer.names[0]}: {why}")
            assert decision.choice is not None
            decision.choice = decision.choose(backend, PINNED, decision.choice.baseline)


def _list(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _fallback(found: Recommendation, allowed: Sequence[str]) -> str:
    """Return the fallback backend: the fastest of those covering most layers.

    For a PyTorch model it is PyTorch, if allowed.
    """
    if found.kind == "model" and NATIVE in allowed and found.total(NATIVE) is not None:
        return NATIVE
    totals: dict[str, tuple[int, float]] = {}
    for decision in found.decisions:
        for name, candidate in decision.candidates.items():
            done, seconds = totals.get(name, (0, 0.0))
            totals[name] = done - 1, seconds + len(decision.layer.names) * candidate.seconds
    return min(totals, key=totals.__getitem__)


# --------------------------------------------------------------------------------------------
# PyTorch models in workers


def _asked(worker: Worker, command: str, **arguments: Any) -> Any:
    try:
        return worker.ask(command, **arguments)
    except WorkerError as error:
        raise ModelError(str(error).removeprefix("ModelError: ")) from None
