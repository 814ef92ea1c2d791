"""Second measurements of slowdowns: both commits again, by turns, kept beside asv's results.

Of hundreds of series, a few rise by chance. A rise is named a regression after a second measurement
has confirmed it.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnnbench.history import asv

FILE = "again.csv"
"""In a machine's folder; asv reads only the JSON files there."""

ROUNDS = 3
"""Rounds of each benchmark, each in its own process."""


class Again(NamedTuple):
    """A benchmark with its parameters, measured again at two commits: hashes and values."""

    benchmark: str
    since: str
    at: str
    before: float
    after: float


def read(folder: Path) -> dict[tuple[str, str, str], Again]:
    """Return a machine's second measurements by benchmark and both hashes."""
    path = folder / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            Again(row["benchmark"], row["since"], row["at"], float(row["before"]),
                  float(row["after"]))
            for row in csv.DictReader(file)
        ]  # fmt: skip
    return {(row.benchmark, row.since, row.at): row for row in rows}


def keep(folder: Path, measured: Sequence[Again]) -> None:
    """Add second measurements to a machine's."""
    path = folder / FILE
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(Again._fields)
        writer.writerows(measured)


def measure(
    root: Path, machine: str, since: str, at: str, names: Sequence[str], log: Path
) -> tuple[list[Again], bool]:
    """Measure benchmarks at two commits, by turns.

    Parameters
    ----------
    root : path
        The checkout.
    machine, since, at : str
        The machine's name, and both hashes.
    names : sequence of str
        Benchmarks with parameters.
    log : path
        File for asv's output.

    Returns
    -------
    measured : list of Again
        Without benchmarks that failed at one of the commits.
    interrupted : bool
        Whether Ctrl-C was pressed.
    """
    folder = root / ".asv" / "again"
    shutil.rmtree(folder, ignore_errors=True)  # old values must not decide
    path = asv.derived(root, folder, results_dir="results")
    pattern = f"^({'|'.join(map(re.escape, names))})$"
    _, interrupted = asv.finish(path, *asv.in_turns(machine, since, at, pattern, ROUNDS), log=log)
    configuration = asv.configuration(folder)
    configuration.results_dir = str(folder / "results")
    values = asv.values(folder / "results", machine, asv.benchmarks(configuration))
    before, after = values.get(since, {}), values.get(at, {})
    both = [name for name in names if name in before and name in after]
    return [Again(name, since, at, before[name], after[name]) for name in both], interrupted
