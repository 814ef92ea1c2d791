"""Trainees: backends and programs that train in turns until they can be told apart."""

from __future__ import annotations

import math
import statistics
from typing import Any

from cnnbench import timing
from cnnbench.digits.trainers import PROGRAMS, is_pytorch
from cnnbench.races import AGAIN, twin_of
from cnnbench.results import Row
from cnnbench.timing import Contestant, Ratio
from cnnbench.workers.pool import Copy, WorkerPool, failing


class Trainee:
    """A backend or program in training.

    Parameters
    ----------
    pool : WorkerPool
    row : Row
        Receives the times, or why there are none.
    options : dict
        Of the training.
    rounds : int
        The most rounds.
    """

    def __init__(self, pool: WorkerPool, row: Row, options: dict[str, Any], rounds: int) -> None:
        self._pool, self.row, self.options = pool, row, options
        self._step_seconds: list[float | None] = []
        self.contestant = Contestant(row.backend, self._side, rounds)

    @property
    def ended(self) -> bool:
        """Whether it has trained in all its rounds."""
        return len(self.contestant.samples) >= 2 * self.contestant.rounds

    def against(self, other: Trainee) -> Ratio:
        """Return its speed relative to another's."""
        mine, theirs = (timing.Samples(one.contestant.samples) for one in (self, other))
        return timing.ratio(mine, theirs)

    def settle(self) -> None:
        """Set the row's times from the trainings so far."""
        if self.row.outcome == "ok" and self.contestant.samples:
            self.row.samples = self.contestant.samples
            self.row.seconds = self.contestant.seconds
            known = [seconds for seconds in self._step_seconds if seconds is not None]
            self.row.details["seconds_per_step"] = statistics.median(known) if known else None

    def _side(self) -> float:
        timing.rest()
        seconds = math.nan
        if self.row.outcome == "ok":
            with failing([self.row]):
                done = self._pool.ask(self.row.backend, "train", **self.options)
                self._step_seconds.append(seconds_per_step(done))
                seconds = float(done["seconds"])
        return seconds


class Trainees:
    """All trainees of a run at one thread count.

    Parameters
    ----------
    baseline : str
    """

    def __init__(self, baseline: str) -> None:
        self._baseline = baseline
        self._all: list[Trainee] = []
        self._twin: Trainee | None = None

    def add(self, trainee: Trainee) -> None:
        """Add a trainee."""
        self._all.append(trainee)

    def add_twin(self, pool: WorkerPool) -> None:
        """Let a second process of the baseline train in the same rounds, if it can."""
        base = self._base
        if base is None:
            return
        pool.add(AGAIN, Copy(self._baseline))
        row = twin_of(base.row)
        with failing([row]):
            pool.ask(AGAIN, "train", **base.options)  # it may compile
        self._twin = Trainee(pool, row, base.options, base.contestant.rounds)

    @property
    def contestants(self) -> list[Contestant]:
        """Everyone, for rounds."""
        return [trainee.contestant for trainee in self._everyone]

    @property
    def floor(self) -> float:
        """How much the baseline and its twin differ so far, the A/A floor; nan if unknown."""
        base = self._base
        return timing.floor_of([self._twin.against(base)] if self._twin and base else [])

    def waiting(self, rounds: int) -> bool:
        """Return whether anyone takes part in more rounds than these."""
        return any(contestant.rounds > rounds for contestant in self.contestants)

    def dismiss(self, rounds: int) -> None:
        """End the rounds of trainees that can be told apart; with the last of them, all rounds.

        Each must have a verdict against the baseline, and but for programs of other libraries than
        PyTorch one against the fastest backend: an answer names it with the next, and with the
        fastest way of PyTorch.
        """
        base = self._base
        able = [t for t in self._all if t.row.outcome == "ok" and t.contestant.samples]
        backends = [trainee for trainee in able if trainee.row.backend not in PROGRAMS]
        if base is None or not backends or rounds < timing.LEAST_BLOCKS:
            return
        best = min(backends, key=lambda trainee: trainee.contestant.seconds)
        stay: list[Trainee | None] = []
        for trainee in able:
            rivals = [base]
            if trainee in backends or is_pytorch(trainee.row.backend):
                rivals.append(best)
            open_ = [rival for rival in rivals if not self._told_apart(trainee, rival)]
            if open_:
                stay += [trainee, base, self._twin, *open_]
        for trainee in self._everyone:
            if trainee not in stay:
                trainee.contestant.rounds = min(trainee.contestant.rounds, rounds)

    def settle(self) -> None:
        """Set the times of all rows."""
        for trainee in self._all:
            trainee.settle()

    @property
    def _everyone(self) -> list[Trainee]:
        return self._all if self._twin is None else [*self._all, self._twin]

    @property
    def _base(self) -> Trainee | None:
        return next((t for t in self._all if t.row.backend == self._baseline), None)

    def _told_apart(self, one: Trainee, other: Trainee) -> bool:
        """Return whether two have a verdict, or no rounds left."""
        if one is other or one.ended or other.ended:
            return True
        return timing.verdict(one.against(other), self.floor) != "UNCLEAR"


def seconds_per_step(done: dict[str, Any]) -> float | None:
    """Return the seconds of a step of a finished training, None if they were not measured."""
    seconds = done["step_seconds"]
    return None if seconds is None else float(seconds) / max(1, done["steps"])
