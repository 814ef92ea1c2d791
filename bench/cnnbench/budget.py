"""How long to measure, and how a run reports its progress."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from cnnbench import timing

CALL_SECONDS = 20.0
"""Problems are skipped if one call would take longer than this."""


class Progress(Protocol):
    """Receives the steps of a run, between measurements."""

    def begin(self, total: int) -> None:
        """Set the number of steps."""
        ...

    def step(self, text: str, count: int = 1) -> None:
        """Announce the step that begins now, and stands for so many."""
        ...


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        The most rounds in one process.
    processes : int
        The most processes of a backend in which a case is timed, one after another: as many as a
        verdict needs. With 1, all rounds are in the process that checks.
    seconds : float
        For one backend in one direction of one case; slow backends get fewer rounds, and very slow
        ones a single process.
    training_seconds : float
        For all trainings of one backend. A single training that takes longer than half of it, once
        compiled, is stopped, unless it is run in full.
    call_seconds : float or None
        Calls estimated to be slower are skipped, checks included; None checks everything.
    slowest : float
        Calls that take longer than this, in seconds, are checked but not timed.
    cold : bool
        Whether to time calls with cold caches as well, in one process.
    first_steps : bool
        Whether to measure first calls and first steps, with compiling, in new processes.
    """

    rounds: int = timing.ROUNDS
    processes: int = 1
    seconds: float = 6.0
    training_seconds: float = 20.0
    call_seconds: float | None = CALL_SECONDS
    slowest: float = math.inf
    cold: bool = False
    first_steps: bool = True

    def rounds_for(self, side_seconds: float, budget_seconds: float) -> int:
        """Return how many rounds of two sides fit into a budget, at least one."""
        return max(1, min(self.rounds, int(budget_seconds / (2 * side_seconds))))


FULL = Budget(rounds=4, processes=10, seconds=3.3)
"""For verdicts on single cases."""

SHORT = Budget(rounds=4, seconds=0.25, training_seconds=6.0, first_steps=False)
"""For comparing everything in two minutes: a look at the layers, and verdicts on trainings."""

QUICK = Budget(rounds=3, seconds=1.0, training_seconds=8.0, call_seconds=2.0)
