"""Races: the backends of one case and direction side by side, over several processes.

Each process of a backend adds a block of rounds. A backend that has its verdict leaves the race;
the baseline stays until the last one has.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cnnbench import timing
from cnnbench.budget import Budget
from cnnbench.results import Row, too_slow
from cnnbench.sides import Side, side_of
from cnnbench.timing import Samples
from cnnbench.workers.pool import WorkerPool, failing
from cnnkernels.contract import Direction

AGAIN = "(again)"
"""Names the second process of the baseline, for the A/A floor."""

DISTURBED = 1.25
"""A side is disturbed if its canary takes this many times as long as the round's median."""

LOST = 0.05
"""A side is disturbed if other programs have taken this fraction of its time."""

REPEATS = 2
"""A disturbed side is repeated at most this many times, at the end of its round."""

REPEATABLE_SECONDS = 0.25
"""Longer sides are not repeated."""


def twin_of(row: Row) -> Row:
    """Return a row for the second process of the baseline; it belongs to no run."""
    return dataclasses.replace(row, backend=AGAIN, details={})


@dataclass
class Entrant:
    """A backend in a race.

    Attributes
    ----------
    name : str
        Of the worker.
    row : Row
        Receives the times; its outcome tells whether the entrant has gone wrong.
    in_one : bool
        Whether all its rounds are in one process, and each is a block.
    nchw : bool
        Whether calls convert their arrays from and to NCHW.
    cold : bool
        Whether the caches are empty before each call.
    side : Side or None
        Known after the first process.
    rounds : int
        In each process.
    processes : int
        The most processes.
    samples : list of float
        Seconds, `2 * rounds` for each process.
    repeated, disturbed : int
        How many sides were repeated because other programs disturbed them, and how many of these
        were disturbed again.
    """

    name: str
    row: Row
    in_one: bool
    nchw: bool = False
    cold: bool = False
    side: Side | None = None
    rounds: int = 0
    processes: int = 0
    samples: list[float] = field(default_factory=list)
    repeated: int = 0
    disturbed: int = 0

    @property
    def special(self) -> bool:
        """Whether its times stand beside others and have no verdict."""
        return self.nchw or self.cold

    @property
    def lost(self) -> bool:
        """Whether it has gone wrong."""
        return self.row.outcome != "ok"

    @property
    def measured(self) -> Samples:
        """Its samples with their blocks."""
        if self.in_one:
            return Samples(self.samples)
        sides = 2 * max(1, self.rounds)
        return Samples(self.samples, sides, max(1, len(self.samples) // sides))


class Race:
    """The rows of one case and direction, timed side by side.

    Parameters
    ----------
    direction : str
    rows : sequence of Row
        Rows that passed their check, each with a kernel of its own.
    baseline : str
        The backend that stays until the end.
    layouts : mapping of str to str
        By backend; those other than NCHW are timed with conversion as well.
    budget : Budget
    again : bool
        Whether the baseline takes part twice.
    """

    def __init__(
        self,
        direction: Direction,
        rows: Sequence[Row],
        baseline: str,
        layouts: Mapping[str, str],
        budget: Budget,
        again: bool,
    ) -> None:
        self.direction, self.rows = direction, list(rows)
        self.baseline, self._budget = baseline, budget
        in_one = budget.processes == 1
        self.entrants = [Entrant(row.backend, row, in_one) for row in rows]
        self.entrants += [
            Entrant(row.backend, row, in_one, nchw=True)
            for row in rows
            if layouts[row.backend] != "NCHW"
        ]
        if budget.cold:
            self.entrants += [Entrant(row.backend, row, in_one, cold=True) for row in rows]
        if again:
            base = [row for row in rows if row.backend == baseline]
            self.entrants += [Entrant(AGAIN, twin_of(row), in_one) for row in base]
        self.processes = 0

    def open(self, stands: Callable[[Row], bool]) -> list[Entrant]:
        """Return the entrants of the next process: those whose verdict does not stand yet."""
        able = [e for e in self.entrants if not e.lost and (not self.processes or e.side)]
        if not self.processes:
            return able
        able = [e for e in able if self.processes < e.processes]
        stays = [e for e in able if e.name in (self.baseline, AGAIN)]
        if not any(e.name == self.baseline for e in stays) or len(stays) == len(able):
            # Nobody is compared any more, so a few processes give the times.
            return able if self.processes < timing.LEAST_BLOCKS else []
        waiting = [e for e in able if e not in stays and not stands(e.row)]
        return [*stays, *waiting] if waiting else []

    def leave(self, backend: str) -> None:
        """Let a backend take part in no further process."""
        for entrant in self.entrants:
            if entrant.name == backend:
                entrant.processes = self.processes

    def run(
        self, pool: WorkerPool, taking_part: Sequence[Entrant], random: np.random.Generator
    ) -> None:
        """Time the rounds of one process of each, prepared before."""
        self.processes += 1
        able = [entrant for entrant in taking_part if self._probe(pool, entrant)]
        blocks: dict[int, list[float]] = {id(entrant): [] for entrant in able}
        try:
            for number in range(max((e.rounds for e in able), default=0)):
                racing = [e for e in able if number < e.rounds and not e.lost]
                for entrant, sides in self._round(pool, racing, random):
                    blocks[id(entrant)].extend(sides)
        finally:
            for entrant in able:
                block = blocks[id(entrant)]
                whole = len(block) == 2 * entrant.rounds
                if whole or entrant.in_one:
                    entrant.samples.extend(block)

    def timed(self, row: Row) -> bool:
        """Return whether a row has been timed."""
        return any(entrant.samples for entrant in self.entrants if entrant.row is row)

    def give(self) -> None:
        """Give the rows their times."""
        for entrant in self.entrants:
            row, measured = entrant.row, entrant.measured
            if entrant.lost or not entrant.samples:
                continue
            if entrant.nchw:
                row.nchw_seconds = timing.finite(measured.typical)
                row.details["nchw_samples"] = entrant.samples
                continue
            if entrant.cold:
                row.details["cold_seconds"] = timing.finite(measured.typical)
                row.details["cold_samples"] = entrant.samples
                continue
            row.samples = entrant.samples
            row.sides, row.processes = measured.sides, measured.processes
            row.seconds = timing.finite(measured.typical)
            if entrant.repeated:
                row.details["repeated_sides"] = entrant.repeated
                row.details["disturbed_sides"] = entrant.disturbed

    def apart(self) -> timing.Ratio | None:
        """Return the ratio of the baseline's two processes, None if they were not timed."""
        by_name = {e.name: e for e in self.entrants if not e.special and e.samples}
        if AGAIN not in by_name or self.baseline not in by_name:
            return None
        return timing.ratio(by_name[AGAIN].measured, by_name[self.baseline].measured)

    def _probe(self, pool: WorkerPool, entrant: Entrant) -> bool:
        """Find out how to time an entrant; return whether it can be timed."""
        if entrant.lost:
            return False
        if entrant.side is not None:
            return True
        with failing([entrant.row]):
            probed = pool.ask(entrant.name, "probe", direction=self.direction, nchw=entrant.nchw)
            if probed["seconds"] > self._budget.slowest:
                entrant.row.withdraw("unsupported", too_slow(probed["seconds"]))
                return False
            entrant.side = side_of(self.direction, probed["seconds"], entrant.nchw, entrant.cold)
            two = 2 * entrant.side.seconds
            each = self._budget.seconds / self._budget.processes
            entrant.rounds = self._budget.rounds_for(entrant.side.seconds, each)
            # Special times have no verdict, so one process will do.
            once = entrant.special or two > self._budget.seconds
            entrant.processes = 1 if once else self._budget.processes
            if not entrant.special:
                entrant.row.extra_bytes = probed["extra_bytes"]
        return entrant.side is not None

    def _round(
        self, pool: WorkerPool, racing: Sequence[Entrant], random: np.random.Generator
    ) -> list[tuple[Entrant, list[float]]]:
        """Return the two sides of each entrant, those that were disturbed repeated."""
        found: list[tuple[Entrant, dict[str, float]]] = [
            (entrant, _side(pool, entrant)) for entrant in timing.there_and_back(racing, random)
        ]
        canaries = [side["canary"] for _, side in found if not math.isnan(side["canary"])]
        usual = statistics.median(canaries) if canaries else math.nan
        for place, (entrant, side) in enumerate(found):
            assert entrant.side is not None
            if not _disturbed(side, usual) or entrant.side.seconds > REPEATABLE_SECONDS:
                continue
            entrant.repeated += 1
            for _ in range(REPEATS):
                side = _side(pool, entrant)
                if not _disturbed(side, usual):
                    break
            else:
                entrant.disturbed += 1
            found[place] = entrant, side
        return [
            (entrant, [side["seconds"] for one, side in found if one is entrant])
            for entrant in racing
        ]


def _side(pool: WorkerPool, entrant: Entrant) -> dict[str, float]:
    """Time a side; nan if the entrant goes wrong, or has before."""
    assert entrant.side is not None
    side: dict[str, float] = {"seconds": math.nan, "canary": math.nan, "lost": 0.0}
    if not entrant.lost:
        if pool.threads > 1:  # else nobody's threads wait for one another
            timing.rest()
        with failing([entrant.row]):
            side = pool.ask(entrant.name, "side", **entrant.side.request)
    return side


def _disturbed(side: Mapping[str, float], usual: float) -> bool:
    return side["canary"] > DISTURBED * usual or side["lost"] > LOST
