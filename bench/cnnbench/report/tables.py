"""Tables of rows: for the terminal at 80 columns, and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnbench.report import numbers
from cnnbench.results import Row, algorithms, distinct
from cnnbench.sums import set_name_of
from cnnbench.timing import LEAST_ROUNDS
from cnnbench.words import counted

_STYLES = {
    "ok": "green",
    "wrong": "bold red",
    "failed": "bold red",
    "unsupported": "dim",
    "FASTER": "green",
    "SLOWER": "red",
    "SAME": "",
    "UNCLEAR": "yellow",
}


_LONGEST_HEADING = 14
_BACKENDS_ABREAST = 5


@dataclass(frozen=True)
class Sheet:
    """A table without a layout.

    Attributes
    ----------
    title : str
    columns : tuple of str
        Headings.
    rows : tuple of tuple of str
        Cells; an empty tuple separates sections.
    notes : tuple of str
        Notes below the table, such as why a backend did not run.
    texts : int
        Number of leading text columns; the others are aligned right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    texts: int = 1


def show(console: Console, sheet: Sheet) -> None:
    """Print a sheet in the console's width, folding long headings and names."""
    console.print(Text(sheet.title, style="bold"))
    if sheet.columns:
        console.print(_table(console, sheet))
    for note in sheet.notes:
        console.print(Text(f"- {note}", style="dim"))
    console.print()


def _table(console: Console, sheet: Sheet) -> Table:
    headings = [textwrap.wrap(heading, _LONGEST_HEADING) for heading in sheet.columns]
    cells = list(zip(*filter(None, sheet.rows), strict=True)) or [()] * len(headings)
    widths = [
        max(map(len, (*heading, *column)), default=0)
        for heading, column in zip(headings, cells, strict=True)
    ]
    gap = 2 if sum(widths) + 2 * len(widths) <= console.width else 1
    room = console.width - gap * len(widths) - 1 - sum(widths[1:])
    widths[0] = min(widths[0], max(room, 8))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for index, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        left = index < sheet.texts
        table.add_column(
            Text("\n".join(heading)),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left,
            min_width=width if index == 0 or not left else None,
        )
    for line in sheet.rows:
        if line:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
        else:
            table.add_section()
    return table


def markdown(sheet: Sheet) -> str:
    """Return a sheet as a Markdown table with its notes as a list."""
    parts = [[f"**{sheet.title}**"]]
    if sheet.columns:
        sides = (" --- " if i < sheet.texts else " ---: " for i in range(len(sheet.columns)))
        lines = [sheet.columns, *filter(None, sheet.rows)]
        heading, *rows = ["| " + " | ".join(cells) + " |" for cells in lines]
        parts.append([heading, f"|{'|'.join(sides)}|", *rows])
    if sheet.notes:
        parts.append([f"- {note}" for note in sheet.notes])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def check_sheets(rows: Sequence[Row]) -> Iterator[Sheet]:
    """Yield tables of outcomes and largest errors, cases by backends.

    Each sheet has a few backends side by side. Notes on failures follow the last one.
    """
    backends = list(dict.fromkeys(row.backend for row in rows))
    by_case: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for row in rows:
        by_case.setdefault((row.case, row.threads), {}).setdefault(row.backend, []).append(row)
    everywhere = {b: _absence(row for row in rows if row.backend == b) for b in backends}
    shown = [b for b in backends if everywhere[b] is None]
    several = len({row.threads for row in rows}) > 1
    names = [
        f"{case} ({threads_in_words(threads)})" if several else case for case, threads in by_case
    ]
    notes = [f"{b}: {reason}" for b, reason in everywhere.items() if reason is not None]
    notes += list(
        dict.fromkeys(
            f"{row.backend}: {row.outcome} on {row.case}: {row.reason}"
            for row in rows
            if row.outcome != "ok" and everywhere[row.backend] is None
        )
    )
    unsteady = [
        b for b in shown if any(row.repeatable is False for row in rows if row.backend == b)
    ]
    notes += [f"{b}: gives other bits from run to run" for b in unsteady]
    notes += algorithms(rows)
    title = "Correctness: exact on integers; the largest error on real data over direct's bound"
    if not shown:
        yield Sheet(title, (), (), tuple(notes))
    for first in range(0, len(shown), _BACKENDS_ABREAST):
        abreast = shown[first : first + _BACKENDS_ABREAST]
        last = first + _BACKENDS_ABREAST >= len(shown)
        yield Sheet(
            title,
            ("case", *abreast),
            tuple(
                (name, *(_worst(of_backends.get(backend, [])) for backend in abreast))
                for name, of_backends in zip(names, by_case.values(), strict=True)
            ),
            tuple(notes) if last else (),
        )


