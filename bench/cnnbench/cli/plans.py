"""Following a plan in a command, and its warnings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.cli.runs import temporary_folder

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.results import Run


@contextlib.contextmanager
def following(file: Path | None, force: bool, threads: Sequence[int]) -> Iterator[None]:
    """Let workers that start in the block follow a plan; warn once if it was made elsewhere.

    Raises
    ------
    PlanError
        If the plan cannot be followed here.
    """
    import dataclasses
    import os
    import warnings

    from cnnbench.words import counted
    from cnnkernels import host
    from cnnkernels import plan as plans

    if file is None:
        yield
        return
    followed = plans.load(file, force=force)
    here = dataclasses.replace(
        followed, machine=host.fingerprint(), versions=host.versions(*plans.LIBRARIES)
    )
    if followed.machine != here.machine:
        warnings.warn(f"{file}: made on another machine", plans.PlanWarning, stacklevel=2)
    if list(threads) != [followed.threads]:
        counts = ", ".join(map(str, threads))
        warnings.warn(
            f"{file}: measured with {counted(followed.threads, 'thread')}, here {counts}",
            plans.PlanWarning,
            stacklevel=2,
        )
    before = os.environ.get(plans.VARIABLE)
    with temporary_folder() as folder:
        here.save(folder / file.name)
        os.environ[plans.VARIABLE] = str(folder / file.name)
        try:
            yield
        finally:
            del os.environ[plans.VARIABLE]
            if before is not None:
                os.environ[plans.VARIABLE] = before


@contextlib.contextmanager
def hearing(run: Run) -> Iterator[list[str]]:
    """Yield a list that collects warnings of plans, here and in workers; the run saves it."""
    from cnnkernels import plan

    heard: list[str] = []

    def hear(text: str) -> None:
        if text not in heard:
            heard.append(text)
            run.environment["warnings"] = heard

    with plan.hearing(hear):
        yield heard


def show_warnings(console: Console, heard: Sequence[str]) -> None:
    """Print the first few warnings of plans, and the number of the rest."""
    most = 3
    for text in heard[:most]:
        console.print(f"- {text}", style="dim", highlight=False)
    if len(heard) > most:
        console.print(f"- and {len(heard) - most} more like these", style="dim", highlight=False)
