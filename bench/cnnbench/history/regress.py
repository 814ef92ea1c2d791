"""Compare two commits by asv, their rounds in turns; exit 1 where one is slower, 2 if it failed."""

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

FACTOR = 1.25
"""What is slower by less is none: two processes of the same commit differ by some of it."""

AGAIN = 3
"""What looks slower is measured anew, in so many times the rounds, and has to look so again.

Of a hundred benchmarks of two equal commits, one or two look slower once on a shared machine.
"""

KERNELS = r"^layers\.Speed\.\w+\([^)]*'(numpy|numba|numba-simd)'\)"
"""Kernels of this project; PyTorch's change with its version alone."""


def main(
    base: Annotated[str, typer.Option(help="The commit to compare with.")] = "main~1",
    head: Annotated[str, typer.Option(help="The commit that may be slower.")] = "HEAD",
    bench: Annotated[str, typer.Option(help="Benchmarks that match this only.")] = KERNELS,
    factor: Annotated[float, typer.Option(help="How much slower counts.", min=1.0)] = FACTOR,
    rounds: Annotated[int, typer.Option(help="Rounds, each a process.", min=1)] = 2,
) -> None:
    """Measure both commits and say what is slower in the second."""
    try:
        root = asv.root()
        _require_commit(root, base, "BASE=<commit>")
        _require_commit(root, head, "ARGS='--head <commit>'")
        folder = root / ".asv" / "regress"
        shutil.rmtree(folder, ignore_errors=True)  # what was measured before is no answer
        path = asv.derived(root, folder, results_dir="results")
        code = compare(path, asv.write_machine(), base, head, bench, factor, rounds)
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
    """Return 0, or 1 if a benchmark is slower twice, which asv has named, or 2 if one failed.

    Parameters
    ----------
    path : path
        asv's configuration.
    machine, base, head, bench : str
    factor : float
        How much slower counts.
    rounds : int
        Of each benchmark, each in a process of its own, the commits in turns.

    Raises
    ------
    HistoryError
        If asv measured nothing.
    """

    def measure(pattern: str, rounds: int) -> int:
        return asv.call(
            path, "continuous", "--machine", machine, "--factor", str(factor),
            "--interleave-rounds", "--attribute", f"rounds={rounds}", "--bench", pattern,
            base, head,
        )  # fmt: skip

    code = measure(bench, rounds)
    if code != 1:
        return code
    kept = slower(path, machine, base, head, factor)  # none where 1 says that asv could not start
    suspects = [name for name in kept if re.search(bench, name)]
    if not suspects:
        raise HistoryError(
            f"asv measured nothing that matches {bench!r} on both commits; its words are above"
        )
    typer.echo(f"\nslower once: {len(suspects)}; measured again, in {AGAIN} times the rounds\n")
    return measure(f"^({'|'.join(map(re.escape, suspects))})$", AGAIN * rounds)


def slower(path: Path, machine: str, base: str, head: str, factor: float) -> list[str]:
    """Return the benchmarks, with parameters, that asv finds slower in what it kept."""
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
