"""Time the layers of a PyTorch model inside its training steps, with each backend, in turns.

A layer alone, called again and again, finds its images and weights in the caches; in a step it does
not. So each backend trains the whole model in a process of its own, and the layers are timed there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget, Progress
from cnnbench.checking import check_at_once, fills_folder, rows_of
from cnnbench.judging.comparing import compare
from cnnbench.judging.limits import judge
from cnnbench.recommend import parts
from cnnbench.recommend.networks import Network
from cnnbench.recommend.recommendation import AUTOCAST, CHANNELS_LAST, NATIVE, NATIVE_NHWC
from cnnbench.recommend.ways import AGAIN, Taker, Ways
from cnnbench.results import Row, Run
from cnnbench.timing import Contestant
from cnnbench.workers.pool import WorkerPool, ask_several, baseline_for, note, note_threading
from cnnbench.workers.worker import WorkerError
from cnnkernels import host
from cnnkernels.contract import FORWARD, Conv2D, Problem
from cnnkernels.plan import Choice, Plan

TOO_SLOW_FOR_ANYTHING = 1000.0
"""A backend whose kernels are as many times slower than the fastest is never measured."""

TOO_SLOW_FOR_A_LAYER = 20.0
"""A backend whose kernels are as many times slower than the fastest calls none of the layers."""

TOO_SLOW_FOR_A_STEP = 4.0
"""A backend that is as many times slower on the largest layer takes no training step."""

SEVERAL = 2.5
"""A backend whose first step is as many times slower than the fastest is not measured further."""

OPEN_WITHIN = 1.15
"""Nor is one that after the first rounds is this much slower on each layer than another."""

FIRST_ROUNDS = 1

MOST_SECONDS = 20.0
"""The longest time for the steps of one backend, unless the minimum of rounds takes longer."""


@dataclass(frozen=True)
class Measured:
    """The findings of measuring layers inside steps, besides the rows.

    Attributes
    ----------
    slow : dict of str to float
        The backends not measured, each with how many times slower than the fastest it is.
    parts : dict of str to dict
        By way of training, the seconds of a step by kind of operator, as `parts.of_steps`.
    """

    slow: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)


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
    by_speed_alone: bool = True,
    wanted: Collection[str] = (),
) -> Measured:
    """Check each layer on every backend, time it inside steps, and add the rows to the run.

    Backends that turn out to be slow are dropped before they are checked.

    Parameters
    ----------
    run, network, backends, baseline, budget, progress
        As `choose.recommend` takes them.
    pool : WorkerPool
        The backends' workers, which check layers; closed before the last rounds.
    ways : Ways
        Receives the workers, which can take further steps.
    everything : bool
        Whether to measure slow backends as well, unless a step would take hours.
    by_speed_alone : bool
        Whether a backend may be dropped because others are faster on every layer; not if these may
        be ruled out by their error.
    wanted : collection of str
        Backends to measure in any case.
    """
    threads = ways.threads
    progress.begin(3 + len(backends) * (len(network.layers) + 1) + budget.rounds)
    base = baseline_for(pool, backends, baseline)
    note(run, "baseline", threads, base)
    progress.step("a first probe of each backend")
    wanted = {*wanted, base, NATIVE, NATIVE_NHWC}
    slow = _slow(pool, network, wanted, everything)
    progress.step("first training steps, several at once")
    session = _Session(
        network, pool, [name for name in backends if name not in slow], ways, progress, budget
    )
    fastest = min((taker.seconds for taker in session.takers.values()), default=0.0)
    for name, taker in [] if everything else list(session.takers.items()):
        if taker.seconds > SEVERAL * fastest and name not in wanted:
            slow[name] = taker.seconds / fastest
            session.drop(name)
    session.take(0, FIRST_ROUNDS)
    hopeless = session.hopeless() if by_speed_alone and not everything else {}
    for name, factor in hopeless.items():
        if name not in wanted:
            slow[name] = factor
            session.drop(name)
    measured = [name for name in backends if name not in slow]
    rows = _checked(pool, network, measured, threads, budget, progress)
    note_threading(run, pool)
    pool.close()
    try:
        session.take(FIRST_ROUNDS, budget.rounds)
    finally:
        session.give(rows)
        for row in rows:
            judge(row, _problem(network, row), "cpu", {"reason": "not measured"}, ())
        compare_layers(rows, base, math.nan)
        run.add(rows)
    return Measured(
        slow,
        {
            _way(name): parts.of_steps(network, steps)
            for name, steps in session.seen.items()
            if steps
        },
    )


def compare_layers(rows: Iterable[Row], baseline: str, floor: float) -> None:
    """Set ratio and verdict of layers against the baseline, each direction by itself."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.problem, row.direction), []).append(row)
    for of_one in alike.values():
        compare(of_one, baseline, floor)


