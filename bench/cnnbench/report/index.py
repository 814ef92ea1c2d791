"""Writes results/README.md: what was measured where, and the sentence that each run supports.

``python -m cnnbench.report.index results`` writes it anew from the runs in the folder.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cnnbench import results
from cnnbench.recommend import recommendation
from cnnbench.report import numbers
from cnnbench.report.answer import answer
from cnnbench.report.tables import threads_in_words
from cnnbench.results import Row, Run
from cnnkernels import files

_HEAD = """# Results

One run of each kind, on each machine. Files are named by command, subject and date, and
`cnnbench show FILE` shows their tables. `make readme` writes this page from them. `asv/` holds the
performance history, which `cnnbench history` shows.
"""

_VERDICTS = ("FASTER", "SAME", "UNCLEAR", "SLOWER")


def index(folder: Path) -> str:
    """Return the index of a folder of runs as Markdown: a section a machine, a row a run.

    Raises
    ------
    ResultsError
        If a file in it is no run.
    """
    sections = [_HEAD]
    machines = (path for path in folder.iterdir() if path.is_dir() and path.name != "asv")
    for machine in sorted(machines):
        runs = [results.read(path) for path in sorted(machine.glob("*.json"))]
        if not runs:
            continue
        where = runs[-1].environment
        rows = "\n".join(_row(run) for run in runs)
        sections.append(
            f"## {machine.name}\n\n{where['cpu']}, {numbers.cores(where)}, {where['system']}.\n\n"
            f"| run | effort | what it says |\n| --- | --- | --- |\n{rows}\n"
        )
    return "\n".join(sections)


def _row(run: Run) -> str:
    (path,) = run.paths
    effort = "quick" if "--quick" in run.environment["command"] else "full"
    return f"| [{path.stem}]({path.parent.name}/{path.name}) | {effort} | {sentence(run)} |"


def sentence(run: Run) -> str:
    """Return what a run says, in a sentence for each thread count."""
    recommended = recommendation.kept(run)
    if recommended is not None:
        return recommended.answer
    if any(row.op == "train" for row in run.rows):
        threads = max(row.threads for row in run.rows if row.op == "train")
        floor = run.environment.get("aa_floor", {}).get(str(threads))
        rows = [row for row in run.rows if row.threads == threads]
        return answer(rows, float("nan") if floor is None else floor)
    return "<br>".join(_against_baseline(run.rows))


def _against_baseline(rows: list[Row]) -> Iterator[str]:
    """Yield how fast each backend is beside the baseline, by thread count.

    By the sums of a set, and by the verdicts of its layers where any is certain.
    """
    for threads in dict.fromkeys(row.threads for row in rows):
        timed = [row for row in rows if row.threads == threads and row.ratio]
        for backend in dict.fromkeys(row.backend for row in timed):
            mine = [row for row in timed if row.backend == backend]
            if backend == mine[0].baseline:
                continue
            ratios = ", ".join(
                f"{numbers.significant(row.ratio)}x {_work(row)}"
                for row in mine
                if row.ratio and not row.problem
            )
            counts = Counter(row.verdict for row in mine if row.problem)
            verdicts = ", ".join(f"{counts[v]} {v}" for v in _VERDICTS if counts[v])
            if set(counts) == {"UNCLEAR"}:
                verdicts = "no verdict"
            yield (
                f"{backend} on {threads_in_words(threads)} against {mine[0].baseline}: "
                f"{', '.join(filter(None, (ratios, verdicts)))}"
            )


def _work(row: Row) -> str:
    direction = row.direction.replace("_", "-")
    return f"max-pool {direction}" if row.op == "max_pool2d" else direction


def main() -> None:
    """Write the index of the folder on the command line."""
    folder = Path(sys.argv[1])
    try:
        files.write(folder / "README.md", index(folder))
    except (files.WriteError, results.ResultsError) as error:
        sys.exit(f"index: {error}")


if __name__ == "__main__":
    main()
