"""Measure the history: benchmarks of today on the kernels of old commits, oldest first.

Of each commit, what it has no result of yet is measured and kept, one group of benchmarks after
another; a run that was ended goes on with the group it was in. A skip is a result, a failure is
none.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import time
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

_FOR_SCALE = "PyTorch, for scale"

QUICK_GROUPS = {
    "digits": r"^layers\.Speed\.\w+\('digits",
    "training": r"^digits\.Training\.time_step",
}

_Part = tuple[str, str, list[str]]
"""What asv measures in one go: of a commit, the benchmarks of a group, by name."""


MINUTES = 6
"""A commit may take so many on two cores; one that takes more is told."""

MOST = 20
"""Failed benchmarks that are named."""


def main(
    range_: Annotated[str, typer.Option("--range", help="Commits, as git names them: a..b.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="The digits only, each once; kept apart from history.")
    ] = False,
    machine: Annotated[str | None, typer.Option(help="The machine's name; its processor.")] = None,
    bench: Annotated[
        str, typer.Option(help="Benchmarks with this in their name only: layers.Speed.")
    ] = "",
) -> None:
    """Measure commits that change kernels, and show the steps found; exit 1 if one failed."""
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
    machine = asv.write_machine(machine)
    log = root / ".asv" / "history.log"
    log.parent.mkdir(exist_ok=True)
    path = root / asv.CONFIGURATION
    if quick:
        path = asv.derived(root, root / ".asv" / "quick", results_dir="results")
    options = ["--machine", machine, "--attribute", "rounds=1", "--show-stderr"]
    if quick:
        options.append("--quick")
    typer.echo("looking for benchmarks; the first time, libraries are installed", err=True)
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
            code, ended = _finish(path, "run", *options, "--bench", pattern, f"{commit}^!", log=log)
            if group != _FOR_SCALE:  # which is measured once, not of every commit
                seconds[subject] += time.monotonic() - start
            if code == 1:
                raise HistoryError(f"asv could not measure {subject!r}; its words are in {log}")
            if code:
                kept = results.kept()[commit]
                failed += [f"{subject}: {name}" for name in names if name not in kept]
            if ended:
                raise KeyboardInterrupt
    for subject, taken in seconds.items():
        more = f", more than {MINUTES}" if taken > 60 * MINUTES else ""
        typer.echo(f"{taken / 60:4.1f} min{more}  {subject}", err=True)
    summary.show(root, results.folder)
    for line in failed[:MOST]:
        typer.echo(f"failed: {line}", err=True)
    if failed:
        typer.echo(f"{len(failed)} benchmarks failed; why is in {log}", err=True)
    return 1 if failed else 0


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


class _Results:
    """What a machine has results of, with today's libraries.

    Benchmarks are named as asv's patterns have them, with parameters. What an older version of a
    benchmark gave does not count.

    Parameters
    ----------
    path : path
        asv's configuration.
    machine : str
    log : path
        What asv prints.

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
            raise HistoryError(f"asv found no benchmarks; its words are in {log}")
        self._pins = [
            f"{library}{version}"
            for library, (version,) in configuration.matrix["req"].items()
            if not library.startswith("pip+")
        ]
        self._all = self.kept()

    def kept(self) -> dict[str, dict[str, float]]:
        """Return what each commit has: by benchmark its value, NaN for a skip."""
        from asv.results import iter_results

        kept: dict[str, dict[str, float]] = defaultdict(dict)
        for result in iter_results(str(self.folder / self._machine)):
            if all(pin in result.env_name for pin in self._pins):
                for point in series.points(result, self._benchmarks):
                    kept[result.commit_hash][point.name] = point.value
        return kept

    def missing(self, commits: list[str], groups: dict[str, str], bench: str) -> list[_Part]:
        """Return what has to be measured of the commits, by commit and group.

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
        """Return, to be measured of a commit, PyTorch's own times that none has.

        Where asv measures a part of a benchmark, what was not asked for is NaN, like a skip. Here
        it is a skip where the commit has PyTorch's times in the same benchmark.
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
                f"expected a part of a benchmark's name, got {bench!r}; there are: "
                f"{', '.join(self._benchmarks)}"
            )
        names = (
            series.named(benchmark, params)
            for benchmark, about in self._benchmarks.items()
            if bench in benchmark
            for params in itertools.product(*about["params"])
        )
        return [name for name in names if re.search(pattern, name)]


def _benchmark(name: str) -> str:
    return name.split("(")[0]


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
