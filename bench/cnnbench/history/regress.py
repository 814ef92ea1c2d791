"""Compare two commits with asv in interleaved rounds; exit 1 if slower, 2 on a failure."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import asv
from cnnbench.history.asv import HistoryError
from cnnbench.report import numbers, tables
from cnnbench.report.tables import Sheet
from cnnbench.words import counted

FACTOR = 1.25
"""Smallest slowdown that counts; two processes of one commit can differ by less."""

AGAIN = 3
"""Factor of rounds for the second measurement, which must confirm a slowdown.

On a shared machine, one or two of a hundred benchmarks look slower by chance.
"""

KERNELS = r"^layers\.Speed\.\w+\([^)]*'(numpy|numba|numba-simd)'\)"
"""Kernels of this project; PyTorch's do not change between commits."""


def main(
    base: Annotated[str, typer.Option(help="Baseline commit.")] = "main~1",
    head: Annotated[str, typer.Option(help="Commit to test.")] = "HEAD",
    bench: Annotated[str, typer.Option(help="Only benchmarks that match this pattern.")] = KERNELS,
    factor: Annotated[float, typer.Option(help="Smallest slowdown that counts.", min=1.0)] = FACTOR,
    rounds: Annotated[int, typer.Option(help="Rounds, each in its own process.", min=1)] = 2,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Also add the result to this file, for a pull request's summary."),
    ] = None,
) -> None:
    """Measure both commits and report what is slower in the second."""
    try:
        root = asv.root()
        _require_commit(root, base, "BASE=<commit>")
        _require_commit(root, head, "ARGS='--head <commit>'")
        folder = root / ".asv" / "regress"
        shutil.rmtree(folder, ignore_errors=True)  # old results must not decide
        path = asv.derived(root, folder, results_dir="results")
        machine = asv.write_machine()
        code = compare(path, machine, base, head, bench, factor, rounds)
        if markdown is not None:
            found = report(path, machine, base, head, factor, code)
            with markdown.open("a", encoding="utf-8") as file:
                file.write(found)
    except OSError as error:
        typer.echo(f"regress: {markdown} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    except HistoryError as error:
        typer.echo(f"regress: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


def _require_commit(root: Path, name: str, option: str) -> None:
    try:
        asv.git(root, "rev-parse", "--verify", f"{name}^{{commit}}")
    except HistoryError:
        raise HistoryError(
            f"expected a commit, and git knows none in {root} by the name {name!r}: "
            f"name one, such as HEAD~1: make regress {option}"
        ) from None


def compare(
    path: Path, machine: str, base: str, head: str, bench: str, factor: float, rounds: int
) -> int:
    """Compare two commits; return 0, 1 if a benchmark is slower twice, or 2 if one failed.

    Parameters
    ----------
    path : path
        asv's configuration.
    machine, base, head, bench : str
    factor : float
        Smallest slowdown that counts.
    rounds : int
        Rounds of each benchmark, each in its own process, alternating between the commits.

    Raises
    ------
    HistoryError
        If asv measured nothing.
    """

    def measure(pattern: str, rounds: int) -> int:
        turns = asv.in_turns(machine, base, head, pattern, rounds)
        return asv.call(path, *turns, "--factor", str(factor))

    code = measure(bench, rounds)
    if code != 1:
        return code
    # Code 1 also means that asv could not start; then nothing is slower.
    named = slower(path, machine, base, head, factor)
    suspects = [name for name in named if re.search(bench, name)]
    if not suspects:
        raise HistoryError(
            f"asv measured nothing that matches {bench!r} on both commits; see its output above"
        )
    typer.echo(f"\nslower once: {len(suspects)}; measured again, in {AGAIN} times the rounds\n")
    return measure(f"^({'|'.join(map(re.escape, suspects))})$", AGAIN * rounds)


def report(path: Path, machine: str, base: str, head: str, factor: float, code: int) -> str:
    """Return the result of a comparison as Markdown: what is slower, by how much, and where.

    Parameters
    ----------
    path, machine, base, head, factor
        As for `compare`.
    code : int
        What `compare` returned.
    """
    root = asv.root()
    before, after = (_points(path, machine, asv.git(root, "rev-parse", name).strip())
                     for name in (base, head))  # fmt: skip
    both = [name for name in after if name in before]
    named = slower(path, machine, base, head, factor) if code == 1 else []
    suspects = [name for name in named if name in both]
    sides = " against ".join(
        f"{name} ({asv.git(root, 'rev-parse', '--short', name).strip()})" for name in (head, base)
    )
    heading = {
        0: "No benchmark is slower",
        1: f"{counted(len(suspects), 'benchmark')} slower, measured twice",
    }.get(code, "Not every benchmark could be measured; see asv's output")
    lines = [f"### {heading}", "", f"{sides}, on {machine}; a slowdown counts from {factor:g}x."]
    if suspects:
        sheet = Sheet(
            "Slower",
            ("benchmark", "before", "after", "times as long"),
            tuple(
                (
                    f"`{name}`",
                    numbers.seconds(before[name].value),
                    numbers.seconds(after[name].value),
                    numbers.interval(*_times(before[name], after[name])),
                )
                for name in suspects
            ),
        )
        lines += ["", tables.markdown(sheet).rstrip()]
    return "\n".join([*lines, ""])


def _points(path: Path, machine: str, commit: str) -> dict[str, asv.Point]:
    """Return a commit's points by name."""
    configuration = asv.configuration(path.parent)
    configuration.results_dir = str(path.parent / configuration.results_dir)
    return {
        point.name: point
        for found, point in asv.all_points(
            Path(configuration.results_dir), machine, asv.benchmarks(configuration)
        )
        if found == commit
    }


def _times(before: asv.Point, after: asv.Point) -> tuple[float, float, float]:
    """Return how many times as long a call takes, with the ends of both intervals of 99 %."""
    (low, high), (least, most) = before.interval, after.interval
    return after.value / before.value, least / high, most / low


def slower(path: Path, machine: str, base: str, head: str, factor: float) -> list[str]:
    """Return the benchmarks, with parameters, that are slower in asv's saved results."""
    configuration = asv.configuration(path.parent)
    configuration.results_dir = str(path.parent / configuration.results_dir)
    from asv.commands.compare import Compare
    from asv.util import UserError

    try:
        with contextlib.redirect_stdout(io.StringIO()) as table:
            Compare.run(configuration, base, head, factor, only_changed=True, machine=machine)
    except UserError:  # there are no results
        return []
    marked = re.findall(r"^\| *[+!] *\|.*\| *(\S.*?) *\|$", table.getvalue(), re.MULTILINE)
    return [re.sub(r" \[[^]]*\]$", "", name) for name in marked]  # [machine/environment]


if __name__ == "__main__":
    typer.run(main)
