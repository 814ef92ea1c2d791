"""The judge's own error rates: verdicts on identical backends, and on some slowed by construction.

Every backend of the comparison is the same one. Copies of it run in processes of their own, and the
calls of some take longer by a known fraction: a loop waits until that much more time has passed. So
the right verdicts are known. A verdict on an identical copy is false; a copy that is slower by 5 %
is found or missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnbench import speed
from cnnbench.budget import Budget, Progress
from cnnbench.cases import CaseSet
from cnnbench.report import numbers
from cnnbench.report.tables import Sheet, threads_in_words
from cnnbench.results import Row, Run
from cnnbench.words import counted
from cnnbench.workers.pool import Copy

SLOWER = (0.03, 0.05, 0.10)
"""The fractions by which copies are slower."""

LENGTHS = ((0.0, 2e-5), (2e-5, 1e-3), (1e-3, float("inf")))
"""Calls by their length in seconds, from and to (exclusive)."""

_VERDICTS = ("FASTER", "SLOWER", "SAME", "UNCLEAR")


def copies_of(backend: str) -> dict[str, Copy]:
    """Return two identical copies of a backend, and slower ones, by name."""
    identical = {f"{backend}, {word} copy": Copy(backend) for word in ("first", "second")}
    slower = {f"{backend}, {100 * part:.0f} % slower": Copy(backend, part) for part in SLOWER}
    return identical | slower


def measure(
    run: Run,
    sets: Sequence[CaseSet],
    backend: str,
    threads: Sequence[int],
    budget: Budget,
    progress: Progress,
    caches: Path,
) -> None:
    """Compare a backend with its copies on every case, and add the rows to the run."""
    copies = copies_of(backend)
    speed.time(
        run, sets, [backend, *copies], threads, backend, budget, progress, caches, copies=copies
    )
    for row in run.rows:
        if row.backend in copies:
            row.details["slower"] = copies[row.backend].slower
    run.write()


def sheet(run: Run) -> Sheet:
    """Return a table of the verdicts, by how much slower the copy was and how long its calls."""
    rows = [row for row in run.rows if row.problem and row.outcome == "ok" and row.verdict]
    compared = [row for row in rows if "slower" in row.details]
    lines: list[tuple[str, ...]] = []
    for slower in (0.0, *SLOWER):
        of_copy = [row for row in compared if row.details["slower"] == slower]
        lines.append(())
        lines += list(_lines(slower, of_copy))
    floors = run.environment.get("aa_floor", {}).items()
    notes = [
        f"A/A floor with {threads_in_words(int(count))}: {numbers.floor(floor)}"
        for count, floor in floors
    ]
    identical = [row for row in compared if row.details["slower"] == 0.0]
    false = [row for row in identical if row.verdict in ("FASTER", "SLOWER")]
    notes.append(
        f"false verdicts: {len(false)} of {counted(len(identical), 'pair')} of identical backends"
        + "".join(
            f"; {row.case} {row.direction} "
            f"{numbers.interval(row.ratio, row.ratio_low, row.ratio_high)}"
            for row in false
        )
    )
    return Sheet(
        f"Verdicts on copies of {rows[0].baseline if rows else 'a backend'}",
        ("copy, length of a call", "pairs", *_VERDICTS, "processes"),
        tuple(lines[1:]),
        tuple(notes),
    )


def _lines(slower: float, rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    kind = f"{100 * slower:.0f} % slower" if slower else "identical"
    for low, high in LENGTHS:
        mine = [row for row in rows if low <= (row.seconds or 0.0) < high]
        if not mine:
            continue
        words = f"under {numbers.seconds(high)}" if not low else f"{numbers.seconds(low)} and more"
        if low and high < float("inf"):
            words = f"{numbers.seconds(low)} to {numbers.seconds(high)}"
        verdicts = [row.verdict for row in mine]
        counts = [verdicts.count(verdict) for verdict in _VERDICTS]
        mean = sum(row.processes for row in mine) / len(mine)
        yield (f"{kind}, {words}", str(len(mine)), *map(str, counts), f"{mean:.1f}")
