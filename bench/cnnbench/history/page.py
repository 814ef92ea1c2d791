"""The history as one HTML file that opens anywhere: everything it needs is in it."""

from __future__ import annotations

import html
import json
import string
from importlib import resources
from pathlib import Path
from typing import Any

from cnnbench.history import summary
from cnnbench.history.asv import HistoryError
from cnnbench.history.series import History, Series, Step


def write(history: History, path: Path) -> None:
    """Write the page.

    Raises
    ------
    HistoryError
        If plotly, which draws the charts, is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise HistoryError(
            f"plotly is not installed here ({error}): pip install 'cnnbench[report]'"
        ) from None
    template = (resources.files("cnnbench.history") / "page.html").read_text(encoding="utf-8")
    first, last = history.commits[0], history.commits[-1]
    filled = string.Template(template).substitute(
        plotly=get_plotlyjs(),
        # In a script element only "</" could end it early.
        data=json.dumps(_data(history), separators=(",", ":")).replace("</", "<\\/"),
        commits=len(history.commits),
        span=html.escape(f"{first.date} to {last.date}"),
        machines=html.escape(", ".join(sorted({one.machine for one in history.series}))),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(filled, encoding="utf-8")


def _data(history: History) -> dict[str, Any]:
    return {
        "commits": [
            {"hash": commit.hash[:8], "date": commit.date, "subject": commit.subject}
            for commit in history.commits
        ],
        "series": [_series(one) for one in history.series],
    }


def _series(one: Series) -> dict[str, Any]:
    return {
        "what": one.what,
        "unit": one.unit,
        "case": one.case,
        "backend": one.backend,
        "machine": one.machine,
        "environment": one.environment,
        "points": [[commit, *map(_short, values)] for commit, *values in one.points],
        "levels": [[first, last, _short(value)] for first, last, value in one.levels],
        "steps": [_step(one, step) for step in one.steps],
    }


def _step(one: Series, step: Step) -> dict[str, Any]:
    return {
        "at": step.at,
        "before": summary.value(one, step.before),
        "after": summary.value(one, step.after),
        "change": summary.change(step),
        "factor": _short(step.factor) if step.before else None,
        "regression": step.regression,
    }


def _short(value: float | None) -> float | None:
    """Return a number with as many digits as a measurement has."""
    return None if value is None else float(f"{value:.5g}")
