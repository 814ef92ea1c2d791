"""Measure the history: benchmarks of today on the kernels of old commits, oldest first.

One benchmark group after another is measured and kept, so that what ends a run loses no more than
the group it was in; the next run goes on there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import asv, summary
from cnnbench.history.asv import HistoryError
from cnnbench.report.progress import ProgressBar

KERNELS = "kernels/cnnkernels"
_FIRST = f"{KERNELS}/registry.py"
"""Commits without it have no backend that could be measured."""

GROUPS = {
    "forward": r"^layers\.Speed\.time_forward",
    "backward": r"^layers\.Speed\.time_backward",
    "ratios, errors, memory": r"^layers\.(Ratio|Error|Memory)\.",
    "training": r"^digits\.",
}
"""What is measured and kept at once: what shares a cache of asv's stays together."""

WITHOUT_TORCH = r"(?!.*'torch)"
"""PyTorch's own times do not change with these commits: the newest of a run has them, for scale.

Ratios are measured beside it at every commit.
"""

QUICK_GROUPS = {
    "digits": r"^layers\.Speed\.\w+\('digits",
    "training": r"^digits\.Training\.time_step",
}


def main(
    range_: Annotated[str, typer.Option("--range", help="Commits, as git names them: a..b.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="The digits only, each once; kept apart from history.")
    ] = False,
    machine: Annotated[str | None, typer.Option(help="The machine's name; its processor.")] = None,
    bench: Annotated[str, typer.Option(help="Benchmarks that match this only.")] = "",
) -> None:
    """Measure commits that change kernels, and show the steps found."""
    try:
        raise typer.Exit(_measure(range_, quick, machine, bench))
    except HistoryError as error:
        typer.echo(f"history: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: what was measured is kept; run it again to go on", err=True)
        raise typer.Exit(130) from None


def _measure(range_: str, quick: bool, machine: str | None, bench: str) -> int:
    root = asv.root()
    chosen = commits(root, range_)
    name = asv.write_machine(machine)
    log = root / ".asv" / "history.log"
    log.parent.mkdir(exist_ok=True)
    path = root / asv.CONFIGURATION
    if quick:
        path = asv.derived(root, root / ".asv" / "quick", results_dir="results")
    groups = {bench: bench} if bench else QUICK_GROUPS if quick else GROUPS
    options = ["--machine", name, "--attribute", "rounds=1", *(["--quick"] if quick else [])]
    failed = []
    with ProgressBar() as progress:
        progress.begin(1 + len(chosen) * len(groups))
        progress.step("libraries, the first time, and benchmarks")
        kept = _kept(path, name, log)
        for commit in chosen:
            subject = asv.git(root, "log", "-1", "--format=%h %s", commit).strip()
            for group, pattern in groups.items():
                progress.step(f"{subject[:44]:44s}  {group}")
                if "Speed" in pattern and commit != chosen[-1]:
                    pattern += WITHOUT_TORCH
                if any(re.search(pattern, benchmark) for benchmark in kept[commit]):
                    continue
                arguments = ["run", *options, "--bench", pattern, "--skip-existing", f"{commit}^!"]
                code = asv.call(path, *arguments, log=log)
                if code == 1:
                    raise HistoryError(f"asv could not measure {subject!r}; its words are in {log}")
                if code:
                    failed.append(f"{subject}: {group}")
    for line in failed:
        typer.echo(f"some benchmarks failed at {line}; why is in {log}", err=True)
    summary.show(root, path.parent / asv.configuration(path.parent).results_dir)
    return 0


def _kept(path: Path, machine: str, log: Path) -> dict[str, set[str]]:
    """Return the benchmarks that each commit has results of already, with today's libraries.

    `asv run --skip-existing` finds out as well, and takes seconds for each commit. What an older
    version of a benchmark gave does not count.
    """
    configuration = asv.configuration(path.parent)
    from asv.benchmarks import Benchmarks
    from asv.results import iter_results
    from asv.util import UserError

    results = path.parent / configuration.results_dir
    configuration.results_dir = str(results)
    asv.call(path, "run", "--bench", "just-discover", "--machine", machine, log=log)
    try:
        benchmarks = Benchmarks.load(configuration)
    except UserError:
        raise HistoryError(f"asv found no benchmarks; its words are in {log}") from None
    pins = [
        f"{library}{version}"
        for library, (version,) in configuration.matrix["req"].items()
        if not library.startswith("pip+")
    ]
    kept: dict[str, set[str]] = defaultdict(set)
    for result in iter_results(str(results / machine)):
        if all(pin in result.env_name for pin in pins):
            kept[result.commit_hash].update(result.get_result_keys(benchmarks))
    return kept


def commits(root: Path, range_: str) -> list[str]:
    """Return the commits of a range that change kernels, the oldest first.

    Where none does, its last commit stands for it: its kernels are the last that were changed.
    """
    range_ = range_ or "HEAD"
    sources = f":(glob){KERNELS}/**/*.py"
    found = asv.git(root, "rev-list", "--reverse", "--topo-order", range_, "--", sources).split()
    if not found:
        found = asv.git(root, "rev-list", "--max-count=1", range_).split()
    if not found:
        raise HistoryError(f"expected a range of commits such as HEAD~3..HEAD; {range_} has none")
    usable = [commit for commit in found if _has_kernels(root, commit)]
    if not usable:
        raise HistoryError(f"no commit of {range_} has {_FIRST}: there is nothing to measure")
    return usable


def _has_kernels(root: Path, commit: str) -> bool:
    return bool(asv.git(root, "ls-tree", "--name-only", commit, "--", _FIRST).strip())


if __name__ == "__main__":
    typer.run(main)
