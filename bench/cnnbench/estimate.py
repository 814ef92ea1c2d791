"""Rough estimates of how long a command takes, from its budget, for a line at its start.

The constants fit the saved runs within a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench.budget import Budget
from cnnbench.cases import CaseSet
from cnnkernels.contract import FORWARD, directions

_SETUP_SECONDS = 30.0
"""Ceilings, the A/A floor and the start of the workers, for each thread count."""

_FIRST_CALL_SECONDS = 5.0
"""For each backend: some compile, others don't."""

_CHECK_SECONDS = 0.4
"""For each case, direction and backend."""

_MODEL_CHECK_SECONDS = 2.0
"""For each layer of a PyTorch model, by the backends that are not slow, several at once."""

_FIRST_STEP_SECONDS = 2.0
"""For each backend, several at once."""

_WAYS = 5
"""Ways of training a PyTorch model that take turns: slow ones are dropped before."""

_ROUND_SECONDS = 0.12
"""Two sides of a fast call, rests included."""

_UNTIL_VERDICTS = 0.65
"""The part of the time for several processes that is used until the verdicts stand."""

_RATE = 3e10
"""Floating-point operations a second of a typical backend."""

_STEP_RATE = 1e11
"""That of a training step, on all cores."""


def of_timing(sets: Sequence[CaseSet], backends: int, threads: int, budget: Budget) -> float:
    """Return the seconds that checking and timing take."""
    one_backend = 0.0
    for case in (case for group in sets for case in group.cases):
        call = case.problem.flops(FORWARD) / _RATE
        rounds = budget.rounds * budget.processes * max(_ROUND_SECONDS, 2 * call)
        used = _UNTIL_VERDICTS if budget.processes > 1 else 1.0
        each = used * min(budget.seconds, rounds) + _CHECK_SECONDS + 2 * call
        one_backend += len(directions(case.problem)) * each
    each_count = _SETUP_SECONDS + backends * one_backend
    return threads * each_count + backends * _FIRST_CALL_SECONDS


def of_steps(layers: CaseSet, backends: int, budget: Budget) -> float:
    """Return the seconds of checking a PyTorch model's layers and timing its training steps."""
    passes = 3  # forward, and backward twice
    in_layers = sum(case.layers * case.problem.flops(FORWARD) for case in layers.cases)
    step = passes * in_layers / _STEP_RATE
    checks = len(layers.cases) * _MODEL_CHECK_SECONDS
    turns = 2 * 2 * budget.rounds * (step + 0.1)  # layers inside steps, then whole steps
    return _SETUP_SECONDS + checks + backends * _FIRST_STEP_SECONDS + _WAYS * turns


def of_comparison(layers: Sequence[CaseSet], kernels: int, trainers: int, budget: Budget) -> float:
    """Return the seconds of `cnnbench compare`."""
    passes = 2  # forward, and backward as a whole
    races = passes * sum(len(group.cases) for group in layers)
    timed = kernels * races * _ROUND_SECONDS * budget.rounds
    return _SETUP_SECONDS + trainers * (_FIRST_CALL_SECONDS + budget.training_seconds / 2) + timed


def of_training(trainers: int, threads: int, budget: Budget) -> float:
    """Return the seconds that training in turns takes."""
    return threads * trainers * budget.training_seconds


def in_words(seconds: float) -> str:
    """Return 'about N minutes'."""
    minutes = max(1, round(seconds / 60))
    return "about a minute" if minutes == 1 else f"about {minutes} minutes"
