"""Measure the history: today's benchmarks on the kernels of old commits, oldest first.

For each commit, only missing results are measured, and saved after each group of benchmarks. An
interrupted run resumes with its current group. A skip counts as a result, a failure does not.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import again, asv, series, summary
from cnnbench.history.asv import HistoryError
from cnnbench.report.progress import ProgressBar
from cnnbench.words import counted

KERNELS = "kernels/cnnkernels"
_FIRST = f"{KERNELS}/registry.py"
"""Commits without this file have no backend to measure."""

WITHOUT_TORCH = r"(?!.*'torch)"

GROUPS = {
    "forward": r"^layers\.Speed\.time_forward" + WITHOUT_TORCH,
    "backward": r"^layers\.Speed\.time_backward" + WITHOUT_TORCH,
    "ratios, errors, memory": r"^layers\.(Ratio|Error|Memory)\.",
    "training": r"^digits\.",
}
"""Benchmarks of each commit by group; those that share an asv cache stay together."""

SCALE = r"^layers\.Speed\..*'torch"
"""PyTorch's own times, for scale: measured at one commit per machine, as commits don't change them.

Ratios against PyTorch are measured at every commit.
"""

_FOR_SCALE = "PyTorch, for scale"

QUICK_GROUPS = {
    "digits": r"^layers\.Speed\.\w+\('digits",
    "training": r"^digits\.Training\.time_step",
}

_Part = tuple[str, str, list[str]]
"""One call of asv: a commit, a group, and the names of its benchmarks."""


MINUTES = 6
"""Expected time of a commit on two cores; the summary marks commits that exceed it."""

MOST = 20
"""Maximum number of failed benchmarks to list."""


def main(
    range_: Annotated[str, typer.Option("--range", help="A range of commits: a..b.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the digits, each once; saved outside the history.")
    ] = False,
    machine: Annotated[
        str | None, typer.Option(help="Name of the machine; default: its processor.")
    ] = None,
    bench: Annotated[
        str, typer.Option(help="Only benchmarks with this in their name: layers.Speed.")
    ] = "",
    steps: Annotated[
        int | None,
        typer.Option(help="At most this many commits, spaced evenly, with both ends.", min=2),
    ] = None,
) -> None:
    """Measure commits that change kernels and show the steps; exit 1 if a benchmark failed.

    Slowdowns are measured again, at both commits by turns.
    """
    try:
        raise typer.Exit(_measure(range_, quick, machine, bench, steps))
    except HistoryError as error:
        typer.echo(f"history: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: results are saved; run it again to continue", err=True)
        raise typer.Exit(130) from None


def _measure(range_: str, quick: bool, machine: str | None, bench: str, steps: int | None) -> int:
    root = asv.root()
    chosen = spaced(commits(root, range_), steps)
    machine = asv.write_machine(machine)
    log = root / ".asv" / "history.log"
    log.parent.mkdir(exist_ok=True)
    path = root / asv.CONFIGURATION
    if quick:
        path = asv.derived(root, root / ".asv" / "quick", results_dir="results")
    options = ["--machine", machine, "--attribute", "rounds=1", "--show-stderr"]
    if quick:
        options.append("--quick")
    typer.echo("discovering benchmarks; the first run installs libraries", err=True)
    results = _Results(path, machine, log)
    parts = results.missing(chosen, QUICK_GROUPS if quick else GROUPS, bench)
    if not quick:
        parts += results.missing_scale(chosen[-1], bench)
    seconds: dict[str, float] = defaultdict(float)
    failed = []
    with ProgressBar() as progress:
        progress.begin(len(parts))
        for commit, group, names in parts:
            subject = asv.git(root, "log", "-1", "--format=%h %s", commit).strip()
            progress.step(f"{subject[:44]:44s}  {group}")
            pattern = f"^({'|'.join(map(re.escape, names))})$"
            start = time.monotonic()
            code, ended = asv.finish(
                path, "run", *options, "--bench", pattern, f"{commit}^!", log=log
            )
            if group != _FOR_SCALE:  # measured once, not at every commit
                seconds[subject] += time.monotonic() - start
            if code == 1:
                raise HistoryError(f"asv could not measure {subject!r}; its output is in {log}")
            if code:
                kept = results.kept()[commit]
                failed += [f"{subject}: {name}" for name in names if name not in kept]
            if ended:
                raise KeyboardInterrupt
    if not quick:
        _confirm(root, machine, results, log)
    for subject, taken in seconds.items():
        more = f", more than {MINUTES}" if taken > 60 * MINUTES else ""
        typer.echo(f"{taken / 60:4.1f} min{more}  {subject}", err=True)
    summary.show(root, results.folder)
    for line in failed[:MOST]:
        typer.echo(f"failed: {line}", err=True)
    if failed:
        typer.echo(f"{len(failed)} benchmarks failed; the reasons are in {log}", err=True)
    return 1 if failed else 0


def _confirm(root: Path, machine: str, results: _Results, log: Path) -> None:
    """Measure slowdowns of this machine again, at both commits by turns."""
    history = series.read(root, results.folder)
    pairs: dict[tuple[int, int], list[str]] = defaultdict(list)
    for one, step in history.suspects:
        if one.machine == machine and results.current(one):
            pairs[step.since, step.at].append(one.asv_name)
    with ProgressBar() as progress:
        progress.begin(len(pairs))
        for (since, at), names in pairs.items():
            before, after = history.commits[since], history.commits[at]
            pair = f"{before.hash[:8]} and {after.hash[:8]}"
            progress.step(f"{counted(len(names), 'slowdown')} again, {pair}")
            found, ended = again.measure(root, machine, before.hash, after.hash, names, log)
            again.keep(results.folder / machine, found)
            if ended:
                raise KeyboardInterrupt


class _Results:
    """The results of a machine with today's library versions.

    Benchmark names include parameters, as in asv's patterns. Results of older benchmark versions
    are ignored.

    Parameters
    ----------
    path : path
        asv's configuration.
    machine : str
    log : path
        File for asv's output.

    Raises
    ------
    HistoryError
        If asv finds no benchmarks.
    """

    def __init__(self, path: Path, machine: str, log: Path) -> None:
        configuration = asv.configuration(path.parent)
        self.folder = path.parent / configuration.results_dir
        self._machine = machine
        configuration.results_dir = str(self.folder)
        asv.call(path, "run", "--bench", "just-discover", "--machine", machine, log=log)
        self._benchmarks = asv.benchmarks(configuration)
        if not self._benchmarks:
            raise HistoryError(f"asv found no benchmarks; its output is in {log}")
        self._versions = [
            (library, version)
            for library, (version,) in configuration.matrix["req"].items()
            if not library.startswith("pip+")
        ]
        self._pins = [library + version for library, version in self._versions]
        self._all = self.kept()

    def current(self, one: series.Series) -> bool:
        """Return whether a series is of today's library versions."""
        return {f"{library} {version}" for library, version in self._versions} <= {*one.environment}

    def kept(self) -> dict[str, dict[str, float]]:
        """Return the values of each commit by benchmark; NaN for a skip."""
        kept = asv.values(self.folder, self._machine, self._benchmarks, self._pins)
        return defaultdict(dict, kept)

    def missing(self, commits: list[str], groups: dict[str, str], bench: str) -> list[_Part]:
        """Return the missing benchmarks by commit and group.

        Raises
        ------
        HistoryError
            If no benchmark has `bench` in its name.
        """
        return [
            (commit, group, names)
            for commit in commits
            for group, pattern in groups.items()
            if (names := [n for n in self._names(pattern, bench) if n not in self._all[commit]])
        ]

    def missing_scale(self, commit: str, bench: str) -> list[_Part]:
        """Return the PyTorch times that no commit has, to be measured at `commit`.

        When asv measures part of a benchmark, the rest is NaN, like a skip. A NaN counts as a skip
        only if the commit has another PyTorch time of the same benchmark.
        """
        scaled: set[str] = set()
        for kept in self._all.values():
            benchmarks = {
                _benchmark(name)
                for name, value in kept.items()
                if re.search(SCALE, name) and not math.isnan(value)
            }
            scaled.update(name for name in kept if _benchmark(name) in benchmarks)
        names = [name for name in self._names(SCALE, bench) if name not in scaled]
        return [(commit, _FOR_SCALE, names)] if names else []

    def _names(self, pattern: str, bench: str) -> list[str]:
        if not any(bench in benchmark for benchmark in self._benchmarks):
            raise HistoryError(
                f"expected a part of a benchmark's name, got {bench!r}; known names: "
                f"{', '.join(self._benchmarks)}"
            )
        names = (
            asv.named(benchmark, params)
            for benchmark, about in self._benchmarks.items()
            if bench in benchmark
            for params in itertools.product(*about["params"])
        )
        return [name for name in names if re.search(pattern, name)]


def _benchmark(name: str) -> str:
    return name.split("(")[0]


def commits(root: Path, range_: str) -> list[str]:
    """Return the commits of a range that change kernels, oldest first.

    If no commit does, return the last commit of the range, which has the same kernels.
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
        raise HistoryError(f"no commit of {range_} has {_FIRST}: nothing to measure")
    return usable


def spaced(commits: list[str], most: int | None) -> list[str]:
    """Return at most so many of the commits, spaced evenly, with both ends."""
    if most is None or len(commits) <= most:
        return commits
    return [commits[round(n * (len(commits) - 1) / (most - 1))] for n in range(most)]


def _has_kernels(root: Path, commit: str) -> bool:
    return bool(asv.git(root, "ls-tree", "--name-only", commit, "--", _FIRST).strip())


if __name__ == "__main__":
    typer.run(main)
