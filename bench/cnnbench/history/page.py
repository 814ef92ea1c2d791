"""The self-contained HTML page of the performance history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnbench.history import summary, then_and_now
from cnnbench.history.series import History, Series, Step
from cnnbench.report import offline


def write(history: History, path: Path, site: offline.Site | None = None) -> None:
    """Write the page, alone or as one of a site.

    Raises
    ------
    PageError
        If Jinja2 or plotly is not installed, or the file cannot be written.
    """
    first, last = history.commits[0], history.commits[-1]
    offline.write(
        path,
        "history/page.html",
        site,
        title="Performance history",
        data=_data(history),
        commits=len(history.commits),
        span=f"{first.date} to {last.date}",
        machines=", ".join(sorted({one.machine for one in history.series})),
    )


def _data(history: History) -> dict[str, Any]:
    return {
        "commits": [
            {"hash": commit.hash[:8], "date": commit.date, "subject": commit.subject}
            for commit in history.commits
        ],
        "series": [_series(one) for one in history.series],
        "changes": [
            {
                "machine": change.series.machine,
                "what": change.series.what,
                "name": change.series.name,
                "cases": change.cases,
                "first": change.first,
                "last": change.last,
                "then": summary.value(change.series, change.then),
                "now": summary.value(change.series, change.now),
                "change": _short(change.then / change.now),
            }
            for change in then_and_now.changes(history)
        ],
    }


def _series(one: Series) -> dict[str, Any]:
    return {
        "what": one.what,
        "unit": one.unit,
        "case": one.case,
        "backend": one.backend,
        "machine": one.machine,
        "apart": one.apart,
        "name": one.name,
        "points": [[commit, *map(_short, values)] for commit, *values in one.points],
        "steps": [_step(one, step) for step in one.steps],
    }


def _step(one: Series, step: Step) -> dict[str, Any]:
    return {
        "at": step.at,
        "since": step.since,
        "before": summary.value(one, step.before),
        "after": summary.value(one, step.after),
        "change": summary.change(step),
        "factor": _short(step.factor) if step.before else None,
        "regression": step.regression,
        "suspect": step.lasting and step.again is None,
    }


def _short(value: float | None) -> float | None:
    """Return a number rounded to five significant digits, to keep the page small."""
    return None if value is None else float(f"{value:.5g}")
