"""Rough estimates of how long a command takes."""

import pytest

from cnnbench import estimate
from cnnbench.budget import FULL, QUICK, Budget
from cnnbench.cases import CaseSet, load
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import Case


@pytest.mark.parametrize(
    ("cases", "threads", "budget", "measured"),
    [
        ("digits", 2, Budget(), 199),
        ("resnet50", 2, QUICK, 458),
        ("vgg16", 2, QUICK, 767),
        ("resnet50", 1, FULL, 582),
    ],
)
def test_estimates_are_within_a_factor_of_two_of_saved_runs(cases, threads, budget, measured):
    estimated = estimate.of_timing(load(cases), 3, threads, budget)
    assert measured / 2 < estimated < 2 * measured


def test_a_training_takes_its_budget_for_each_trainer_and_thread_count():
    assert estimate.of_training(3, 2, Budget(training_seconds=20.0)) == 120.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5.0, "about a minute"), (80.0, "about a minute"), (301.0, "about 5 minutes")],
)
def test_an_estimate_is_in_minutes(seconds, words):
    assert estimate.in_words(seconds) == words


def test_an_estimate_for_a_model_is_within_a_factor_of_two_of_a_measured_run():
    stages = ((64, 32, 4), (128, 16, 3), (256, 8, 3), (512, 4, 3))
    cases = [
        Case(Conv2D(32, c, size, size, c, 3, padding=1), "", layers) for c, size, layers in stages
    ]
    estimated = estimate.of_steps(CaseSet("resnet18", tuple(cases)), 9, Budget(rounds=6))
    assert 192 / 2 < estimated < 2 * 192
