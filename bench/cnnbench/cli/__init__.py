"""The command line: `cnnbench info | check | time | train | compare | recommend | ...`.

Each command has a file, and imports what it needs when it runs, so help and errors appear at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from cnnbench import __version__
from cnnbench.cli import (
    check,
    compare,
    history,
    info,
    recommend,
    report,
    selftest,
    show,
    signals,
    sweep,
    time,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    info.info,
    check.check,
    time.time,
    train.train,
    compare.compare,
    recommend.recommend,
    sweep.sweep,
    selftest.selftest,
    show.show,
    report.report,
    history.history,
):
    # What follows a sweep's command belongs to that.
    mixed = command is not sweep.sweep
    app.command(context_settings={"allow_interspersed_args": mixed})(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cnnbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Check, time and train with Conv2D and MaxPool kernels, side by side."""


def main() -> None:
    """Run the command line; an error the user can fix is one sentence and exit code 2."""
    from cnnbench.cases import CaseError
    from cnnbench.digits.data import DataError
    from cnnbench.history.asv import HistoryError
    from cnnbench.recommend.networks import ModelError
    from cnnbench.report.offline import PageError
    from cnnbench.report.tidy import ColumnError
    from cnnbench.results import ResultsError
    from cnnbench.sweep.requests import SweepError
    from cnnkernels.files import WriteError
    from cnnkernels.plan import PlanError
    from cnnkernels.registry import UnknownBackendError

    expected: tuple[type[BaseException], ...] = (
        CaseError,
        ColumnError,
        DataError,
        HistoryError,
        ModelError,
        PageError,
        PlanError,
        ResultsError,
        SweepError,
        UnknownBackendError,
        WriteError,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may hold bytes that the terminal cannot encode. Standard error escapes them.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals.stopping():
            app()
    except expected as error:
        typer.echo(f"cnnbench: {error}", err=True)
        sys.exit(2)
