"""The processor time of this machine and of this process, as the system counts it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PROCESSES = Path("/proc")

TICK = 0.01
"""Seconds of a tick in /proc/stat, on all common systems."""


def seconds() -> dict[str, float] | None:
    """Return seconds since a fixed time: elapsed on all cores, used by anyone, stolen, and our own.

    "Stolen" is the time that other virtual machines have had of this one's cores. Our own are those
    of this process and of the children that have ended. None where the system does not tell.
    """
    with contextlib.suppress(OSError, ValueError):
        with open(PROCESSES / "stat", encoding="ascii") as file:
            fields = file.readline().split()[1:9]
        user, nice, system, idle, waiting, irq, soft, stolen = map(int, fields)
        used = user + nice + system + irq + soft
        return {
            "elapsed": (used + idle + waiting + stolen) * TICK,
            "used": used * TICK,
            "stolen": stolen * TICK,
            "own": sum(os.times()[:4]),
        }
    return None


def taken_by_others(
    before: dict[str, float] | None, after: dict[str, float] | None
) -> float | None:
    """Return the fraction of this machine's time that other programs took, or virtual machines."""
    if before is None or after is None or after["elapsed"] <= before["elapsed"]:
        return None
    spent = {name: after[name] - before[name] for name in after}
    return max(0.0, spent["used"] - spent["own"] + spent["stolen"]) / spent["elapsed"]


def seconds_waited() -> float:
    """Return the seconds for which this thread has waited for a core; 0 if they are unknown."""
    try:
        return int((PROCESSES / "thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, IndexError):
        return 0.0
