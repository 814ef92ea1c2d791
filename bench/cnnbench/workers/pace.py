"""Estimate a backend's speed, so that calls that take too long are skipped."""

from __future__ import annotations

import math

from cnnbench.results import too_slow
from cnnbench.workers.clock import seconds_of
from cnnkernels.conformance import Call, real_inputs
from cnnkernels.contract import Backend, Conv2D, MaxPool2D, Problem

_GROWING = ((4, 4), (4, 8), (4, 16), (4, 32), (8, 32), (16, 32), (32, 32), (64, 32), (64, 64))
"""Channels and size of the problems for measuring speed, each with about four times more work.

The last have as many channels as real layers: fast backends are slow on few channels.
"""


class Pace:
    """The speed of a backend, measured on demand, once for each operation."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seconds: dict[type, float] = {}

    def too_slow(self, problem: Problem, budget: float) -> str | None:
        """Return the reason to skip a call that exceeds the budget in seconds; None if it fits."""
        seconds = _work(problem) * self.seconds_a_tap(type(problem))
        return None if seconds <= budget else too_slow(seconds)

    def seconds_a_tap(self, kind: type[Problem]) -> float:
        """Return the seconds of one multiply-add or comparison, measured on growing problems."""
        if kind not in self._seconds:
            best = math.inf
            for channels, size in _GROWING:
                problem: Problem
                if kind is Conv2D:
                    problem = Conv2D(1, channels, size, size, channels, 3, padding=1)
                else:
                    problem = MaxPool2D(1, 4 * channels, size, size, 3, stride=1, padding=1)
                seconds = self.seconds_of_call(problem)
                best = min(best, seconds / _work(problem))
                if seconds > 0.02:
                    break
            self._seconds[kind] = best
        return self._seconds[kind]

    def seconds_of_call(self, problem: Problem) -> float:
        """Return the rough seconds of a forward call.

        The shortest of several times counts, so neither a hiccup nor compiling matters.
        """
        call = Call(self._backend, problem, real_inputs(problem))
        return min(seconds_of(call.forward, 1) for _ in range(4))


def _work(problem: Problem) -> int:
    return problem.multiply_adds if isinstance(problem, Conv2D) else problem.comparisons
