"""Charts of the correctness checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cnnbench.report import numbers
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.report.tables import Sheet
from cnnbench.results import Row


def errors(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield a chart of errors as fractions of the rounding bound of direct sums.

    A wrong backend has no mark, because its check stops at the first wrong result; the title
    names it. Algorithms that declare a larger bound may lie right of the line at 1.
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
            name,
            marker,
            x=[max(worst[key], least / 3) for key in keys],
            y=[case for case, _ in keys],
            text=[numbers.of_bound(worst[key]) for key in keys],
            hover="%{y}: %{text} of the bound",
        )
        for name, marker, own in drawing.groups(known, rows, markers)
        for keys in [list(dict.fromkeys((drawing.label(row, rows), row.backend) for row in own))]
    ]
    cases = list(dict.fromkeys(case for case, _ in worst))
    largest = max(worst.values())
    wrong = dict.fromkeys(row.backend for row in rows if row.outcome == "wrong")
    larger = dict.fromkeys(row.backend for row in known if (row.error_over_bound or 0.0) > 1)
    if wrong:
        title = f"Wrong: {', '.join(wrong)}"
        title += "" if larger else "; all other errors lie left of the line at 1"
    elif larger:
        title = f"Right of the line at 1, within the bounds they declare: {', '.join(larger)}"
    else:
        title = "Every error is left of the line at 1: within the rounding bound of direct sums"
    yield Chart(
        title,
        f"Errors of {len(cases)} cases as fractions of direct's bounds; the largest is "
        f"{numbers.of_bound(largest)}.",
        traces,
        {
            "xaxis": drawing.log(
                "largest error / rounding bound of direct sums", [least / 4, max(2.0, 2 * largest)]
            ),
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
