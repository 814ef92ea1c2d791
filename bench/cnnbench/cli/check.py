"""Check backends on cases."""

from __future__ import annotations

from cnnbench.cli.options import (
    Backends,
    Batch,
    Cases,
    Dtype,
    Json,
    Machine,
    Save,
    Threads,
    backend_names,
    case_sets,
    subject,
    thread_counts,
)
from cnnbench.cli.runs import finish, keep, new_run, progress_bar, recording
from cnnbench.cli.tables import console_of_text, show_busy, show_checks


def check(
    backends: Backends = "",
    cases: Cases = "digits",
    threads: Threads = "",
    batch: Batch = None,
    dtype: Dtype = None,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check backends exactly: forward and every gradient.

    The exit code is 1 if a backend is wrong or fails, or if none can run here.
    """
    from cnnbench import checking
    from cnnbench.report import answer

    sets, names, counts = (
        case_sets(cases, batch, dtype),
        backend_names(backends),
        thread_counts(threads),
    )
    run = new_run()
    keep(run, "check", subject(sets), json_file, save, machine)
    with recording(run), progress_bar() as progress:
        checking.check(run, sets, names, counts, progress)
    console = console_of_text()
    show_checks(console, run.rows)
    console.print(answer.checks(run.rows), style="bold", highlight=False)
    show_busy(console, run)
    finish(run)
