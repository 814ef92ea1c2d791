"""Charts of rows, each with a title, a text alternative and a table."""

from cnnbench.report.charts.correctness import errors
from cnnbench.report.charts.drawing import Chart, colours
from cnnbench.report.charts.speed import first_calls, ratios, rooflines, sizes, threads
from cnnbench.report.charts.training import curves, seconds, steps
from cnnbench.report.charts.two_runs import against

__all__ = [
    "Chart",
    "against",
    "colours",
    "curves",
    "errors",
    "first_calls",
    "ratios",
    "rooflines",
    "seconds",
    "sizes",
    "steps",
    "threads",
]
