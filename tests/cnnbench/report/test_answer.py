"""A comparison ends in one sentence: the backend to train with, and its lead if certain."""

import dataclasses

import pytest

from cnnbench.report.answer import answer, busy, evidence
from cnnbench.results import Row, Run, too_slow


def trained(backend, seconds, rounds=12, spread=1.0, threads=2):
    samples = [seconds * (spread if side // 2 % 2 else 1 / spread) for side in range(2 * rounds)]
    row = Row("digits", "digits CNN", "train", "train", backend, threads, "ok")
    row.seconds, row.samples = seconds, samples
    row.details = {"epochs": [{}] * 10, "test_accuracy": 0.9711}
    return row


def checked(backend, outcome, error=None, problem="mb1ic1"):
    row = Row("a", problem, "conv2d", "forward", backend, 2, outcome)
    row.error_over_bound = error
    return row


def test_a_clear_winner_is_named_with_its_lead_over_the_next():
    rows = [trained("slow", 8.0), trained("quick", 2.0), trained("middle", 4.0)]
    assert answer(rows, 0.05) == (
        "Train with quick here: 2.00 s for 10 epochs on 2 threads, 2.00x [2.00, 2.00] as fast as "
        "middle, the next best; test accuracy 97.1 %."
    )


@pytest.mark.parametrize(
    ("rows", "floor"),
    [
        ([trained("a", 2.0), trained("b", 2.04)], 0.05),
        ([trained("a", 2.0), trained("b", 3.0)], 0.6),
        ([trained("a", 2.0, spread=2.0), trained("b", 3.0)], 0.05),
        ([trained("a", 2.0, rounds=2), trained("b", 3.0)], 0.05),
    ],
    ids=["same", "noisy machine", "unclear", "too few rounds"],
)
def test_what_this_machine_cannot_tell_apart_is_a_tie_of_two(rows, floor):
    sentence = answer([*rows, trained("slow", 20.0)], floor)
    assert sentence.startswith("Train with a or b here: 2.00 s for 10 epochs on 2 threads with ")
    assert "too close to call" in sentence
    assert "slow" not in sentence


def test_a_lone_backend_is_named_as_such():
    assert answer([trained("numpy", 2.0, threads=1)], 0.05) == (
        "Train with numpy here: 2.00 s for 10 epochs on 1 thread, test accuracy 97.1 %; "
        "no other backend trained to the end."
    )


def test_programs_are_named_beside_the_answer():
    rows = [trained("jax", 1.5), trained("torch eager", 1.0), trained("a", 2.0), trained("b", 4.0)]
    first, second, third = answer(rows, 0.05).split(". ")
    assert first.startswith("Train with a here: 2.00 s")
    assert second == ("a is 0.50x [0.50, 0.50] as fast as PyTorch's fastest way here, torch eager")
    assert third == "The fastest program for this CNN alone is torch eager: 1.00 s."
    assert answer(rows[:2], 0.05).startswith("No backend trained the digits CNN to the end here")


def test_the_lead_over_pytorch_is_that_over_its_fastest_way():
    rows = [trained("a", 1.0), trained("torch-cpu", 4.0), trained("torch.compile", 2.0)]
    assert "a is 2.00x [2.00, 2.00] as fast as PyTorch's fastest way here, torch.compile." in (
        answer(rows, 0.05)
    )
    rows = [trained("torch-cpu", 1.0), trained("a", 2.0), trained("torch eager", 3.0)]
    assert "fastest way" not in answer(rows, 0.05)


def test_the_rounds_of_both_decide_who_is_first():
    one, other = trained("one", 2.0), trained("other", 2.2)
    one.samples, one.seconds = [4.0] * 4 + [2.0] * 20, 2.0
    other.samples = [2.2] * 4  # it was timed in the first rounds alone
    assert answer([one, other], 0.05).startswith("Train with other or one here")


def test_only_who_is_right_and_trained_to_the_end_is_recommended():
    wrong, stopped = trained("wrong", 0.1), trained("stopped", 0.2)
    wrong.outcome, wrong.seconds = "wrong", None
    stopped.samples = []
    layer = checked("layer", "ok")
    layer.seconds, layer.samples = 0.1, [0.1] * 24
    rows = [wrong, stopped, layer, trained("numpy", 2.0)]
    assert answer(rows, 0.05).startswith("Train with numpy here")
    none = "No backend trained the digits CNN to the end here, so none can be recommended."
    assert answer(rows[:3], 0.05) == answer([], 0.05) == none


def test_the_evidence_counts_checks_by_outcome_and_names_the_largest_error_and_the_floor():
    rows = [
        checked("numpy", "ok", 0.25),
        checked("numpy", "ok", 0.5),
        checked("a", "wrong"),
        checked("b", "failed"),
        checked("c", "unsupported"),
        checked("numpy", "ok", 0.9, problem=""),  # a sum is no check
        trained("numpy", 2.0),
        dataclasses.replace(checked("numpy", "wrong"), threads=1),  # nor of who is recommended
    ]
    rows[4:4] = [slow := checked("d", "unsupported"), slow]
    slow.reason = too_slow(3.0)
    checks, floor = evidence(rows, 0.0312)
    assert checks == (
        "2 checks passed, 2 wrong or failed, 1 not supported here, 2 skipped as too slow; "
        "the largest error is 0.500 times direct's rounding bound"
    )
    assert floor == (
        "A/A floor 3.1 %: two identical runs differed by up to that much, so smaller differences "
        "are noise"
    )


def test_a_busy_machine_is_named_by_its_floor_and_by_what_others_took():
    floors = {"aa_floor": {"1": 0.01, "2": 0.146}}
    assert busy(Run(floors)) == [
        "This machine was busy: two identical runs differed by 14.6 %. "
        "Close other programs and measure again. (2 threads)"
    ]
    assert busy(Run({"taken_by_others": 0.234})) == [
        "Other programs took 23 % of this machine's time meanwhile. Close them and measure again."
    ]
    little = {"taken_by_others": 0.05, "aa_floor": {"1": 0.05}}
    for quiet in ({}, {"taken_by_others": None}, little):
        assert busy(Run(quiet)) == []
    # An answer about trainings rests on their floor.
    assert busy(Run(floors | {"training_floor": {"2": 0.02}})) == []


def test_a_floor_that_was_not_measured_is_stated():
    assert evidence([trained("numpy", 2.0)], float("nan")) == ["A/A floor: not measured"]


def test_one_epoch_is_singular():
    row = trained("numpy", 2.0)
    row.details["epochs"] = [{}]
    assert "2.00 s for 1 epoch on 2 threads" in answer([row], 0.05)
