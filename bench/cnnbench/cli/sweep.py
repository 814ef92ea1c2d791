"""Run a command on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnbench.cli.runs import OWN_FOLDER, RESULTS

if TYPE_CHECKING:
    from cnnbench.sweep.coordinator import Sweep
    from cnnbench.sweep.folder import Folder
    from cnnbench.sweep.requests import Request

OF_THE_SWEEP = ("json_file", "save", "machine", "output")
"""Options that a command has for itself; a sweep keeps the rows of every machine in its way."""


def sweep(
    context: typer.Context,
    on: Annotated[
        str,
        typer.Option(
            help="tcp://host:8786, a Dask scheduler; local:2, so many workers on this machine; "
            "or a file of hosts with SSH.",
            metavar="WHERE",
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="check, time, train or recommend, with its options."),
    ] = None,
    split: Annotated[
        bool,
        typer.Option("--split", help="Machines that are alike share the cases."),
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Accept machines with other versions, and mark them.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Measure what the sweep in this folder lacks.", metavar="FOLDER"),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Also save each machine's rows under results/.")
    ] = False,
) -> None:
    """Run another command on many machines, through Dask.

    It is check, time, train or recommend, with its options.

    Every machine does everything, or alike ones share the cases.
    """
    from cnnbench.sweep.requests import SweepError

    try:
        from cnnbench.sweep import cluster
    except ImportError as error:
        raise SweepError(
            f"Dask is not installed here ({error}): pip install 'cnnbench[sweep]'"
        ) from None
    if resume is not None and (command or split):
        raise typer.BadParameter("--resume takes the command and --split from its folder")
    if resume is None and not command:
        raise typer.BadParameter("expected a command: check, time, train or recommend")
    folder = _folder(context, command or [], split, mixed, resume)
    with cluster.connected(on) as client:
        _measure(client, folder, save)


def _folder(
    context: typer.Context,
    command: list[str],
    split: bool,
    mixed: bool,
    resume: Path | None,
) -> Folder:
    import sys

    from cnnbench.sweep.folder import Folder

    if resume is not None:
        folder = Folder.open(resume)
        folder.asked["mixed"] = folder.asked["mixed"] or mixed
        return folder
    request, subject = requested(context, command, split)
    asked = {
        "request": request.as_json(),
        "split": split,
        "mixed": mixed,
        "command": ["cnnbench", *sys.argv[1:]],
        "subject": subject,
    }
    return Folder.new(OWN_FOLDER, request.command, subject, asked)


def requested(context: typer.Context, words: list[str], split: bool) -> tuple[Request, str]:
    """Return the request of a command line, and its subject; bad options are told at once."""
    from cnnbench.cli.options import case_sets, subject
    from cnnbench.sweep.requests import COMMANDS, WITH_CASES, Request

    name, *arguments = words
    if name not in COMMANDS:
        raise typer.BadParameter(f"expected {', '.join(COMMANDS)}; got {name!r}")
    if split and name not in WITH_CASES:
        raise typer.BadParameter(
            f"--split is for {' and '.join(WITH_CASES)}: {name} compares everything side by side"
        )
    root: Any = context.find_root().command
    parsed = root.commands[name].make_context(name, list(arguments), parent=context).params
    for option in OF_THE_SWEEP:
        if parsed.get(option) not in (None, False, Path("plan.json")):
            shown = {"json_file": "--json"}.get(option, f"--{option}")
            raise typer.BadParameter(f"{shown} is not for a sweep: its folder has all rows")
    if name not in WITH_CASES:
        return Request(name, tuple(arguments)), str(parsed.get("model") or parsed.get("recipe"))
    sets = case_sets(parsed["cases"], parsed["batch"], parsed["dtype"])
    return Request.of(name, arguments, sets), subject(sets)


def _measure(client: Any, folder: Folder, save: bool) -> None:
    """Run the sweep to its end; say what came home, and what is missing."""
    from cnnbench.cli import signals
    from cnnbench.sweep import remote
    from cnnbench.sweep.coordinator import Sweep
    from cnnbench.sweep.requests import SweepError
    from cnnbench.sweep.screen import Screen

    code = 0
    with Screen() as screen:

        def look(sweep: Sweep) -> None:
            screen(sweep)
            screen.trouble(folder.trouble)

        found = Sweep(client, folder, remote.describe(), look)
        try:
            found.run()
        except KeyboardInterrupt as interrupt:
            signals.ignore()  # a second one would lose the end
            code = 128 + signals.number_of(interrupt)
        except SweepError as error:
            if not found.shares:
                raise
            typer.echo(f"cnnbench: {error}", err=True)
            code = 2
    _conclude(found, folder, save)
    raise typer.Exit(code or _code(found))


def _conclude(found: Sweep, folder: Folder, save: bool) -> None:
    """Print what each machine has measured, what is missing, and where the rows are."""
    from cnnbench import results
    from cnnbench.cli.tables import console_of_text
    from cnnbench.report import tables
    from cnnbench.sweep.screen import sheet

    tables.show(console_of_text(), sheet(found))
    for share in found.shares if save else ():
        path = results.fresh_path(
            RESULTS / share.name, found.request.command, folder.asked["subject"]
        )
        share.run(path).write(finished=True)
    if folder.trouble:
        typer.echo(f"cnnbench: {folder.trouble}: the rows are in {folder.rescue()}", err=True)
    typer.echo(f"rows: {folder.path}")
    if any(share.unfinished for share in found.shares):
        typer.echo(
            f"what is missing can be measured later: cnnbench sweep --on WHERE --resume "
            f"{folder.path}"
        )


def _code(found: Sweep) -> int:
    """Return 1 if a backend was wrong or failed, none could run, or cases are missing."""
    outcomes = {row.outcome for share in found.shares for row in share.rows}
    bad = outcomes & {"wrong", "failed"} or "ok" not in outcomes
    return int(bool(bad or any(share.unfinished for share in found.shares)))