def time_sheets(rows: Sequence[Row]) -> Iterator[Sheet]:
    """Yield a sheet for each case and thread count, with all directions and backends.

    A kernel that two backends share has one line, under its own backend's name.
    """
    keys = dict.fromkeys((row.case, row.problem, row.op, row.threads) for row in rows)
    for case, problem, op, threads in keys:
        mine = [
            row
            for row in rows
            if (row.case, row.problem, row.op, row.threads) == (case, problem, op, threads)
        ]
        pooling = op == "max_pool2d"
        own = distinct(mine) if problem else mine
        lines: list[tuple[str, ...]] = []
        cold = any("cold_seconds" in row.details for row in own)
        rates = (2 if pooling else 3) + cold
        for direction in dict.fromkeys(row.direction for row in mine):
            timed = [row for row in own if row.direction == direction and row.seconds is not None]
            if timed:
                lines.append(())
                lines.append((direction, *[""] * (rates + 3)))
                lines += [_time_cells(row, pooling, cold=cold, quick=_quick(own)) for row in timed]
        baseline = next((row.baseline for row in mine if row.baseline), "the baseline")
        notes = [
            f"{row.backend}: {row.outcome}: {row.reason}" for row in mine if row.outcome != "ok"
        ]
        notes += [
            f"{row.backend}: {row.owner}'s kernel, timed once" for row in mine if row not in own
        ]
        notes += [
            f"{row.backend}: {row.details['algorithm']}, GFLOP/s are effective, "
            "peak is of its own products"
            for row in mine
            if row.gflops and "algorithm" in row.details
        ]
        for backend in dict.fromkeys(row.backend for row in mine if row.nchw_seconds is not None):
            converted = ", ".join(
                f"{row.direction} {numbers.seconds(row.nchw_seconds)}"
                for row in mine
                if row.backend == backend and row.nchw_seconds is not None
            )
            notes.append(f"{backend} with conversion from and to NCHW: {converted}")
        notes += _disturbances(own)
        descriptor = problem.split('n"')[0] or op
        look = "  (a quick look, with verdicts on large differences only)" if _quick(own) else ""
        yield Sheet(
            f"{case}  {descriptor}  {threads_in_words(threads)}{look}",
            (
                "",
                "time",
                *(("cold",) if cold else ()),
                *(("memory",) if pooling else ("GFLOP/s", "peak")),
                "error",
                f"vs {baseline}",
                "verdict",
            ),
            tuple(lines[1:]),
            tuple(dict.fromkeys(notes)),
        )


def layers_sheet(rows: Sequence[Row]) -> Sheet:
    """Return the sums over the layers in one table, a line for each backend."""
    sums = [row for row in rows if row.op != "train" and not row.problem]
    columns = list(dict.fromkeys((row.op, row.direction) for row in sums))
    baseline = next((row.baseline for row in sums if row.baseline), "the baseline")
    names = {"conv2d": "convolutions", "max_pool2d": "max-poolings"}
    lines = []
    for backend in dict.fromkeys(row.backend for row in sums):
        mine = {(row.op, row.direction): row for row in sums if row.backend == backend}
        cells = []
        for column in columns:
            row = mine.get(column)
            if row is None or row.seconds is None:
                cells.append("-")
            else:
                cells.append(f"{numbers.seconds(row.seconds)} {numbers.ratio(row.ratio):>5}")
        if set(cells) != {"-"}:
            lines.append((backend, *cells))
    case = set_name_of(sums[0].case) if sums else "the network"
    return Sheet(
        f"Layers of {case}, summed, and the speed relative to {baseline}",
        ("backend", *(f"{names.get(op, op)}, {direction}" for op, direction in columns)),
        tuple(lines),
    )


