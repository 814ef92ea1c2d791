"""Sides of a round: enough calls of a worker in a row for the clock to measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cnnbench import timing
from cnnbench.workers import clock
from cnnkernels.contract import Direction

SIDE_SECONDS = 0.02
"""The approximate length of a timed side, at least 5 ms."""

PARTS = 7
"""A side is timed in parts, and their median ignores a single hiccup of the system."""

EMPTYING_SECONDS = 0.02
"""A rough time for emptying the caches."""


@dataclass(frozen=True)
class Side:
    """How a worker times one direction of its prepared case.

    Attributes
    ----------
    direction : str
    nchw : bool
        Whether each call converts its arrays from and to NCHW.
    cold : bool
        Whether the caches are emptied before each call.
    calls, parts : int
        It times this many parts, of this many calls each.
    warm : bool
        Whether a call runs untimed before.
    seconds : float
        A rough length of the side, with its rest.
    """

    direction: Direction
    nchw: bool
    cold: bool
    calls: int
    parts: int
    warm: bool
    seconds: float

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of a worker's command ``side``."""
        return {name: value for name, value in vars(self).items() if name != "seconds"}


def side_of(direction: Direction, call_seconds: float, nchw: bool, cold: bool) -> Side:
    """Return the side for calls of a length, as a worker has probed it."""
    parts = max(1, min(PARTS, math.ceil(SIDE_SECONDS / call_seconds)))
    calls = 1 if cold else max(1, math.ceil(SIDE_SECONDS / parts / call_seconds))
    warm = not cold and call_seconds < clock.WARM_SECONDS
    seconds = parts * (calls * call_seconds + cold * EMPTYING_SECONDS) + timing.REST_SECONDS
    return Side(direction, nchw, cold, calls, parts, warm, seconds)
