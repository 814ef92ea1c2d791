"""Compare rows with the baseline: ratio, interval and verdict."""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench import timing
from cnnbench.results import Row


def compare(rows: Sequence[Row], baseline: str, floor: float) -> None:
    """Set the ratio and verdict of each timed row against the baseline's row."""
    base = next((row for row in rows if row.backend == baseline and row.seconds), None)
    for row in rows:
        if row.outcome != "ok" or row.seconds is None:
            continue
        row.baseline = baseline
        if base is None or not base.samples or not row.samples:
            row.verdict = "UNCLEAR"
            continue
        found = timing.ratio(row.measured, base.measured)
        row.ratio, row.ratio_low, row.ratio_high = found.known()
        row.verdict = "SAME" if row is base else timing.verdict(found, floor)
