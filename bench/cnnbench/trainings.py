"""Train a network with every backend and program, in turns, and return rows."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench import background, timing
from cnnbench.budget import Budget, Progress
from cnnbench.cases import CaseSet
from cnnbench.checking import check_case, fills_folder, rows_of
from cnnbench.digits import data, weights
from cnnbench.digits.options import Options, describe
from cnnbench.digits.recipes import Recipe
from cnnbench.digits.trainers import PROGRAMS
from cnnbench.digits.training import planned
from cnnbench.judging.comparing import compare
from cnnbench.results import Row, Run, slug
from cnnbench.trainees import Trainee, Trainees, seconds_per_step
from cnnbench.workers.pool import (
    WorkerPool,
    ask_several,
    baseline_for,
    cache_of,
    failing,
    note,
    note_threading,
)
from cnnbench.workers.worker import Worker, WorkerError
from cnnkernels import files

PROFILE_SECONDS = 0.3

LOSS_TOLERANCE = 1e-5
"""Relative difference of a batch's loss from the float64 loss, always allowed in the first epoch.

A float32 loss has a relative rounding error of 6e-8; after 22 steps it is about 3e-7. A wrong
gradient exceeds this tolerance within a step or two. For an algorithm that declares its accuracy,
it grows by the ratio of its bounds to direct's.
"""

GUESSING_MARGIN = 0.2
"""Accuracy above that of guessing, relative to it, below which a training has learned nothing."""

NUDGES = tuple(2.0**-exponent for exponent in (23, 23, 22, 22, 21, 21, 20, 20))
"""Relative changes of the initial weights, the size of float32 rounding errors.

