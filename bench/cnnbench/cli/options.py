"""Options that several commands have, and the values that their texts stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnbench.cases import SETS

if TYPE_CHECKING:
    from cnnbench.cases import CaseSet

Backends = Annotated[
    str, typer.Option(help="Comma-separated backends; all if not given.", metavar="A,B")
]
Trainers = Annotated[
    str,
    typer.Option(
        "--backends",
        help="Comma-separated backends, and programs that train; all if not given.",
        metavar="A,B",
    ),
]
Cases = Annotated[
    str,
    typer.Option(
        help=f"Comma-separated files, descriptors, or sets: {', '.join(SETS)}.", metavar="CASES"
    ),
]
Threads = Annotated[
    str, typer.Option(help="Comma-separated thread counts; all cores if not given.", metavar="N,M")
]
Baseline = Annotated[str, typer.Option(help="What ratios are against.", metavar="BACKEND")]
Batch = Annotated[
    int | None, typer.Option(help="Batch of cases that have none of their own.", min=0)
]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64, for all cases.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the rows here, too; a pipe gets them at the end."),
]
Save = Annotated[bool, typer.Option("--save", help="Keep the rows under results/, for good.")]
Machine = Annotated[
    str | None, typer.Option(help="The machine's name under results/; its processor if not given.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A few rounds only: a look, no verdict.")]


def case_sets(text: str, batch: int | None, dtype: str | None) -> list[CaseSet]:
    """Return the sets that --cases, --batch and --dtype stand for."""
    from cnnbench import cases
    from cnnkernels.contract import dtype_name

    if dtype is not None:
        try:
            dtype = dtype_name(dtype)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from None
    return cases.load(text, batch, dtype)


def subject(sets: list[CaseSet]) -> str:
    """Return what a run on some sets is called: their names, or 'layers' where they have none."""
    return "-".join(dict.fromkeys(group.name or "layers" for group in sets))


def backend_names(text: str) -> list[str]:
    """Return the backends in a text; all without any."""
    from cnnkernels import registry

    return _named(text, registry)


def trainer_names(text: str) -> list[str]:
    """Return the backends and programs in a text; all without any."""
    from cnnbench.digits import trainers

    return _named(text, trainers)


def _named(text: str, those: Any) -> list[str]:
    """Return the names in a text, or all there are: of `registry`, or of `trainers`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        those.require_known(name)
    return list(dict.fromkeys(names)) or list(those.names())


def with_baseline(names: list[str], baseline: str) -> list[str]:
    """Return the backends with the baseline among them: a ratio is measured side by side."""
    from cnnkernels import registry

    registry.require_known(baseline)
    return names if baseline in names else [*names, baseline]


def thread_counts(text: str) -> list[int]:
    """Return the thread counts in a text; that of all cores without any."""
    from cnnkernels import host

    try:
        counts = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        counts = [0]
    if any(not 1 <= count <= 1024 for count in counts):
        raise typer.BadParameter(f"threads: expected numbers from 1, such as 1,2; got {text!r}")
    return list(dict.fromkeys(counts)) or [host.cores()]
