"""Train a CNN on backends and by programs."""

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
        typer.Option("--batchnorm", help="Batch normalisation in place of biases."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your own images, N,C,H,W, and labels, N: an npz file.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast/--no-fast", help="10 epochs, or 40; --epochs overrules.")
    ] = True,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; 0.05 with sgd, 0.001 with adam.", min=0)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.", min=0, max=1)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of weights.", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.", min=0)] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights; not from drawn ones.")
    ] = None,
    save_weights: Annotated[
        Path | None, typer.Option(help="Folder for the weights learnt, a file a backend.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="digits, notebook-numpy or notebook-torch.")
    ] = "digits",
    full: Annotated[
        bool, typer.Option("--full", help="Train slow backends to the end as well.")
    ] = False,
    plan: Annotated[
        Path | None, typer.Option(help="Train 'auto', too, which follows this plan.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Follow the plan even if another machine made it.")
    ] = False,
    baseline: Baseline = "torch-cpu",
    threads: Threads = "",
    quick: Quick = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Train a small CNN on backends and by programs, in turns.

    The table has the time of each, and the loss and accuracy that it came to.
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
        raise typer.BadParameter(f"recipe {recipe} is as it is; only --epochs may differ")
    if force and plan is None:
        raise typer.BadParameter("--force is for a plan: name one by --plan")
    changes["epochs"] = epochs or (10 if fast else 40)
    options = dataclasses.replace(chosen.options, **_training_options(changes))
    start(options)  # complains of images and weights before anything is measured
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
            raise typer.BadParameter(f"recipe {recipe} is for {chosen.backend} alone")
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
        show_busy(console, run.environment)
        show_warnings(console, heard)
    if save_weights is not None:
        typer.echo(
            f"weights: {', '.join(map(str, trainings.save_weights(save_weights, run.rows)))}"
        )
    finish(run)


def _training_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options with the defaults that follow from them.

    Raises
    ------
    BadParameter
        If a name is unknown, or momentum is asked of an optimizer that has none to set.
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
        raise typer.BadParameter("--momentum is of sgd; adam has none to set")
    return {"learning_rate": LEARNING_RATES[optimizer]} | given if optimizer == "adam" else given