class _Session:
    """Backends that train a model in turns, with the steps they have taken.

    Attributes
    ----------
    takers : dict of str to Taker
        By backend.
    seen : dict of str to list
        By backend, the steps that `Taker.watch` timed.
    """

    def __init__(
        self,
        network: Network,
        pool: WorkerPool,
        backends: Sequence[str],
        ways: Ways,
        progress: Progress,
        budget: Budget,
    ) -> None:
        self._network, self._progress = network, progress
        self.takers: dict[str, Taker] = {}
        self._failed: dict[str, WorkerError] = {}
        self._own: dict[str, set[str]] = {}
        self._start(pool, backends, ways)
        self.seen: dict[str, list[Mapping[str, Any]]] = {name: [] for name in self.takers}
        least = min(budget.rounds, timing.LEAST_ROUNDS)
        self._contestants = [
            Contestant(
                name,
                self._side(name, taker),
                FIRST_ROUNDS + 2  # its layers serve for a prediction alone
                if name == NATIVE_NHWC
                else max(least, budget.rounds_for(taker.seconds, MOST_SECONDS)),
            )
            for name, taker in self.takers.items()
        ]
        self._random = np.random.default_rng()

    def _start(self, pool: WorkerPool, backends: Sequence[str], ways: Ways) -> None:
        """Start training with each backend that computes any of the layers."""
        problems = [layer.problem for layer in self._network.layers]
        descriptors = [str(problem) for problem in problems]
        followed: dict[str, Plan | None] = {AUTOCAST: None, AGAIN: None}  # for whole steps, later
        owned = ask_several(pool, backends, "owners", descriptors=descriptors)
        for backend, owners in owned.items():
            able = [p for p, owner in zip(problems, owners, strict=True) if owner is not None]
            plan = Plan({p: Choice(backend) for p in able}, NATIVE, ways.threads)
            if able:
                followed[_way(backend)] = plan if _way(backend) == backend != NATIVE else None
            self._own[backend] = {
                descriptor
                for descriptor, owner in zip(descriptors, owners, strict=True)
                if owner == backend
            }
        ways.prepare(followed)
        for backend in backends:
            self._progress.step(f"a training step with {backend}")
            if (way := _way(backend)) in followed:
                try:
                    self.takers[backend] = ways.start(way, followed[way])
                except WorkerError as error:
                    self._failed[backend] = error

    def _side(self, backend: str, taker: Taker) -> Callable[[], float]:
        """Return a side of a round: a step, kept with the times of its operators."""

        def side() -> float:
            timing.rest()
            seen = self.seen[backend]
            if backend in self._failed or taker.watch is None:
                return math.nan
            try:
                seen.append(taker.watch())
            except WorkerError as error:
                self._failed[backend] = error
                return math.nan
            return sum(map(sum, seen[-1]["layers"].values()))

        return side

    def drop(self, backend: str) -> None:
        """Take no further steps with a backend, and forget those it has taken."""
        del self.takers[backend], self.seen[backend]
        self._contestants = [c for c in self._contestants if c.name != backend]

    def take(self, first: int, last: int) -> None:
        """Take the steps of the rounds from `first` up to `last` (exclusive)."""
        for number in range(
            first, min(last, max((c.rounds for c in self._contestants), default=0))
        ):
            self._progress.step(f"layers inside training steps, round {number + 1}")
            timing.run_rounds(self._contestants, self._random, number, number + 1)

    def hopeless(self) -> dict[str, float]:
        """Return the backends that are clearly slower than others on each layer of their own.

        Each has the factor by which its layers take longer than the fastest of each.
        """
        calls = {str(layer.problem): len(layer.names) for layer in self._network.layers}
        seconds = {
            backend: {
                problem: calls[problem] * min(sum(step["layers"][problem]) for step in steps)
                for problem in self._own[backend]
                if problem in steps[-1]["layers"]
            }
            for backend, steps in self.seen.items()
            if steps and backend != NATIVE_NHWC
        }
        fastest = {
            problem: min(own[problem] for own in seconds.values() if problem in own)
            for problem in calls
            if any(problem in own for own in seconds.values())
        }
        return {
            backend: sum(own.values()) / sum(fastest[problem] for problem in own)
            for backend, own in seconds.items()
            if own and all(own[problem] > OPEN_WITHIN * fastest[problem] for problem in own)
        }

    def give(self, rows: Sequence[Row]) -> None:
        """Give rows of checked layers their times in the steps taken so far."""
        for row in rows:
            if row.outcome == "ok" and (error := self._failed.get(row.backend)) is not None:
                row.withdraw(error.outcome, f"in a training step: {error}")
            part = 0 if row.direction == FORWARD else 1
            steps = self.seen.get(row.backend, []) if row.outcome == "ok" else []
            descriptor = str(_problem(self._network, row))
            of_layers = [step["layers"] for step in steps]
            row.samples = [layers[descriptor][part] for layers in of_layers if descriptor in layers]
            if row.samples:
                row.seconds = row.measured.typical


