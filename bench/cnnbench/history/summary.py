"""Terminal tables of a history's steps, with the commits that caused them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console

from cnnbench.history import series, then_and_now
from cnnbench.history.series import History, Series, Step
from cnnbench.report import numbers, tables

MOST = 40
"""Maximum number of steps shown, largest first; the page has all."""


def show(root: Path, results: Path) -> None:
    """Print the measured series and the steps."""
    history = series.read(root, results)
    console = Console()
    for sheet in sheets(history):
        tables.show(console, sheet)
    first, last = history.commits[0], history.commits[-1]
    console.print(
        f"{len(history.commits)} commits, {first.hash[:8]} ({first.date}) to "
        f"{last.hash[:8]} ({last.date}); full page: cnnbench history",
        highlight=False,
    )


def sheets(history: History) -> list[tables.Sheet]:
    """Return tables of speeds then and now, the measured series, and steps with their commits."""
    measured = Counter(one.what for one in history.series)
    steps = Counter(one.what for one, _ in history.steps)
    worse = Counter(one.what for one, _ in history.regressions)
    overview = tables.Sheet(
        "Measured",
        ("what", "unit", "series", "steps", "regressions"),
        tuple(
            (what, unit, str(count), str(steps[what]), str(worse[what]))
            for what, count in sorted(measured.items())
            for unit in [next(one.unit for one in history.series if one.what == what)]
        ),
        texts=2,
    )
    progress = tables.Sheet(
        "Then and now, geometric means over the cases",
        ("machine", "what", "backend", "cases", "then", "now", "commits"),
        tuple(
            (
                change.series.machine,
                change.series.what,
                change.series.name,
                str(change.cases),
                value(change.series, change.then),
                value(change.series, change.now),
                f"{history.commits[change.first].hash[:8]} to "
                f"{history.commits[change.last].hash[:8]}",
            )
            for change in then_and_now.changes(history)
        ),
        texts=3,
    )
    found = list(history.steps)
    if not found:
        return [progress, overview]
    found.sort(key=lambda pair: pair[1].size, reverse=True)
    shown = sorted(found[:MOST], key=lambda pair: (pair[1].at, pair[0].what, pair[0].case))
    title = "Steps" if len(found) <= MOST else f"The {MOST} largest of {len(found)} steps"
    lines = tuple(
        (
            history.commits[step.at].hash[:8],
            one.what,
            one.case,
            one.name,
            f"{value(one, step.before)} to {value(one, step.after)}",
        )
        for one, step in shown
    )
    makers = dict.fromkeys(step.at for _, step in shown)
    commits = tuple(
        (history.commits[at].hash[:8], history.commits[at].date, history.commits[at].subject)
        for at in makers
    )
    return [
        progress,
        overview,
        tables.Sheet(title, ("commit", "what", "case", "backend", "change"), lines, texts=5),
        tables.Sheet("Commits with these steps", ("commit", "date", "subject"), commits, texts=3),
    ]


def value(one: Series, number: float) -> str:
    """Return a value of a series with its unit."""
    if one.unit == "seconds":
        return numbers.seconds(number)
    if one.unit == "bytes":
        return numbers.bytes_(number)
    return numbers.significant(number)


def change(step: Step) -> str:
    """Return the size of a step: '2.13x', '1/3.20', 'from 0', 'to 0'."""
    if not step.before or not step.after:
        return "from 0" if step.after else "to 0"
    return f"{step.factor:.2f}x" if step.factor >= 1 else f"1/{1 / step.factor:.2f}"