Training from nudged weights shows how far rounding alone can move the losses: where the two largest
values of a window nearly tie, the gradient takes another path, and the losses drift apart.
"""

NUDGED_MARGIN = 4.0
"""A float32 training may drift this many times as far as a nudged float64 one, as every step
rounds again."""


def train(
    run: Run,
    backends: Sequence[str],
    threads: Sequence[int],
    baseline: str,
    recipe: Recipe,
    full: bool,
    budget: Budget,
    progress: Progress,
    caches: Path,
) -> None:
    """Train a network with every trainer, in turns, and add the rows to the run.

    Each backend is first checked on the network's layers, unless the run has passed rows for them.
    All losses are compared with those of a float64 training. Compiled code goes to `caches`, which
    start empty, so the first step includes compiling.
    """
    progress.begin(len(threads) * steps(backends, budget))
    for count in threads:
        with WorkerPool(backends, count, caches) as pool:
            cold = caches if budget.first_steps and count == threads[0] else None
            train_in(run, backends, baseline, recipe, full, budget, progress, pool, cold=cold)


def steps(backends: Sequence[str], budget: Budget) -> int:
    """Return the most steps of `train_in`."""
    return 4 * len(backends) + budget.rounds + 1


def train_in(
    run: Run,
    backends: Sequence[str],
    baseline: str,
    recipe: Recipe,
    full: bool,
    budget: Budget,
    progress: Progress,
    pool: WorkerPool,
    exact: Exact | None = None,
    cold: Path | None = None,
) -> None:
    """Train a network with the workers of a pool, as `train` does.

    Parameters
    ----------
    pool : WorkerPool
        Has a worker of each backend.
    exact : Exact, optional
        From `prepare`.
    cold : path, optional
        A folder for compiled code, to measure first steps in other processes before.
    run, backends, baseline, recipe, full, budget, progress
        As for `train`.
    """
    layers = CaseSet(recipe.options.architecture, planned(recipe.options).cases)
    options, random = dataclasses.asdict(recipe.options), np.random.default_rng()
    count, base = pool.threads, baseline_for(pool, backends, baseline)
    note(run, "baseline", count, base)
    rows = [
        Row(layers.name, describe(recipe.options), "train", "train", backend, count, "ok")
        for backend in backends
    ]
    trainees = Trainees(base)
    try:
        if cold is not None:
            for row in rows:
                progress.step(f"first step of {row.backend}")
                if row.backend in pool.present:
                    with contextlib.suppress(WorkerError):
                        first_steps = _first_steps(row.backend, count, options, cold)
                        row.first_call_seconds, row.cached_first_call_seconds = first_steps
        with fills_folder() as folder:
            for row in rows:
                progress.step(f"checking the layers on {row.backend}")
                _check_layers(run, pool, row, layers, folder)
        progress.step("training in float64 for comparison, while programs compile")
        if exact is None:
            declared = any("bound_ratio" in row.details for row in rows)
            exact = prepare(pool, backends, recipe, declared=declared)
        _warm_up(pool, [row.backend for row in rows if row.outcome == "ok"], options)
        for row in rows:
            if row.outcome != "ok":
                continue
            with failing([row]):
                progress.step(f"training on {row.backend}")
                most = None if full else budget.training_seconds / 2
                limited = options | {"budget_seconds": most}
                done = pool.ask(row.backend, "train", **limited)
                _note_training(row, done, exact)
                row.details["guessing_accuracy"] = _guessing_accuracy(recipe.options)
                if row.outcome == "ok" and done["steps"] == done["all_steps"]:
                    rounds = budget.rounds_for(done["seconds"], budget.training_seconds)
                    if rounds < budget.rounds and done["seconds"] < budget.training_seconds:
                        # Some kernels compile for the last batch, which has fewer images.
                        again = pool.ask(row.backend, "train", **options)
                        rounds = budget.rounds_for(again["seconds"], budget.training_seconds)
                    trainees.add(Trainee(pool, row, options, rounds))
        trainees.add_twin(pool)
        for number in range(budget.rounds):
            if not trainees.waiting(number):
                break
            progress.step(f"training in turns, round {number + 1}")
            timing.run_rounds(trainees.contestants, random, number, number + 1)
            trainees.dismiss(number + 1)
        for row in rows:
            if row.outcome != "ok" or row.details["steps"] < row.details["all_steps"]:
                continue  # a profile of something that slow takes long
            if pool.about(row.backend)["kernels"]:
                progress.step(f"profiling a step of {row.backend}")
                with contextlib.suppress(WorkerError):
                    row.details["profile"] = pool.ask(
                        row.backend, "profile", seconds=PROFILE_SECONDS, **options
                    )
    finally:
        trainees.settle()
        note(run, "training_floor", count, trainees.floor)
        compare(rows, base, trainees.floor)
        # After an interrupt some rows may have no time yet.
        run.add(row for row in rows if row.outcome != "ok" or row.seconds is not None)
    note_threading(run, pool)
    run.write()


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return a note on the trainings that ended no better than guessing."""
    guessing: dict[float, list[str]] = {}
    for row in rows:
        share = row.details.get("guessing_accuracy")
        accuracy = row.details.get("test_accuracy")
        if row.outcome != "ok" or share is None or accuracy is None:
            continue
        ended = row.details["steps"] == row.details["all_steps"]
        if ended and accuracy <= share * (1 + GUESSING_MARGIN * (1 - share)):
            guessing.setdefault(share, []).append(row.backend)
    return [
        f"accuracy of {', '.join(backends)} is that of guessing ({100 * share:.0f} %): "
        "the training diverged or learned nothing; try a smaller --lr"
        for share, backends in guessing.items()
    ]


def _guessing_accuracy(options: Options) -> float:
    """Return the accuracy of always guessing the most frequent class of the test images."""
    labels = data.load(options.data).test_labels
    return float(np.bincount(labels).max() / len(labels))


def train_alone(run: Run, name: str, recipe: Recipe, threads: int, progress: Progress) -> None:
    """Train a recipe made for one backend, once, and add its row to the run."""
    progress.begin(2)
    progress.step(f"loading {recipe.backend}")
    row = Row(name, describe(recipe.options), "train", "train", recipe.backend, threads, "ok")
    with failing([row]), Worker(recipe.backend, threads) as worker:
        progress.step(f"training {name}")
        done = worker.ask(recipe.command, **dataclasses.asdict(recipe.options))
        row.details = _details(done)
        row.seconds, row.samples = done["seconds"], [done["seconds"]]
    run.add([row])


