"""Times of single kernels as charts."""

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
        cases = list(dict.fromkeys(drawing.label(row, rows) for row in others))
        traces = []
        for backend in dict.fromkeys(row.backend for row in others):
            own = [row for row in others if row.backend == backend]
            trace = drawing.marks(
                backend,
                markers,
                x=[row.ratio for row in own],
                y=[drawing.label(row, rows) for row in own],
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
            f"{drawing.named(op, direction)}: right of the line is faster than {baseline}",
            f"{faster} of {len(others)} times are faster than {baseline}'s, from "
            f"{numbers.significant(min(r.ratio or 0 for r in others))} to "
            f"{numbers.significant(max(r.ratio or 0 for r in others))} times as fast.",
            traces,
            {
                "xaxis": drawing.log(f"times as fast as {baseline}, with 96 % interval"),
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
                drawing.marks(
                    backend,
                    markers,
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
            f"{drawing.named(op, direction)}: the lower, the faster; a flat row of marks is "
            "time that does not depend on the work",
            f"Seconds a call over {unit}, from {fastest.backend} on {fastest.case}, the fastest "
            f"for its work, to {slowest.backend} on {slowest.case}, the slowest.",
            traces,
            {"xaxis": drawing.log(f"{unit} a call"), "yaxis": drawing.log("seconds a call")},
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
                drawing.marks(
                    backend,
                    markers,
                    x=[intensity[id(row)] for row in own],
                    y=[row.gflops for row in own],
                    text=[
                        f"{row.case}, {drawing.words(row.direction)}: "
                        f"{numbers.quantity(row.gflops)} GFLOP/s, "
                        f"{numbers.percent(row.ceiling_fraction)} of the peak"
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
                "xaxis": drawing.log("floating-point operations a byte that has to be moved"),
                "yaxis": drawing.log("GFLOP/s"),
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
        labels = [f"{row.case}, {drawing.words(row.direction)}" for row, _ in mine]
        traces = [
            drawing.marks(
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
                "yaxis": drawing.categories(list(dict.fromkeys(labels))),
                "shapes": [drawing.vertical(1.0), drawing.vertical(float(count))],
            },
            drawing.height(len(set(labels)), 1.0),
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
            chosen.setdefault(f"{row.backend}, {drawing.named(row.op, row.direction)}", row)
    if not chosen:
        return
    kinds: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("steady", lambda row: row.seconds),
        ("first, cached", lambda row: row.cached_first_call_seconds),
        ("first", lambda row: row.first_call_seconds),
    )
    slowest = max(chosen, key=lambda name: chosen[name].first_call_seconds or 0)
    markers = drawing.colours(name for name, _ in kinds)
    yield Chart(
        "What the first call costs: the further right of 'steady', the longer the wait",
        f"The slowest first call, {slowest}, takes "
        f"{numbers.seconds(chosen[slowest].first_call_seconds)}.",
        [
            drawing.marks(
                name,
                markers,
                x=[of(row) for row in chosen.values()],
                y=list(chosen),
                text=[numbers.seconds(of(row)) for row in chosen.values()],
                hover="%{y}: %{text}",
            )
            for name, of in kinds
        ],
        {"xaxis": drawing.log("seconds"), "yaxis": drawing.categories(list(chosen))},
        drawing.height(len(chosen), 1.0),
        tables.first_call_sheet(rows),
    )


def _timed(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of single cases that have times."""
    return [row for row in rows if row.seconds and row.problem and row.op != "train"]
