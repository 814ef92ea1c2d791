"""Check that regressions are caught, on a small repository with a neutral and a slow commit.

Its benchmark runs live, as in `regress`. The commits have fixed dates and authors, so their hashes
are the same everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import typer

from cnnbench.history import asv, regress
from cnnbench.history.asv import HistoryError

_KERNEL = '''"""A kernel: the dot product of two lists."""


def dot(a, b):
{work}
    return {total}
'''


def _kernel(total: str, one: str, other: str, times: int) -> str:
    lines = (
        f"{total} = 0.0",
        f"for {one}, {other} in zip(a, b):",
        f"    {total} += {one} * {other}",
    )
    loop = "\n".join(f"    {line}" for line in lines)
    return _KERNEL.format(total=total, work="\n".join([loop] * times))


COMMITS = {
    "a dot product": _kernel("total", "x", "y", 1),
    "other names, the same work": _kernel("dotted", "left", "right", 1),
    "twice the work": _kernel("dotted", "left", "right", 2),
}
"""Commit subjects and the kernel after each commit."""

_BENCHMARKS = '''"""asv's benchmarks of the sample."""

from sample import dot

A, B = [1.5] * 20_000, [2.5] * 20_000


def time_dot():
    """Time a dot product."""
    dot(A, B)


time_dot.version = "1"
time_dot.repeat = (10, 30, 0.5)
'''

_CONFIGURATION = {
    "version": 1,
    "project": "sample",
    "repo": ".",
    "dvcs": "git",
    "branches": ["main"],
    "environment_type": "virtualenv",
    "matrix": {"req": {}},
    "build_command": [],
    # A module is enough, and needs no registry to build.
    "install_command": [
        "in-dir={env_dir} python -c 'import shutil, sysconfig; "
        'shutil.copy("{build_dir}/sample.py", sysconfig.get_path("purelib"))\''
    ],
    "uninstall_command": [],
    "benchmark_dir": "benchmarks",
    "results_dir": "results",
    "env_dir": "env",
    "html_dir": "html",
}


def build(folder: Path) -> list[str]:
    """Create the repository with asv's configuration; return its commits, oldest first."""
    fixed = {
        **os.environ,
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "sample"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "sample@example.org"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }

    def git(*arguments: str, **more: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**fixed, **more},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "__init__.py").write_text('"""Benchmarks of the sample."""\n')
    (folder / "benchmarks" / "kernels.py").write_text(_BENCHMARKS)
    (folder / asv.CONFIGURATION).write_text(json.dumps(_CONFIGURATION, indent=1))
    git("init", "--quiet", "--initial-branch=main")
    hashes = []
    for number, (subject, kernel) in enumerate(COMMITS.items()):
        (folder / "sample.py").write_text(kernel)
        git("add", "sample.py")
        when = f"2026-01-0{number + 1}T12:00:00+0000"
        git("commit", "--quiet", "-m", subject, GIT_AUTHOR_DATE=when, GIT_COMMITTER_DATE=when)
        hashes.append(git("rev-parse", "HEAD"))
    return hashes


def main() -> None:
    """Measure the commits; exit 1 unless only the slow one is flagged."""
    try:
        with tempfile.TemporaryDirectory(prefix="cnnbench-regress-") as name:
            folder = Path(name)
            base, neutral, slow = build(folder)
            machine = asv.write_machine()
            codes = []
            for before, after, subject in (
                (base, neutral, list(COMMITS)[1]),
                (neutral, slow, list(COMMITS)[2]),
            ):
                typer.echo(f"--- {subject}")
                codes.append(
                    regress.compare(
                        folder / asv.CONFIGURATION, machine, before, after, "", regress.FACTOR, 4
                    )
                )
    except HistoryError as error:
        typer.echo(f"regress-selftest: {error}", err=True)
        raise typer.Exit(2) from None
    if codes == [0, 1]:
        typer.echo("passed: the slow commit was flagged, the neutral one was not")
        return
    typer.echo(
        "expected the neutral commit to pass (0) and the slow one to be flagged (1); "
        f"asv's exit codes were {codes[0]} and {codes[1]}",
        err=True,
    )
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
