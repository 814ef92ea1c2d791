"""Compare two commits by asv, their rounds in turns; exit 1 where one is slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.history import asv
from cnnbench.history.asv import HistoryError

FACTOR = 1.25
"""What is slower by less is none: two processes of the same commit differ by some of it."""

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
        for name in (base, head):
            asv.git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        path = asv.derived(root, root / ".asv" / "regress", results_dir="results")
        code = compare(path, asv.write_machine(), base, head, bench, factor, rounds)
    except HistoryError as error:
        typer.echo(f"regress: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


def compare(
    path: Path, machine: str, base: str, head: str, bench: str, factor: float, rounds: int
) -> int:
    """Return 0, or 1 if a benchmark is slower, which asv has named, or 2 if one failed.

    Parameters
    ----------
    path : path
        asv's configuration.
    machine, base, head, bench : str
    factor : float
        How much slower counts.
    rounds : int
        Of each benchmark, each in a process of its own, the commits in turns.
    """
    return asv.call(
        path, "continuous", "--machine", machine, "--factor", str(factor), "--interleave-rounds",
        "--attribute", f"rounds={rounds}", "--bench", bench, base, head,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