def _first_steps(
    backend: str, threads: int, options: dict[str, Any], caches: Path
) -> tuple[float, float]:
    """Return the seconds of compiling and a first step: with an empty cache, then a filled one."""
    cold = _first_step(backend, threads, options, caches)
    if not (caches / backend).exists():
        return cold, cold
    return cold, _first_step(backend, threads, options, caches)


def _first_step(backend: str, threads: int, options: dict[str, Any], caches: Path) -> float:
    """Return the seconds of compiling and a first step in a new process."""
    with Worker(backend, threads, cache_of(backend, caches)) as worker:
        done = worker.ask("train", **options | {"most_steps": 1})
        return float(done["compile_seconds"] + done["seconds"])


def prepare(
    pool: WorkerPool, backends: Sequence[str], recipe: Recipe, *, declared: bool = True
) -> Exact:
    """Let programs compile in their workers, and return the losses of float64 trainings.

    Those that only concern algorithms which declare their accuracy are left out unless `declared`.
    """
    options = dataclasses.asdict(recipe.options)
    exact = background.start(lambda: _exact_losses(recipe.options, declared=declared))
    _warm_up(pool, [name for name in backends if name in PROGRAMS], options)
    return exact.result()


def _warm_up(pool: WorkerPool, backends: Sequence[str], options: dict[str, Any]) -> None:
    """Take a first step with each, which may compile; errors show later, when they train."""
    able = [name for name in backends if name in pool.present]
    ask_several(pool, able, "train", **options | {"most_steps": 1})


@dataclasses.dataclass(frozen=True)
class Exact:
    """The losses of a float64 training.

    Attributes
    ----------
    losses : numpy.ndarray, (steps,)
    spread : numpy.ndarray, (steps of the first epoch,)
        The largest relative difference from them after a change of the weights by a rounding error.
    noisy_spread : numpy.ndarray, (steps of the first epoch,)
        The same, with noise of that size in the images too. Direct sums of zeros are exactly zero;
        those of an algorithm with other intermediate numbers may not be, and over black pixels a
        ReLU without a bias then lets a gradient pass, or stops it, as the noise decides.
    """

    losses: np.ndarray
    spread: np.ndarray
    noisy_spread: np.ndarray


def _exact_losses(options: Options, *, declared: bool) -> Exact:
    """Train in float64; measure the noisy spread only if an algorithm declares its accuracy."""
    options = dataclasses.replace(options, dtype="float64")
    drawn = weights.start(planned(options), options)
    images, labels = data.unsplit(options.data)
    random = np.random.default_rng(options.seed)
    with Worker("numpy", 1) as worker, tempfile.TemporaryDirectory() as folder:
        done = worker.ask("train", **dataclasses.asdict(options))
        losses = np.asarray(done["step_losses"])
        an_epoch = done["all_steps"] // options.epochs
        file, noisy = Path(folder) / "weights.npz", Path(folder) / "images.npz"
        nudged = dataclasses.replace(options, weights=str(file), most_steps=an_epoch)
        spreads = {options.data: np.zeros(an_epoch)}
        if declared:
            noise = random.uniform(-NUDGES[0], NUDGES[0], images.shape) * np.abs(images).max()
            np.savez(noisy, images=(images + noise).astype(images.dtype), labels=labels)
            spreads[str(noisy)] = np.zeros(an_epoch)
        for nudge in NUDGES:
            state = {
                name: (value * (1 + random.uniform(-nudge, nudge, value.shape))).astype(value.dtype)
                for name, value in drawn.items()
            }
            file.write_bytes(weights.pack(weights.Trained("numpy", nudged, state)))
            for source, spread in spreads.items():
                from_source = dataclasses.replace(nudged, data=source)
                done = worker.ask("train", **dataclasses.asdict(from_source))
                np.maximum(spread, _apart(done["step_losses"], losses[:an_epoch]), out=spread)
    spread, *others = (np.maximum.accumulate(spread) for spread in spreads.values())
    return Exact(losses, spread, others[0] if others else spread)