def first_call_sheet(rows: Sequence[Row]) -> Sheet:
    """Return first-call, cached first-call and steady times by backend, op and direction."""
    lines = []
    seen = set()
    for row in distinct(rows):
        key = (row.backend, row.op, row.direction)
        if row.first_call_seconds is None or key in seen or row.seconds is None:
            continue
        seen.add(key)
        lines.append(
            (
                f"{row.backend}, {row.op} {row.direction}",
                numbers.seconds(row.first_call_seconds),
                numbers.seconds(row.cached_first_call_seconds),
                numbers.seconds(row.seconds),
            )
        )
    return Sheet(
        "First calls, one after another in a new process; the same with compiled code cached; "
        "steady state",
        ("backend, operation", "first", "cached", "steady"),
        tuple(lines),
    )


def train_sheet(rows: Sequence[Row]) -> Sheet:
    """Return a table of trainings: accuracy, time and loss difference by backend."""
    trained = [row for row in rows if row.op == "train"]
    baseline = next((row.baseline for row in trained if row.baseline), "the baseline")
    several = len({row.threads for row in trained}) > 1
    lines = []
    for row in trained:
        if row.seconds is None:
            continue
        details = row.details
        whole = details["steps"] == details["all_steps"]
        lines.append(
            (
                row.backend + (f" ({row.threads})" if several else ""),
                f"{details['loss']:.4f}",
                _accuracy(details["train_accuracy"]),
                _accuracy(details["test_accuracy"]),
                numbers.seconds(row.seconds) + ("" if whole else "*"),
                numbers.seconds(details["seconds_per_step"]),
                numbers.interval(row.ratio, row.ratio_low, row.ratio_high),
                (row.verdict or "") if row.ratio else "",
            )
        )
    notes = [f"* {row.backend}: {row.reason}" for row in trained if row.seconds and row.reason]
    notes += [f"{row.backend}: {row.why}" for row in trained if row.outcome != "ok"]
    timed = [row for row in trained if row.seconds is not None]
    apart = [_losses_apart(row) for row in timed if "bound_ratio" not in row.details]
    if apart:
        first, later = map(max, zip(*apart, strict=True))
        notes.append(
            f"losses differ from float64's by at most {first:.0e} of themselves in the first "
            f"epoch, {later:.0e} later"
        )
    for row in timed:
        if "bound_ratio" in row.details:
            first, later = _losses_apart(row)
            notes.append(
                f"{row.backend}: losses differ by at most {first:.0e} in the first epoch, "
                f"{later:.0e} later; its algorithm's errors may decide for a ReLU at zero"
            )
    compile_times = [
        f"{row.backend} {numbers.seconds(row.first_call_seconds)} / "
        f"{numbers.seconds(row.cached_first_call_seconds)}"
        for row in trained
        if row.first_call_seconds is not None and row.seconds is not None
    ]
    if compile_times:
        notes.append("first step, and with compiled code cached: " + ", ".join(compile_times))
    problem = trained[0].problem if trained else "digits CNN"
    threads = f", {threads_in_words(trained[0].threads)}" if trained and not several else ""
    return Sheet(
        f"Training: {problem}{threads}",
        ("backend", "loss", "train", "test", "run", "step", f"vs {baseline}", "verdict"),
        tuple(lines),
        tuple(notes),
    )


