"""Rows as charts: each says what to see, and has its table behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.report import numbers, tables
from cnnbench.report.offline import COLOURS, SHAPES
from cnnbench.report.tables import Sheet
from cnnbench.results import Row
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import parse

ROW_PIXELS = 20
"""Height of a mark in a chart that has cases below each other."""

ALIKE = 0.01
"""Losses that differ by less than this part of themselves are one curve to the eye."""


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


# --------------------------------------------------------------------------------------------
# correctness


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
        key = _label(row, rows), row.backend
        worst[key] = max(worst.get(key, 0.0), row.error_over_bound or 0.0)
    traces = [
        _marks(
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
            "xaxis": _log("largest error of any result, over its bound", [least / 4, 2.0]),
            "yaxis": _categories(cases),
            "shapes": [_vertical(1.0)],
        },
        _height(len(cases), 1.2),
        Sheet(
            "Errors over bounds",
            ("case", "backend", "error"),
            tuple((case, b, numbers.of_bound(error)) for (case, b), error in worst.items()),
            texts=2,
        ),
    )


# --------------------------------------------------------------------------------------------
# speed


def ratios(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield, for each direction, how many times as fast as the baseline every backend is."""
    for op, direction in dict.fromkeys((row.op, row.direction) for row in rows):
        mine = [
            row
            for row in rows
            if (row.op, row.direction) == (op, direction) and row.ratio and row.samples
        ]
        others = [row for row in mine if row.backend != row.baseline]
        if not others:
            continue
        baseline = others[0].baseline
        cases = list(dict.fromkeys(_label(row, rows) for row in others))
        traces = []
        for backend in dict.fromkeys(row.backend for row in others):
            own = [row for row in others if row.backend == backend]
            trace = _marks(
                backend,
                markers,
                x=[row.ratio for row in own],
                y=[_label(row, rows) for row in own],
                text=[
                    f"{numbers.interval(row.ratio, row.ratio_low, row.ratio_high)}, {row.verdict}, "
                    f"{numbers.seconds(row.seconds)}"
                    for row in own
                ],
                hover="%{y}: %{text}",
            )
            trace["error_x"] = {
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 3,
                "color": markers[backend]["color"],
                "array": [_beyond(row.ratio_high, row.ratio) for row in own],
                "arrayminus": [_beyond(row.ratio, row.ratio_low) for row in own],
            }  # fmt: skip
            traces.append(trace)
        faster = sum(row.verdict == "FASTER" for row in others)
        yield Chart(
            f"{_named(op)}, {_words(direction)}: right of the line is faster than {baseline}",
            f"{faster} of {len(others)} times are faster than {baseline}'s, from "
            f"{numbers.significant(min(r.ratio or 0 for r in others))} to "
            f"{numbers.significant(max(r.ratio or 0 for r in others))} times as fast.",
            traces,
            {
                "xaxis": _log(f"times as fast as {baseline}, with 96 % interval"),
                "yaxis": _categories(cases),
                "shapes": [_vertical(1.0)],
            },
            _height(len(cases), max(1.4, 0.35 * len(traces))),
            Sheet(
                "Ratios",
                ("case", "backend", "time", f"vs {baseline}", "verdict"),
                tuple(
                    (
                        _label(row, rows),
                        row.backend,
                        numbers.seconds(row.seconds),
                        numbers.interval(row.ratio, row.ratio_low, row.ratio_high),
                        row.verdict or "",
                    )
                    for row in mine
                ),
                texts=2,
            ),
        )


