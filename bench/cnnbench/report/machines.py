"""Runs of several machines side by side: who is the fastest where, and where they contradict."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.report import numbers
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.report.tables import Sheet, threads_in_words
from cnnbench.results import Row, Run, distinct
from cnnbench.words import counted

Key = tuple[str, str, str, str]
"""Case, descriptor, operation and direction."""


@dataclass(frozen=True)
class Side:
    """A machine's rows at one thread count.

    Attributes
    ----------
    letter : str
        A short name: A, B, C.
    name : str
        Of the machine, with the thread count, and the time if another side has the same name.
    rows : list of Row
        Without those whose kernel is another backend's.
    """

    letter: str
    name: str
    rows: list[Row]

    def fastest(self, key: Key) -> Row | None:
        """Return the fastest backend of a case and direction, None if none was timed."""
        timed = [row for row in self.rows if _key(row) == key and row.seconds and row.samples]
        return min(timed, key=lambda row: row.seconds or 0.0, default=None)


def sides(runs: Sequence[Run]) -> list[Side]:
    """Return the sides of several runs: one for each run and thread count."""
    found = []
    for run in runs:
        about = run.environment
        for threads in dict.fromkeys(row.threads for row in run.rows):
            rows = distinct(row for row in run.rows if row.threads == threads)
            found.append((f"{about['machine']}, {threads_in_words(threads)}", about, rows))
    names = Counter(name for name, _, _ in found)
    return [
        Side(_letter(at), name if names[name] == 1 else f"{name}, {about['started'][:16]}", rows)
        for at, (name, about, rows) in enumerate(found)
    ]


def _letter(number: int) -> str:
    """Return A to Z, then A1 to Z1, and so on."""
    letter = string.ascii_uppercase[number % 26]
    return letter if number < 26 else f"{letter}{number // 26}"


def legend(sides: Sequence[Side]) -> Sheet:
    """Return a table of what the letters stand for."""
    return Sheet(
        "Machines", ("", "machine"), tuple((side.letter, side.name) for side in sides), texts=2
    )


def keys(sides: Sequence[Side], *, totals: bool) -> list[Key]:
    """Return the totals, or the single cases, that have a ratio on at least two sides."""
    counts: Counter[Key] = Counter()
    for side in sides:
        counts.update({_key(row) for row in side.rows if row.ratio and bool(row.problem) != totals})
    order = dict.fromkeys(_key(row) for side in sides for row in side.rows)
    return [key for key in order if counts[key] > 1]


def sentence(sides: Sequence[Side]) -> str:
    """Return in words which backend is the fastest on each machine, and who contradicts."""
    shared = keys(sides, totals=True) or keys(sides, totals=False)
    if not shared:
        return "These runs have no timed case in common."
    letters: dict[str, dict[str, list[str]]] = {}
    for side in sides:
        wins = Counter(row.backend for key in shared if (row := side.fastest(key)))
        if wins:
            (best, count), *_ = wins.most_common()
            of_best = letters.setdefault(best, {})
            of_best.setdefault(f"{count} of {wins.total()}", []).append(side.letter)
    parts = [
        f"{best} in {', '.join(f'{count} on {_listed(on)}' for count, on in counts.items())}"
        for best, counts in letters.items()
    ]
    against = len(contradictions(sides))
    verdicts = (
        f"Verdicts contradict in {counted(against, 'comparison')}."
        if against
        else "No verdict contradicts another."
    )
    return f"Fastest: {'; '.join(parts)}. {verdicts}"


def _listed(words: Sequence[str]) -> str:
    """Return words joined as in a sentence: 'A, B and C'."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def contradictions(sides: Sequence[Side]) -> list[tuple[Key, str]]:
    """Return the cases and backends that are FASTER on one side and SLOWER on another."""
    verdicts: dict[tuple[Key, str, str | None], set[str | None]] = {}
    for side in sides:
        for row in side.rows:
            verdicts.setdefault((_key(row), row.backend, row.baseline), set()).add(row.verdict)
    return [
        (key, backend)
        for (key, backend, _), found in verdicts.items()
        if {"FASTER", "SLOWER"} <= found
    ]


