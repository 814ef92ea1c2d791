"""Writes results/README.md: one line for each committed run, by machine.

``python -m cnnbench.report.index results`` regenerates it from the runs in the folder.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from pathlib import Path

from cnnbench import results
from cnnbench.recommend import recommendation
from cnnbench.report import numbers, verdicts
from cnnbench.report.answer import answer
from cnnbench.report.tables import threads_in_words
from cnnbench.results import Row, Run
from cnnkernels import files

_HEAD = """# Results

One run of each kind on each machine. File names give command, subject and date.
`cnnbench show FILE` prints a run's tables, with all backends and thread counts. `asv/` holds the
performance history; `cnnbench history` shows it. `make readme` regenerates this page.
"""

COLUMNS = "| run | effort | result |\n| --- | --- | --- |\n"
"""Head of the table whose lines `line` returns."""

_CLAIMS = ("numba-winograd-f4", "numba-simd")
"""Backends whose speed a line states: the first of them that the run has."""

_CURVES = "Loss and accuracy of trainings after each epoch."

_VERDICTS = ("FASTER", "SAME", "UNCLEAR", "SLOWER")


def index(folder: Path) -> str:
    """Return a Markdown index of a folder: a section per machine, a line per run.

    Raises
    ------
    ResultsError
        If a file in the folder is not a run.
    """
    sections = [_HEAD]
    for machine, runs in by_machine(folder).items():
        if not runs:
            continue
        where = runs[-1].environment
        lines = [line(run, folder) for run in runs] + [
            f"| [{path.stem}]({machine.name}/{path.name}) | full | {_CURVES} |"
            for path in sorted(machine.glob("*.csv"))
        ]
        sections.append(
            f"## {machine.name}\n\n{where['cpu']}, {numbers.cores(where)}, {where['system']}.\n\n"
            + COLUMNS
            + "".join(f"{one}\n" for one in lines)
        )
    return "\n".join(sections)


def by_machine(folder: Path) -> dict[Path, list[Run]]:
    """Return the runs in a folder of results, by the folder of each machine.

    Raises
    ------
    ResultsError
        If a file is not a run.
    """
    machines = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "asv")
    return {
        machine: list(map(results.read, sorted(machine.glob("*.json")))) for machine in machines
    }


def started(run: Run) -> str:
    """Return when a run started; later times are greater."""
    return str(run.environment["started"])


def line(run: Run, base: Path) -> str:
    """Return a run as a line of a Markdown table: for a page in the folder `base`."""
    (path,) = run.paths
    effort = "quick" if is_quick(run) else "full"
    return f"| [{path.stem}]({os.path.relpath(path, base)}) | {effort} | {sentence(run)} |"


def is_quick(run: Run) -> bool:
    """Return whether a run was a quick look, whose ratios have no verdicts."""
    return "--quick" in run.environment["command"]


def sentence(run: Run) -> str:
    """Return the result of a run in one sentence."""
    recommended = recommendation.kept(run)
    if recommended is not None:
        return recommended.answer
    if verdicts.copies(run):
        found = verdicts.sentence(run)
        return f"{found[0].upper()}{found[1:]}."
    if any(row.op == "train" for row in run.rows):
        threads = max(row.threads for row in run.rows if row.op == "train")
        rows = [row for row in run.rows if row.threads == threads]
        return answer(rows, run.floors.get(threads, math.nan))
    return _against_baseline(run)


def _against_baseline(run: Run) -> str:
    """Return the speed of one backend relative to the baseline, at the lowest thread count.

    The backend is one of `_CLAIMS`, else the run's first one. The ratios are those of the totals
    over all layers, the verdicts those of the layers.
    """
    timed = [row for row in run.rows if row.ratio and row.backend != row.baseline]
    if not timed:
        return "No ratios."
    backends = {row.backend for row in timed}
    backend = next((name for name in _CLAIMS if name in backends), timed[0].backend)
    threads = min(row.threads for row in timed if row.backend == backend)
    mine = [row for row in timed if (row.backend, row.threads) == (backend, threads)]
    ratios = ", ".join(
        f"{_work(row)} {numbers.significant(row.ratio)}x"
        for row in mine
        if row.ratio and not row.problem
    )
    verdicts = _verdicts(mine, is_quick(run))
    where = f"{backend} against {mine[0].baseline} on {threads_in_words(threads)}"
    return f"{where}: {ratios} ({verdicts})" if ratios else f"{where}: {verdicts}"


def _verdicts(rows: list[Row], quick: bool) -> str:
    if quick:
        return "quick, no verdicts"
    counts = Counter(row.verdict for row in rows if row.problem)
    return ", ".join(f"{counts[v]} {v}" for v in _VERDICTS if counts[v]) or "no verdicts"


def _work(row: Row) -> str:
    direction = row.direction.replace("_", "-")
    return f"max-pool {direction}" if row.op == "max_pool2d" else direction


def main() -> None:
    """Write the index of the folder named on the command line."""
    folder = Path(sys.argv[1])
    try:
        files.write(folder / "README.md", index(folder))
    except (files.WriteError, results.ResultsError) as error:
        sys.exit(f"index: {error}")


if __name__ == "__main__":
    main()
