"""Charts of kernel times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cnnbench.report import numbers, tables
from cnnbench.report.charts import drawing
from cnnbench.report.charts.drawing import Chart
from cnnbench.report.tables import Sheet
from cnnbench.results import Row
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import parse


def ratios(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield, for each direction, a chart of every backend's speed relative to the baseline."""
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
        cases = list(dict.fromkeys(drawing.label(row, rows) for row in others))
        traces = []
        for name, marker, own in drawing.groups(others, rows, markers):
            trace = drawing.marks(
                name,
                marker,
                x=[row.ratio for row in own],
                y=[drawing.label(row, rows) for row in own],
                text=[
                    f"{numbers.interval(row.ratio, row.ratio_low, row.ratio_high)}, {row.verdict}, "
                    f"{numbers.seconds(row.seconds)}"
                    for row in own
                ],
                hover="%{y}: %{text}",
            )
            if any(row.ratio_low is not None for row in own):
                trace["error_x"] = {
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 3,
                    "color": marker["color"],
                    "array": [_beyond(row.ratio_high, row.ratio) for row in own],
                    "arrayminus": [_beyond(row.ratio, row.ratio_low) for row in own],
                }  # fmt: skip
            traces.append(trace)
        faster = sum(row.verdict == "FASTER" for row in others)
        yield Chart(
            f"{drawing.named(op, direction)}: right of the line is faster than {baseline}",
            f"{faster} of {len(others)} times are faster than {baseline}'s; relative speeds from "
            f"{numbers.significant(min(r.ratio or 0 for r in others))} to "
            f"{numbers.significant(max(r.ratio or 0 for r in others))}.",
            traces,
            {
                "xaxis": drawing.log(f"speed relative to {baseline}"),
                "yaxis": drawing.categories(cases),
                "shapes": [drawing.vertical(1.0)],
            },
            drawing.height(len(cases), max(1.4, 0.35 * len(traces))),
            Sheet(
                "Ratios",
                ("case", "backend", "time", f"vs {baseline}", "verdict"),
                tuple(
                    (
                        drawing.label(row, rows),
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
    """Yield, for each direction, a chart of time against work."""
    for op, direction in dict.fromkeys((row.op, row.direction) for row in rows):
        mine = [r for r in _timed(rows) if (r.op, r.direction) == (op, direction)]
        if len({row.problem for row in mine}) < 2:
            continue
        unit = "FLOP" if op == "conv2d" else "comparisons"
        traces = []
        for name, marker, grouped in drawing.groups(mine, rows, markers):
            own = sorted(grouped, key=_work)
            traces.append(
                drawing.marks(
                    name,
                    marker,
                    x=[_work(row) for row in own],
                    y=[row.seconds for row in own],
                    text=[
                        f"{drawing.label(row, rows)}: {numbers.seconds(row.seconds)}" for row in own
                    ],
                    hover="%{text}",
                )
            )
        slowest, fastest = (
            choose(mine, key=lambda row: (row.seconds or 0) / max(1, _work(row)))
            for choose in (max, min)
        )
        yield Chart(
            f"{drawing.named(op, direction)}: lower is faster; a flat row of marks is "
            "overhead, independent of the work",
            f"Seconds per call against {unit}: per {unit}, {fastest.backend} on {fastest.case} is "
            f"the fastest and {slowest.backend} on {slowest.case} the slowest.",
            traces,
            {"xaxis": drawing.log(f"{unit} per call"), "yaxis": drawing.log("seconds per call")},
            420,
            Sheet(
                "Time and size",
                ("case", "backend", unit, "time"),
                tuple(
                    (
                        drawing.label(row, rows),
                        row.backend,
                        f"{_work(row):.3g}",
                        numbers.seconds(row.seconds),
                    )
                    for row in mine
                ),
                texts=2,
            ),
        )


def _work(row: Row) -> int:
    problem = parse(row.problem)
    if isinstance(problem, Conv2D):
        return problem.flops(row.direction)  # type: ignore[arg-type]
    return problem.comparisons


def rooflines(
    rows: Sequence[Row], ceilings: dict[str, Any], markers: dict[str, Any]
) -> Iterator[Chart]:
    """Yield, for each thread count, a roofline chart with the measured ceilings [1]_.

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
                    "name": f"{name} {numbers.significant(rate)} GB/s, FMA "
                    f"{numbers.significant(peak)} GFLOP/s",
                    "hoverinfo": "name",
                }
            )  # fmt: skip
        for backend in dict.fromkeys(row.backend for row in mine):
            own = [row for row in mine if row.backend == backend]
            traces.append(
                drawing.marks(
                    backend,
                    markers[backend],
                    x=[intensity[id(row)] for row in own],
                    y=[row.gflops for row in own],
                    text=[
                        f"{row.case}, {drawing.words(row.direction)}: "
                        f"{numbers.quantity(row.gflops)} GFLOP/s, "
                        f"{numbers.percent(row.ceiling_fraction)} of the peak"
                        + (" by its own products" if _effective(row) else "")
                        for row in own
                    ],
                    hover="%{text}",
                )
            )
        best = max(mine, key=lambda row: row.gflops or 0)
        yield Chart(
            f"Roofline, {tables.threads_in_words(threads)}: marks near the lines have little "
            "left to gain",
            f"The fastest, {best.backend} on {best.case}, reaches {numbers.quantity(best.gflops)} "
            f"of {numbers.significant(peak)} GFLOP/s."
            + (
                " Marks above the lines are effective: the algorithm computes fewer products than "
                "a direct convolution, whose operations are counted."
                if any(map(_effective, mine))
                else ""
            ),
            traces,
            {
                "xaxis": drawing.log("FLOP per byte moved"),
                "yaxis": drawing.log(
                    "effective GFLOP/s" if any(map(_effective, mine)) else "GFLOP/s"
                ),
            },
            460,
            Sheet(
                "Rates",
                ("case", "direction", "backend", "flop/byte", "GFLOP/s", "of peak"),
                tuple(
                    (
                        row.case,
                        drawing.words(row.direction),
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


def _effective(row: Row) -> bool:
    return "products" in row.details


def threads(rows: Sequence[Row], markers: dict[str, Any]) -> Iterator[Chart]:
    """Yield a chart of the speedup over one thread for each higher thread count."""
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
        labels = [f"{row.case}, {drawing.words(row.direction)}" for row, _ in mine]
        traces = [
            drawing.marks(
                backend,
                markers[backend],
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
            f"{count} threads against 1: the right line is perfect scaling, {count}x",
            f"The median speedup is {middle:.2f}x.",
            traces,
            {
                "xaxis": {"title": {"text": f"speedup with {count} threads"}},
                "yaxis": drawing.categories(list(dict.fromkeys(labels))),
                "shapes": [drawing.vertical(1.0), drawing.vertical(float(count))],
            },
            drawing.height(len(set(labels)), 1.0),
            Sheet(
                "Threads",
                ("case, direction", "backend", "speedup"),
                tuple(
                    (label, row.backend, f"{gain:.2f}x")
                    for label, (row, gain) in zip(labels, mine, strict=True)
                ),
                texts=2,
            ),
        )


def first_calls(rows: Sequence[Row]) -> Iterator[Chart]:
    """Yield a chart of first-call time, with and without a code cache, and steady time."""
    chosen: dict[str, Row] = {}
    for row in rows:
        if row.first_call_seconds is not None and row.seconds is not None:
            kind = "pool" if row.op == "max_pool2d" else "conv"
            # Two lines: a long label leaves no room for the plot on a phone.
            chosen.setdefault(f"{row.backend}<br>{kind} {drawing.words(row.direction)}", row)
    if not chosen:
        return
    kinds: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
        ("steady", "circle", lambda row: row.seconds),
        ("first, cached", "diamond-open", lambda row: row.cached_first_call_seconds),
        ("first", "x", lambda row: row.first_call_seconds),
    )
    slowest = max(chosen, key=lambda name: chosen[name].first_call_seconds or 0)
    yield Chart(
        "What the first call costs: compilation moves it right of 'steady'",
        f"The slowest first call, {slowest.replace('<br>', ', ')}, takes "
        f"{numbers.seconds(chosen[slowest].first_call_seconds)}.",
        [
            drawing.marks(
                name,
                # Grey: the colors of this page stand for backends.
                {"color": "#888888", "symbol": symbol, "size": 9},
                x=[of(row) for row in chosen.values()],
                y=list(chosen),
                text=[numbers.seconds(of(row)) for row in chosen.values()],
                hover="%{y}: %{text}",
            )
            for name, symbol, of in kinds
        ],
        {"xaxis": drawing.log("seconds"), "yaxis": drawing.categories(list(chosen))},
        drawing.height(len(chosen), 1.8),
        tables.first_call_sheet(rows),
    )


def _timed(rows: Sequence[Row]) -> list[Row]:
    """Return the timed rows of single layers."""
    return [row for row in rows if row.seconds and row.problem and row.op != "train"]
