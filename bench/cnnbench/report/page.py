"""A run as one HTML page that opens anywhere: the answer, and every figure it stands on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cnnbench.digits import weights
from cnnbench.digits.data import DataError
from cnnbench.report import answer, charts, learnt, numbers, offline, tables
from cnnbench.report.charts import Chart
from cnnbench.report.tables import Sheet
from cnnbench.results import Row, Run


class Cell(NamedTuple):
    """A cell of a table: its text, its class in the style sheet, what hovering tells."""

    text: str
    kind: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Table:
    """A table as the page has it."""

    columns: tuple[Cell, ...]
    rows: list[list[Cell]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    title, text : str
    tables : list of (str, Table)
        With a heading each.
    groups : dict of str to list of Chart
        Charts by the name of what they show one of; under the empty name, those always shown.
    """

    title: str
    text: str
    tables: list[tuple[str, Table]] = field(default_factory=list)
    groups: dict[str, list[Chart]] = field(default_factory=dict)


def write(run: Run, path: Path, against: Run | None = None, command: str = "") -> None:
    """Write the page of a run.

    Parameters
    ----------
    run : Run
    path : path
    against : Run, optional
        Another run, to be shown beside it.
    command : str
        What makes the page.

    Raises
    ------
    PageError
        If the libraries that it takes are not installed, or the file cannot be written.
    """
    found = [
        section for section in sections(run, against, command) if section.tables or section.groups
    ]
    data = []
    for section in found:
        for name, group in section.groups.items():
            data += [
                {"group": name, "traces": chart.traces, "layout": _fitted(chart)} for chart in group
            ]
    offline.write(
        path,
        "report/page.html",
        title=f"Convolution and max-pool kernels on {run.environment.get('cpu', 'this machine')}",
        answer=headline(run),
        evidence=_evidence(run),
        sections=[(f"section-{number}", section) for number, section in enumerate(found, start=1)],
        charts=data,
        table_of=table_of,
    )


def headline(run: Run) -> str:
    """Return the answer in a sentence or two."""
    rows = run.rows
    if any(row.op == "train" and row.samples for row in rows):
        return answer.answer(_of_most_threads(rows), _floor(run))
    found = []
    for total in _fastest_totals(rows):
        apart = numbers.interval(total.ratio, total.ratio_low, total.ratio_high)
        found.append(
            f"{total.case}, {total.direction.replace('_', '-')}: {total.backend} is the fastest, "
            f"{numbers.seconds(total.seconds)}, {apart} as fast as {total.baseline}."
        )
    if found:
        return " ".join(found)
    checked = [row for row in rows if row.problem]
    passed = sum(row.outcome == "ok" for row in checked)
    wrong = sum(row.outcome in ("wrong", "failed") for row in checked)
    return f"{passed} of {len(checked)} checks passed, {wrong} are wrong or failed."


def _of_most_threads(rows: Sequence[Row]) -> list[Row]:
    most = max(row.threads for row in rows)
    return [row for row in rows if row.threads == most]


def _fastest_totals(rows: Sequence[Row]) -> Iterable[Row]:
    """Yield, of each set's sum in each direction, the fastest row that has a ratio."""
    totals = [row for row in rows if not row.problem and row.seconds and row.ratio]
    for key in dict.fromkeys((row.case, row.direction, row.threads) for row in totals):
        yield min(
            (row for row in totals if (row.case, row.direction, row.threads) == key),
            key=lambda row: row.seconds or 0.0,
        )


def _evidence(run: Run) -> list[str]:
    return answer.evidence(run.rows, _floor(run)) if run.rows else []


def _floor(run: Run) -> float:
    """Return the floor of the trainings' threads, or the largest where nothing was trained."""
    floors = run.environment.get("aa_floor", {})
    trained = {str(row.threads) for row in run.rows if row.op == "train"}
    known = [
        value
        for threads, value in floors.items()
        if value is not None and (not trained or threads in trained)
    ]
    return max(known, default=float("nan"))


def sections(run: Run, against: Run | None, command: str = "") -> list[Section]:
    """Return all parts of the page, those with nothing to show as well."""
    rows = run.rows
    layers = [row for row in rows if row.op != "train"]
    single = [row for row in layers if row.problem]
    trained = [row for row in rows if row.op == "train"]
    markers = charts.colours(
        row.backend for row in (*rows, *(against.rows if against is not None else ()))
    )
    return [
        _training(trained, markers),
        _correctness(single, markers),
        Section(
            "Speed",
            "Every time here stands on a passed check of the same case. Ratios were measured side "
            "by side, in turns; the line across a mark is the interval that holds the true ratio "
            "in 96 of 100 cases; a mark without one had too few rounds.",
            groups=_unnamed(
                charts.ratios(layers, markers),
                charts.sizes(single, markers),
                charts.rooflines(single, run.environment.get("ceilings", {}), markers),
                charts.threads(single, markers),
                charts.first_calls(layers),
            ),
        ),
        _learnt(trained),
        *([] if against is None else [_against(run, against, markers)]),
        _circumstances(run, against, command),
    ]


def _unnamed(*found: Iterable[Chart]) -> dict[str, list[Chart]]:
    all_of_them = [chart for some in found for chart in some]
    return {"": all_of_them} if all_of_them else {}


def _training(rows: list[Row], markers: dict[str, Any]) -> Section:
    counts = dict.fromkeys(row.threads for row in rows)
    sheets = [tables.train_sheet([row for row in rows if row.threads == n]) for n in counts]
    return Section(
        "Training",
        "The same network from the same weights, on the same batches in the same order: what "
        "differs is who computes.",
        [(sheet.title, table_of(sheet)) for sheet in sheets],
        _unnamed(charts.seconds(rows, markers), charts.curves(rows, markers), charts.steps(rows)),
    )


