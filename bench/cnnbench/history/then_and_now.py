"""How far each backend has come: its speed at its first measured commit and at its last one."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from cnnbench.history.series import History, Series

RELATIVE, SECONDS = "of torch-cpu's time", "seconds"
"""Units of speed: the first is preferred, as it depends less on the machine."""


@dataclass(frozen=True)
class Change:
    """One backend's speed then and now: geometric means over the cases.

    Attributes
    ----------
    series : Series
        One of its series, for what was measured, and where.
    cases : int
    first, last : int
        Numbers of the commits.
    then, now : float
        In the unit of the series.
    """

    series: Series
    cases: int
    first: int
    last: int
    then: float
    now: float


def changes(history: History) -> list[Change]:
    """Return the changes of all backends of this project, by machine, quantity and name."""
    ours = [one for one in history.series if not one.others]
    unit = RELATIVE if any(one.unit == RELATIVE for one in ours) else SECONDS
    groups: dict[tuple[str, str, str], list[Series]] = defaultdict(list)
    for one in ours:
        if one.unit == unit and all(point[1] > 0 for point in one.points):
            groups[one.machine, one.what, one.name].append(one)
    return [
        Change(
            of_group[0],
            len(of_group),
            min(one.points[0][0] for one in of_group),
            max(one.points[-1][0] for one in of_group),
            statistics.geometric_mean(one.points[0][1] for one in of_group),
            statistics.geometric_mean(one.points[-1][1] for one in of_group),
        )
        for _, of_group in sorted(groups.items())
    ]
