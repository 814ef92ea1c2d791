"""Compare times reliably: rounds, blocks, ratios, intervals and verdicts.

A round times every contestant once in random order, and once more in reverse order. Any two of them
form an A-B-B-A block, which cancels a steady drift of the machine's speed [1]_.

A process has a speed of its own for its whole life: where its memory lies, which core it runs on.
So the rounds of one process are one observation, a *block*, and new processes give new blocks. The
time of a block is the median of its sides; the time of a contestant is the geometric mean of its
blocks, and a ratio is the quotient of two such times. Student's t over the blocks' log ratios gives
the interval. It covers the variation between processes and within them, because a block contains
both; more rounds in a process could not replace another process [2]_. What runs in a single process
has its rounds for blocks; its interval does not cover the variation between processes, so for a
verdict it must clear the A/A floor.

References
----------
.. [1] T. Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!",
   ASPLOS 2009, on randomizing the order.
.. [2] T. Kalibera and R. Jones, "Rigorous Benchmarking in Reasonable Time", ISMM 2013, sections 4
   and 5, on the levels of variation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from scipy import special  # not stats, whose import takes most of a worker's start

Anyone = TypeVar("Anyone")

Verdict: TypeAlias = Literal["FASTER", "SLOWER", "SAME", "UNCLEAR"]

ROUNDS = 12
LEAST_ROUNDS = 6
"""The fewest rounds in one process that an answer may rest on."""

LEAST_BLOCKS = 3
"""The fewest blocks that give an interval."""

CONFIDENCE = 0.99
"""Of an interval: of 300 pairs of identical backends, three may be told apart."""

RELEVANT = 0.01
"""Differences below this have no verdict but SAME, however certain they are."""

SAME_WITHIN = 0.03

DECISIVE = 10.0
"""A ratio this far from 1 has a verdict after a single block."""

PRECISE = 1.2
"""A verdict whose interval is wider than this factor needs further blocks."""

EXACT = 1.04
"""An interval narrower than this factor needs none, whatever the verdict is."""

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
class Samples:
    """Seconds of a call, side by side with others, in the order of the rounds.

    Attributes
    ----------
    seconds : sequence of float
    sides : int
        How many of them, one after another, form a block: the two of a round, or all of a process.
    processes : int
        How many processes they are from.
    """

    seconds: Sequence[float]
    sides: int = 2
    processes: int = 1

    def blocks(self) -> np.ndarray:
        """Return the log of each whole block's time; nan where a side was lost."""
        whole = len(self.seconds) // self.sides
        logs = np.log(np.asarray(self.seconds[: whole * self.sides], float))
        of_blocks: np.ndarray = np.median(logs.reshape(whole, self.sides), axis=1)
        return of_blocks

    @property
    def typical(self) -> float:
        """The geometric mean of the blocks; nan without any, or if a side was lost."""
        blocks = self.blocks()
        return math.exp(float(blocks.mean())) if blocks.size else math.nan


@dataclass(frozen=True)
class Ratio:
    """Speed relative to the baseline, with its interval; nan where unknown.

    Attributes
    ----------
    value, low, high : float
    blocks : int
        How many blocks it rests on.
    processes : int
        How many processes of each side the blocks are from.
    """

    value: float
    low: float
    high: float
    blocks: int
    processes: int = 1

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
        """The typical time in rounds of one process; nan without any."""
        return Samples(self.samples).typical


def there_and_back(everyone: Sequence[Anyone], random: np.random.Generator) -> list[Anyone]:
    """Return the order of a round: everyone at random, then the same in reverse."""
    order = [everyone[i] for i in random.permutation(len(everyone))]
    return [*order, *reversed(order)]


def run_rounds(
    contestants: Sequence[Contestant], random: np.random.Generator, first: int, last: int
) -> None:
    """Time the rounds from `first` up to `last` (exclusive)."""
    for number in range(first, last):
        taking_part = [c for c in contestants if number < c.rounds]
        times: dict[str, list[float]] = {c.name: [] for c in taking_part}
        for contestant in there_and_back(taking_part, random):
            times[contestant.name].append(contestant.side())
        for contestant in taking_part:
            contestant.samples.extend(times[contestant.name])


def ratio(samples: Samples, baseline: Samples) -> Ratio:
    """Return the speed of the samples relative to the baseline, over the blocks both have."""
    mine, theirs = samples.blocks(), baseline.blocks()
    shared = min(mine.size, theirs.size)
    processes = min(samples.processes, baseline.processes)
    if not shared or np.isnan(mine).any() or np.isnan(theirs).any():
        return Ratio(math.nan, math.nan, math.nan, 0, processes)
    return ratio_of_blocks(np.exp(theirs[:shared] - mine[:shared]), processes)


def ratio_of_blocks(ratios: np.ndarray, processes: int = 1) -> Ratio:
    """Return the geometric mean of the blocks' ratios, with the interval of Student's t."""
    logs = np.log(ratios)
    value, half = float(logs.mean()), math.nan
    if logs.size >= LEAST_BLOCKS:
        quantile = float(special.stdtrit(logs.size - 1, (1 + CONFIDENCE) / 2))
        half = quantile * float(logs.std(ddof=1)) / math.sqrt(logs.size)
    low, high = math.exp(value - half), math.exp(value + half)
    return Ratio(math.exp(value), low, high, int(logs.size), processes)


def verdict(found: Ratio, floor: float) -> Verdict:
    """Return the verdict on a ratio, given the A/A floor.

    A difference must exceed the floor, and its interval must lie beyond what is relevant; that of a
    single process must lie beyond the floor.

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
    border = 1 + (RELEVANT if found.processes >= LEAST_BLOCKS else max(floor, RELEVANT))
    if found.low > border and found.value > 1 + floor:
        return "FASTER"
    if found.high < 1 / border and found.value < 1 / (1 + floor):
        return "SLOWER"
    same = 1 + max(SAME_WITHIN, min(floor, UNSTEADY))
    if found.low >= 1 / same and found.high <= same:
        return "SAME"
    return "UNCLEAR"


def settled(found: Ratio, floor: float) -> bool:
    """Return whether no further blocks are needed: the verdict stands and is precise.

    Those that are far slower than the baseline need no interval. Those that are far faster do: they
    are compared with one another.
    """
    if math.isnan(found.low):
        return verdict(found, floor) == "SLOWER"
    width = found.high / found.low
    return width <= EXACT or (width <= PRECISE and verdict(found, floor) != "UNCLEAR")


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

    Without a known ratio it is nan, and no verdict is FASTER or SLOWER.
    """
    known = [found.value for found in ratios if not math.isnan(found.value)]
    return max((math.exp(abs(math.log(value))) - 1 for value in known), default=math.nan)
