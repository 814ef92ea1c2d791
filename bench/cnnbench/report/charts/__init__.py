"""Rows as charts: each says what to see, and has its table behind it."""

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
