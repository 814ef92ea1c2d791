"""Tables of a run on the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.recommend.recommendation import Recommendation
    from cnnbench.results import Row, Run


FLOOR_IN_WORDS = "A/A floor: two identical runs differ by this much here; less is no difference."


def console_of_text() -> Console:
    """Return a console for tables that prints brackets and colons in names literally."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def rows_of_layers(rows: list[Row]) -> list[Row]:
    """Return the rows of layers, without trainings and sums."""
    return [row for row in rows if row.op != "train" and row.problem]


def show_checks(console: Console, rows: list[Row]) -> None:
    """Print the checks of layers; reasons take one line a backend."""
    from cnnbench import results
    from cnnbench.report import tables

    passed = [row for row in rows if row.outcome == "ok"]
    of_passed = [note for sheet in tables.check_sheets(passed) for note in sheet.notes]
    *first, last = tables.check_sheets(rows)
    notes = (*results.reasons(rows), *of_passed)
    for sheet in (*first, dataclasses.replace(last, notes=notes)):
        tables.show(console, sheet)


def show_times(console: Console, rows: list[Row], environment: dict[str, Any]) -> None:
    """Print times, first calls, the FMA peak and the A/A floor."""
    from cnnbench import results
    from cnnbench.report import numbers, tables

    layers = [row for row in rows if row.op != "train"]
    if not any(row.seconds is not None for row in layers):
        return
    for sheet in tables.time_sheets([row for row in layers if row.outcome != "unsupported"]):
        tables.show(console, sheet)
    notes = results.reasons(row for row in layers if row.outcome in ("ok", "unsupported"))
    for line in (*notes, *results.algorithms(layers)):
        console.print(f"- {line}", style="dim", highlight=False)
    if any(row.first_call_seconds is not None for row in layers):
        tables.show(console, tables.first_call_sheet(layers))
    for count, floor in environment.get("aa_floor", {}).items():
        ceilings = environment.get("ceilings", {}).get(count, {})
        peak = ceilings.get("flops", {}).get("float32")
        fma = f"FMA peak {numbers.significant(peak / 1e9)} GFLOP/s, " if peak else ""
        threads = tables.threads_in_words(int(count))
        console.print(f"{threads}: {fma}A/A floor {numbers.floor(floor)}", highlight=False)
    console.print(FLOOR_IN_WORDS, style="dim", highlight=False)
    console.print()


def show_trainings(console: Console, rows: list[Row]) -> None:
    """Print the trainings of a run, a table for each thread count."""
    from cnnbench import trainings
    from cnnbench.report import tables

    for count in dict.fromkeys(row.threads for row in rows if row.op == "train"):
        of_count = [row for row in rows if row.threads == count]
        sheet = tables.train_sheet(of_count)
        notes = (*sheet.notes, *trainings.remarks(of_count))
        tables.show(console, dataclasses.replace(sheet, notes=notes))


def show_busy(console: Console, run: Run) -> None:
    """Print a warning if the machine was busy, for each thread count that shows it."""
    from cnnbench.report.answer import busy

    for line in busy(run):
        console.print(line, style="bold red", highlight=False)


def show_recommendation(console: Console, found: Recommendation, plan: Path) -> None:
    """Print a recommendation, and how to follow it."""
    from cnnbench.report import recommendation, tables

    console.print(found.answer, style="bold", highlight=False)
    for line in recommendation.how_to_follow(found, plan):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print()
    for sheet in recommendation.sheets(found):
        tables.show(console, sheet)
