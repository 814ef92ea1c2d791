"""The judge's own error rates: verdicts on identical backends, and on some slowed by construction.

Every backend of the comparison is the same one. Copies of it run in processes of their own, and the
calls of some take longer by a known fraction: a loop waits until that much more time has passed. So
the right verdicts are known. A verdict on an identical copy is false; a copy that is slower by 5 %
is found or missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnnbench import speed
from cnnbench.budget import Budget, Progress
from cnnbench.cases import CaseSet
from cnnbench.results import Run
from cnnbench.workers.pool import Copy

SLOWER = (0.03, 0.05, 0.10)
"""The fractions by which copies are slower."""


def copies_of(backend: str) -> dict[str, Copy]:
    """Return two identical copies of a backend, and slower ones, by name."""
    identical = {f"{backend}, {word} copy": Copy(backend) for word in ("first", "second")}
    slower = {f"{backend}, {100 * part:.0f} % slower": Copy(backend, part) for part in SLOWER}
    return identical | slower


def measure(
    run: Run,
    sets: Sequence[CaseSet],
    backend: str,
    threads: Sequence[int],
    budget: Budget,
    progress: Progress,
    caches: Path,
) -> None:
    """Compare a backend with its copies on every case, and add the rows to the run."""
    copies = copies_of(backend)
    speed.time(
        run, sets, [backend, *copies], threads, backend, budget, progress, caches, copies=copies
    )
    for row in run.rows:
        if row.backend in copies:
            row.details["slower"] = copies[row.backend].slower
    run.write()
