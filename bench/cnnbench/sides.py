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


@dataclass(frozen=True)
class Side:
    """How a worker times one direction of its prepared case.

    Attributes
    ----------
    direction : str
    nchw : bool
        Whether each call converts its arrays from and to NCHW.
    calls, parts : int
        It times this many parts, of this many calls each.
    warm : bool
        Whether a call runs untimed before.
    seconds : float
        A rough length of the side, with its rest.
    """

    direction: Direction
    nchw: bool
    calls: int
    parts: int
    warm: bool
    seconds: float

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of a worker's command ``side``."""
        names = ("direction", "nchw", "calls", "parts", "warm")
        return {name: getattr(self, name) for name in names}


def side_of(direction: Direction, nchw: bool, call_seconds: float) -> Side:
    """Return the side for calls of a length, as a worker has probed it."""
    parts = max(1, min(PARTS, math.ceil(SIDE_SECONDS / call_seconds)))
    calls = max(1, math.ceil(SIDE_SECONDS / parts / call_seconds))
    seconds = parts * calls * call_seconds + timing.REST_SECONDS
    return Side(direction, nchw, calls, parts, call_seconds < clock.WARM_SECONDS, seconds)
