"""Show saved runs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.plans import show_warnings
from cnnbench.cli.runs import OWN_FOLDER
from cnnbench.cli.tables import (
    console_of_text,
    rows_of_layers,
    show_busy,
    show_checks,
    show_recommendation,
    show_times,
    show_trainings,
)

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.results import Run


class Format(enum.StrEnum):
    """Formats of a saved run."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def show(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A saved run [default: the newest in .cnnbench/]; several are shown side by side.",
            metavar="FILE...",
        ),
    ] = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="csv and json have one row for each measurement."),
    ] = Format.TABLE,
    select: Annotated[
        str,
        typer.Option(
            help="Comma-separated columns, such as case,backend,ratio.", metavar="COLUMNS"
        ),
    ] = "",
) -> None:
    """Show the tables of a saved run, or of several side by side.

    --format prints the plain numbers.
    """
    from cnnbench import results
    from cnnbench.report import machines, tables, tidy

    runs = [results.read(path) for path in files or [results.newest(OWN_FOLDER)]]
    console = console_of_text()
    if format_ is Format.TABLE and not select:
        if len(runs) == 1:
            _show(console, runs[0])
            return
        sides = machines.sides(runs)
        console.print(machines.sentence(sides), style="bold", highlight=False)
        console.print()
        for sheet in (machines.legend(sides), *machines.sheets(sides, every=False)):
            tables.show(console, sheet)
        return
    short = tidy.SHORT if format_ in (Format.TABLE, Format.MARKDOWN) else tuple(tidy.COLUMNS)
    records = tidy.records(runs, tidy.columns(select) if select else short)
    if format_ is Format.CSV:
        typer.echo(tidy.as_csv(records), nl=False)
    elif format_ is Format.JSON:
        typer.echo(tidy.as_json(records), nl=False)
    else:
        sheet = tidy.sheet(records, ", ".join(path.stem for run in runs for path in run.paths))
        if format_ is Format.MARKDOWN:
            typer.echo(tables.markdown(sheet), nl=False)
        else:
            tables.show(console, sheet)


def _show(console: Console, run: Run) -> None:
    from cnnbench.recommend import recommendation

    where = run.environment
    console.print(f"{' '.join(where['command'])}: {where['cpu']}, {where['started']}")
    recommended = recommendation.kept(run)
    if recommended is not None:
        show_recommendation(console, recommended, Path(where.get("plan_file", "plan.json")))
        show_busy(console, run)
        show_warnings(console, where.get("warnings", []))
        return
    if any(row.seconds is None or row.op != "train" for row in run.rows):
        show_checks(console, rows_of_layers(run.rows))
    show_times(console, run.rows, run.environment)
    show_trainings(console, run.rows)
    show_busy(console, run)
