"""Measure the history: benchmarks of today on the kernels of old commits, oldest first.

One group of benchmarks after another is measured and kept; a run that was ended goes on with the
group it was in.
"""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import asv, series, summary
from cnnbench.history.asv import HistoryError
from cnnbench.report.progress import ProgressBar

KERNELS = "kernels/cnnkernels"
_FIRST = f"{KERNELS}/registry.py"
"""Commits without it have no backend that could be measured."""

WITHOUT_TORCH = r"(?!.*'torch)"

GROUPS = {
    "forward": r"^layers\.Speed\.time_forward" + WITHOUT_TORCH,
    "backward": r"^layers\.Speed\.time_backward" + WITHOUT_TORCH,
    "ratios, errors, memory": r"^layers\.(Ratio|Error|Memory)\.",
    "training": r"^digits\.",
}
"""What is measured of each commit; what shares a cache of asv's stays together."""

SCALE = r"^layers\.Speed\..*'torch"
"""PyTorch's own times, for scale: they do not change with the commits, one of a machine has them.

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
    parts = [(commit, group) for commit in chosen for group in groups.items()]
    options = ["--machine", name, "--attribute", "rounds=1", *(["--quick"] if quick else [])]
    failed = []
    with ProgressBar() as progress:
        progress.begin(2 + len(parts))
        progress.step("libraries, the first time, and benchmarks")
        kept = _kept(path, name, log)
        if groups is GROUPS and not any(_has(benchmarks, SCALE) for benchmarks in kept.values()):
            parts.append((chosen[-1], ("PyTorch, for scale", SCALE)))
        for commit, (group, pattern) in parts:
            subject = asv.git(root, "log", "-1", "--format=%h %s", commit).strip()
            progress.step(f"{subject[:44]:44s}  {group}")
            if _has(kept[commit], pattern):
                continue
            code, ended = _finish(path, "run", *options, "--bench", pattern, f"{commit}^!", log=log)
            if code == 1:
                raise HistoryError(f"asv could not measure {subject!r}; its words are in {log}")
            if code:
                failed.append(f"{subject}: {group}")
            if ended:
                raise KeyboardInterrupt
    for line in failed:
        typer.echo(f"some benchmarks failed at {line}; why is in {log}", err=True)
    summary.show(root, path.parent / asv.configuration(path.parent).results_dir)
    return 0


def _finish(path: Path, *arguments: str, log: Path) -> tuple[int, bool]:
    """Run asv, which keeps at its end what it measured; return its exit code, and if Ctrl-C came.

    The first Ctrl-C waits for that end, the second does not.
    """
    process = asv.start(path, *arguments, log=log, session=True)
    try:
        return process.wait(), False
    except KeyboardInterrupt:
        typer.echo("\nkept in a minute or two, then ended; Ctrl-C again loses this group", err=True)
    try:
        return process.wait(), True
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def _has(kept: set[str], pattern: str) -> bool:
    return any(re.search(pattern, benchmark) for benchmark in kept)


def _kept(path: Path, machine: str, log: Path) -> dict[str, set[str]]:
    """Return what each commit has results of already, with today's libraries.

    Names are as asv's patterns have them, with parameters. What an older version of a benchmark
    gave does not count.
    """
    configuration = asv.configuration(path.parent)
    from asv.results import iter_results

    results = path.parent / configuration.results_dir
    configuration.results_dir = str(results)
    asv.call(path, "run", "--bench", "just-discover", "--machine", machine, log=log)
    benchmarks = asv.benchmarks(configuration)
    if not benchmarks:
        raise HistoryError(f"asv found no benchmarks; its words are in {log}")
    pins = [
        f"{library}{version}"
        for library, (version,) in configuration.matrix["req"].items()
        if not library.startswith("pip+")
    ]
    kept: dict[str, set[str]] = defaultdict(set)
    for result in iter_results(str(results / machine)):
        if all(pin in result.env_name for pin in pins):
            for point in series.points(result, benchmarks):
                kept[result.commit_hash].add(f"{point.benchmark}({', '.join(point.params)})")
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
