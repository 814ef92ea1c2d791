"""Write a saved run as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.runs import OWN_FOLDER, command_line


def report(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A saved run [default: the newest in .cnnbench/]."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The HTML page.")] = Path("report.html"),
    against: Annotated[
        Path | None, typer.Option(help="Another saved run, to show beside it.")
    ] = None,
) -> None:
    """Write a saved run as one HTML page that opens offline."""
    from cnnbench import results
    from cnnbench.report import page
    from cnnbench.words import counted

    results.claim(output)
    run = results.read(source or results.newest(OWN_FOLDER))
    page.write(run, output, None if against is None else results.read(against), command_line())
    typer.echo(f"{output}: {counted(len(run.rows), 'row')} of {run.paths[0]}")
