"""A command's run: where its rows are kept, whatever ends it, and how far it has come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cnnbench.cli import signals

if TYPE_CHECKING:
    from cnnbench.cli.progress import ProgressBar
    from cnnbench.results import Run

OWN_FOLDER = Path(".cnnbench")
"""Where every run is kept."""

RESULTS = Path("results")
"""Where runs are kept for good."""


def new_run() -> Run:
    """Return a run of this command line on this machine."""
    from cnnbench import machine
    from cnnbench.results import Run

    return Run(machine.environment(["cnnbench", *sys.argv[1:]]))


def keep(
    run: Run,
    command: str,
    subject: str,
    json_file: Path | None,
    save: bool,
    machine: str | None,
    own: bool = True,
) -> None:
    """Decide where a run's rows go, before anything is measured; files are named by subject."""
    from cnnbench import results

    if json_file is not None:
        run.paths.append(results.claim(json_file))
    if own:
        run.paths.insert(0, results.fresh_path(OWN_FOLDER, command, subject))
    if save:
        if machine is not None:
            run.environment["machine"] = results.slug(machine)
        folder = RESULTS / run.environment["machine"]
        run.paths.append(results.fresh_path(folder, command, subject))
    run.write()


@contextlib.contextmanager
def recording(run: Run) -> Iterator[None]:
    """Write what was measured, whatever ends it."""
    import datetime

    from cnnbench import machine
    from cnnbench.words import counted

    def finished() -> None:
        now = datetime.datetime.now(datetime.UTC)
        run.environment["finished"] = now.isoformat(timespec="seconds")
        run.environment["load_after"] = machine.load_average()
        run.write(finished=True)

    try:
        yield
    except KeyboardInterrupt as interrupt:
        signals.ignore()  # a second one would lose what the first is to keep
        run.environment["interrupted"] = True
        finished()
        rows = counted(len(run.rows), "row")
        kept = f"kept {rows} in {', '.join(map(str, run.paths))}"
        with contextlib.suppress(OSError):  # a terminal that was closed takes no more words
            typer.echo(f"interrupted: {kept}" if run.paths else "interrupted", err=True)
        raise typer.Exit(128 + signals.number_of(interrupt)) from None
    except BaseException:
        with contextlib.suppress(OSError):
            finished()
        raise
    finished()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is gone when the command ends."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name:
        yield Path(name)


@contextlib.contextmanager
def progress_bar(seconds: float | None = None) -> Iterator[ProgressBar]:
    """Yield the progress of a run, shown on standard error after its estimated duration."""
    from cnnbench.cli.progress import ProgressBar

    with ProgressBar(seconds) as bar:
        yield bar


def finish(run: Run) -> None:
    """Say where the rows are; exit 1 if a backend was wrong or failed, or if none could run."""
    typer.echo(f"rows: {', '.join(map(str, run.paths))}")
    outcomes = {row.outcome for row in run.rows}
    if outcomes & {"wrong", "failed"} or "ok" not in outcomes:
        raise typer.Exit(1)


def command_line() -> str:
    """Return the command line, to be pasted into a shell."""
    import shlex

    return shlex.join(["cnnbench", *sys.argv[1:]])
