"""Charts of trainings: curves by epoch, run times, and time by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cnnbench.report import numbers, tables
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.report.offline import COLOURS
from cnnbench.report.tables import Sheet
from cnnbench.results import Row
from cnnbench.words import counted

ALIKE = 0.01
"""Relative difference below which two loss curves look like one."""


def curves(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield charts of loss and accuracy by epoch for all backends and programs."""
    trained = {
        drawing.trainer(row, rows) + ("" if row.outcome == "ok" else f" ({row.outcome})"): row
        for row in rows
        if row.details.get("epochs")
    }
    if not trained:
        return
    loss = drawing.log("mean loss (cross-entropy)")
    yield _curves(_loss_title(trained), loss, trained, markers, {"loss": ("", "solid")})
    yield _curves(
        "Accuracy: solid on test images, dashed on training images",
        drawing.linear("accuracy"),
        trained,
        markers,
        {"test_accuracy": ("test", "solid"), "train_accuracy": ("train", "dash")},
    )


def _curves(
    title: str,
    axis: dict[str, Any],
    trained: dict[str, Row],
    markers: dict[str, Any],
    drawn: dict[str, tuple[str, str]],
) -> Chart:
    """Return a chart of epoch values: `drawn` maps each key to its label and dash."""
    values = {
        (name, key): [_finite(epoch[key]) for epoch in row.details["epochs"]]
        for name, row in trained.items()
        for key in drawn
    }
    epochs = max(map(len, values.values()))
    what = axis["title"]["text"]
    last = [curve[-1] for curve in values.values() if curve[-1] is not None] or [math.nan]
    apart = max(row.details.get("loss_difference") or 0.0 for row in trained.values())
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name,
            "showlegend": dash == "solid",
            "x": list(range(1, len(values[name, key]) + 1)), "y": values[name, key],
            # Later curves are thinner, so that those below them show.
            "line": {
                "color": markers[row.backend]["color"], "dash": dash,
                "width": 2 + 1.2 * (len(trained) - i),
            },
            "marker": {**_marker(row, trained, markers), "size": 6}, "opacity": 0.85,
            "hovertemplate": f"epoch %{{x}}: {word} %{{y:.4f}}",
        }
        for key, (word, dash) in drawn.items()
        for i, (name, row) in enumerate(trained.items())
    ]  # fmt: skip
    return Chart(
        title,
        f"{what} over {counted(epochs, 'epoch')}; final values from {min(last):.4f} to "
        f"{max(last):.4f}. Batch losses differ from float64's by at most {apart:.0e}, relative.",
        traces,
        {"xaxis": drawing.linear("epoch"), "yaxis": axis},
        400,
        Sheet(
            what,
            ("epoch", *(f"{name} {drawn[key][0]}".strip() for name, key in values)),
            tuple(
                (
                    str(number + 1),
                    *(
                        "-" if number >= len(curve) or curve[number] is None
                        else f"{curve[number]:.4f}"
                        for curve in values.values()
                    ),
                )
                for number in range(epochs)
            ),
        ),
    )  # fmt: skip


def _marker(row: Row, trained: dict[str, Row], markers: dict[str, Any]) -> dict[str, Any]:
    counts = sorted({other.threads for other in trained.values()})
    return drawing.variant(markers[row.backend], counts.index(row.threads))


def _loss_title(trained: dict[str, Row]) -> str:
    """Return the title of the loss chart: wrong backends, or how far the curves differ."""
    wrong = [name for name, row in trained.items() if row.outcome == "wrong"]
    if wrong:
        return f"Loss: wrong, differs from float64 by more than rounding: {', '.join(wrong)}"
    if len(trained) == 1:
        return "Loss on the training images, by epoch"
    epochs = zip(*(row.details["epochs"] for row in trained.values()), strict=False)
    losses = [[_finite(epoch["loss"]) for epoch in of_all] for of_all in epochs]
    known = [[loss for loss in of_all if loss] for of_all in losses]
    apart = max((1 - min(of_all) / max(of_all) for of_all in known if of_all), default=0.0)
    if apart <= ALIKE:
        return "Loss: all curves coincide, as every backend computes the same"
    return (
        f"Loss: the curves agree in the first epoch; rounding then separates them by up to "
        f"{100 * apart:.0f} %"
    )


def _finite(value: float | None) -> float | None:
    """Return a finite number, or None, which JSON can express."""
    return None if value is None or not math.isfinite(value) else value


