"""Time the layers of a PyTorch model inside its training steps, with each backend, in turns.

A layer alone, called again and again, finds its images and weights in the caches; in a step it does
not. So each backend trains the whole model in a process of its own, and the layers are timed there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget, Progress
from cnnbench.checking import check_case, fills_folder, rows_of
from cnnbench.judging.comparing import compare
from cnnbench.judging.floor import measure_floor, probes
from cnnbench.judging.limits import judge
from cnnbench.recommend.networks import Network
from cnnbench.recommend.recommendation import CHANNELS_LAST, NATIVE, NATIVE_NHWC
from cnnbench.recommend.ways import Taker, Ways
from cnnbench.results import Row, Run, distinct
from cnnbench.timing import Contestant
from cnnbench.workers.pool import WorkerPool, baseline_for, failing, note, note_threading
from cnnbench.workers.worker import WorkerError
from cnnkernels import host
from cnnkernels.contract import FORWARD, Conv2D, Problem
from cnnkernels.descriptor import Case
from cnnkernels.plan import Choice, Plan

TOO_SLOW_FOR_A_STEP = 20.0
"""A backend whose kernels are as many times slower than the fastest takes no step at all."""

SEVERAL = 2.5
"""A backend whose first step is as many times slower than the fastest is not measured further."""

OPEN_WITHIN = 1.15
"""After the first rounds, backends this much slower on each layer than another take no more."""

FIRST_ROUNDS = 2

FLOOR_SECONDS = 0.3
"""Per contestant, for the A/A floor."""

MOST_SECONDS = 20.0
"""The longest time for the steps of one backend, unless the minimum of rounds takes longer."""


@dataclass(frozen=True)
class Measured:
    """The findings of measuring layers inside steps, besides the rows.

    Attributes
    ----------
    slow : dict of str to float
        The backends not measured, each with how many times slower than the fastest it is.
    rests : dict of str to float
        By way of training, the seconds of a step outside the layers that backends compute.
    left : float
        The seconds in other convolutions and max-poolings of the unchanged model.
    """

    slow: dict[str, float] = field(default_factory=dict)
    rests: dict[str, float] = field(default_factory=dict)
    left: float = 0.0


def time(
    run: Run,
    network: Network,
    pool: WorkerPool,
    backends: Sequence[str],
    baseline: str,
    budget: Budget,
    progress: Progress,
    ways: Ways,
    *,
    everything: bool,
) -> Measured:
    """Check each layer on every backend, time it inside steps, and add the rows to the run.

    Parameters
    ----------
    run, network, backends, baseline, budget, progress
        As `choose.recommend` takes them.
    pool : WorkerPool
        The backends' workers, which check layers; closed before anything is timed.
    ways : Ways
        Receives the workers, which can take further steps.
    everything : bool
        Whether backends are measured that are several times slower than the fastest.
    """
    threads = ways.threads
    layers = len(network.layers)
    progress.begin(2 + len(backends) * (layers + 1) + budget.rounds)
    base = baseline_for(pool, baseline)
    progress.step(f"A/A floor of {base}")
    short = dataclasses.replace(budget, seconds=FLOOR_SECONDS)
    floor = measure_floor(base, threads, probes([network.cases]), short)
    note(run, "baseline", threads, base)
    note(run, "aa_floor", threads, floor)
    progress.step("a first probe of each backend")
    slow = {} if everything else _slow(pool, network, base)
    takers, failed = _started(
        pool, network, [name for name in backends if name not in slow], ways, progress
    )
    if not everything:
        fastest = min((taker.seconds for taker in takers.values()), default=0.0)
        for name in [n for n, taker in takers.items() if taker.seconds > SEVERAL * fastest]:
            if name != base:
                slow[name] = takers.pop(name).seconds / fastest
    measured = [name for name in backends if name not in slow]
    rows = _checked(pool, network, measured, threads, budget, progress)
    for row in rows:
        if row.outcome == "ok" and (error := failed.get(row.backend)) is not None:
            row.withdraw(error.outcome, f"in a training step: {error}")
    note_threading(run, pool)
    pool.close()
    seen: dict[str, list[Mapping[str, Any]]] = {name: [] for name in takers}
    try:
        _time(rows, network, takers, seen, budget, progress)
    finally:
        for row in rows:
            judge(row, _problem(network, row), "cpu", {"reason": "not measured"}, ())
        for key in dict.fromkeys((row.problem, row.direction) for row in rows):
            compare([r for r in rows if (r.problem, r.direction) == key], base, floor)
        run.add(rows)
    rests = {_way(name): _rest(network, steps) for name, steps in seen.items() if steps}
    left = statistics.median(step["left"] for step in seen[NATIVE]) if seen.get(NATIVE) else 0.0
    return Measured(slow, rests, left)


def _rest(network: Network, steps: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds of a step outside its layers, the median over pairs of steps."""
    calls = {str(layer.problem): len(layer.names) for layer in network.layers}
    rest: float = statistics.median(
        step["step"]
        - sum(calls.get(name, 0) * sum(passes) for name, passes in step["layers"].items())
        for step in steps
        if step["step"] is not None
    )
    return rest


def _slow(pool: WorkerPool, network: Network, base: str) -> dict[str, float]:
    """Return the backends too slow for a training step, by a rough probe."""
    pooling = not any(isinstance(layer.problem, Conv2D) for layer in network.layers)
    paces: dict[str, float] = {}
    for backend in pool.present:
        with contextlib.suppress(WorkerError):
            paces[backend] = pool.ask(backend, "pace", pooling=pooling)
    fastest = min(paces.values(), default=0.0)
    return {
        name: pace / fastest
        for name, pace in paces.items()
        if pace > TOO_SLOW_FOR_A_STEP * fastest and name != base
    }


