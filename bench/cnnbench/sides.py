"""Sides of a round: a worker's calls in a row, as many as take long enough for a clock."""

from __future__ import annotations

import math
from typing import Any, Protocol

from cnnbench import timing
from cnnbench.budget import Budget
from cnnbench.workers import clock
from cnnkernels.contract import Direction

SIDE_SECONDS = 0.02
"""A timed side lasts about this long, 5 ms at the very least."""

PARTS = 7
"""A side is timed in parts, and their median counts: one hiccup of the system does not."""


class Asked(Protocol):
    """A worker, or what asks one; None is the answer of a worker that failed."""

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the answer to a command."""
        ...


def contestant(
    name: str, worker: Asked, direction: Direction, nchw: bool, budget: Budget
) -> tuple[timing.Contestant, int | None]:
    """Return a direction of a worker's prepared case as a contestant, and the bytes it takes.

    The bytes are those beyond inputs and outputs, or None where that is not known.
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
