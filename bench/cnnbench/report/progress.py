"""Progress on standard error that moves between measurements only: no thread of its own.

A bar in a terminal; elsewhere, such as in a log, a line at every tenth of the way.
"""

from __future__ import annotations

import contextlib
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class ProgressBar:
    """Implements `cnnbench.budget.Progress`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._told = -1

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            with contextlib.suppress(OSError):  # of a terminal that was closed
                self._bar.stop()

    def begin(self, total: int) -> None:
        """Say how many steps there will be."""
        self._bar.reset(self._task, total=total)
        self._told = -1

    def step(self, text: str) -> None:
        """Say which step begins now."""
        self._bar.update(self._task, description=text)
        self._bar.advance(self._task)
        if self._console.is_terminal:
            self._bar.refresh()
            return
        task = self._bar.tasks[self._task]
        tenth = int(10 * task.completed / (task.total or 1))
        if tenth > self._told:
            self._told = tenth
            self._console.print(f"{10 * tenth:3d} %  {text}", highlight=False)
