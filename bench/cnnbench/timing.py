"""Rounds, ratios, intervals and verdicts: how times are compared so that a ratio can be believed.

A round times every contestant once in random order, and once more in the reverse order, so that any
two of them make an A-B-B-A block, in which a steady drift of the machine's speed cancels [1]_. The
rounds' log ratios are the observations: their median is the ratio, and order statistics give an
interval that supposes nothing of their distribution [2]_.

References
----------
.. [1] T. Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!",
   ASPLOS 2009, on why order has to be randomised.
.. [2] W. J. Conover, "Practical Nonparametric Statistics", 3rd ed., 1999, section 3.2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

Verdict: TypeAlias = Literal["FASTER", "SLOWER", "SAME", "UNCLEAR"]

ROUNDS = 12
MOST_ROUNDS = 24
LEAST_ROUNDS = 6
"""Fewer rounds than this give no interval of 95 % or more, whatever they show."""
CONFIDENCE = 0.95
SAME_WITHIN = 0.02

REST_SECONDS = 0.02
"""Idle time before a side: thread pools of other processes spin for a while, then sleep."""

UNSTEADY = 0.1
"""An A/A floor above this tells of a machine that does other work: too little to call two equal."""


def rest() -> None:
    """Wait until the thread pools of whatever ran before are asleep; outside any clock."""
    sleep(REST_SECONDS)


def finite(value: float) -> float | None:
    """Return a number as results have it: None in place of nan."""
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline, with its interval; nan where there is none."""

    value: float
    low: float
    high: float
    rounds: int

    def known(self) -> tuple[float | None, float | None, float | None]:
        """Return the ratio and its interval as results have them: None in place of nan."""
        return finite(self.value), finite(self.low), finite(self.high)


@dataclass
class Contestant:
    """One of those that are timed side by side.

    Attributes
    ----------
    name : str
        Of a backend, or of anything else that is timed.
    side : callable
        Times one side: returns the seconds of one call.
    rounds : int
        How many rounds it takes part in: the slow ones, fewer.
    samples : list of float
        Seconds, two a round, in the order of the rounds.
    """

    name: str
    side: Callable[[], float]
    rounds: int = ROUNDS
    samples: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median of the samples; nan without any."""
        return statistics.median(self.samples) if self.samples else math.nan


def run_rounds(
    contestants: Sequence[Contestant], random: np.random.Generator, first: int, last: int
) -> None:
    """Time the rounds from `first` up to `last`, each contestant as long as it takes part."""
    for number in range(first, last):
        taking_part = [c for c in contestants if number < c.rounds]
        order = [taking_part[i] for i in random.permutation(len(taking_part))]
        times: dict[str, list[float]] = {c.name: [] for c in taking_part}
        for contestant in (*order, *reversed(order)):
            times[contestant.name].append(contestant.side())
        for contestant in taking_part:
            contestant.samples.extend(times[contestant.name])


def compete(
    contestants: Sequence[Contestant],
    baseline: str,
    floor: float,
    random: np.random.Generator,
) -> None:
    """Time all contestants in rounds; those whose verdict stays unclear get more, up to a cap."""
    run_rounds(contestants, random, 0, max((c.rounds for c in contestants), default=0))
    base = next((c for c in contestants if c.name == baseline), None)
    if base is None or base.rounds < ROUNDS or not floor <= UNSTEADY:
        return
    done = ROUNDS
    while done < MOST_ROUNDS:
        unclear = [
            c
            for c in contestants
            if c is not base
            and c.rounds == done
            and verdict(ratio(c.samples, base.samples), floor) == "UNCLEAR"
        ]
        if not unclear:
            return
        base.rounds = done + LEAST_ROUNDS
        for contestant in unclear:
            contestant.rounds = base.rounds
        run_rounds([base, *unclear], random, done, base.rounds)
        done = base.rounds


def ratio(samples: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return how many times as fast as the baseline the samples are, over the rounds both have.

    Parameters
    ----------
    samples, baseline : sequence of float
        Seconds, two a round, as `run_rounds` leaves them.
    """
    rounds = min(len(samples), len(baseline)) // 2
    if not rounds or any(map(math.isnan, (*samples, *baseline))):
        return Ratio(math.nan, math.nan, math.nan, 0)
    mine, theirs = (
        np.log(np.asarray(times[: 2 * rounds], float)).reshape(rounds, 2).mean(axis=1)
        for times in (samples, baseline)
    )
    return ratio_of_rounds(np.exp(theirs - mine))


def ratio_of_rounds(ratios: np.ndarray) -> Ratio:
    """Return the median of the rounds' ratios, and its distribution-free interval."""
    logs = np.log(ratios)
    low = high = math.nan
    if logs.size >= LEAST_ROUNDS:
        test = stats.quantile_test(logs, p=0.5)
        low, high = np.exp(np.asarray(test.confidence_interval(CONFIDENCE))).tolist()
    return Ratio(math.exp(float(np.median(logs))), low, high, int(logs.size))


def verdict(found: Ratio, floor: float) -> Verdict:
    """Return what a ratio shows beyond what this machine shows of equals.

    Parameters
    ----------
    found : Ratio
        Against the baseline.
    floor : float
        The A/A floor: by which fraction two identical sides differed on this machine.
    """
    if math.isnan(found.low):
        return "UNCLEAR"
    if found.low > 1 + floor:
        return "FASTER"
    if found.high < 1 / (1 + floor):
        return "SLOWER"
    same = 1 + max(SAME_WITHIN, min(floor, UNSTEADY))
    if found.low >= 1 / same and found.high <= same:
        return "SAME"
    return "UNCLEAR"


def floor_of(ratios: Sequence[Ratio]) -> float:
    """Return the A/A floor: the largest fraction by which identical sides differed.

    Without any ratio it is nan, and nothing is then called faster or slower.
    """
    return max((math.exp(abs(math.log(r.value))) - 1 for r in ratios), default=math.nan)
