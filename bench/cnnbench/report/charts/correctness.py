"""Checks as charts: how large errors are, and which backend is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cnnbench.report import numbers
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.report.tables import Sheet
from cnnbench.results import Row


def errors(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield how large errors are, in units of what rounding can make.

    Who is wrong has no mark, but is in the title: a check ends at the first wrong result.
    """
    known = [row for row in rows if row.error_over_bound is not None]
    if not known:
        return
    least = min((row.error_over_bound for row in known if row.error_over_bound), default=1e-3)
    worst: dict[tuple[str, str], float] = {}
    for row in known:
        key = drawing.label(row, rows), row.backend
        worst[key] = max(worst.get(key, 0.0), row.error_over_bound or 0.0)
    traces = [
        drawing.marks(
            backend,
            markers,
            x=[max(error, least / 3) for (_, b), error in worst.items() if b == backend],
            y=[case for (case, b) in worst if b == backend],
            text=[numbers.of_bound(error) for (_, b), error in worst.items() if b == backend],
            hover="%{y}: %{text} of the bound",
        )
        for backend in dict.fromkeys(backend for _, backend in worst)
    ]
    cases = list(dict.fromkeys(case for case, _ in worst))
    largest = max(worst.values())
    wrong = dict.fromkeys(
        row.backend for row in rows if row.outcome == "wrong" or (row.error_over_bound or 0.0) > 1
    )
    yield Chart(
        f"Wrong: {', '.join(wrong)}; the errors of all others are left of the line at 1"
        if wrong
        else "Every error is left of the line at 1: smaller than rounding could make it",
        f"Errors over their bounds of {len(cases)} cases; the largest is "
        f"{numbers.of_bound(largest)}.",
        traces,
        {
            "xaxis": drawing.log("largest error of any result, over its bound", [least / 4, 2.0]),
            "yaxis": drawing.categories(cases),
            "shapes": [drawing.vertical(1.0)],
        },
        drawing.height(len(cases), 1.2),
        Sheet(
            "Errors over bounds",
            ("case", "backend", "error"),
            tuple((case, b, numbers.of_bound(error)) for (case, b), error in worst.items()),
            texts=2,
        ),
    )
