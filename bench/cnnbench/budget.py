"""How long to measure, and where a run says how far it has come."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from cnnbench import timing

CALL_SECONDS = 20.0
"""A problem of which one call would take longer is not run."""


class Progress(Protocol):
    """Where a run says what it is doing: between measurements, never during one."""

    def begin(self, total: int) -> None:
        """Say how many steps there will be."""
        ...

    def step(self, text: str) -> None:
        """Say which step begins now."""
        ...


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        At the most, before those that a wide interval earns.
    seconds : float
        For one backend in one direction of one case; a slow one gets fewer rounds.
    training_seconds : float
        For one backend's trainings, in turns with the others'; one training that takes longer than
        half of it, with what it needs compiled, is stopped, unless it is asked for in full.
    call_seconds : float or None
        What takes longer a call is not run; None runs everything.
    first_steps : bool
        Whether what compiling costs before a training is measured, in new processes.
    """

    rounds: int = timing.ROUNDS
    seconds: float = 6.0
    training_seconds: float = 20.0
    call_seconds: float | None = CALL_SECONDS
    first_steps: bool = True

    def rounds_for(self, side_seconds: float, budget_seconds: float) -> int:
        """Return how many rounds of two sides fit into a budget, one at the least."""
        return max(1, min(self.rounds, int(budget_seconds / (2 * side_seconds))))


SHORT = Budget(rounds=6, seconds=1.0, training_seconds=9.0, first_steps=False)
"""For a comparison of everything in minutes: intervals, and no more rounds for the unclear."""

QUICK = Budget(rounds=3, seconds=1.0, training_seconds=8.0, call_seconds=2.0)
