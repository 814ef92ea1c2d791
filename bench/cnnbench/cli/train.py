"""Train a CNN with backends and with whole programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cnnbench.cli.options import (
    Baseline,
    Json,
    Machine,
    Quick,
    Save,
    Threads,
    Trainers,
    thread_counts,
    trainer_names,
    with_baseline,
)
from cnnbench.cli.plans import following, hearing, show_warnings
from cnnbench.cli.runs import finish, keep, new_run, progress_bar, recording, temporary_folder
from cnnbench.cli.tables import console_of_text, show_busy, show_trainings


def train(
    backends: Trainers = "",
    arch: Annotated[
        str | None, typer.Option(help="digits, digits-deep or digits-strided.", metavar="NAME")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adam.", metavar="NAME")] = None,
    batchnorm: Annotated[
        bool | None,
        typer.Option("--batchnorm", help="Batch normalization instead of biases."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="An npz file with images (N,C,H,W) and labels (N).")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast/--no-fast", help="10 or 40 epochs; --epochs overrides it.")
    ] = True,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.", min=1)] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate [default: 0.05 for sgd, 0.001 for adam].", min=0),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Momentum, for sgd only.", min=0, max=1)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.", min=0)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initial weights and image order.", min=0)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights in this file.")
    ] = None,
    save_weights: Annotated[
        Path | None, typer.Option(help="Save the trained weights here, one file per backend.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="digits, notebook-numpy or notebook-torch.")
    ] = "digits",
    full: Annotated[
        bool, typer.Option("--full", help="Train slow backends to the end, too.")
    ] = False,
    plan: Annotated[
        Path | None, typer.Option(help="Also train 'auto', which follows this plan.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a plan made on another machine.")
    ] = False,
    baseline: Baseline = "torch-cpu",
    threads: Threads = "",
    quick: Quick = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Train a small CNN with each backend and program, in turns.

    The table shows the time, the loss and the accuracy of each.
    """
    import dataclasses

    from cnnbench import estimate, results, trainings
    from cnnbench.budget import QUICK, Budget
    from cnnbench.digits import data as images
    from cnnbench.digits.recipes import RECIPES
    from cnnbench.digits.training import start
    from cnnbench.report import tables
    from cnnkernels.registry import AUTO

    if recipe not in RECIPES:
        raise typer.BadParameter(f"--recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    given = {
        "architecture": arch,
        "optimizer": optimizer,
        "batchnorm": batchnorm,
        "data": None if data is None else str(data.resolve()),
        "batch_size": batch,
        "learning_rate": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "seed": seed,
        "weights": None if weights is None else str(weights.resolve()),
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if chosen.backend and (changes or plan is not None):
        raise typer.BadParameter(f"recipe {recipe} is fixed; only --epochs can be changed")
    if force and plan is None:
        raise typer.BadParameter("--force needs a plan: give one with --plan")
    changes["epochs"] = epochs or (10 if fast else 40)
    options = dataclasses.replace(chosen.options, **_training_options(changes))
    start(options)  # reports bad images or weights before anything is measured
    scale = images.remark(options.data)
    if scale is not None:
        typer.echo(scale, err=True)
    chosen = dataclasses.replace(chosen, options=options)
    counts = thread_counts(threads)
    subject = recipe if arch is None else f"{recipe}-{arch}"
    console = console_of_text()
    run = new_run()
    if save_weights is not None:
        results.claim(save_weights / "weights.npz")
    if chosen.backend:
        if backends and backends != chosen.backend:
            raise typer.BadParameter(f"recipe {recipe} runs on {chosen.backend} only")
        keep(run, "train", subject, json_file, save, machine)
        with recording(run), progress_bar() as progress:
            trainings.train_alone(run, recipe, chosen, counts[0], progress)
        for row in run.rows:
            if row.outcome == "ok":
                title = f"{chosen.description}, {row.seconds:.2f} s"
                tables.show(console, tables.epochs_sheet(title, row.details["epochs"]))
    else:
        names = with_baseline(trainer_names(backends), baseline)
        if plan is not None and AUTO not in names:
            names.append(AUTO)
        budget = QUICK if quick else Budget()
        with hearing(run) as heard, following(plan, force, counts):
            keep(run, "train", subject, json_file, save, machine)
            seconds = None if full else estimate.of_training(len(names), len(counts), budget)
            with recording(run), progress_bar(seconds) as progress, temporary_folder() as caches:
                trainings.train(
                    run, names, counts, baseline, chosen, full, budget, progress, caches
                )
        show_trainings(console, run.rows)
        show_busy(console, run)
        show_warnings(console, heard)
    if save_weights is not None:
        typer.echo(
            f"weights: {', '.join(map(str, trainings.save_weights(save_weights, run.rows)))}"
        )
    finish(run)


def _training_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options, with the defaults of the optimizer.

    Raises
    ------
    BadParameter
        If a name is unknown, or the optimizer has no momentum.
    """
    from cnnbench.digits.network import ARCHITECTURES
    from cnnbench.digits.optimizers import LEARNING_RATES

    for key, option, known in (
        ("architecture", "--arch", ARCHITECTURES),
        ("optimizer", "--optimizer", LEARNING_RATES),
    ):
        if key in given and given[key] not in known:
            raise typer.BadParameter(
                f"{option}: expected one of {', '.join(known)}, got {given[key]!r}"
            )
    optimizer = given.get("optimizer", "sgd")
    if optimizer == "adam" and "momentum" in given:
        raise typer.BadParameter("--momentum is an option of sgd, not of adam")
    return {"learning_rate": LEARNING_RATES[optimizer]} | given if optimizer == "adam" else given