def _beyond(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else max(0.0, high - low)


def sizes(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield seconds against the work of a call."""
    for op, direction in dict.fromkeys((row.op, row.direction) for row in rows):
        mine = [r for r in _timed(rows) if (r.op, r.direction) == (op, direction)]
        if len({row.problem for row in mine}) < 2:
            continue
        unit = "floating-point operations" if op == "conv2d" else "comparisons"
        traces = []
        for backend in dict.fromkeys(row.backend for row in mine):
            own = sorted((row for row in mine if row.backend == backend), key=_work)
            traces.append(
                _marks(
                    backend,
                    markers,
                    x=[_work(row) for row in own],
                    y=[row.seconds for row in own],
                    text=[f"{_label(row, rows)}: {numbers.seconds(row.seconds)}" for row in own],
                    hover="%{text}",
                )
            )
        slowest, fastest = (
            choose(mine, key=lambda row: (row.seconds or 0) / max(1, _work(row)))
            for choose in (max, min)
        )
        yield Chart(
            f"{_named(op)}, {_words(direction)}: the lower, the faster; a flat row of marks is "
            "time that does not depend on the work",
            f"Seconds a call over {unit}, from {fastest.backend} on {fastest.case}, the fastest "
            f"for its work, to {slowest.backend} on {slowest.case}, the slowest.",
            traces,
            {"xaxis": _log(f"{unit} a call"), "yaxis": _log("seconds a call")},
            420,
            Sheet(
                "Time and size",
                ("case", "backend", unit, "time"),
                tuple(
                    (
                        _label(row, rows),
                        row.backend,
                        f"{_work(row):.3g}",
                        numbers.seconds(row.seconds),
                    )
                    for row in mine
                ),
                texts=2,
            ),
        )


def rooflines(
    rows: Sequence[Row], ceilings: dict[str, Any], markers: dict[str, Any]
) -> Iterator[Chart]:
    """Yield, for each thread count, rates below what was measured as this machine's ceilings [1]_.

    References
    ----------
    .. [1] S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.
    """
    for threads in dict.fromkeys(row.threads for row in rows):
        mine = [r for r in _timed(rows) if r.gflops and r.threads == threads]
        found = ceilings.get(str(threads), {})
        if not mine or "flops" not in found:
            continue
        peak = found["flops"][parse(mine[0].problem).dtype] / 1e9
        bandwidth = {int(size): rate / 1e9 for size, rate in found["bandwidth"].items()}
        intensity = {
            id(row): parse(row.problem).flops(row.direction)  # type: ignore[arg-type]
            / parse(row.problem).bytes_moved(row.direction)  # type: ignore[arg-type]
            for row in mine
        }
        low, high = min(intensity.values()) / 2, max(intensity.values()) * 2
        traces: list[dict[str, Any]] = []
        for name, rate, dash in (
            ("memory", bandwidth[max(bandwidth)], "solid"),
            ("nearest cache", max(bandwidth.values()), "dot"),
        ):
            knee = min(max(peak / rate, low), high)
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "x": [low, knee, high],
                    "y": [min(peak, at * rate) for at in (low, knee, high)],
                    "line": {"color": "#888888", "dash": dash, "width": 2},
                    "name": f"ceiling: {name} {numbers.significant(rate)} GB/s, then FMA "
                    f"{numbers.significant(peak)} GFLOP/s",
                    "hoverinfo": "name",
                }
            )  # fmt: skip
        for backend in dict.fromkeys(row.backend for row in mine):
            own = [row for row in mine if row.backend == backend]
            traces.append(
                _marks(
                    backend,
                    markers,
                    x=[intensity[id(row)] for row in own],
                    y=[row.gflops for row in own],
                    text=[
                        f"{row.case}, {_words(row.direction)}: {numbers.quantity(row.gflops)} "
                        f"GFLOP/s, {numbers.percent(row.ceiling_fraction)} of the peak"
                        for row in own
                    ],
                    hover="%{text}",
                )
            )
        best = max(mine, key=lambda row: row.gflops or 0)
        yield Chart(
            f"Roofline, {tables.threads_in_words(threads)}: the nearer a mark is to the lines "
            "above it, the less is left to gain",
            f"The fastest, {best.backend} on {best.case}, reaches {numbers.quantity(best.gflops)} "
            f"of {numbers.significant(peak)} GFLOP/s.",
            traces,
            {
                "xaxis": _log("floating-point operations a byte that has to be moved"),
                "yaxis": _log("GFLOP/s"),
            },
            460,
            Sheet(
                "Rates",
                ("case", "direction", "backend", "flop/byte", "GFLOP/s", "of peak"),
                tuple(
                    (
                        row.case,
                        _words(row.direction),
                        row.backend,
                        numbers.significant(intensity[id(row)]),
                        numbers.quantity(row.gflops),
                        numbers.percent(row.ceiling_fraction),
                    )
                    for row in mine
                ),
                texts=3,
            ),
        )


def threads(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield how many times as fast more threads are than one."""
    timed = {(r.problem, r.direction, r.backend, r.threads): r for r in _timed(rows)}
    gains = [
        (row, (timed[alone].seconds or 0.0) / row.seconds)
        for (problem, direction, backend, count), row in timed.items()
        if count > 1
        for alone in [(problem, direction, backend, 1)]
        if alone in timed and row.seconds
    ]
    for count in dict.fromkeys(row.threads for row, _ in gains):
        mine = [(row, gain) for row, gain in gains if row.threads == count]
        labels = [f"{row.case}, {_words(row.direction)}" for row, _ in mine]
        traces = [
            _marks(
                backend,
                markers,
                x=[gain for row, gain in mine if row.backend == backend],
                y=[
                    label
                    for label, (row, _) in zip(labels, mine, strict=True)
                    if row.backend == backend
                ],
                text=[f"{gain:.2f}x" for row, gain in mine if row.backend == backend],
                hover="%{y}: %{text}",
            )
            for backend in dict.fromkeys(row.backend for row, _ in mine)
        ]
        middle = statistics.median(gain for _, gain in mine)
        yield Chart(
            f"{count} threads against 1: at the line on the right, {count} threads are {count} "
            "times as fast",
            f"The median is {middle:.2f} times as fast.",
            traces,
            {
                "xaxis": {"title": {"text": f"times as fast with {count} threads"}},
                "yaxis": _categories(list(dict.fromkeys(labels))),
                "shapes": [_vertical(1.0), _vertical(float(count))],
            },
            _height(len(set(labels)), 1.0),
            Sheet(
                "Threads",
                ("case, direction", "backend", "times as fast"),
                tuple(
                    (label, row.backend, f"{gain:.2f}x")
                    for label, (row, gain) in zip(labels, mine, strict=True)
                ),
                texts=2,
            ),
        )


def first_calls(rows: Sequence[Row]) -> Iterator[Chart]:
    """Yield what the first call takes, and the first with compiled code cached, and any other."""
    chosen: dict[str, Row] = {}
    for row in rows:
        if row.first_call_seconds is not None and row.seconds is not None:
            chosen.setdefault(f"{row.backend}, {_named(row.op)}, {_words(row.direction)}", row)
    if not chosen:
        return
    kinds: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("steady", lambda row: row.seconds),
        ("first, cached", lambda row: row.cached_first_call_seconds),
        ("first", lambda row: row.first_call_seconds),
    )
    slowest = max(chosen, key=lambda name: chosen[name].first_call_seconds or 0)
    markers = colours(name for name, _ in kinds)
    yield Chart(
        "What the first call costs: the further right of 'steady', the longer the wait",
        f"The slowest first call, {slowest}, takes "
        f"{numbers.seconds(chosen[slowest].first_call_seconds)}.",
        [
            _marks(
                name,
                markers,
                x=[of(row) for row in chosen.values()],
                y=list(chosen),
                text=[numbers.seconds(of(row)) for row in chosen.values()],
                hover="%{y}: %{text}",
            )
            for name, of in kinds
        ],
        {"xaxis": _log("seconds"), "yaxis": _categories(list(chosen))},
        _height(len(chosen), 1.0),
        tables.first_call_sheet(rows),
    )


# --------------------------------------------------------------------------------------------
# training


def curves(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield loss and accuracies after each epoch, all trainers on one axis."""
    trained = {
        _trainer(row, rows) + ("" if row.outcome == "ok" else f" ({row.outcome})"): row
        for row in rows
        if row.details.get("epochs")
    }
    if not trained:
        return
    loss = _log("mean cross-entropy of the epoch's batches")
    yield _curves(_loss_title(trained), loss, trained, markers, {"loss": ("", "solid")})
    yield _curves(
        "Accuracy: solid lines on images that were not trained on, dashed ones on those that were",
        _linear("part of the images told right"),
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
    """Return trainers' curves of what is drawn: keys of an epoch, with a word and a dash each."""
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
            "marker": {**markers[row.backend], "size": 5}, "opacity": 0.85,
            "hovertemplate": f"epoch %{{x}}: {word} %{{y:.4f}}",
        }
        for key, (word, dash) in drawn.items()
        for i, (name, row) in enumerate(trained.items())
    ]  # fmt: skip
    return Chart(
        title,
        f"{what} after each of {epochs} epochs; at last from {min(last):.4f} to {max(last):.4f}. "
        f"Batches' losses differ from float64's by at most {apart:.0e} of themselves.",
        traces,
        {"xaxis": _linear("epoch"), "yaxis": axis},
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


def _loss_title(trained: dict[str, Row]) -> str:
    """Return what the curves of losses show: whether they lie on each other, and who is wrong."""
    wrong = [name for name, row in trained.items() if row.outcome == "wrong"]
    if wrong:
        return f"Loss: more than rounding is between float64's curve and that of {', '.join(wrong)}"
    if len(trained) == 1:
        return "Loss: how well the images are told that are trained on, epoch by epoch"
    epochs = zip(*(row.details["epochs"] for row in trained.values()), strict=False)
    losses = [[_finite(epoch["loss"]) for epoch in of_all] for of_all in epochs]
    known = [[loss for loss in of_all if loss] for of_all in losses]
    apart = max((1 - min(of_all) / max(of_all) for of_all in known if of_all), default=0.0)
    if apart <= ALIKE:
        return "Loss: all curves lie on each other, as every backend computes the same"
    return (
        f"Loss: in the first epoch the curves agree; later, rounding leads them apart, by up to "
        f"{100 * apart:.0f} %"
    )


def _finite(value: float | None) -> float | None:
    """Return a number, or None, which files and pages have in place of what is none."""
    return None if value is None or not math.isfinite(value) else value


def seconds(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield what a whole training takes."""
    trained = sorted(
        (row for row in rows if row.op == "train" and row.outcome == "ok" and row.samples),
        key=lambda row: row.seconds or 0.0,
    )
    if not trained:
        return
    names = [_trainer(row, rows) for row in trained]
    yield Chart(
        "Seconds to train to the end: shorter is better",
        f"From {numbers.seconds(trained[0].seconds)} by {names[0]} to "
        f"{numbers.seconds(trained[-1].seconds)} by {names[-1]}.",
        [
            {
                "type": "bar", "orientation": "h", "y": names, "x": [r.seconds for r in trained],
                "marker": {"color": [markers[row.backend]["color"] for row in trained]},
                "text": [numbers.seconds(row.seconds) for row in trained],
                "textposition": "auto", "hovertemplate": "%{y}: %{text}", "name": "",
            }
        ],
        {"xaxis": _linear("seconds"), "yaxis": _categories(names), "showlegend": False},
        _height(len(names), 1.4),
        tables.train_sheet(rows),
    )  # fmt: skip


def steps(rows: Sequence[Row]) -> Iterator[Chart]:
    """Yield where the time of a training step goes: a bar a backend, a part a layer."""
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
        parts[_trainer(row, rows)] = own
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
        "Where a training step goes: the grey end of a bar is in no layer at all",
        f"'Left over' is the batch's choice, the loss and the optimizer: "
        f"{100 * left[most]:.0f} % with {most}.",
        traces,
        {
            "barmode": "stack", "xaxis": _linear("percent of a step"),
            "yaxis": _categories([*parts]),
        },
        _height(len(parts), 1.6) + 90,
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
    _LEFT_OVER: {"color": "#9a9a9a", "pattern": {"shape": "/"}},
}
"""How parts look that are no layer of their own: grey."""

_HUES = tuple(colour for colour in COLOURS if colour != "#999999")


def _layer_kind(layer: str, direction: str) -> str:
    """Return what a layer counts as: convolutions, pools and linear by name, the others as one."""
    if layer.startswith(("conv", "pool", "linear", "norm")):
        return f"{layer} {direction}"
    return _OTHERS


def _layer(part: str) -> str:
    return part.rsplit(" ", 1)[0]


def _fill(number: int, part: str) -> dict[str, Any]:
    """Return a layer's colour, with a pattern for backward, another where colours begin anew."""
    patterns = ("", "x") if number < len(_HUES) else (".", "+")
    pattern = patterns[part.endswith("backward")]
    return {"color": _HUES[number % len(_HUES)], "pattern": {"shape": pattern, "solidity": 0.2}}


# --------------------------------------------------------------------------------------------
# two runs


def against(rows: Sequence[Row], others: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield how many times as fast this run's rows are as those of another run."""
    theirs = {tables.identity(row): row for row in others if row.seconds and row.samples}
    pairs = [
        (row, theirs[tables.identity(row)])
        for row in rows
        if row.seconds and row.samples and tables.identity(row) in theirs
    ]
    if not pairs:
        return
    labels = [
        f"{_label(row, rows)}, {_words(row.direction)}" if row.op != "train" else "training"
        for row, _ in pairs
    ]
    gains = [(other.seconds or 0.0) / (row.seconds or 1.0) for row, other in pairs]
    traces = []
    for backend in dict.fromkeys(row.backend for row, _ in pairs):
        own = [i for i, (row, _) in enumerate(pairs) if row.backend == backend]
        traces.append(
            _marks(
                backend,
                markers,
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
            "xaxis": _log("times as fast as in the other run"),
            "yaxis": _categories(cases),
            "shapes": [_vertical(1.0)],
        },
        _height(len(cases), 1.2),
        tables.against_sheet(rows, others),
    )


# --------------------------------------------------------------------------------------------
# parts of charts


def _timed(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of single cases that have times."""
    return [row for row in rows if row.seconds and row.problem and row.op != "train"]


def _work(row: Row) -> int:
    problem = parse(row.problem)
    if isinstance(problem, Conv2D):
        return problem.flops(row.direction)  # type: ignore[arg-type]
    return problem.comparisons


def _label(row: Row, rows: Sequence[Row]) -> str:
    several = len({other.threads for other in rows}) > 1
    return f"{row.case} ({row.threads})" if several else row.case


def _trainer(row: Row, rows: Sequence[Row]) -> str:
    several = len({other.threads for other in rows if other.op == "train"}) > 1
    return f"{row.backend} ({row.threads})" if several else row.backend


def _named(op: str) -> str:
    return {"conv2d": "Convolution", "max_pool2d": "Max-pool"}.get(op, op)


def _words(direction: str) -> str:
    return direction.replace("_", "-")


def _marks(
    name: str,
    markers: dict[str, Any],
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    text: Sequence[str],
    hover: str,
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": name, "marker": markers[name],
        "x": list(x), "y": list(y), "text": list(text), "hovertemplate": hover,
    }  # fmt: skip


def _log(title: str, span: Sequence[float] = ()) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "type": "log", "title": {"text": title}, "exponentformat": "power", "nticks": 5
    }  # fmt: skip
    if span:
        axis["range"] = [math.log10(value) for value in span]
    return axis


def _linear(title: str) -> dict[str, Any]:
    return {"title": {"text": title}}


def _categories(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of names, the first on top."""
    return {
        "type": "category", "categoryorder": "array", "categoryarray": list(reversed(names)),
        "automargin": True, "tickmode": "linear",
    }  # fmt: skip


def _vertical(at: float) -> dict[str, Any]:
    return {
        "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": "#888888", "width": 2},
    }  # fmt: skip


def _height(names: int, marks: float) -> int:
    return int(150 + names * max(24, ROW_PIXELS * marks))