def _apart(losses: Sequence[float], right: np.ndarray) -> np.ndarray:
    apart: np.ndarray = np.abs(np.asarray(losses) - right) / np.abs(right)
    return apart


def _check_layers(run: Run, pool: WorkerPool, row: Row, layers: CaseSet, folder: Path) -> None:
    """Check the network's layers, or take the checks from the run where it has them.

    Whole programs have no kernels to check: only their losses are compared. The row's details get
    ``bound_ratio``, the largest of any layer, if an algorithm declares its accuracy.
    """
    if row.backend in pool.absent:
        row.withdraw(*pool.absent[row.backend])
        return
    if not pool.about(row.backend)["kernels"]:
        return
    for case in layers.cases:
        checked = [
            other
            for other in run.rows
            if (other.problem, other.backend, other.threads)
            == (str(case), row.backend, row.threads)
        ]
        if not checked:
            found = check_case(pool, row.backend, case, folder, None)
            checked = rows_of(case, row.backend, row.threads, found)
        for other in checked:
            if other.skipped:
                row.withdraw(other.outcome, other.reason)
                return
            if other.outcome != "ok":
                row.withdraw(other.outcome, f"{case.label}: {other.reason}")
                return
            if "bound_ratio" in other.details:
                known = row.details.get("bound_ratio", 1.0)
                row.details["bound_ratio"] = max(known, other.details["bound_ratio"])


def _note_training(row: Row, done: dict[str, Any], exact: Exact) -> None:
    """Set a training's results, and compare its losses with the float64 losses."""
    losses = done["step_losses"]
    apart = _apart(losses, exact.losses[: len(losses)])
    declared = {key: row.details[key] for key in ("bound_ratio",) if key in row.details}
    spread = exact.noisy_spread if declared else exact.spread
    least = LOSS_TOLERANCE * declared.get("bound_ratio", 1.0)
    tolerances = np.maximum(least, NUDGED_MARGIN * spread)[: len(losses)]
    first_epoch = apart[: len(tolerances)]
    row.error_over_bound = float(np.max(first_epoch / tolerances, initial=0.0))
    row.details = {
        **_details(done),
        **declared,
        "first_epoch_loss_difference": float(np.max(first_epoch, initial=0.0)),
        "loss_difference": float(np.max(apart, initial=0.0)),
        "loss_tolerance": float(tolerances[-1]),
    }
    row.seconds = done["seconds"]
    wrong = np.flatnonzero(~(first_epoch <= tolerances))
    if wrong.size:
        step = wrong[0]
        row.withdraw(
            "wrong",
            f"the loss of step {step + 1} is {losses[step]:.9g}, not {exact.losses[step]:.9g}: "
            "more than rounding explains",
        )
    elif done["steps"] < done["all_steps"]:
        row.reason = (
            f"trained {done['steps']} of {done['all_steps']} steps in {done['seconds']:.1f} s, "
            "then stopped; --full trains to the end"
        )


def _details(done: dict[str, Any]) -> dict[str, Any]:
    last = done["epochs"][-1] if done["epochs"] else {}
    return {
        "loss": last.get("loss", done["step_losses"][-1]),
        "train_accuracy": last.get("train_accuracy"),
        "test_accuracy": last.get("test_accuracy"),
        "seconds_per_step": seconds_per_step(done),
        **{key: done[key] for key in ("steps", "all_steps", "epochs", "step_losses", "weights")},
    }


def save_weights(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Write the trained weights to one file per backend, and return the files.

    Raises
    ------
    WriteError
        If a file cannot be written.
    """
    several = len({row.threads for row in rows}) > 1
    paths = []
    for row in rows:
        if row.outcome == "ok" and row.details.get("weights"):
            name = slug(row.backend) + (f"-{row.threads}" if several else "")
            path = folder / f"{name}.npz"
            trained = weights.from_text(row.details["weights"], row.backend)
            files.write(path, weights.pack(trained))
            paths.append(path)
    return paths