def _correctness(rows: list[Row], markers: dict[str, Any]) -> Section:
    if not rows:
        return Section("Correctness", "")
    backends = list(dict.fromkeys(row.backend for row in rows))
    cases: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for row in rows:
        cases.setdefault((row.case, row.threads), {}).setdefault(row.backend, []).append(row)
    several = len({threads for _, threads in cases}) > 1
    lines = [
        [
            Cell(f"{case}, {tables.threads_in_words(threads)}" if several else case),
            *(_verdict(found.get(backend, [])) for backend in backends),
        ]
        for (case, threads), found in cases.items()
    ]
    notes = dict.fromkeys(
        f"{row.backend}: {row.outcome}: {row.reason}" for row in rows if row.outcome != "ok"
    )
    table = Table((Cell("case"), *map(Cell, backends)), lines, tuple(notes))
    return Section(
        "Correctness",
        "Exact on integers, on every gradient; the number is the largest error on real data over "
        "what rounding can make in any order of summation: above 1 is wrong.",
        [("Cases and backends", table)],
        _unnamed(charts.errors(rows, markers)),
    )


def _verdict(rows: list[Row]) -> Cell:
    """Return the worst of what came of a case on a backend."""
    for outcome in ("wrong", "failed", "unsupported"):
        for row in rows:
            if row.outcome == outcome:
                return Cell(outcome, outcome, row.reason)
    if not rows:
        return Cell("")
    worst = max((row.error_over_bound or 0.0 for row in rows), default=0.0)
    directions = ", ".join(
        f"{row.direction.replace('_', '-')} {numbers.of_bound(row.error_over_bound)}"
        for row in rows
    )
    return Cell(f"ok {numbers.of_bound(worst)}", "ok", directions)


def _learnt(rows: list[Row]) -> Section:
    groups: dict[str, list[Chart]] = {}
    shared: list[Chart] = []
    notes = []
    several = len({row.threads for row in rows}) > 1
    for row in rows:
        text = row.details.get("weights")
        if not text or row.outcome != "ok" or not row.details.get("epochs"):
            continue
        name = f"{row.backend}, {tables.threads_in_words(row.threads)}" if several else row.backend
        try:
            trained = weights.from_text(text, row.backend)
            shared = shared or list(learnt.of_images(trained.options))
            groups[name] = list(learnt.of_network(trained))
        except DataError as error:
            notes.append(f"{name}: {error}")
    return Section(
        "What was learnt",
        " ".join(["Choose whose network to look at: they should not differ.", *notes]),
        groups={**_unnamed(shared), **groups},
    )


def _against(run: Run, other: Run, markers: dict[str, Any]) -> Section:
    found = list(charts.against(run.rows, other.rows, markers))
    text = (
        "Both runs are of their own time, perhaps of different machines: unlike the ratios above, "
        "these were not measured side by side."
    )
    shown = []
    if trained := [row for row in other.rows if row.op == "train"]:
        shown.append(("Trained there", table_of(tables.train_sheet(trained))))
    if not found:
        text = "The two runs have no timed case in common."
        sheet = tables.against_sheet(run.rows, other.rows)
        shown.append((sheet.title, table_of(sheet)))
    return Section(
        f"Against the run of {other.environment.get('started', 'another time')}",
        text,
        shown,
        _unnamed(found),
    )


def _circumstances(run: Run, against: Run | None, command: str) -> Section:
    runs = [run] if against is None else [run, against]
    heads = (Cell(""), *(Cell(name) for name in ("this run", "the other")[: len(runs)]))
    facts = [dict(_facts(one)) for one in runs]
    lines = [
        [Cell(name), *(Cell(of.get(name, "")) for of in facts)]
        for name in dict.fromkeys(name for of in facts for name in of)
    ]
    return Section(
        "Where and how it was measured",
        f"This page is made by: {command}" if command else "",
        [("Circumstances", Table(heads, lines))],
    )


def _facts(run: Run) -> Iterable[tuple[str, str]]:
    about = run.environment
    yield "command", " ".join(about.get("command", []))
    yield "machine", f"{about.get('cpu')}, {numbers.cores(about)}, {about.get('system')}"
    yield "memory", numbers.bytes_(about.get("memory_bytes"))
    yield "threads", ", ".join(map(str, dict.fromkeys(row.threads for row in run.rows))) or "-"
    yield "started", str(about.get("started"))
    yield "finished", str(about.get("finished", "not"))
    yield "commit", str(about.get("commit") or "not of a checkout")
    yield from about.get("versions", {}).items()
    yield from about.get("numba_settings", {}).items()
    for count, floor in about.get("aa_floor", {}).items():
        yield f"A/A floor, {tables.threads_in_words(int(count))}", numbers.floor(floor)
    for count, measured in about.get("ceilings", {}).items():
        for dtype, rate in measured.get("flops", {}).items():
            yield f"FMA peak, {count} threads, {dtype}", f"{rate / 1e9:.0f} GFLOP/s"


def table_of(sheet: Sheet) -> Table:
    """Return a sheet as the page has it."""
    kinds = ["" if index < sheet.texts else "n" for index in range(len(sheet.columns))]
    return Table(
        tuple(Cell(name, kind) for name, kind in zip(sheet.columns, kinds, strict=True)),
        [
            [Cell(text, kind) for text, kind in zip(cells, kinds, strict=True)]
            for cells in sheet.rows
            if cells
        ],
        sheet.notes,
    )


def _fitted(chart: Chart) -> dict[str, Any]:
    """Return a chart's layout with what all have alike."""
    return {
        "height": chart.height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8, "autoexpand": True},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        **chart.layout,
        **{axis: {"automargin": True, **chart.layout.get(axis, {})} for axis in ("xaxis", "yaxis")},
    }
