"""What charts are made of: marks, axes, lines, and the words for rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.report.offline import COLOURS, SHAPES
from cnnbench.report.tables import Sheet
from cnnbench.results import Row

ROW_PIXELS = 20
"""Height of a mark in a chart that has cases below each other."""


@dataclass(frozen=True)
class Chart:
    """A chart for plotly, without the page's colours.

    Attributes
    ----------
    title : str
        What to see.
    alt : str
        The same for who does not see it, in figures.
    traces : list of dict
    layout : dict
    height : int
        Pixels.
    sheet : Sheet
        What is drawn, in figures.
    """

    title: str
    alt: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    sheet: Sheet


def colours(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a marker for each name: colours and shapes are told apart by anyone.

    Where colours begin anew, shapes are shifted by one: 64 names differ in one or the other, and
    neighbours in both.
    """
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "symbol": SHAPES[(i + i // len(COLOURS)) % len(SHAPES)],
            "size": 9,
        }
        for i, name in enumerate(dict.fromkeys(names))
    }


def marks(
    name: str,
    markers: dict[str, Any],
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    text: Sequence[str],
    hover: str,
) -> dict[str, Any]:
    """Return marks without lines: those of one name, each with a text for who points at it."""
    return {
        "type": "scatter", "mode": "markers", "name": name, "marker": markers[name],
        "x": list(x), "y": list(y), "text": list(text), "hovertemplate": hover,
    }  # fmt: skip


def log(title: str, span: Sequence[float] = ()) -> dict[str, Any]:
    """Return a logarithmic axis, from the first to the second number of a span if one is given."""
    axis: dict[str, Any] = {
        "type": "log", "title": {"text": title}, "exponentformat": "power", "nticks": 5
    }  # fmt: skip
    if span:
        axis["range"] = [math.log10(value) for value in span]
    return axis


def linear(title: str) -> dict[str, Any]:
    """Return a linear axis."""
    return {"title": {"text": title}}


def categories(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of names, the first on top."""
    return {
        "type": "category", "categoryorder": "array", "categoryarray": list(reversed(names)),
        "automargin": True, "tickmode": "linear",
    }  # fmt: skip


def vertical(at: float) -> dict[str, Any]:
    """Return a line across the whole chart."""
    return {
        "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": "#888888", "width": 2},
    }  # fmt: skip


def height(names: int, marks: float) -> int:
    """Return the pixels of a chart of names below each other, with so many marks in each line."""
    return int(150 + names * max(24, ROW_PIXELS * marks))


def label(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's case, with its threads where the rows have several counts."""
    several = len({other.threads for other in rows}) > 1
    return f"{row.case} ({row.threads})" if several else row.case


def trainer(row: Row, rows: Sequence[Row]) -> str:
    """Return a training's backend or program, with its threads where trainings have several."""
    several = len({other.threads for other in rows if other.op == "train"}) > 1
    return f"{row.backend} ({row.threads})" if several else row.backend


def named(op: str, direction: str) -> str:
    """Return an operation and its direction in words."""
    return f"{_OPERATIONS.get(op, op)}, {words(direction)}"


_OPERATIONS = {"conv2d": "Convolution", "max_pool2d": "Max-pool"}


def words(direction: str) -> str:
    """Return a direction in words."""
    return direction.replace("_", "-")
