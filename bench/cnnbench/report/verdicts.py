"""The table of `cnnbench selftest --statistics`: which verdicts were right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cnnbench.report import numbers
from cnnbench.report.tables import Sheet, threads_in_words
from cnnbench.results import Row, Run
from cnnbench.words import counted

LENGTHS = ((0.0, 2e-5), (2e-5, 1e-3), (1e-3, math.inf))
"""Calls by their length in seconds, from and to (exclusive)."""

_VERDICTS = ("FASTER", "SLOWER", "SAME", "UNCLEAR")


def sheet(run: Run) -> Sheet:
    """Return a table of the verdicts, by how much slower the copy was and how long its calls."""
    compared = copies(run)
    lines: list[tuple[str, ...]] = []
    for slower in sorted({row.details["slower"] for row in compared}):
        of_copy = [row for row in compared if row.details["slower"] == slower]
        lines.append(())
        lines += list(_lines(slower, of_copy))
    floors = run.environment.get("aa_floor", {}).items()
    notes = [
        f"A/A floor with {threads_in_words(int(count))}: {numbers.floor(floor)}"
        for count, floor in floors
    ]
    notes.append(sentence(run))
    return Sheet(
        f"Verdicts on copies of {compared[0].baseline if compared else 'a backend'}",
        ("copy, length of a call", "pairs", *_VERDICTS, "processes"),
        tuple(lines[1:]),
        tuple(notes),
    )


def copies(run: Run) -> list[Row]:
    """Return the rows of copies that have a verdict; other runs have none."""
    return [
        row
        for row in run.rows
        if row.problem and row.outcome == "ok" and row.verdict and "slower" in row.details
    ]


def sentence(run: Run) -> str:
    """Return how many verdicts on identical copies were false, and which."""
    identical = [row for row in copies(run) if row.details["slower"] == 0.0]
    false = [row for row in identical if row.verdict in ("FASTER", "SLOWER")]
    named = "".join(
        f"; {row.case} {row.direction} {numbers.interval(row.ratio, row.ratio_low, row.ratio_high)}"
        for row in false
    )
    pairs = counted(len(identical), "pair")
    return f"false verdicts: {len(false)} of {pairs} of identical backends{named}"


def _lines(slower: float, rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    kind = f"{100 * slower:.0f} % slower" if slower else "identical"
    for low, high in LENGTHS:
        mine = [row for row in rows if low <= (row.seconds or 0.0) < high]
        if not mine:
            continue
        words = f"under {numbers.seconds(high)}" if not low else f"{numbers.seconds(low)} and more"
        if low and high < math.inf:
            words = f"{numbers.seconds(low)} to {numbers.seconds(high)}"
        verdicts = [row.verdict for row in mine]
        counts = [verdicts.count(verdict) for verdict in _VERDICTS]
        mean = sum(row.processes for row in mine) / len(mine)
        yield (f"{kind}, {words}", str(len(mine)), *map(str, counts), f"{mean:.1f}")
