"""The self-contained HTML page of a run: its answer, tables and charts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cnnbench.digits import weights
from cnnbench.digits.data import DataError
from cnnbench.recommend import recommendation
from cnnbench.report import answer, charts, learnt, machines, numbers, offline, tables
from cnnbench.report.charts import Chart, drawing
from cnnbench.report.tables import Sheet
from cnnbench.results import Row, Run, algorithms, distinct
from cnnbench.words import counted


class Cell(NamedTuple):
    """A cell of a table: text, style class and hover text."""

    text: str
    kind: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

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
        Captions and tables.
    groups : dict of str to list of Chart
        Charts by the network to choose; those under the empty name are always shown.
    """

    title: str
    text: str
    tables: list[tuple[str, Table]] = field(default_factory=list)
    groups: dict[str, list[Chart]] = field(default_factory=dict)


def write(
    run: Run,
    path: Path,
    against: Run | None = None,
    command: str = "",
    site: offline.Site | None = None,
) -> None:
    """Write the page of a run.

    Parameters
    ----------
    run : Run
    path : path
    against : Run, optional
        Another run to compare with.
    command : str
        Command that reproduces the page.
    site : offline.Site, optional
        The site that the page belongs to.

    Raises
    ------
    PageError
        If Jinja2 or plotly is not installed, or the file cannot be written.
    """
    _write(
        path,
        sections(run, against, command),
        site=site,
        title=f"Convolution and max-pool kernels on {run.environment.get('cpu', 'this machine')}",
        answer=headline(run),
        busy=answer.busy(run),
        summary=summary(run),
        evidence=_evidence(run),
    )


def write_machines(
    runs: Sequence[Run], path: Path, command: str = "", site: offline.Site | None = None
) -> None:
    """Write the page of several machines' runs side by side; parameters are those of `write`.

    Raises
    ------
    PageError
        As for `write`.
    """
    sides = machines.sides(runs)
    fastest, *_ = machines.sheets(sides, every=False)
    text = "Each ratio's two sides were measured on one machine, by turns."
    found = [
        Section(
            "Ratios on every machine",
            text,
            [(sheet.title, table_of(sheet)) for sheet in machines.sheets(sides)],
            _unnamed(machines.charts(sides)),
        ),
        *(
            replace(_circumstances(run, None, command), title=f"How it was measured: {name}")
            for run, name in zip(runs, _names(runs), strict=True)
        ),
    ]
    _write(
        path,
        found,
        site=site,
        title=f"Convolution and max-pool kernels on {counted(len(runs), 'machine')}",
        answer=machines.sentence(sides),
        busy=[
            f"{name}: {line}"
            for run, name in zip(runs, _names(runs), strict=True)
            for line in answer.busy(run)
        ],
        summary=table_of(fastest),
        evidence=[f"{side.letter}: {side.name}" for side in sides],
    )


def _names(runs: Sequence[Run]) -> list[str]:
    return [f"{run.environment['machine']}, {run.environment['started'][:16]}" for run in runs]


def _write(path: Path, all_sections: Iterable[Section], **values: Any) -> None:
    """Write a page with those sections that have anything to show."""
    found = [section for section in all_sections if section.tables or section.groups]
    data = [
        {"group": name, "traces": chart.traces, "layout": _fitted(chart)}
        for section in found
        for name, group in section.groups.items()
        for chart in group
    ]
    offline.write(
        path,
        "report/page.html",
        sections=[(f"section-{number}", section) for number, section in enumerate(found, start=1)],
        charts=data,
        table_of=table_of,
        **values,
    )


