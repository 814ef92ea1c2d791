"""asv's files in a checkout, and calls of asv."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from cnnbench import machine
from cnnbench.workers.worker import KEPT_MEMORY
from cnnkernels import files, host

CONFIGURATION = "asv.conf.json"


class HistoryError(RuntimeError):
    """History cannot be measured or read; the message says what to do."""


def root() -> Path:
    """Return the nearest folder, here or above, that has asv's configuration.

    Raises
    ------
    HistoryError
        If there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIGURATION).is_file():
            return folder
    raise HistoryError(
        f"expected {CONFIGURATION} in {here} or above it, and found none: run this in a checkout"
    )


def configuration(folder: Path) -> Any:
    """Return asv's configuration of a checkout.

    Raises
    ------
    HistoryError
        If asv is not installed.
    """
    try:
        from asv.config import Config
    except ImportError as error:
        raise HistoryError(
            f"asv is not installed here ({error}): pip install 'cnnbench[history]'"
        ) from None
    return Config.load(str(folder / CONFIGURATION))


def benchmarks(configuration: Any) -> Any:
    """Return the benchmarks of asv's last discovery by name, or none without one."""
    from asv.benchmarks import Benchmarks
    from asv.util import UserError

    try:
        return Benchmarks.load(configuration)
    except UserError:
        return {}


class Point(NamedTuple):
    """A value of one commit and benchmark, with parameters as asv writes them.

    The value is NaN for a skipped benchmark.
    """

    benchmark: str
    params: tuple[str, ...]
    value: float
    about: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The benchmark with its parameters, as in asv's patterns."""
        return named(self.benchmark, self.params)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of asv's interval of 99 %; the value itself where asv has none."""
        ends = ((self.about or {}).get(end) for end in ("ci_99_a", "ci_99_b"))
        low, high = (end if end is not None and math.isfinite(end) else self.value for end in ends)
        return low, high


def named(benchmark: str, params: tuple[str, ...]) -> str:
    """Return a benchmark with its parameters, as in asv's patterns."""
    return f"{benchmark}({', '.join(params)})" if params else benchmark


def points(result: Any, benchmarks: Any) -> Iterator[Point]:
    """Yield a commit's values and skips, without failures and older benchmark versions."""
    for name in result.get_result_keys(benchmarks):
        params = benchmarks[name]["params"]
        values = result.get_result_value(name, params)
        stats = result.get_result_stats(name, params)
        for chosen, value, about in zip(
            itertools.product(*params), values, stats or [None] * len(values), strict=True
        ):
            if value is not None:
                yield Point(name, chosen, value, about)


def values(
    results: Path, machine: str, benchmarks: Any, pins: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Return a machine's values by commit and benchmark; NaN for a skip.

    Only those of environments with all `pins` in their name, such as 'numpy2.4.6'.
    """
    found: dict[str, dict[str, float]] = {}
    for commit, point in all_points(results, machine, benchmarks, pins):
        found.setdefault(commit, {})[point.name] = point.value
    return found


def all_points(
    results: Path, machine: str, benchmarks: Any, pins: Sequence[str] = ()
) -> Iterator[tuple[str, Point]]:
    """Yield a machine's points with their commits, as `values` chooses them."""
    from asv.results import iter_results

    for result in iter_results(str(results / machine)):
        if all(pin in result.env_name for pin in pins):
            for point in points(result, benchmarks):
                yield result.commit_hash, point


def derived(folder: Path, to: Path, **changes: Any) -> Path:
    """Write a changed copy of a checkout's configuration into another folder.

    asv resolves relative paths and {conf_dir} from the configuration's folder, so the copy has
    absolute paths.
    """
    entries = {
        key: value for key, value in vars(configuration(folder)).items() if not key.startswith("_")
    }
    for key in ("repo", "benchmark_dir", "results_dir", "env_dir", "html_dir"):
        entries[key] = str((folder / entries[key]).resolve())
    for key in ("build_command", "install_command"):
        entries[key] = [line.replace("{conf_dir}", str(folder)) for line in entries[key]]
    to.mkdir(parents=True, exist_ok=True)
    path = to / CONFIGURATION
    files.write(path, json.dumps({**entries, "version": 1, **changes}, indent=1))
    return path


def call(path: Path, *arguments: str, log: Path | None = None) -> int:
    """Run asv to its end and return its exit code."""
    return start(path, *arguments, log=log).wait()


def finish(path: Path, *arguments: str, log: Path) -> tuple[int, bool]:
    """Run asv in a session of its own; return its exit code and whether Ctrl-C was pressed.

    asv saves its results when it ends. The first Ctrl-C waits for that, the second does not.
    """
    process = start(path, *arguments, log=log, session=True)
    try:
        return process.wait(), False
    except KeyboardInterrupt:
        typer.echo(
            "\nsaving, then ending, in a minute or two; Ctrl-C again loses this group", err=True
        )
    try:
        return process.wait(), True
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def start(
    path: Path, *arguments: str, log: Path | None = None, session: bool = False
) -> subprocess.Popen[bytes]:
    """Start asv on a configuration, in its folder.

    Its output goes to the terminal, or is appended to `log`. With `session`, asv runs in its own
    session, where Ctrl-C does not reach it.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("a")) if log else None
        return subprocess.Popen(
            [sys.executable, "-m", "asv", "--config", str(path), *arguments],
            env={"GLIBC_TUNABLES": KEPT_MEMORY, **os.environ},
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=session,
        )


def in_turns(machine: str, base: str, head: str, pattern: str, rounds: int) -> tuple[str, ...]:
    """Return asv's arguments for measuring two commits by turns, round by round.

    Each round of a benchmark is a process.
    """
    return (
        "continuous", "--machine", machine, "--interleave-rounds",
        "--attribute", f"rounds={rounds}", "--bench", pattern, base, head,
    )  # fmt: skip


def write_machine(name: str | None = None) -> str:
    """Write asv's description of this machine and return the machine's name in the results.

    The values are coarse, because asv starts a new line in every chart when one changes.
    """
    from asv.machine import MachineCollection

    name = name or machine.name()
    memory = host.memory_bytes() or 0
    known = {
        "machine": name,
        "os": sys.platform,
        "arch": os.uname().machine if hasattr(os, "uname") else "",
        "cpu": host.cpu_model(),
        "num_cpu": str(host.cores()),
        "ram": f"{round(memory / 2**30)} GiB",
    }
    MachineCollection.save(name, known)
    return name


def git(folder: Path, *arguments: str) -> str:
    """Run git in a checkout and return its output.

    Raises
    ------
    HistoryError
        With git's message, if it fails.
    """
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HistoryError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def commits(folder: Path, hashes: Sequence[str]) -> list[str]:
    """Return the commits that git knows, oldest first."""
    order = {
        commit: number for number, commit in enumerate(git(folder, "rev-list", "--all").split())
    }
    return sorted((commit for commit in hashes if commit in order), key=lambda c: -order[c])
