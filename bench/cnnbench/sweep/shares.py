"""Shares: what becomes one run, and which of its cases are still to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench import sums
from cnnbench.results import UNFINISHED, Row, Run
from cnnbench.sweep.machines import About
from cnnbench.sweep.requests import WITH_CASES, Request

Case = tuple[str, str]
"""The name of a case's set, or '', and its descriptor."""


@dataclass(eq=False)
class Piece:
    """Cases for one task; none for a command without cases.

    Attributes
    ----------
    cases : list of Case
    attempts : int
        How often a task with it has ended without finishing another case.
    """

    cases: list[Case]
    attempts: int = 0


@dataclass(eq=False)
class Share:
    """What one machine measures, or several that are alike: one run.

    Attributes
    ----------
    name : str
        Of the machine; in a split sweep, of the first of them.
    about : dict
        Of that machine.
    request : Request
    pieces : list of Piece
        What no task has taken yet.
    finished : set of Case
    tasks : int
        How many tasks have given rows.
    failed : str
        Why pieces were given up, or ''.
    environment : dict
        Of its run.
    plan : str or None
        The text of the plan of `recommend`.
    """

    name: str
    about: About
    request: Request
    pieces: list[Piece] = field(default_factory=list)
    finished: set[Case] = field(default_factory=set)
    tasks: int = 0
    failed: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    plan: str | None = None
    _rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)

    def cut(self, pieces: int = 1) -> None:
        """Cut what is not finished into pieces of neighboring cases, of about equal size."""
        if self.request.command not in WITH_CASES:
            self.pieces = [Piece([])]
            return
        left = self.missing()
        size = max(1, -(-len(left) // pieces))
        self.pieces = [Piece(left[at : at + size]) for at in range(0, len(left), size)]

    def missing(self) -> list[Case]:
        """Return the cases that are not finished."""
        return [case for case in self.request.cases if case not in self.finished]

    @property
    def unfinished(self) -> bool:
        """Whether anything is left to be measured, or was given up."""
        return bool(self.pieces or self.failed or self.missing())

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return list(self._rows.values())

    def add(self, rows: Iterable[Row], environment: dict[str, Any] | None) -> None:
        """Add rows of a task, or newer versions of them, and its environment."""
        self._rows.update((key_of(row), row) for row in rows)
        for key, value in (environment or {}).items():
            if key == "aa_floor":
                self._raise_floors(value)
            elif key in _LATEST:
                self.environment[key] = value
            else:
                self.environment.setdefault(key, value)

    def _raise_floors(self, floors: dict[str, float | None]) -> None:
        """Keep the largest A/A floor of all tasks."""
        known = self.environment.setdefault("aa_floor", {})
        for count, floor in floors.items():
            both = [one for one in (known.get(count), floor) if one is not None]
            known[count] = max(both, default=None)

    def changed(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those rows, as JSON, that are not here as they are."""
        return [
            plain for plain in rows if self._rows.get(key_of(row := Row.from_json(plain))) != row
        ]

    def run(self, path: Path) -> Run:
        """Return the run, to be written to a path; sets that several tasks measured are summed."""
        order = {descriptor: at for at, (_, descriptor) in enumerate(self.request.cases)}
        rows = sorted(self.rows, key=lambda row: (row.threads, order.get(row.problem, len(order))))
        if self.tasks > 1 and self.request.command == "time":
            rows = self._summed([row for row in rows if row.problem])
        return Run(self.environment, rows, [path])

    def _summed(self, rows: list[Row]) -> list[Row]:
        left = set(self.missing())
        found = list(rows)
        for name in dict.fromkeys(name for name, _ in self.request.cases if name):
            cases = {case for case in self.request.cases if case[0] == name}
            if cases & left:
                continue
            of_set = [row for row in rows if (name, row.problem) in cases]
            for threads in dict.fromkeys(row.threads for row in of_set):
                mine = [row for row in of_set if row.threads == threads]
                baseline = next((row.baseline for row in mine if row.baseline), "")
                floor = self.environment.get("aa_floor", {}).get(str(threads))
                found += sums.of_set(
                    name, mine, baseline, float("nan") if floor is None else floor, threads
                )
        return found


_LATEST = ("finished", "load_after", "taken_by_others")
"""What the environment has of the last task; of other keys, the first task's value counts."""


def key_of(row: Row) -> tuple[Any, ...]:
    """Return what a row has in common with its newer versions."""
    return row.case, row.problem, row.op, row.direction, row.backend, row.threads


def unfinished(cases: Sequence[Case], environment: dict[str, Any] | None) -> list[Case]:
    """Return those cases that a task has not finished, by the environment of its run."""
    if environment is None or UNFINISHED not in environment:
        return list(cases)
    open_ = {descriptor for some in environment[UNFINISHED].values() for descriptor in some}
    return [case for case in cases if case[1] in open_]