def headline(run: Run) -> str:
    """Return the answer in one or two sentences."""
    rows = run.rows
    recommended = recommendation.kept(run)
    if recommended is not None:
        return recommended.answer
    if _is_trained(rows):
        return answer.answer(_of_most_threads(rows), _floor(run))
    fastest = Counter(total.backend for total in _fastest_totals(rows))
    if fastest:
        (best, wins), *others = fastest.most_common()
        text = f"{best} has the lowest total time in {wins} of {fastest.total()} comparisons"
        rest = ", ".join(f"{name} in {count}" for name, count in others)
        return f"{text}, {rest}." if rest else f"{text}."
    checked = [row for row in rows if row.problem]
    passed = sum(row.outcome == "ok" for row in checked)
    wrong = sum(row.outcome in ("wrong", "failed") for row in checked)
    return f"{passed} of {len(checked)} checks passed, {wrong} are wrong or failed."


def summary(run: Run) -> Table | None:
    """Return the fastest backend of each sum as a table, or None for a run with trainings."""
    totals = [] if _is_trained(run.rows) else list(_fastest_totals(run.rows))
    if not totals:
        return None
    names = ("total of", "threads", "fastest", f"vs {totals[0].baseline}", "time")
    lines = tuple(
        (
            f"{total.case.removesuffix(' (sum)')}, {_work(total)}",
            str(total.threads),
            total.backend,
            numbers.interval(total.ratio, total.ratio_low, total.ratio_high),
            numbers.seconds(total.seconds),
        )
        for total in totals
    )
    return table_of(Sheet("Fastest backend", names, lines, texts=3))


def _work(row: Row) -> str:
    if row.op == "conv2d":
        return drawing.words(row.direction)
    return drawing.named(row.op, row.direction).lower()


def _is_trained(rows: Sequence[Row]) -> bool:
    return any(row.op == "train" and row.samples for row in rows)


def _of_most_threads(rows: Sequence[Row]) -> list[Row]:
    most = max(row.threads for row in rows)
    return [row for row in rows if row.threads == most]


def _fastest_totals(rows: Sequence[Row]) -> Iterable[Row]:
    """Yield the fastest row of each set's sum, by operation, direction and thread count."""
    totals = [row for row in rows if not row.problem and row.seconds and row.ratio]
    for key in dict.fromkeys((row.case, row.op, row.direction, row.threads) for row in totals):
        yield min(
            (row for row in totals if (row.case, row.op, row.direction, row.threads) == key),
            key=lambda row: row.seconds or 0.0,
        )


def _evidence(run: Run) -> list[str]:
    return answer.evidence(run.rows, _floor(run)) if run.rows else []


def _floor(run: Run) -> float:
    """Return the A/A floor at the trainings' thread count, else the largest one."""
    trained = {row.threads for row in run.rows if row.op == "train"}
    known = [
        value
        for threads, value in run.floors.items()
        if not math.isnan(value) and (not trained or threads in trained)
    ]
    return max(known, default=math.nan)


def sections(run: Run, against: Run | None, command: str = "") -> list[Section]:
    """Return all sections of the page, including empty ones."""
    rows = run.rows
    layers = [row for row in rows if row.op != "train"]
    single = [row for row in layers if row.problem]
    own = distinct(single)
    trained = [row for row in rows if row.op == "train"]
    markers = charts.colours(
        row.backend for row in (*rows, *(against.rows if against is not None else ()))
    )
    return [
        _training(trained, markers),
        _correctness(single, markers),
        Section(
            "Speed",
            "Every timed case passed its check first. Ratios come from interleaved rounds; the "
            "bar across a mark is the 99 % confidence interval, missing after too few rounds."
            + (_MARKS if len({row.threads for row in layers}) > 1 else ""),
            groups=_unnamed(
                charts.ratios(distinct(layers), markers),
                charts.sizes(own, markers),
                charts.rooflines(own, run.environment.get("ceilings", {}), markers),
                charts.threads(own, markers),
                charts.first_calls(own),
            ),
        ),
        _learnt(trained),
        *([] if against is None else [_against(run, against, markers)]),
        _circumstances(run, against, command),
    ]


_MARKS = " Parentheses give the thread count: filled marks are the lowest, hollow ones the others."


