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
) -> None:
    """Measure both commits and report what is slower in the second."""
    try:
        root = asv.root()
        _require_commit(root, base, "BASE=<commit>")
        _require_commit(root, head, "ARGS='--head <commit>'")
        folder = root / ".asv" / "regress"
        shutil.rmtree(folder, ignore_errors=True)  # old results must not decide
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
        return asv.call(
            path, "continuous", "--machine", machine, "--factor", str(factor),
            "--interleave-rounds", "--attribute", f"rounds={rounds}", "--bench", pattern,
            base, head,
        )  # fmt: skip

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