def _slow(
    pool: WorkerPool, network: Network, wanted: Collection[str], everything: bool
) -> dict[str, float]:
    """Return the backends too slow for a training step, by two rough probes.

    The first is of small problems, the second of the layers of the network that take the most
    products: the slowest backends would need minutes for it.
    """
    largest = max(network.layers, key=lambda layer: len(layer.names) * layer.problem.flops(FORWARD))
    paces = ask_several(pool, pool.present, "pace", pooling=not isinstance(largest.problem, Conv2D))
    slow = _slower(paces, TOO_SLOW_FOR_ANYTHING if everything else TOO_SLOW_FOR_A_LAYER)
    if not everything:
        others = [name for name in pool.present if name not in slow]
        of_layer = ask_several(pool, others, "call_pace", descriptor=str(largest.problem))
        slow |= _slower(of_layer, TOO_SLOW_FOR_A_STEP)
    return {name: factor for name, factor in slow.items() if name not in wanted}


def _slower(seconds: Mapping[str, float], limit: float) -> dict[str, float]:
    """Return the backends more than `limit` times slower than the fastest, with the factor."""
    fastest = min(seconds.values(), default=0.0)
    return {name: own / fastest for name, own in seconds.items() if own > limit * fastest}


def _checked(
    pool: WorkerPool,
    network: Network,
    backends: Sequence[str],
    threads: int,
    budget: Budget,
    progress: Progress,
) -> list[Row]:
    """Check all layers, several at once, and return a row for each direction of a step."""
    cases = {layer.case: layer.directions for layer in network.layers}
    with fills_folder() as folder:
        seconds, at_once = budget.call_seconds, host.cores()  # as the pool's workers yield
        checks = check_at_once(pool, cases, backends, folder, progress, seconds, at_once=at_once)
        return [
            row
            for case, found in checks
            for backend in backends
            for row in rows_of(case, backend, threads, found[backend])
            if row.direction in cases[case]
        ]


def _way(backend: str) -> str:
    """Return the way to train whose steps show the times of a backend's kernels."""
    return CHANNELS_LAST if backend == NATIVE_NHWC else backend


def _problem(network: Network, row: Row) -> Problem:
    return next(layer.problem for layer in network.layers if str(layer.case) == row.problem)