def _unnamed(*found: Iterable[Chart]) -> dict[str, list[Chart]]:
    all_of_them = [chart for some in found for chart in some]
    return {"": all_of_them} if all_of_them else {}


def _training(rows: list[Row], markers: dict[str, Any]) -> Section:
    counts = dict.fromkeys(row.threads for row in rows)
    sheets = [tables.train_sheet([row for row in rows if row.threads == n]) for n in counts]
    return Section(
        "Training",
        "Every backend starts from the same weights and sees the same batches in the same order.",
        [(sheet.title, table_of(_times_first(sheet))) for sheet in sheets],
        _unnamed(charts.seconds(rows, markers), charts.curves(rows, markers), charts.steps(rows)),
    )


def _times_first(sheet: Sheet) -> Sheet:
    """Return a training sheet with times and verdict first: a phone shows only those."""
    backend, loss, train, test, run, step, ratio, verdict = range(8)
    order = (backend, run, ratio, verdict, step, loss, train, test)
    return replace(
        sheet,
        columns=tuple(sheet.columns[at] for at in order),
        rows=tuple(tuple(cells[at] for at in order) if cells else () for cells in sheet.rows),
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
    notes = [f"{row.backend}: {row.outcome}: {row.reason}" for row in rows if row.outcome != "ok"]
    notes = list(dict.fromkeys(notes)) + algorithms(rows)
    table = Table((Cell("case"), *map(Cell, backends)), lines, tuple(notes))
    return Section(
        "Correctness",
        "Every result and gradient is exact on integers. The number is the largest error on real "
        "data divided by the rounding bound of direct sums in any order. Above 1 is wrong, unless "
        "an algorithm declares another bound and keeps it.",
        [("Cases and backends", table)],
        _unnamed(charts.errors(rows, markers)),
    )


def _verdict(rows: list[Row]) -> Cell:
    """Return the worst outcome of a backend on a case."""
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
        "What the network learned",
        " ".join(["Choose a backend: the trained networks should look alike.", *notes]),
        groups={**_unnamed(shared), **groups},
    )


def _against(run: Run, other: Run, markers: dict[str, Any]) -> Section:
    found = list(charts.against(run.rows, other.rows, markers))
    text = (
        "The two runs were measured at different times, perhaps on different machines, not side "
        "by side like the ratios above."
    )
    shown = []
    if trained := [row for row in other.rows if row.op == "train"]:
        shown.append(
            ("Training in the other run", table_of(_times_first(tables.train_sheet(trained))))
        )
    if not found:
        text = "The two runs have no timed case in common."
        sheet = tables.against_sheet(run.rows, other.rows)
        shown.append((sheet.title, table_of(sheet)))
    return Section(
        f"Compared with the run of {other.environment.get('started', 'another time')}",
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
        f"Command for this page: {command}" if command else "",
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
    yield "commit", str(about.get("commit") or "not in a checkout")
    yield from about.get("versions", {}).items()
    yield from about.get("numba_settings", {}).items()
    for key, of in (("aa_floor", ""), ("training_floor", " of trainings")):
        for count, floor in about.get(key, {}).items():
            yield f"A/A floor{of}, {tables.threads_in_words(int(count))}", numbers.floor(floor)
    for count, measured in about.get("ceilings", {}).items():
        for dtype, rate in measured.get("flops", {}).items():
            yield (
                f"FMA peak, {tables.threads_in_words(int(count))}, {dtype}",
                f"{rate / 1e9:.0f} GFLOP/s",
            )


def table_of(sheet: Sheet) -> Table:
    """Return a sheet as a table of the page."""
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
    """Return a chart's layout with the page's defaults."""
    return {
        "height": chart.height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8, "autoexpand": True},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "maxheight": 1},
        "hovermode": "closest",
        **chart.layout,
        **{axis: {"automargin": True, **chart.layout.get(axis, {})} for axis in ("xaxis", "yaxis")},
    }
