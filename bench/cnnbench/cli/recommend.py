"""Choose a backend for each layer of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import (
    Backends,
    Baseline,
    Json,
    Machine,
    Save,
    backend_names,
    case_sets,
    thread_counts,
    with_baseline,
)
from cnnbench.cli.plans import hearing, show_warnings
from cnnbench.cli.runs import finish, keep, new_run, progress_bar, recording, temporary_folder
from cnnbench.cli.tables import console_of_text, show_busy, show_recommendation


def recommend(
    model: Annotated[
        str,
        typer.Argument(
            help="digits, digits-deep or digits-strided; another set, file or descriptor; or "
            "package.module:function, a function that returns a torch.nn.Module."
        ),
    ],
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="Batch shape, for a PyTorch model.", metavar="N,C,H,W"),
    ] = None,
    backends: Backends = "",
    exclude: Annotated[
        str, typer.Option(help="Comma-separated backends to leave out.", metavar="A,B")
    ] = "",
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Fix a layer's backend, by name or pattern; repeatable.",
            metavar="LAYER=BACKEND",
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest error allowed, relative to the largest that rounding can make in "
            "direct sums; 1 leaves out Winograd kernels [default: what each kernel declares].",
            min=0,
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="Only backends that promise the same bits on every run."
        ),
    ] = False,
    baseline: Baseline = "torch-cpu",
    threads: Annotated[
        int | None, typer.Option(help="Thread count [default: all cores].", min=1)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.", min=1)] = None,
    output: Annotated[Path, typer.Option(help="The plan file to write.")] = Path("plan.json"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Measure for a third of the time; a PyTorch model takes its least anyway.",
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="For a PyTorch model: measure slow backends and torch.compile as well."
        ),
    ] = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Choose a backend for each layer of a network, and write a plan."""
    import dataclasses

    from cnnbench import estimate, results
    from cnnbench.budget import Budget
    from cnnbench.digits import data as digits
    from cnnbench.digits.network import ARCHITECTURES
    from cnnbench.digits.options import Options
    from cnnbench.digits.training import planned
    from cnnbench.recommend import choose, networks
    from cnnbench.timing import LEAST_ROUNDS

    left_out = tuple(backend_names(exclude)) if exclude else ()
    names = with_baseline(backend_names(backends), baseline)
    if set(names) <= set(left_out):
        raise typer.BadParameter("--exclude leaves no backend to choose from")
    wishes = choose.Wishes(max_error, deterministic, _pins(pin or []), left_out)
    (count,) = thread_counts("" if threads is None else str(threads))
    if model.endswith(".py"):
        raise typer.BadParameter(
            f"expected a PyTorch model as module:function, such as "
            f"{Path(model).stem}:network for a function network() in {model}; got {model!r}"
        )
    trained: Options | list[int] | None = None
    if ":" in model:
        if input_shape is None:
            raise typer.BadParameter("a PyTorch model needs --input, such as --input 8,3,224,224")
        trained = networks.shape_of(input_shape, batch)
        network = choose.capture(model, trained, count)
    elif input_shape is not None:
        raise typer.BadParameter(f"--input is for PyTorch models, package.module:function; {model}")
    elif model in ARCHITECTURES:
        images = len(digits.load().train_labels)
        if batch is not None and batch > images:
            raise typer.BadParameter(f"--batch: the digits have {images} training images")
        trained = Options(architecture=model, batch_size=batch or Options().batch_size)
        network = networks.of_architecture(planned(trained))
    else:
        network = networks.of_cases(case_sets(model, batch, None))
    results.claim(output)
    run = new_run()
    keep(run, "recommend", model, json_file, save, machine)
    budget = Budget(seconds=2.0, call_seconds=choose.budget(network))
    if isinstance(trained, list) and not full:
        budget = dataclasses.replace(budget, rounds=LEAST_ROUNDS)
    if quick:
        budget = dataclasses.replace(budget, rounds=LEAST_ROUNDS, seconds=0.7)
    if isinstance(trained, list):
        seconds = estimate.of_steps(network.cases, len(names), budget)
    else:
        seconds = estimate.of_timing([network.cases], len(names), 1, budget)
    console = console_of_text()
    with (
        hearing(run) as heard,
        recording(run),
        progress_bar(seconds) as progress,
        temporary_folder() as caches,
    ):
        found = choose.recommend(
            run,
            network,
            trained,
            names,
            count,
            baseline,
            wishes,
            budget,
            progress,
            caches,
            full=full,
        )
        run.environment["plan_file"] = str(output)
        older = results.set_aside(output)
        found.plan.save(output)
    show_recommendation(console, found, output)
    show_busy(console, run)
    show_warnings(console, heard)
    kept = "" if older is None else f"; the previous plan is now {older}"
    typer.echo(f"plan: {output}{kept}")
    finish(run)


def _pins(texts: list[str]) -> dict[str, str]:
    from cnnkernels import registry

    pins = {}
    for text in texts:
        layer, equals, backend = text.partition("=")
        if not (layer and equals and backend):
            raise typer.BadParameter(f"--pin: expected LAYER=BACKEND, got {text!r}")
        registry.require_known(backend)
        pins[layer] = backend
    return pins
