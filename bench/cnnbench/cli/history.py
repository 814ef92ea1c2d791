"""Write the performance history as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def history(
    output: Annotated[Path, typer.Option(help="The HTML page.")] = Path("history.html"),
    results: Annotated[
        Path | None, typer.Option(help="Folder of asv results [default: this checkout's].")
    ] = None,
) -> None:
    """Write the performance history as one HTML page.

    Measure it first with make history. The page opens offline.
    """
    from cnnbench.history import asv, page, series
    from cnnbench.results import claim
    from cnnbench.words import counted

    claim(output)
    found = series.read(asv.root(), results)
    page.write(found, output)
    regressions = len(found.regressions)
    typer.echo(
        f"{output}: {counted(len(found.series), 'curve')} over "
        f"{counted(len(found.commits), 'commit')}, "
        f"{counted(sum(len(one.steps) for one in found.series), 'step')}, "
        f"{counted(regressions, 'regression')} among them"
    )
