"""The comparison of backends on all cases at one thread count: its races, rows and verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cnnbench import sums, timing
from cnnbench.budget import Budget
from cnnbench.cases import CaseSet
from cnnbench.checking import folder_of
from cnnbench.judging.comparing import compare
from cnnbench.judging.limits import judge, measure_ceilings
from cnnbench.races import Race
from cnnbench.results import UNFINISHED, Row, Run, distinct
from cnnbench.workers.pool import WorkerPool, failing, note
from cnnbench.workers.worker import WorkerError
from cnnkernels.contract import FORWARD, directions
from cnnkernels.descriptor import Case


class Comparison:
    """Races of checked rows, process by process, until their verdicts stand.

    Parameters
    ----------
    run : Run
        Receives the rows, and the A/A floor.
    sets : sequence of CaseSet
    threads : int
    baseline : str
    budget : Budget
    folder : path
        In which workers share inputs and expected results.
    """

    def __init__(
        self,
        run: Run,
        sets: Sequence[CaseSet],
        threads: int,
        baseline: str,
        budget: Budget,
        folder: Path,
    ) -> None:
        self._run, self._sets, self._threads = run, sets, threads
        self.baseline, self._budget, self._folder = baseline, budget, folder
        self._random = np.random.default_rng()
        self._probes = probes(sets)
        self._with_twins: list[Race] = []
        self._set_of: dict[str, str] = {}
        for group in sets:
            for case in group.cases:
                self._set_of.setdefault(str(case), sums.name_of(group.name))
        self._races: dict[Case, list[Race]] = {}
        self._rows: dict[Case, list[Row]] = {}
        self._sums: dict[tuple[str, str, str, str], Row] = {}
        self._devices: dict[str, str] = {}

    def enter(self, pool: WorkerPool, case: Case, rows: Sequence[Row]) -> None:
        """Add the rows of a checked case: a race for each direction of those that passed.

        A kernel of another backend that takes part is timed once, under its own backend's name.
        """
        passed = [row for row in rows if row.outcome == "ok"]
        own = distinct(passed)
        self._devices |= {row.backend: pool.about(row.backend)["device"] for row in passed}
        layouts = {row.backend: pool.about(row.backend)["layout"] for row in passed}
        wanted = [d for d in directions(case.problem) if any(row.direction == d for row in rows)]
        self._rows[case], self._races[case] = list(rows), []
        for direction in wanted:
            base = next(
                (r.owner for r in passed if (r.direction, r.backend) == (direction, self.baseline)),
                self.baseline,
            )
            mine = [row for row in own if row.direction == direction]
            again = case in self._probes and direction in (wanted[0], wanted[-1])
            race = Race(direction, mine, base, layouts, self._budget, again)
            self._races[case].append(race)
            if again:
                self._with_twins.append(race)
        self._run.add(rows)

    def measure_ceilings(self) -> None:
        """Measure the machine's ceilings, while nothing else runs."""
        note(self._run, "ceilings", self._threads, measure_ceilings(self._threads))

    def open(self) -> dict[Case, set[str]]:
        """Return the cases that need another process, each with its backends."""
        waiting = {
            case: {entrant.name for race in races for entrant in race.open(self._stands)}
            for case, races in self._races.items()
        }
        return {case: names for case, names in waiting.items() if names}

    def note_unfinished(self, cases: Iterable[Case]) -> None:
        """Save in the run which cases need another process."""
        note(self._run, UNFINISHED, self._threads, list(map(str, cases)))
        self._run.write()

    def take(self, pool: WorkerPool, case: Case) -> None:
        """Time a case in one process of each backend that still takes part in its races."""
        races, folder = self._races[case], folder_of(self._folder, case)
        taking_part = {id(race): race.open(self._stands) for race in races}
        names = dict.fromkeys(entrant.name for some in taking_part.values() for entrant in some)
        try:
            for name in names:
                mine = [r for r in self._rows[case] if r.backend == name and r.outcome == "ok"]
                with failing(mine):
                    pool.ask(name, "prepare", descriptor=str(case.problem), folder=str(folder))
            for race in races:
                racing = [e for e in taking_part[id(race)] if not e.lost]
                race.run(pool, racing, self._random)
                for entrant in racing:
                    if entrant.row.outcome in ("wrong", "failed"):
                        _lose(entrant.row, races)
            for name in names:
                with contextlib.suppress(WorkerError):
                    pool.ask(name, "release")
        finally:
            self._judge(case)
            self._run.write()

    def settle(self) -> None:
        """Compare all rows anew, with the A/A floor of all races, and sum the sets."""
        for case in self._races:
            self._judge(case)
        for group in self._sets:
            rows = [row for case in group.cases for row in self._rows[case]]
            for total in sums.of_set(group.name, rows, self.baseline, self._floor, self._threads):
                key = _key(total.case, total)
                if key in self._sums:
                    vars(self._sums[key]).update(vars(total))
                else:
                    self._sums[key] = total
                    self._run.rows.append(total)
        self._run.write()

    @property
    def _floor(self) -> float:
        apart = (race.apart() for race in self._with_twins)
        return timing.floor_of([found for found in apart if found is not None])

    def _stands(self, row: Row) -> bool:
        """Return whether a row needs no further process, for itself or for the sum of its set."""
        floor, total = self._floor, self._sums.get(_key(self._set_of[row.problem], row))
        of_both = [row] if total is None or total.outcome != "ok" else [row, total]
        return all(timing.settled(one.apart, floor) for one in of_both)

    def _judge(self, case: Case) -> None:
        """Give the rows of a case their times, and compare these with ceilings and baseline."""
        floor, rows = self._floor, self._rows[case]
        note(self._run, "aa_floor", self._threads, floor)
        ceilings = self._run.environment.get("ceilings", {}).get(
            str(self._threads), {"reason": "not measured yet"}
        )
        for race in self._races[case]:
            race.give()
            for row in race.rows:
                judge(row, case.problem, self._devices[row.backend], ceilings, self._run.rows)
            of_direction = [row for row in rows if row.direction == race.direction]
            for row in of_direction:
                if row.outcome == "ok" and row not in race.rows:
                    _copy_times(next(r for r in of_direction if r.backend == row.owner), row)
            compare(of_direction, self.baseline, floor)