def sheets(sides: Sequence[Side], *, every: bool = True) -> Iterator[Sheet]:
    """Yield tables: the fastest backends, contradictions, and the ratios on each side.

    Without `every`, single cases are left out where there are totals.
    """
    names = tuple(side.letter for side in sides)
    shared = keys(sides, totals=True)
    if every or not shared:
        shared += keys(sides, totals=False)
    yield Sheet(
        "The fastest backend",
        ("case", *names),
        tuple((_words(key), *(_best(side.fastest(key)) for side in sides)) for key in shared),
        texts=1 + len(names),
    )
    against = contradictions(sides)
    if against:
        yield Sheet(
            "Where verdicts contradict",
            ("case", "backend", *names),
            tuple(
                (_words(key), backend, *(_ratio(_row(side, key, backend)) for side in sides))
                for key, backend in against
            ),
            texts=2 + len(names),
        )
    for backend in _backends(sides):
        yield _ratios(sides, backend, shared)


def _ratios(sides: Sequence[Side], backend: str, shared: Sequence[Key]) -> Sheet:
    """Return a table of a backend's ratios on each side."""
    return Sheet(
        f"{backend}, relative to {_baseline(sides, backend)}",
        ("case", *(side.letter for side in sides)),
        tuple(
            (_words(key), *(_ratio(_row(side, key, backend)) for side in sides))
            for key in shared
            if any(_row(side, key, backend) for side in sides)
        ),
        texts=1 + len(sides),
    )


def charts(sides: Sequence[Side]) -> Iterator[Chart]:
    """Yield a chart for each backend: its speed relative to the baseline on every side."""
    totals, cases = keys(sides, totals=True), keys(sides, totals=False)
    shared = totals or cases
    markers = drawing.colours(side.letter for side in sides)
    for backend in _backends(sides):
        baseline = _baseline(sides, backend)
        traces: list[dict[str, Any]] = []
        for side in sides:
            found = [(key, row) for key in shared if (row := _row(side, key, backend))]
            traces.append(
                drawing.marks(
                    f"{side.letter}: {side.name}",
                    markers[side.letter],
                    x=[row.ratio for _, row in found],
                    y=[_words(key) for key, _ in found],
                    text=[_ratio(row) for _, row in found],
                    hover="%{y}: %{text}",
                )
            )
        every = [row.ratio for side in sides for row in side.rows
                 if row.backend == backend and row.ratio and _key(row) in shared]  # fmt: skip
        yield Chart(
            f"{backend} on every machine: right of the line is faster than {baseline}",
            f"Relative speeds of {backend} from {numbers.significant(min(every))} to "
            f"{numbers.significant(max(every))}.",
            traces,
            {
                "xaxis": drawing.log(f"speed relative to {baseline}"),
                "yaxis": drawing.categories(list(map(_words, shared))),
                "shapes": [drawing.vertical(1.0)],
            },
            drawing.height(len(shared), max(1.4, 0.35 * len(traces))),
            _ratios(sides, backend, totals + cases),
        )


def _backends(sides: Sequence[Side]) -> list[str]:
    """Return the backends that are compared with a baseline on at least two sides."""
    counts: Counter[str] = Counter()
    for side in sides:
        counts.update({row.backend for row in side.rows if row.ratio} - {
            row.baseline for row in side.rows if row.baseline
        })  # fmt: skip
    return [name for name, count in counts.items() if count > 1]


def _baseline(sides: Sequence[Side], backend: str) -> str:
    return next(
        row.baseline
        for side in sides
        for row in side.rows
        if row.backend == backend and row.baseline
    )


def _row(side: Side, key: Key, backend: str) -> Row | None:
    return next(
        (row for row in side.rows if row.backend == backend and row.ratio and _key(row) == key),
        None,
    )


def _key(row: Row) -> Key:
    return row.case, row.problem, row.op, row.direction


def _words(key: Key) -> str:
    case, problem, op, direction = key
    if op == "train":
        return case
    kind = "max-pool " if op == "max_pool2d" and not problem else ""
    return f"{case.removesuffix(' (sum)')}, {kind}{drawing.words(direction)}"


def _ratio(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{numbers.ratio(row.ratio)} {row.verdict or ''}".strip()


def _best(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.backend} {numbers.ratio(row.ratio)}" if row.ratio else row.backend
