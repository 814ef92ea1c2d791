"""Sums of a set's cases, such as all convolutions of a network, from the rows of its cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnbench import timing
from cnnbench.judging.comparing import compare
from cnnbench.results import Row

_SUFFIX = " (sum)"


def name_of(set_name: str) -> str:
    """Return the name of a set's sum, as rows have it."""
    return f"{set_name}{_SUFFIX}"


def set_name_of(case: str) -> str:
    """Return the set's name, from the case of its sum; any other case is returned as it is."""
    return case.removesuffix(_SUFFIX)


def of_set(name: str, rows: Sequence[Row], baseline: str, floor: float, threads: int) -> list[Row]:
    """Sum a set's cases, weighted by layers: one row for each operation, direction and backend.

    Parameters
    ----------
    name : str
        Of the set; without a name, nothing is summed.
    rows : sequence of Row
        Of all its cases.
    baseline : str
    floor : float
        The A/A floor.
    threads : int
    """
    sums: list[Row] = []
    for op in dict.fromkeys(row.op for row in rows):
        cases = [row.case for row in rows if row.op == op]
        if not name or len(set(cases)) < 2:
            continue
        for direction in dict.fromkeys(row.direction for row in rows if row.op == op):
            of_direction = []
            for backend in dict.fromkeys(row.backend for row in rows):
                parts = [
                    row
                    for row in rows
                    if (row.op, row.direction, row.backend) == (op, direction, backend)
                ]
                of_direction.append(_sum(name_of(name), parts, threads))
            compare(of_direction, baseline, floor)
            sums.extend(of_direction)
    return sums


def _sum(name: str, parts: Sequence[Row], threads: int) -> Row:
    first = parts[0]
    total = Row(name, "", first.op, first.direction, first.backend, threads, "ok")
    total.layers = sum(row.layers for row in parts)
    owners = {row.owner for row in parts}
    if len(owners) == 1 and owners != {first.backend}:
        total.details["owner"] = first.owner
    bad = next((row for row in parts if row.outcome != "ok"), None)
    if bad is not None:
        total.outcome, total.reason = bad.outcome, f"{bad.case}: {bad.reason}"
        return total
    blocks = [row.layers * np.exp(row.measured.blocks()) for row in parts]
    shared = min(of_row.size for of_row in blocks)
    total.samples = sum(of_row[:shared] for of_row in blocks).tolist()
    total.sides, total.processes = 1, min(row.processes for row in parts)
    total.seconds = timing.finite(total.measured.typical)
    errors = [row.error_over_bound for row in parts if row.error_over_bound is not None]
    total.error_over_bound = max(errors, default=None)
    for rate in ("gflops", "ceiling_fraction"):
        of_parts = [(getattr(row, rate), row.layers * (row.seconds or 0.0)) for row in parts]
        if all(value is not None for value, _ in of_parts):
            whole = sum(seconds for _, seconds in of_parts)
            setattr(total, rate, sum(value * seconds for value, seconds in of_parts) / whole)
    return total
