"""Compare times reliably: rounds, ratios, intervals and verdicts.

A round times every contestant once in random order, and once more in reverse order. Any two of them
form an A-B-B-A block, which cancels a steady drift of the machine's speed [1]_. Each round gives a
log ratio; their median is the ratio, and order statistics give a distribution-free interval [2]_.

References
----------
.. [1] T. Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!",
   ASPLOS 2009, on randomizing the order.
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
"""The fewest rounds that can give an interval of 95 % or more."""
CONFIDENCE = 0.95
SAME_WITHIN = 0.02

DECISIVE = 10.0
"""A ratio this far from 1 has a verdict after a single round."""

REST_SECONDS = 0.02
"""Idle time before a side, until the thread pools of other processes stop spinning."""

UNSTEADY = 0.1
"""A machine with an A/A floor above this is too busy to compare backends."""


def rest() -> None:
    """Wait, untimed, until the thread pools of earlier sides are asleep."""
    sleep(REST_SECONDS)


def finite(value: float) -> float | None:
    """Return the number, None in place of nan."""
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Ratio:
    """Speed relative to the baseline, with its interval; nan where unknown."""

    value: float
    low: float
    high: float
    rounds: int

    def known(self) -> tuple[float | None, float | None, float | None]:
        """Return the ratio and its interval, None in place of nan."""
        return finite(self.value), finite(self.low), finite(self.high)


@dataclass
class Contestant:
    """A backend or program timed side by side with others.

    Attributes
    ----------
    name : str
        Name of the backend or program.
    side : callable
        Times one side, and returns the seconds of one call.
    rounds : int
        How many rounds it takes part in; slow ones take fewer.
    samples : list of float
        Seconds, two for each round, in order.
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
    """Time the rounds from `first` up to `last` (exclusive)."""
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
    """Time all contestants in rounds, with more rounds for unclear verdicts, up to a limit."""
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
    """Return the speed of the samples relative to the baseline, over the rounds both have.

    Parameters
    ----------
    samples, baseline : sequence of float
        Seconds, two for each round, from `run_rounds`.
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
    """Return the median of the rounds' ratios, with a distribution-free interval."""
    logs = np.log(ratios)
    low = high = math.nan
    if logs.size >= LEAST_ROUNDS:
        test = stats.quantile_test(logs, p=0.5)
        low, high = np.exp(np.asarray(test.confidence_interval(CONFIDENCE))).tolist()
    return Ratio(math.exp(float(np.median(logs))), low, high, int(logs.size))


def verdict(found: Ratio, floor: float) -> Verdict:
    """Return the verdict on a ratio, given the A/A floor.

    Parameters
    ----------
    found : Ratio
        Against the baseline.
    floor : float
        The A/A floor: the fraction by which two identical sides differ on this machine.
    """
    if math.isnan(found.low):
        if found.value > DECISIVE * (1 + floor):
            return "FASTER"
        return "SLOWER" if found.value < 1 / (DECISIVE * (1 + floor)) else "UNCLEAR"
    if found.low > 1 + floor:
        return "FASTER"
    if found.high < 1 / (1 + floor):
        return "SLOWER"
    same = 1 + max(SAME_WITHIN, min(floor, UNSTEADY))
    if found.low >= 1 / same and found.high <= same:
        return "SAME"
    return "UNCLEAR"


def busy_warning(floor: float) -> str | None:
    """Return a warning if the machine was too busy to compare backends, None if it was not."""
    if not floor > UNSTEADY:
        return None
    return (
        f"This machine was busy: two identical runs differed by {100 * floor:.1f} %. "
        "Close other programs and measure again."
    )


def floor_of(ratios: Sequence[Ratio]) -> float:
    """Return the A/A floor: the largest fraction by which identical sides differed.

    Without ratios it is nan, and no verdict is FASTER or SLOWER.
    """
    return max((math.exp(abs(math.log(r.value))) - 1 for r in ratios), default=math.nan)
