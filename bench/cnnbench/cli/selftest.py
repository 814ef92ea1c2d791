"""Test the suite itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import (
    Baseline,
    Batch,
    Cases,
    Json,
    Machine,
    Save,
    Threads,
    backend_names,
    case_sets,
    subject,
    thread_counts,
)
from cnnbench.cli.runs import finish, keep, new_run, progress_bar, recording, temporary_folder
from cnnbench.cli.tables import console_of_text, show_busy


def selftest(
    threads: Threads = "",
    baseline: Baseline = "torch-cpu",
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Instead, count false and missed verdicts on copies of the baseline.",
        ),
    ] = False,
    cases: Cases = "digits",
    batch: Batch = None,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Test the suite itself: it must catch every broken kernel.

    It also measures the A/A floor: how much two identical processes differ here. With --statistics
    it compares a backend with copies of itself, some slowed down, over the cases: verdicts on
    identical copies are false.
    """
    if statistics:
        _statistics(threads, baseline, cases, batch, json_file, save, machine)
    else:
        _broken_kernels(threads, baseline, json_file)


def _statistics(
    threads: str,
    baseline: str,
    cases: str,
    batch: int | None,
    json_file: Path | None,
    save: bool,
    machine: str | None,
) -> None:
    """Count the verdicts on copies of the baseline."""
    from cnnbench import estimate
    from cnnbench.budget import FULL
    from cnnbench.judging import statistics
    from cnnbench.report import tables, verdicts

    backend_names(baseline)
    sets, counts = case_sets(cases, batch, None), thread_counts(threads)
    budget = dataclasses.replace(FULL, first_steps=False)
    copies = len(statistics.copies_of(baseline))
    run = new_run()
    keep(run, "selftest", f"statistics {subject(sets)}", json_file, save, machine)
    seconds = estimate.of_timing(sets, 1 + copies, len(counts), budget)
    with recording(run), progress_bar(seconds) as progress, temporary_folder() as caches:
        statistics.measure(run, sets, baseline, counts, budget, progress, caches)
    console = console_of_text()
    tables.show(console, verdicts.sheet(run))
    show_busy(console, run)
    finish(run)


def _broken_kernels(threads: str, baseline: str, json_file: Path | None) -> None:
    """Check the broken kernels, and measure the A/A floor."""
    from cnnbench import checking, speed
    from cnnbench.budget import FULL
    from cnnbench.report import numbers, tables
    from cnnbench.results import Run
    from cnnbench.workers.pool import WorkerPool, baseline_for
    from cnnkernels import conformance
    from cnnkernels.descriptor import Case, parse

    console = console_of_text()
    backend_names(baseline)
    (count, *_) = thread_counts(threads)
    problems = [parse(text) for text in conformance.CORNER]
    lines, missed = [], []
    run = new_run()
    keep(run, "selftest", "", json_file, False, None, own=False)
    with recording(run), progress_bar() as progress:
        progress.begin(len(conformance.BROKEN))
        for name, broken in conformance.BROKEN.items():
            progress.step(f"checking {name}")
            found = [conformance.check(broken, problem) for problem in problems]
            caught = [result for result in found if result.outcome in ("wrong", "failed")]
            for problem, result in zip(problems, found, strict=True):
                run.rows += checking.rows_of(Case(problem), name, 1, dataclasses.asdict(result))
            if caught:
                lines.append((broken.description, f"{len(caught)} of {len(found)}", "caught"))
            else:
                missed.append(name)
                lines.append((broken.description, f"0 of {len(found)}", "MISSED"))
        with WorkerPool([baseline, "numpy"], count) as pool:
            base = baseline_for(pool, pool.backends, baseline)
        alone, budget = Run({}), dataclasses.replace(FULL, first_steps=False)
        with temporary_folder() as caches:
            digits = case_sets("digits", None, None)
            speed.time(alone, digits, [base], [count], base, budget, progress, caches)
        run.environment["aa_floor"] = alone.environment["aa_floor"]
        (floor,) = run.environment["aa_floor"].values()
    tables.show(
        console,
        tables.Sheet("Broken kernels", ("what it does", "cases", ""), tuple(lines)),
    )
    console.print(f"{len(lines) - len(missed)} of {len(lines)} broken kernels caught")
    console.print(
        f"A/A floor: two processes of {base} differ by up to {numbers.floor(floor)} here, "
        f"{tables.threads_in_words(count)}"
    )
    show_busy(console, run)
    if missed:
        raise typer.Exit(1)
