"""Sides of a round: enough calls of a worker in a row for the clock to measure."""

from __future__ import annotations

import math
from typing import Any, Protocol

from cnnbench import timing
from cnnbench.budget import Budget
from cnnbench.workers import clock
from cnnkernels.contract import Direction

SIDE_SECONDS = 0.02
"""The approximate length of a timed side, at least 5 ms."""

PARTS = 7
"""A side is timed in parts, and their median ignores a single hiccup of the system."""


class Asked(Protocol):
    """A worker, or a proxy for one; a failed worker answers None."""

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the answer to a command."""
        ...


def contestant(
    name: str, worker: Asked, direction: Direction, nchw: bool, budget: Budget
) -> tuple[timing.Contestant, int | None]:
    """Return a direction of a worker's prepared case as a contestant, and its memory in bytes.

    The memory excludes inputs and outputs; it is None where unknown.
    """
    probed = worker.ask("probe", direction=direction, nchw=nchw)
    if probed is None:
        return timing.Contestant(name, lambda: math.nan, 0), None
    call_seconds = probed["seconds"]
    parts = max(1, min(PARTS, math.ceil(SIDE_SECONDS / call_seconds)))
    calls = max(1, math.ceil(SIDE_SECONDS / parts / call_seconds))
    how = {"nchw": nchw, "calls": calls, "parts": parts, "warm": call_seconds < clock.WARM_SECONDS}

    def side() -> float:
        timing.rest()
        seconds = worker.ask("side", direction=direction, **how)
        return math.nan if seconds is None else float(seconds)

    rounds = budget.rounds_for(parts * calls * call_seconds + timing.REST_SECONDS, budget.seconds)
    return timing.Contestant(name, side, rounds), probed["extra_bytes"]
