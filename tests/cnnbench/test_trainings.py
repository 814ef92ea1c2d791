"""Who passes the checks trains; losses are held against float64's; a row says what was run."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cnnbench import cases, checking, results, trainings
from cnnbench.budget import Budget
from cnnbench.digits.recipes import Recipe
from cnnbench.digits.training import Options

RECIPE = Recipe("one epoch", Options(epochs=1))
STEPS = 22  # 1347 images, 64 at once
EFFORT = Budget(rounds=1, seconds=0.2, training_seconds=60.0)

BAD = {
    "raises": ("failed", "digits.conv1: MemoryError: no room for the columns"),
    "wrong": ("wrong", "digits.conv1: y[0, 0, 0, 0] is "),
    "subtly-wrong": ("wrong", "more than rounding explains"),
    "killed-in-turn": ("failed", "SIGKILL"),
    "declines": ("unsupported", "no such chip here"),
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strangers", "exact_once")]


def trained(run, backends, steps, budget=EFFORT, full=False, baseline="numpy", whole=False):
    """Train; unless it is a whole run, first steps are left out."""
    progress = steps()
    if not whole:
        budget = dataclasses.replace(budget, first_steps=False)
    with tempfile.TemporaryDirectory() as caches:
        trainings.train(run, backends, [1], baseline, RECIPE, full, budget, progress, Path(caches))
    return {row.backend: row for row in run.rows if row.op == "train"}


@pytest.fixture(scope="module")
def everyone(fresh_run, steps, tmp_path_factory):
    """A run of everyone, as it was written."""
    run = fresh_run(tmp_path_factory.mktemp("run") / "run.json")
    trained(run, ["numpy", "prints", *BAD], steps, whole=True)
    return results.read(run.paths[0])


def test_every_backend_has_one_row(everyone):
    assert [row.backend for row in everyone.rows] == ["numpy", "prints", *BAD]
    for row in everyone.rows:
        assert (row.op, row.direction, row.case, row.threads) == ("train", "train", "digits", 1)
        assert row.problem == "digits CNN, 1 epoch, batch 64, float32, seed 42"


@pytest.mark.parametrize("backend", BAD)
def test_a_bad_backend_has_its_outcome_and_reason_and_no_time(everyone, backend):
    (row,) = [row for row in everyone.rows if row.backend == backend]
    outcome, reason = BAD[backend]
    assert row.outcome == outcome
    assert reason in row.reason
    assert (row.seconds, row.samples, row.ratio, row.verdict) == (None, [], None, None)
    assert (row.first_call_seconds, row.cached_first_call_seconds) == (None, None)


def test_a_wrong_gradient_is_caught_in_the_first_steps(everyone):
    (row,) = [row for row in everyone.rows if row.backend == "subtly-wrong"]
    assert row.reason.startswith(("the loss of step 2 is ", "the loss of step 3 is "))
    assert row.error_over_bound > 1


def test_a_right_backend_has_losses_within_rounding_accuracies_and_times(everyone):
    for row in everyone.rows[:2]:
        assert (row.outcome, row.reason) == ("ok", "")
        assert 0 < row.error_over_bound <= 1
        details = row.details
        assert details["first_epoch_loss_difference"] <= trainings.LOSS_TOLERANCE
        assert details["first_epoch_loss_difference"] <= details["loss_difference"]
        assert details["steps"] == details["all_steps"] == len(details["step_losses"]) == STEPS
        (epoch,) = details["epochs"]
        assert details["loss"] == epoch["loss"]
        assert details["train_accuracy"] == epoch["train_accuracy"] > 0.1
        assert details["test_accuracy"] == epoch["test_accuracy"] > 0.1
        assert len(row.samples) == 2
        assert min(row.samples) <= row.seconds <= max(row.samples)
        assert 0 < details["seconds_per_step"] * STEPS <= 2 * max(row.samples)
        assert min(row.first_call_seconds, row.cached_first_call_seconds) > 0


def test_ratios_are_against_the_baseline(everyone):
    base, other = everyone.rows[:2]
    assert (base.baseline, base.ratio, base.verdict) == ("numpy", 1.0, "SAME")
    assert other.baseline == "numpy"
    assert other.ratio > 0
    assert everyone.environment["baseline"] == {"1": "numpy"}
    assert everyone.environment["training_floor"]["1"] >= 0


def test_the_losses_are_the_same_to_the_bit_in_another_process(everyone):
    one, other = everyone.rows[:2]
    assert one.details["step_losses"] == other.details["step_losses"]


# --------------------------------------------------------------------------------------------
# programs


@pytest.fixture(scope="module")
def program(fresh_run, steps):
    """The rows of a program beside a backend."""
    pytest.importorskip("numba")
    return trained(fresh_run(), ["numpy", "numba (compiled run)"], steps, whole=True)


def test_a_program_has_a_row_like_any_other_but_for_the_time_of_a_step(program):
    row = program["numba (compiled run)"]
    assert (row.outcome, row.reason) == ("ok", "")
    assert 0 < row.error_over_bound <= 1
    assert row.details["steps"] == len(row.details["step_losses"]) == STEPS
    assert row.details["seconds_per_step"] is None
    assert row.first_call_seconds > row.cached_first_call_seconds > 0
    assert len(row.samples) == len(program["numpy"].samples) == 2
    assert row.ratio > 0


@pytest.mark.parametrize("departs_at", [None, 1, STEPS - 1])
def test_a_program_whose_losses_depart_is_wrong_and_has_no_time(program, departs_at):
    done = program["numpy"].details | {"seconds": 1.0, "step_seconds": None}
    exact = np.array(done["step_losses"])
    if departs_at is not None:
        exact[departs_at] *= 1 + 2 * trainings.LOSS_TOLERANCE
    row = results.Row("digits", "", "train", "train", "mine", 1, "ok")
    trainings._note_training(row, done, trainings.Exact(exact, *np.zeros((2, STEPS))))
    assert (row.outcome, row.seconds) == (("ok", 1.0) if departs_at is None else ("wrong", None))
    assert row.reason.startswith("" if departs_at is None else f"the loss of step {departs_at + 1}")


@pytest.mark.parametrize(
    ("declared", "apart", "outcome"),
    [(False, 1e-4, "wrong"), (True, 1e-4, "ok"), (True, 2.1e-3, "wrong")],
)
def test_a_declared_algorithm_may_depart_by_its_bounds_and_as_far_as_noise_in_images(
    declared, apart, outcome
):
    row = results.Row("digits", "", "train", "train", "mine", 1, "ok")
    if declared:
        row.details["bound_ratio"] = 20.0
    exact = trainings.Exact(np.ones(3), np.zeros(3), np.array([0.0, 5e-4, 5e-4]))
    losses = [1 + apart / 10, 1 + apart, 1.0]
    done = {"step_losses": losses, "steps": 3, "all_steps": 3, "seconds": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "_details", dict)
        trainings._note_training(row, done, exact)
    assert row.outcome == outcome


def test_noise_in_black_pixels_moves_losses_further_than_rounding_in_weights(monkeypatch):
    monkeypatch.setattr(trainings, "NUDGES", trainings.NUDGES[:2])
    exact = trainings._exact_losses(RECIPE.options, declared=True)
    assert exact.noisy_spread[-1] > 10 * exact.spread[-1]


# --------------------------------------------------------------------------------------------
# budgets, and checks that the run has passed already

NO_TIME = dataclasses.replace(EFFORT, training_seconds=0.0)


@pytest.fixture(scope="module")
def stopped(fresh_run, steps):
    """The row of a training that had no time, in a run that had passed the checks before."""
    run = fresh_run()
    checking.check(run, cases.load("digits"), ["numpy"], [1], steps())

    def again(*_):
        raise AssertionError("checked again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "check_case", again)
        return trained(run, ["numpy"], steps, budget=NO_TIME)["numpy"]


def test_what_is_beyond_the_budget_is_stopped_and_says_exactly_what_was_run(stopped):
    assert stopped.reason.startswith(f"trained 1 of {STEPS} steps in ")
    assert stopped.reason.endswith(" s, then stopped; --full trains to the end")
    assert (stopped.details["steps"], stopped.details["all_steps"]) == (1, STEPS)
    assert stopped.details["epochs"] == stopped.samples == []
    assert (stopped.details["train_accuracy"], stopped.details["test_accuracy"]) == (None, None)
    assert stopped.details["loss"] == stopped.details["step_losses"][0]
    assert stopped.ratio is None


def test_what_compiling_takes_leaves_nobody_fewer_rounds(fresh_run, steps, monkeypatch):
    budget = Budget(rounds=3, seconds=0.2, training_seconds=10.0)
    asked = trainings.WorkerPool.ask
    pace, wanted = iter([100.0]), []

    def ask(pool, name, command, **parameters):
        done = asked(pool, name, command, **parameters)
        if command == "train" and name == "numpy":
            wanted.append(parameters)
            done["seconds"] = next(pace, 0.01)
        return done

    monkeypatch.setattr(trainings.WorkerPool, "ask", ask)
    row = trained(fresh_run(), ["numpy"], steps, budget=budget)["numpy"]
    assert wanted[0]["most_steps"] == 1  # compiles, without a limit in seconds
    assert wanted[0]["budget_seconds"] is None
    assert len(row.samples) == 2 * 3


def test_layers_that_the_run_has_passed_are_not_checked_again(stopped):
    assert stopped.outcome == "ok"


@pytest.fixture(scope="module")
def interrupted(fresh_run, steps, tmp_path_factory):
    """The rows in the file of a run in full that was interrupted in the first round."""

    class Interrupting(steps):
        def step(self, text, count=1):
            super().step(text, count)
            if text.startswith("training in turns"):
                raise KeyboardInterrupt

    run = fresh_run(tmp_path_factory.mktemp("run") / "run.json")
    with pytest.raises(KeyboardInterrupt):
        trained(run, ["numpy", "declines"], Interrupting, budget=NO_TIME, full=True)
    return results.read(run.paths[0]).rows


def test_in_full_nothing_is_stopped(interrupted):
    assert (interrupted[0].outcome, interrupted[0].reason) == ("ok", "")
    assert interrupted[0].details["steps"] == STEPS


def test_an_interrupted_run_keeps_the_rows_it_has_come_to(interrupted):
    assert [row.backend for row in interrupted] == ["numpy", "declines"]
    assert interrupted[0].seconds > 0
    assert interrupted[1].outcome == "unsupported"


def test_nobody_is_ok_whose_turn_an_interrupted_run_has_not_come_to(fresh_run, steps):
    class Interrupting(steps):
        def step(self, text, count=1):
            super().step(text, count)
            if text.startswith("checking the layers on numpy"):
                raise KeyboardInterrupt

    run = fresh_run()
    with pytest.raises(KeyboardInterrupt):
        trained(run, ["declines", "numpy", "prints"], Interrupting)
    assert [row.outcome for row in run.rows if row.backend == "declines"] == ["unsupported"]
    assert [row.backend for row in run.rows if row.outcome == "ok"] == []


def test_layers_that_the_run_has_failed_are_checked_again_and_a_wrong_baseline_takes_nobody_along(
    fresh_run, steps
):
    run = fresh_run()
    checking.check(run, cases.load("digits"), ["numpy"], [1], steps())
    for row in run.rows:
        row.backend = "wrong"  # as if what is wrong now had passed all but one direction
    run.rows[0].outcome = "wrong"
    rows = trained(run, ["wrong", "numpy"], steps, baseline="wrong")
    assert rows["wrong"].outcome == "wrong"
    assert (rows["numpy"].outcome, rows["numpy"].ratio) == ("ok", None)


@pytest.mark.parametrize(
    ("backend", "command", "outcome", "reason"),
    [
        ("numpy", "train", "ok", ""),
        ("declines", "train", "unsupported", "no such chip here"),
        ("killed", "train", "failed", "the worker was killed by SIGKILL"),
    ],
)
def test_a_recipe_for_one_backend_is_trained_alone(
    fresh_run, steps, backend, command, outcome, reason
):
    run = fresh_run()
    recipe = Recipe("mine", Options(epochs=1), backend, command)
    trainings.train_alone(run, "mine", recipe, 1, steps())
    (row,) = run.rows
    assert (row.case, row.backend, row.outcome) == ("mine", backend, outcome)
    assert reason in row.reason
    assert (row.seconds is not None) == (outcome == "ok")
    assert bool(row.details) == (outcome == "ok")


def test_a_training_no_better_than_guessing_is_remarked():
    def row_of(backend, accuracy, steps=10):
        row = results.Row("digits", "digits CNN", "train", "train", backend, 1, "ok")
        row.details = {"test_accuracy": accuracy, "guessing_accuracy": 0.102}
        row.details |= {"steps": steps, "all_steps": 10}
        return row

    rows = [row_of("numpy", 0.1), row_of("numba", 0.96), row_of("jax", 0.11)]
    assert trainings.remarks([*rows, row_of("naive", 0.1, steps=2), row_of("stopped", None)]) == [
        "accuracy of numpy, jax is that of guessing (10 %): the training diverged or learned "
        "nothing; try a smaller --lr"
    ]
    assert trainings.remarks(rows[1:2]) == []