def against_sheet(rows: Sequence[Row], others: Sequence[Row]) -> Sheet:
    """Return a table of both runs' outcomes and times by case, direction and backend."""
    here, there = ({identity(row): row for row in of} for of in (rows, others))
    several = len({row.threads for row in (*rows, *others)}) > 1
    lines = []
    for key, row in (here | there).items():
        pair = here.get(key), there.get(key)
        mine, theirs = (None if one is None else one.seconds for one in pair)
        whole = all(one is not None and one.samples for one in pair)
        name = row.case + (f" ({row.threads})" if several else "")
        lines.append(
            (
                row.problem if row.op == "train" else name,
                row.direction.replace("_", "-"),
                row.backend,
                *("not in it" if one is None else one.outcome for one in pair),
                numbers.seconds(mine),
                numbers.seconds(theirs),
                f"{theirs / mine:.2f}x" if mine and theirs and whole else "-",
            )
        )
    return Sheet(
        "This run and the other, row by row",
        (
            "case", "direction", "backend", "this run", "the other",
            "time here", "time there", "times as fast",
        ),
        tuple(lines),
        texts=5,
    )  # fmt: skip


def identity(row: Row) -> tuple[object, ...]:
    """Return the key that matches rows of two runs."""
    return row.case, row.problem, row.op, row.direction, row.backend, row.threads


def epochs_sheet(title: str, epochs: Sequence[dict[str, Any]]) -> Sheet:
    """Return a table of mean batch loss and accuracies by epoch."""
    return Sheet(
        title,
        ("epoch", "loss", "train_acc", "test_acc"),
        tuple(
            (
                f"{number:02d}/{len(epochs)}",
                f"{epoch['loss']:.4f}",
                f"{epoch['train_accuracy']:.3f}",
                f"{epoch['test_accuracy']:.3f}",
            )
            for number, epoch in enumerate(epochs, start=1)
        ),
    )


def _losses_apart(row: Row) -> tuple[float, float]:
    return row.details["first_epoch_loss_difference"], row.details["loss_difference"]


def _quick(rows: Iterable[Row]) -> bool:
    """Return whether times are from a few rounds in one process."""
    timed = [row for row in rows if row.samples]
    blocks = [len(row.samples) // row.sides for row in timed]
    return bool(timed) and max(blocks) < LEAST_ROUNDS and all(row.processes == 1 for row in timed)


def _disturbances(rows: Iterable[Row]) -> list[str]:
    """Return a note on the sides that were repeated because other programs slowed them down."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        found = counts.setdefault(row.backend, [0, 0, 0])
        found[0] += row.details.get("repeated_sides", 0)
        found[1] += len(row.samples)
        found[2] += row.details.get("disturbed_sides", 0)
    words = [
        f"{repeated} of {every} sides of {backend}" + (f" ({again} slowed again)" if again else "")
        for backend, (repeated, every, again) in counts.items()
        if repeated
    ]
    return [f"repeated, as other programs slowed them down: {', '.join(words)}"] if words else []


def _time_cells(row: Row, pooling: bool, *, cold: bool, quick: bool) -> tuple[str, ...]:
    rate = () if pooling else (numbers.quantity(row.gflops),)
    return (
        row.backend,
        numbers.seconds(row.seconds),
        *((numbers.seconds(row.details.get("cold_seconds")),) if cold else ()),
        *rate,
        numbers.percent(row.ceiling_fraction),
        numbers.of_bound(row.error_over_bound),
        numbers.interval(row.ratio, row.ratio_low, row.ratio_high),
        "" if quick and row.verdict == "UNCLEAR" else row.verdict or "",
    )


def _worst(rows: Iterable[Row]) -> str:
    rows = list(rows)
    for outcome in ("failed", "wrong", "unsupported"):
        if any(row.outcome == outcome for row in rows):
            return outcome
    errors = [row.error_over_bound for row in rows if row.error_over_bound is not None]
    return f"ok {numbers.of_bound(max(errors))}" if errors else "ok"


def _absence(rows: Iterable[Row]) -> str | None:
    """Return the reason why a backend ran nothing, or None if it ran or has several reasons."""
    found = {(row.outcome, row.reason) for row in rows}
    if len(found) == 1:
        outcome, reason = next(iter(found))
        if outcome != "ok":
            return f"{outcome}: {reason}"
    return None


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def threads_in_words(count: int) -> str:
    """Return a thread count in words."""
    return counted(count, "thread")
