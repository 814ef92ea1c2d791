"""A command's run: its files, its progress, and how it ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cnnbench.cli import signals

if TYPE_CHECKING:
    from cnnbench.report.progress import ProgressBar
    from cnnbench.results import Run

OWN_FOLDER = Path(".cnnbench")
"""Every run is saved here."""

RESULTS = Path("results")
"""--save also saves a run here."""


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
    """Choose the files of a run before anything is measured; the subject names them."""
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
    """Write all measured rows when the block ends, even by an error or an interrupt."""
    import datetime

    from cnnbench import cpu_time, machine
    from cnnbench.words import counted

    before = cpu_time.seconds()

    def finished() -> None:
        run.environment["taken_by_others"] = cpu_time.taken_by_others(before, cpu_time.seconds())
        now = datetime.datetime.now(datetime.UTC)
        run.environment["finished"] = now.isoformat(timespec="seconds")
        run.environment["load_after"] = machine.load_average()
        run.write(finished=True)

    try:
        yield
    except KeyboardInterrupt as interrupt:
        signals.ignore()  # a second one would lose the rows
        run.environment["interrupted"] = True
        finished()
        rows = counted(len(run.rows), "row")
        kept = f"kept {rows} in {', '.join(map(str, run.paths))}"
        with contextlib.suppress(OSError):  # the terminal may be closed
            typer.echo(f"interrupted: {kept}" if run.paths else "interrupted", err=True)
        raise typer.Exit(128 + signals.number_of(interrupt)) from None
    except BaseException:
        with contextlib.suppress(OSError):
            finished()
        raise
    finished()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is deleted when the command ends."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name:
        yield Path(name)


@contextlib.contextmanager
def progress_bar(seconds: float | None = None) -> Iterator[ProgressBar]:
    """Yield the progress of a run, shown on standard error after its estimated duration."""
    from cnnbench.report.progress import ProgressBar

    with ProgressBar(seconds) as bar:
        yield bar


def finish(run: Run) -> None:
    """Print the files of the rows; exit 1 if a backend was wrong or failed, or none could run."""
    typer.echo(f"rows: {', '.join(map(str, run.paths))}")
    outcomes = {row.outcome for row in run.rows}
    if outcomes & {"wrong", "failed"} or "ok" not in outcomes:
        raise typer.Exit(1)


def command_line() -> str:
    """Return the command line, quoted for a shell."""
    import shlex

    return shlex.join(["cnnbench", *sys.argv[1:]])
