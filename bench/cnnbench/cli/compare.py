"""Compare all backends on the digits CNN, recommend one, and write a page."""

from __future__ import annotations

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
    temporary_folder,
)
from cnnbench.cli.tables import (
    console_of_text,
    rows_of_layers,
    show_busy,
    show_checks,
    show_times,
    show_trainings,
)


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

    It ends with a recommendation and writes a page with all figures.
    """
    import dataclasses

    from cnnbench import background, estimate, results, speed, trainings
    from cnnbench.budget import QUICK, SHORT
    from cnnbench.digits.recipes import RECIPES
    from cnnbench.digits.trainers import PROGRAMS
    from cnnbench.report import offline, page
    from cnnbench.report.answer import answer, checks

    results.claim(output)
    names = with_baseline(trainer_names(backends), baseline)
    kernels = [name for name in names if name not in PROGRAMS]
    (count,) = thread_counts("" if threads is None else str(threads))
    console = console_of_text()
    run = new_run()
    keep(run, "compare", "digits", json_file, save, machine)
    budget = dataclasses.replace(QUICK, first_steps=False) if quick else SHORT
    digits, recipe = case_sets("digits", None, None), RECIPES["digits"]
    seconds = estimate.of_timing(digits, len(kernels), 1, budget)
    seconds += estimate.of_training(len(names), 1, budget)
    with recording(run), progress_bar(seconds) as progress, temporary_folder() as caches:
        exact = background.start(lambda: trainings.prepare(names, count, recipe, caches))
        speed.time(
            run,
            digits,
            kernels,
            [count],
            baseline,
            budget,
            progress,
            caches,
            before_timing=exact.result,
        )
        trainings.train(
            run, names, [count], baseline, recipe, False, budget, progress, caches, exact.result()
        )
    rows = [row for row in run.rows if row.threads == count]
    show_checks(console, rows_of_layers(rows))
    show_times(console, rows, run.environment)
    show_trainings(console, rows)
    floor = run.environment["aa_floor"][str(count)]
    console.print(answer(rows, floor), style="bold", highlight=False)
    console.print(f"  {checks(rows_of_layers(rows))}", highlight=False)
    show_busy(console, {"aa_floor": {str(count): floor}})
    try:
        page.write(run, output, command=command_line())
        console.print(f"all figures: {output}", highlight=False, soft_wrap=True)
    except offline.PageError as error:
        typer.echo(f"the page was not written: {error}", err=True)
    finish(run)