def _checked(
    pool: WorkerPool,
    network: Network,
    backends: Sequence[str],
    threads: int,
    budget: Budget,
    progress: Progress,
) -> list[Row]:
    """Check all layers, several at once, and return a row for each direction of a step."""
    locks = {name: threading.Lock() for name in backends}
    telling = threading.Lock()

    def of_layer(case: Case) -> list[Row]:
        rows = []
        with fills_folder() as folder:
            for backend in backends:
                with locks[backend]:
                    found = check_case(pool, backend, case, folder, budget.call_seconds)
                with telling:
                    progress.step(f"checked {backend} on {case.label}")
                rows += rows_of(case, backend, threads, found)
        return rows

    cases = {layer.case: layer.directions for layer in network.layers}
    executor = ThreadPoolExecutor(max_workers=host.cores())
    try:
        found = list(executor.map(of_layer, cases))
    except BaseException:
        pool.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
    return [
        row
        for rows, directions in zip(found, cases.values(), strict=True)
        for row in rows
        if row.direction in directions
    ]


def _started(
    pool: WorkerPool,
    network: Network,
    backends: Sequence[str],
    ways: Ways,
    progress: Progress,
) -> tuple[dict[str, Taker], dict[str, WorkerError]]:
    """Start training with each backend that computes any of the layers; return errors as well."""
    problems = [layer.problem for layer in network.layers]
    descriptors = [str(problem) for problem in problems]
    followed: dict[str, Plan | None] = {}
    for backend in backends:
        with contextlib.suppress(WorkerError):
            reasons = pool.ask(backend, "unsupported", descriptors=descriptors)
            able = [p for p, why in zip(problems, reasons, strict=True) if why is None]
            plan = Plan({p: Choice(backend) for p in able}, NATIVE, ways.threads)
            if able:
                followed[_way(backend)] = plan if _way(backend) == backend != NATIVE else None
    ways.prepare(followed)
    takers: dict[str, Taker] = {}
    failed: dict[str, WorkerError] = {}
    for backend in backends:
        progress.step(f"first training steps with {backend}")
        if (way := _way(backend)) in followed:
            how = {"channels_last": True} if way == CHANNELS_LAST else {}
            try:
                takers[backend] = ways.start(way, followed[way], **how)
            except WorkerError as error:
                failed[backend] = error
    return takers, failed


def _way(backend: str) -> str:
    """Return the way to train whose steps show the times of a backend's kernels."""
    return CHANNELS_LAST if backend == NATIVE_NHWC else backend


def _time(
    rows: Sequence[Row],
    network: Network,
    takers: Mapping[str, Taker],
    seen: Mapping[str, list[Mapping[str, Any]]],
    budget: Budget,
    progress: Progress,
) -> None:
    """Take steps with each backend, in turns, and give the rows the times of their layers."""
    contestants = []
    for backend, taker in takers.items():
        own = [row for row in rows if row.backend == backend and row.outcome == "ok"]
        least = min(budget.rounds, timing.LEAST_ROUNDS)
        rounds = max(least, budget.rounds_for(taker.seconds, MOST_SECONDS))
        contestants.append(Contestant(backend, _side(taker.watch, own, seen[backend]), rounds))
    random = np.random.default_rng()
    try:
        for number in range(max((c.rounds for c in contestants), default=0)):
            progress.step(f"layers inside training steps, round {number + 1}")
            timing.run_rounds(contestants, random, number, number + 1)
            if number + 1 == FIRST_ROUNDS:
                _give(rows, network, seen)
                hopeful = _hopeful(rows)
                for contestant in contestants:
                    if contestant.name not in hopeful:
                        contestant.rounds = FIRST_ROUNDS
    finally:
        _give(rows, network, seen)


def _give(
    rows: Sequence[Row],
    network: Network,
    seen: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Give rows the times of their layers in the steps taken so far."""
    for row in rows:
        part = 0 if row.direction == FORWARD else 1
        steps = seen.get(row.backend, []) if row.outcome == "ok" else []
        descriptor = str(_problem(network, row))
        of_layers = [step["layers"] for step in steps]
        row.samples = [layers[descriptor][part] for layers in of_layers if descriptor in layers]
        if row.samples:
            row.seconds = statistics.median(row.samples)


def _hopeful(rows: Sequence[Row]) -> set[str]:
    """Return the backends that may be the fastest on some layer, and PyTorch's own."""
    hopeful = {NATIVE}
    own = [row for row in distinct(rows) if row.backend != NATIVE_NHWC]
    for problem in {row.problem for row in own}:
        seconds: dict[str, float] = {}
        for row in own:
            if row.problem == problem and row.outcome == "ok":
                so_far = seconds.get(row.backend, 0.0)
                seconds[row.backend] = so_far + (row.seconds or math.inf)
        fastest = min(seconds.values(), default=math.inf)
        hopeful |= {name for name, s in seconds.items() if s <= OPEN_WITHIN * fastest}
    return hopeful


def _side(
    watch: Callable[[bool], Mapping[str, Any]] | None,
    rows: Sequence[Row],
    seen: list[Mapping[str, Any]],
) -> Callable[[], float]:
    """Return a side of a round: a step, kept with the times of its layers."""

    def side() -> float:
        timing.rest()
        able = [row for row in rows if row.outcome == "ok"]
        if not able or watch is None:
            return math.nan
        step: Mapping[str, Any] = {"layers": {}}
        with failing(able):
            step = watch(len(seen) < 2 * FIRST_ROUNDS)
            seen.append(step)
        return sum(map(sum, step["layers"].values()))

    return side


def _problem(network: Network, row: Row) -> Problem:
    return next(layer.problem for layer in network.layers if str(layer.case) == row.problem)
