"""Progress on standard error, updated between measurements only, without a thread.

A terminal shows a bar; a log gets a line at every tenth.
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
        self._shown = -1

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
            with contextlib.suppress(OSError):  # the terminal may be closed
                self._bar.stop()

    def begin(self, total: int) -> None:
        """Set the number of steps."""
        self._bar.reset(self._task, total=total)
        self._shown = -1

    def step(self, text: str) -> None:
        """Show the step that begins now."""
        self._bar.update(self._task, description=text)
        self._bar.advance(self._task)
        if self._console.is_terminal:
            self._bar.refresh()
            return
        task = self._bar.tasks[self._task]
        tenth = int(10 * task.completed / (task.total or 1))
        if tenth > self._shown:
            self._shown = tenth
            self._console.print(f"{10 * tenth:3d} %  {text}", highlight=False)
