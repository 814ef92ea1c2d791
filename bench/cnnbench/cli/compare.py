"""Compare all backends on the digits CNN, recommend one, and write a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import (
    Baseline,
    Json,
    Machine,
    Quick,
    Save,
    Trainers,
    case_sets,
    thread_counts,
    trainer_names,
    with_baseline,
)
from cnnbench.cli.runs import (
    command_line,
    finish,
    keep,
    new_run,
    progress_bar,
    recording,
)
from cnnbench.cli.tables import (
    console_of_text,
    rows_of_layers,
    show_busy,
    show_trainings,
)

SLOWEST_SECONDS = 0.5
"""Calls that take longer are not timed, and their backends don't train."""


def compare(
    backends: Trainers = "",
    baseline: Baseline = "torch-cpu",
    threads: Annotated[
        int | None, typer.Option(help="Thread count [default: all cores].", min=1)
    ] = None,
    quick: Quick = False,
    output: Annotated[Path, typer.Option(help="The HTML page with all figures.")] = Path(
        "report.html"
    ),
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check, time and train every backend on the digits CNN.

    It begins its output with a recommendation, and writes a page with all figures.
    """
    from cnnbench import background, estimate, results, speed, trainings
    from cnnbench.budget import QUICK, SHORT
    from cnnbench.checking import fills_folder
    from cnnbench.digits.recipes import RECIPES
    from cnnbench.digits.trainers import PROGRAMS
    from cnnbench.report import offline, page, tables
    from cnnbench.report.answer import answer, checks
    from cnnbench.workers.pool import WorkerPool
    from cnnkernels.contract import BACKWARD, FORWARD

    results.claim(output)
    names = with_baseline(trainer_names(backends), baseline)
    kernels = [name for name in names if name not in PROGRAMS]
    (count,) = thread_counts("" if threads is None else str(threads))
    console = console_of_text()
    run = new_run()
    keep(run, "compare", "digits", json_file, save, machine)
    # An estimate made beside other work may be far too long, so none decides.
    budget = dataclasses.replace(
        QUICK if quick else SHORT, call_seconds=None, slowest=SLOWEST_SECONDS
    )
    digits, recipe = case_sets("digits", None, None), RECIPES["digits"]
    only = {case.problem: (FORWARD, BACKWARD) for group in digits for case in group.cases}
    seconds = estimate.of_comparison(digits, len(kernels), len(names), budget)
    with (
        recording(run),
        progress_bar(seconds) as progress,
        fills_folder() as folder,
        WorkerPool(names, count) as pool,
    ):
        exact = background.start(lambda: trainings.prepare(pool, names, recipe))
        progress.begin(speed.steps(digits, kernels, budget) + trainings.steps(names, budget))
        comparison = speed.check(
            run, digits, kernels, baseline, budget, progress, pool, folder, only
        )
        exact.result()
        speed.compare(comparison, digits, budget, progress, pool, None)
        trainings.train_in(
            run, names, baseline, recipe, False, budget, progress, pool, exact.result()
        )
    rows = [row for row in run.rows if row.threads == count]
    floor = run.floors[count]
    console.print(answer(rows, floor), style="bold", highlight=False)
    console.print(f"  {checks(rows_of_layers(rows))}", highlight=False)
    show_busy(console, run)
    console.print()
    show_trainings(console, rows)
    tables.show(console, tables.layers_sheet(rows))
    try:
        page.write(run, output, command=command_line())
        console.print(f"all figures: {output}; all tables: cnnbench show", highlight=False)
    except offline.PageError as error:
        typer.echo(f"the page was not written: {error}", err=True)
    finish(run)
