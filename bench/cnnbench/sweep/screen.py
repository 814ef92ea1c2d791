"""The progress of all machines on one screen, or a line for each change in a log."""

from __future__ import annotations

from rich.live import Live
from rich.table import Table
from rich.text import Text

from cnnbench.report.progress import OnTerminal, on_standard_error
from cnnbench.report.tables import Sheet
from cnnbench.results import some
from cnnbench.sweep.coordinator import Sweep
from cnnbench.sweep.requests import WITH_CASES
from cnnbench.sweep.shares import Share
from cnnkernels.descriptor import parse_case

_LONGEST = 40
"""Letters of a state that fit beside a machine's name in 80 columns."""


class Screen(OnTerminal):
    """Shows a sweep on standard error: call it whenever something may have changed."""

    def __init__(self) -> None:
        console = on_standard_error()
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        super().__init__(console, self._live)
        self._said: dict[str, str] = {}
        self._trouble = ""

    def __call__(self, sweep: Sweep) -> None:
        """Show the machines, and what each of them does."""
        lines = dict(_lines(sweep))
        if self._console.is_terminal:
            self._live.update(_table(lines))
            return
        for name, (done, state) in lines.items():
            if done != self._said.get(name):
                self._said[name] = done
                self._console.print(f"{name}: {done}; {state}", highlight=False, soft_wrap=True)

    def trouble(self, text: str) -> None:
        """Say once that rows cannot be written, and why."""
        if text and text != self._trouble:
            self._trouble = text
            self._console.print(f"{text}: rows are kept in memory meanwhile", highlight=False)


def sheet(sweep: Sweep) -> Sheet:
    """Return a table of what each machine has measured, with what is missing as notes."""
    notes = list(dict.fromkeys(sweep.left_out))
    for share in sweep.shares:
        if share.failed:
            notes.append(f"{share.name}: {share.failed}")
        if missing := [parse_case(descriptor).label for _, descriptor in share.missing()]:
            notes.append(f"{share.name} lacks {some(missing)}")
        elif share.pieces:
            notes.append(f"{share.name} has not finished {share.request.command}")
        if "mixed" in share.environment:
            notes.append(f"{share.name} has {', '.join(share.environment['mixed'])}")
    return Sheet(
        f"Measured: {sweep.request.command}",
        ("machine", "cases", "rows", "wrong or failed"),
        tuple(
            (
                share.name,
                _done(sweep, share),
                str(len(share.rows)),
                str(sum(row.outcome in ("wrong", "failed") for row in share.rows)),
            )
            for share in sweep.shares
        ),
        tuple(notes),
    )


def _lines(sweep: Sweep) -> list[tuple[str, tuple[str, str]]]:
    shares = {share.name: share for share in sweep.shares}
    lines = []
    for machine in sweep.machines.values():
        share = shares.get(machine.name) or (sweep.shares[0] if sweep.shares else None)
        away = "" if machine.workers else "away"
        lines.append((machine.name, (_done(sweep, share), machine.state or away or "idle")))
    return lines


def _done(sweep: Sweep, share: Share | None) -> str:
    if share is None:
        return ""
    if share.request.command not in WITH_CASES:
        return share.request.command
    return f"{sweep.finished(share)} of {len(share.request.cases)} cases"


def _table(lines: dict[str, tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, (done, state) in lines.items():
        table.add_row(Text(name), Text(done), Text(state[:_LONGEST]))
    return table