def probes(sets: Sequence[CaseSet]) -> list[Case]:
    """Return the cases for measuring the floor: the smallest and the median one."""
    cases = sorted(
        (case for group in sets for case in group.cases if case.problem.batch),
        key=lambda case: case.problem.bytes_moved(FORWARD),
    )
    return list(dict.fromkeys([cases[0], cases[len(cases) // 2]])) if cases else []


def _key(case: str, row: Row) -> tuple[str, str, str, str]:
    return case, row.op, row.direction, row.backend


def _lose(lost: Row, races: Sequence[Race]) -> None:
    """Settle the other directions of a backend that went wrong in one of them."""
    for race in races:
        race.leave(lost.backend)
        for row in race.rows:
            if row.backend != lost.backend or row.outcome != "ok":
                continue
            if lost.outcome == "wrong":
                row.withdraw("wrong", f"{lost.direction}: {lost.reason}")
            elif not race.timed(row):
                row.withdraw("failed", f"not timed: {lost.direction} {lost.reason}")


def _copy_times(timed: Row, row: Row) -> None:
    """Give a row the times of its kernel under another backend's name."""
    if timed.outcome != "ok":
        row.withdraw(timed.outcome, f"{timed.backend}: {timed.reason}")
        return
    row.samples, row.sides, row.processes = timed.samples, timed.sides, timed.processes
    row.seconds, row.extra_bytes = timed.seconds, timed.extra_bytes
    row.gflops, row.ceiling_fraction = timed.gflops, timed.ceiling_fraction
    row.nchw_seconds = timed.nchw_seconds
