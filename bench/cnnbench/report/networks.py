"""All machines' newest times of whole networks, against the better of PyTorch's two layouts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from cnnbench import timing
from cnnbench.cases import SETS
from cnnbench.digits.trainers import is_pytorch
from cnnbench.report import index, numbers
from cnnbench.report.charts import drawing
from cnnbench.report.tables import Sheet
from cnnbench.results import Row, Run
from cnnbench.sums import name_of, set_name_of

_DIRECTIONS = ("forward", "backward")

_OPEN = "too close to call"


def sheet(folder: Path) -> Sheet:
    """Return a table of committed results: networks by machines.

    A cell has the fastest backend of this project, and its speed relative to the fastest PyTorch
    backend with the verdict, from the sums of one run, at the lowest thread count. Without a
    verdict a speed is not claimed.

    Parameters
    ----------
    folder : path
        Has a folder for each machine.
    """
    timings = {machine.name: newest(runs) for machine, runs in index.by_machine(folder).items()}
    lines = []
    for name in SETS:
        for op in ("conv2d", "max_pool2d"):
            for direction in _DIRECTIONS:
                cells = [_cell(of.get(name, {}), name, op, direction) for of in timings.values()]
                if any(cell != "-" for cell in cells):
                    lines.append((f"{name}, {drawing.named(op, direction).lower()}", *cells))
    quick = any("*" in cell for line in lines for cell in line)
    notes = ["* a quick look, without a verdict"] if quick else []
    if any(_OPEN in line for line in lines):
        notes.append(f"{_OPEN}: no difference is certain")
    return Sheet(
        "The fastest kernel here, relative to the faster of PyTorch's layouts",
        ("all layers of", *timings),
        tuple(lines),
        tuple(notes),
        texts=1 + len(timings),
    )


def newest(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Return a machine's newest timing of each set at each thread count, the lowest first."""
    found: dict[str, dict[int, Run]] = {}
    timings = (run for run in runs if run.paths[0].name.startswith("time-"))
    for run in sorted(timings, key=index.started):
        for row in run.rows:
            if not row.problem:
                found.setdefault(set_name_of(row.case), {})[row.threads] = run
    return {name: dict(sorted(of.items())) for name, of in found.items()}


def sums(run: Run, name: str, threads: int) -> list[Row]:
    """Return a run's rows of all layers of a set together, at a thread count."""
    return [row for row in run.rows if (row.case, row.threads) == (name_of(name), threads)]


def _cell(timings: dict[int, Run], name: str, op: str, direction: str) -> str:
    for threads, run in timings.items():
        timed = [
            row
            for row in sums(run, name, threads)
            if (row.op, row.direction) == (op, direction) and row.ratio
        ]
        mine = _fastest(row for row in timed if not is_pytorch(row.backend))
        theirs = _fastest(row for row in timed if is_pytorch(row.backend))
        if mine is None or theirs is None:
            continue
        found = timing.ratio(mine.measured, theirs.measured)
        judged = timing.verdict(found, run.floors.get(threads, math.nan))
        speed = f"{mine.backend} {numbers.interval(*found.known())}"
        if index.is_quick(run):
            return f"{speed}*"
        return _OPEN if judged == "UNCLEAR" else f"{speed} {judged}"
    return "-"


def _fastest(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=_ratio, default=None)


def _ratio(row: Row) -> float:
    return row.ratio or 0.0
