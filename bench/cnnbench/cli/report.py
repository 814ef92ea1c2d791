"""Write saved runs as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.runs import OWN_FOLDER, command_line


def report(
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="A saved run [default: the newest in .cnnbench/]; several are shown side by "
            "side, machine by machine.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="The HTML page.")] = Path("report.html"),
    against: Annotated[
        Path | None, typer.Option(help="Another saved run, to show beside it.")
    ] = None,
) -> None:
    """Write a saved run, or several side by side, as one HTML page.

    It opens offline.
    """
    from cnnbench import results
    from cnnbench.report import page
    from cnnbench.words import counted

    if against is not None and sources is not None and len(sources) > 1:
        raise typer.BadParameter("--against is for one run: give every run with --from")
    results.claim(output)
    runs = [results.read(path) for path in sources or [results.newest(OWN_FOLDER)]]
    if len(runs) > 1:
        page.write_machines(runs, output, command_line())
    else:
        other = None if against is None else results.read(against)
        page.write(runs[0], output, other, command_line())
    rows = counted(sum(len(run.rows) for run in runs), "row")
    typer.echo(f"{output}: {rows} of {', '.join(str(run.paths[0]) for run in runs)}")
