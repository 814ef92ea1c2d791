"""Trainees leave when they can be told apart, and the leaders stay until they can, too."""

import math

import pytest

from cnnbench.races import AGAIN
from cnnbench.results import Row
from cnnbench.trainees import Trainee, Trainees

PROGRAM = "numba (compiled run)"


class Pool:
    def __init__(self):
        self.added, self.asked = {}, []

    def add(self, name, copy):
        self.added[name] = copy

    def ask(self, name, *_, **__):
        self.asked.append(name)
        return {"seconds": 1.0, "step_seconds": 2.0, "steps": 4}


def trainees_of(pool=None, rounds=6, **samples):
    """Return trainees that have trained in rounds of these seconds."""
    found = Trainees("base")
    for name, seconds in samples.items():
        name = name.replace("_", "-") if name != "program" else PROGRAM
        row = Row("c", "c", "train", "train", name, 1, "ok")
        trainee = Trainee(pool or Pool(), row, {}, rounds)
        trainee.contestant.samples = [value for value in seconds for _ in range(2)]
        found.add(trainee)
    return found


def rounds_left(found):
    return {c.name: c.rounds for c in found.contestants}


NOISY = (1.0, 1.5, 0.8)
TWICE = (0.5, 0.5, 0.5)
ONE = (1.0, 1.0, 1.0)


def with_twin(found):
    found.add_twin(Pool())
    found._twin.contestant.samples = [1.01] * 6
    return found


def test_who_can_be_told_apart_leaves_and_the_baseline_stays_for_the_others():
    found = with_twin(
        trainees_of(base=ONE, fast=(0.1, 0.1, 0.1), next=TWICE, noisy=tuple(3 * s for s in NOISY))
    )
    found.dismiss(3)
    assert rounds_left(found) == {"base": 6, "fast": 3, "next": 3, "noisy": 6, AGAIN: 6}
    assert found.waiting(3)
    assert found.floor == pytest.approx(0.01)


def test_all_rounds_end_with_the_last_one_who_waits():
    found = with_twin(trainees_of(base=ONE, fast=TWICE))
    found.dismiss(3)
    assert set(rounds_left(found).values()) == {3}
    assert not found.waiting(3)


def test_who_is_near_the_fastest_stays_until_they_can_be_told_apart():
    near, slow, fast = (0.5, 0.53, 0.46), (5.0, 5.0, 5.0), (0.1, 0.1, 0.1)
    found = with_twin(trainees_of(base=slow, first=(0.45,) * 3, second=near, program=fast))
    found._twin.contestant.samples = [5.05] * 6
    found.dismiss(3)
    assert rounds_left(found) == {"base": 6, "first": 6, "second": 6, PROGRAM: 3, AGAIN: 6}


def test_pytorchs_programs_are_rivals_of_the_fastest_backend_and_others_are_not():
    slow, near = (5.0, 5.0, 5.0), (0.5, 0.56, 0.44)
    found = with_twin(trainees_of(base=slow, best=TWICE, torch_eager=near, program=near))
    found._twin.contestant.samples = [5.05] * 6
    found.dismiss(3)
    left = rounds_left(found)
    assert left["torch-eager"] == left["best"] == 6
    assert left[PROGRAM] == 3


def test_nobody_is_dismissed_before_three_rounds_or_without_a_baseline():
    found = with_twin(trainees_of(base=ONE[:2], fast=TWICE[:2]))
    found.dismiss(2)
    assert set(rounds_left(found).values()) == {6}
    alone = trainees_of(fast=TWICE)
    alone.add_twin(Pool())
    alone.dismiss(3)
    assert rounds_left(alone) == {"fast": 6}
    assert math.isnan(alone.floor)


def test_a_twin_is_another_process_of_the_baseline_and_trains_once_before():
    pool, found = Pool(), trainees_of(base=ONE, fast=TWICE)
    found.add_twin(pool)
    assert pool.added[AGAIN].backend == "base"
    assert pool.asked == [AGAIN]
    assert found.contestants[-1].name == AGAIN
    assert found.contestants[-1].side() == 1.0


def test_rows_get_the_typical_time_and_that_of_a_step():
    pool = Pool()
    found = trainees_of(pool, base=())
    (trainee,) = found._all
    trainee.contestant.samples = [trainee.contestant.side() for _ in range(4)]
    found.settle()
    assert trainee.row.seconds == pytest.approx(1.0)
    assert trainee.row.details["seconds_per_step"] == 0.5
