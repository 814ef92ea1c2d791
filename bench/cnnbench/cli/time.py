"""Time backends side by side."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from cnnbench.cli.options import (
    Backends,
    Baseline,
    Batch,
    Cases,
    Dtype,
    Json,
    Machine,
    Quick,
    Save,
    Threads,
    backend_names,
    case_sets,
    subject,
    thread_counts,
    with_baseline,
)
from cnnbench.cli.runs import finish, keep, new_run, progress_bar, recording, temporary_folder
from cnnbench.cli.tables import console_of_text, show_busy, show_times


def time(
    backends: Backends = "",
    cases: Cases = "digits",
    baseline: Baseline = "torch-cpu",
    threads: Threads = "",
    batch: Batch = None,
    dtype: Dtype = None,
    quick: Quick = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also time calls after emptying the caches.")
    ] = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check backends, then time them side by side.

    Every direction is timed: forward and each gradient.
    """
    from cnnbench import estimate, speed
    from cnnbench.budget import FULL, QUICK

    sets, counts = case_sets(cases, batch, dtype), thread_counts(threads)
    names = with_baseline(backend_names(backends), baseline)
    run = new_run()
    keep(run, "time", subject(sets), json_file, save, machine)
    budget = dataclasses.replace(QUICK if quick else FULL, cold=cold)
    seconds = estimate.of_timing(sets, len(names), len(counts), budget)
    with recording(run), progress_bar(seconds) as progress, temporary_folder() as caches:
        speed.time(run, sets, names, counts, baseline, budget, progress, caches)
    console = console_of_text()
    show_times(console, run.rows, run.environment)
    show_busy(console, run)
    finish(run)
