"""A command's progress on standard error.

In a terminal it is a bar with a clock that ticks by itself, once a second: a refresh takes about a
millisecond, and everything timed runs in other processes. Elsewhere, such as in a log, it is a line
at every tenth of the way.
"""

from __future__ import annotations

import contextlib
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cnnbench.estimate import in_words


class OnTerminal:
    """A display on standard error, shown while a block runs if that is a terminal.

    Parameters
    ----------
    console : Console
    display : Progress or Live
    """

    def __init__(self, console: Console, display: Bar | Live) -> None:
        self._console, self._display = console, display

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            with contextlib.suppress(OSError):  # the terminal may be closed
                self._display.stop()


def on_standard_error() -> Console:
    """Return a console on standard error that prints brackets and colons literally."""
    return Console(stderr=True, markup=False, emoji=False)


class ProgressBar(OnTerminal):
    """Implements `cnnbench.budget.Progress`.

    Parameters
    ----------
    seconds : float, optional
        A rough estimate of how long the command takes, printed at the start.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        console = on_standard_error()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=1,
            transient=True,
        )
        super().__init__(console, self._bar)
        self._task = self._bar.add_task("starting", total=None)
        self._printed = -1

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._console.print(f"This takes {in_words(self._seconds)}.", highlight=False)
        return super().__enter__()

    def begin(self, total: int) -> None:
        """Set the number of steps."""
        self._bar.update(self._task, total=total, completed=0)
        self._printed = -1

    def step(self, text: str, count: int = 1) -> None:
        """Show the step that begins now, and stands for so many."""
        self._bar.update(self._task, description=text, advance=count)
        if self._console.is_terminal:
            return
        task = self._bar.tasks[self._task]
        tenth = int(10 * task.completed / (task.total or 1))
        if tenth > self._printed:
            self._printed = tenth
            self._console.print(f"{10 * tenth:3d} %  {text}", highlight=False)
