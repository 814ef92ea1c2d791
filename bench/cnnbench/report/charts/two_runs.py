"""Charts that compare two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cnnbench.report import numbers, tables
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.results import Row


def against(rows: Sequence[Row], others: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield a chart of this run's speed relative to another run's."""
    theirs = {tables.identity(row): row for row in others if row.seconds and row.samples}
    pairs = [
        (row, theirs[tables.identity(row)])
        for row in rows
        if row.seconds and row.samples and tables.identity(row) in theirs
    ]
    if not pairs:
        return
    labels = [
        f"{drawing.label(row, rows)}, {drawing.words(row.direction)}"
        if row.op != "train"
        else "training"
        for row, _ in pairs
    ]
    gains = [(other.seconds or 0.0) / (row.seconds or 1.0) for row, other in pairs]
    traces = []
    for backend in dict.fromkeys(row.backend for row, _ in pairs):
        own = [i for i, (row, _) in enumerate(pairs) if row.backend == backend]
        traces.append(
            drawing.marks(
                backend,
                markers[backend],
                x=[gains[i] for i in own],
                y=[labels[i] for i in own],
                text=[
                    f"{numbers.seconds(pairs[i][0].seconds)} here, "
                    f"{numbers.seconds(pairs[i][1].seconds)} there"
                    for i in own
                ],
                hover="%{y}: %{x:.2f}x, %{text}",
            )
        )
    cases = list(dict.fromkeys(labels))
    yield Chart(
        "Right of the line, this run was faster than the other",
        f"From {min(gains):.2f} to {max(gains):.2f} times as fast as in the other run; the runs "
        "were not timed in turns.",
        traces,
        {
            "xaxis": drawing.log("speed relative to the other run"),
            "yaxis": drawing.categories(cases),
            "shapes": [drawing.vertical(1.0)],
        },
        drawing.height(len(cases), 1.2),
        tables.against_sheet(rows, others),
    )