def seconds(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield a chart of whole training times."""
    trained = sorted(
        (row for row in rows if row.op == "train" and row.outcome == "ok" and row.samples),
        key=lambda row: row.seconds or 0.0,
    )
    if not trained:
        return
    names = [drawing.trainer(row, rows) for row in trained]
    fewest = min(row.threads for row in trained)
    yield Chart(
        "Time of the whole training: shorter is better",
        f"From {numbers.seconds(trained[0].seconds)} by {names[0]} to "
        f"{numbers.seconds(trained[-1].seconds)} by {names[-1]}.",
        [
            {
                "type": "bar", "orientation": "h", "y": names, "x": [r.seconds for r in trained],
                "marker": {
                    "color": [markers[row.backend]["color"] for row in trained],
                    "pattern": {
                        # The thread counts of one backend share its color.
                        "shape": ["/" if row.threads > fewest else "" for row in trained],
                        "solidity": 0.2,
                    },
                },
                "text": [numbers.seconds(row.seconds) for row in trained],
                "textposition": "outside", "cliponaxis": False,
                "hovertemplate": "%{y}: %{text}", "name": "",
            }
        ],
        {
            # The text of the longest bar needs room at its end.
            "xaxis": {
                **drawing.linear("seconds"), "range": [0, 1.25 * (trained[-1].seconds or 1.0)],
            },
            "yaxis": drawing.categories(names),
            "showlegend": False,
        },
        drawing.height(len(names), 1.4),
        tables.train_sheet(rows),
    )  # fmt: skip


def steps(rows: Sequence[Row]) -> Iterator[Chart]:
    """Yield a chart of a training step's time by layer, one bar per backend."""
    profiled = [row for row in rows if row.details.get("profile")]
    if not profiled:
        return
    parts: dict[str, dict[str, float]] = {}
    for row in profiled:
        found = row.details["profile"]
        own = {
            _layer_kind(layer, direction): 0.0
            for layer, times in found["layers"].items()
            for direction in times
        }
        for layer, times in found["layers"].items():
            for direction, value in times.items():
                own[_layer_kind(layer, direction)] += value
        own[_LEFT_OVER] = max(0.0, found["step"] - sum(own.values()))
        parts[drawing.trainer(row, rows)] = own
    names = list(
        dict.fromkeys(part for own in parts.values() for part in own if part != _LEFT_OVER)
    )
    names.append(_LEFT_OVER)
    totals = {name: sum(own.values()) for name, own in parts.items()}
    layers = list(dict.fromkeys(_layer(part) for part in names if part not in _NO_LAYER))
    fills = {part: _NO_LAYER.get(part) or _fill(layers.index(_layer(part)), part) for part in names}
    left = {name: own[_LEFT_OVER] / totals[name] for name, own in parts.items()}
    most = max(left, key=lambda name: left[name])
    traces = [
        {
            "type": "bar", "orientation": "h", "name": part, "y": list(parts),
            "x": [100 * own.get(part, 0.0) / totals[name] for name, own in parts.items()],
            "text": [numbers.seconds(own.get(part)) for own in parts.values()],
            "textposition": "none", "marker": fills[part],
            "hovertemplate": f"%{{y}}, {part}: %{{text}}, %{{x:.0f}} %<extra></extra>",
        }
        for part in names
    ]  # fmt: skip
    yield Chart(
        "Where a training step goes: 'left over' is the time outside all layers",
        f"'Left over' is choosing the batch, the loss and the optimizer: at most "
        f"{100 * left[most]:.0f} %, with {most}.",
        traces,
        {
            "barmode": "stack", "xaxis": drawing.linear("percent of a step"),
            "yaxis": drawing.categories([*parts]),
        },
        drawing.height(len(parts), 1.6) + 90,
        Sheet(
            "A step",
            ("backend", "step", *names),
            tuple(
                (name, numbers.seconds(totals[name]), *(numbers.seconds(own.get(n)) for n in names))
                for name, own in parts.items()
            ),
        ),
    )  # fmt: skip


_OTHERS = "ReLU, flatten"

_LEFT_OVER = "left over"

_NO_LAYER: dict[str, dict[str, Any]] = {
    _OTHERS: {"color": "#c9c9c9"},
    _LEFT_OVER: {"color": "#555555", "pattern": {"shape": "/", "solidity": 0.3}},
}
"""Fills of the parts without a layer of their own."""

_HUES = tuple(colour for colour in COLOURS if colour != "#999999")


def _layer_kind(layer: str, direction: str) -> str:
    """Return a layer's part in the chart; ReLU and flatten share one."""
    if layer.startswith(("conv", "pool", "linear", "norm")):
        return f"{layer} {direction}"
    return _OTHERS


def _layer(part: str) -> str:
    return part.rsplit(" ", 1)[0]


def _fill(number: int, part: str) -> dict[str, Any]:
    """Return a layer's fill: a pattern marks backward, another one repeated colors."""
    patterns = ("", "x") if number < len(_HUES) else (".", "+")
    pattern = patterns[part.endswith("backward")]
    return {"color": _HUES[number % len(_HUES)], "pattern": {"shape": pattern, "solidity": 0.2}}
