"""Parts of charts: marks, axes, lines and labels of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.report.offline import COLOURS, SHAPES
from cnnbench.report.tables import Sheet
from cnnbench.results import Row

ROW_PIXELS = 20
"""Height of one mark in a chart with one line per case."""


@dataclass(frozen=True)
class Chart:
    """A chart for plotly, without the page's colors.

    Attributes
    ----------
    title : str
        The chart's message.
    alt : str
        Text alternative, with figures.
    traces : list of dict
    layout : dict
    height : int
        Pixels.
    sheet : Sheet
        The drawn values as a table.
    """

    title: str
    alt: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    sheet: Sheet


def colours(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a marker for each name, distinct in color and shape.

    When the colors repeat, the shapes shift by one, so more names still differ in one of the two.
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
    marker: dict[str, Any],
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    text: Sequence[str],
    hover: str,
) -> dict[str, Any]:
    """Return a trace of unconnected marks with hover texts."""
    return {
        "type": "scatter", "mode": "markers", "name": name, "marker": marker,
        "x": list(x), "y": list(y), "text": list(text), "hovertemplate": hover,
    }  # fmt: skip


def log(title: str, span: Sequence[float] = ()) -> dict[str, Any]:
    """Return a logarithmic axis, limited to `span` if given."""
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
    """Return a category axis with the first name on top."""
    return {
        "type": "category", "categoryorder": "array", "categoryarray": list(reversed(names)),
        "automargin": True, "tickmode": "linear",
    }  # fmt: skip


def groups(
    rows: Sequence[Row], every: Sequence[Row], markers: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], list[Row]]]:
    """Yield a name, a marker and rows for each backend and thread count.

    Parameters
    ----------
    rows : sequence of Row
        Rows to group.
    every : sequence of Row
        All rows of the page: their thread counts fix the marks.
    markers : dict
        Marker of each backend.
    """
    counts = sorted({row.threads for row in every})
    pairs = dict.fromkeys((row.backend, row.threads) for row in rows)
    for backend, threads in sorted(pairs, key=lambda pair: pair[1]):
        name = f"{backend} ({threads})" if len(counts) > 1 else backend
        own = [row for row in rows if (row.backend, row.threads) == (backend, threads)]
        yield name, variant(markers[backend], counts.index(threads)), own


def variant(marker: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a backend's marker for its n-th thread count: filled for the first, then hollow."""
    suffix = ("", "-open", "-open-dot", "-dot")[min(number, 3)]
    return {**marker, "symbol": marker["symbol"] + suffix, "line": {"width": 2 if number else 0}}


def vertical(at: float) -> dict[str, Any]:
    """Return a vertical line across the whole chart."""
    return {
        "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": "#888888", "width": 2},
    }  # fmt: skip


def height(names: int, marks: float) -> int:
    """Return the height in pixels of a chart with a line per name and `marks` marks per line."""
    return int(150 + names * max(24, ROW_PIXELS * marks))


def label(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's case, with its thread count if the rows have several."""
    several = len({other.threads for other in rows}) > 1
    return f"{row.case} ({row.threads})" if several else row.case


def trainer(row: Row, rows: Sequence[Row]) -> str:
    """Return a training's backend or program, with its thread count if there are several."""
    several = len({other.threads for other in rows if other.op == "train"}) > 1
    return f"{row.backend} ({row.threads})" if several else row.backend


def named(op: str, direction: str) -> str:
    """Return the label of an operation and its direction."""
    if op == "step":
        return "Training step"
    return f"{_OPERATIONS.get(op, op)}, {words(direction)}"


_OPERATIONS = {"conv2d": "Convolution", "max_pool2d": "Max-pool"}


def words(direction: str) -> str:
    """Return the label of a direction."""
    return direction.replace("_", "-")
