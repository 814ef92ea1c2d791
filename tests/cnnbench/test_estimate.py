"""Rough estimates of how long a command takes."""

import pytest

from cnnbench import estimate
from cnnbench.budget import QUICK, Budget
from cnnbench.cases import load


@pytest.mark.parametrize(
    ("cases", "budget", "measured"),
    [("digits", Budget(), 199), ("resnet50", QUICK, 458), ("vgg16", QUICK, 767)],
)
def test_estimates_are_within_a_factor_of_two_of_saved_runs(cases, budget, measured):
    estimated = estimate.of_timing(load(cases), 3, 2, budget)
    assert measured / 2 < estimated < 2 * measured


def test_a_training_takes_its_budget_for_each_trainer_and_thread_count():
    assert estimate.of_training(3, 2, Budget(training_seconds=20.0)) == 120.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5.0, "about a minute"), (80.0, "about a minute"), (301.0, "about 5 minutes")],
)
def test_an_estimate_is_in_minutes(seconds, words):
    assert estimate.in_words(seconds) == words
