"""Show a saved run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def show(
    file: Annotated[
        Path | None,
        typer.Argument(help="A saved run [default: the newest in .cnnbench/]."),
    ] = None,
) -> None:
    """Show the tables of a saved run."""
    from cnnbench import results
    from cnnbench.recommend import recommendation

    run = results.read(file or results.newest(OWN_FOLDER))
    console = console_of_text()
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
