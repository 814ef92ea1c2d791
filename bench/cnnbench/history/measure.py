"""Measure the history: benchmarks of today on the kernels of old commits, oldest first.

One benchmark group after another is measured and kept, so that what ends a run loses no more than
the group it was in; the next run goes on there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import asv, summary
from cnnbench.history.asv import HistoryError
from cnnbench.report.progress import ProgressBar

KERNELS = "kernels/cnnkernels"
_FIRST = f"{KERNELS}/registry.py"
"""Commits without it have no backend that could be measured."""

GROUPS = (
    r"^layers\.Speed\.time_forward",
    r"^layers\.Speed\.time_backward",
    r"^layers\.(Ratio|Error|Memory)\.",
    r"^digits\.",
)
"""What is measured and kept at once: what shares a cache of asv's stays together."""

WITHOUT_TORCH = r"(?!.*'torch)"
"""PyTorch's own times do not change with these commits: the newest of a run has them, for scale.

Ratios are measured beside it at every commit.
"""

QUICK_GROUPS = (r"^layers\.Speed\.\w+\('digits", r"^digits\.Training\.time_step")


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
    configuration = asv.configuration(root)
    chosen = commits(root, range_)
    name = asv.write_machine(machine)
    log = root / ".asv" / "history.log"
    log.parent.mkdir(exist_ok=True)
    path = root / asv.CONFIGURATION
    if quick:
        path = asv.derived(root, root / ".asv" / "quick", results_dir="results")
    groups: tuple[str, ...] = (bench,) if bench else QUICK_GROUPS if quick else GROUPS
    results = Path(path.parent, "results" if quick else configuration.results_dir)
    options = ["--machine", name, "--attribute", "rounds=1", *(["--quick"] if quick else [])]
    failed = []
    with ProgressBar() as progress:
        progress.begin(len(chosen) * len(groups))
        for commit in chosen:
            subject = asv.git(root, "log", "-1", "--format=%h %s", commit).strip()
            for group in groups:
                if "Speed" in group and commit != chosen[-1]:
                    group += WITHOUT_TORCH
                progress.step(f"{subject[:48]}: {group.strip('^').replace(chr(92), '')[:24]}")
                arguments = ["run", *options, "--bench", group, "--skip-existing", f"{commit}^!"]
                code = asv.call(path, *arguments, log=log)
                if code == 1:
                    raise HistoryError(f"asv could not measure {subject!r}; its words are in {log}")
                if code:
                    failed.append(f"{subject}: {group}")
    for line in failed:
        typer.echo(f"some benchmarks failed at {line}; why is in {log}", err=True)
    summary.show(root, results)
    return 0


def commits(root: Path, range_: str) -> list[str]:
    """Return the commits of a range that change kernels, the oldest first.

    Where none does, its last commit stands for it: its kernels are the last that were changed.
    """
    range_ = range_ or "HEAD"
    found = asv.git(root, "rev-list", "--reverse", "--topo-order", range_, "--", KERNELS).split()
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
