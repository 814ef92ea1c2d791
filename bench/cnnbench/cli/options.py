"""Options that several commands share, and functions that parse their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnbench.cases import SETS

if TYPE_CHECKING:
    from cnnbench.cases import CaseSet

Backends = Annotated[
    str, typer.Option(help="Comma-separated backends [default: all].", metavar="A,B")
]
Trainers = Annotated[
    str,
    typer.Option(
        "--backends",
        help="Comma-separated backends and training programs [default: all].",
        metavar="A,B",
    ),
]
Cases = Annotated[
    str,
    typer.Option(
        help=f"Comma-separated sets, files or descriptors. Sets: {', '.join(SETS)}.",
        metavar="CASES",
    ),
]
Threads = Annotated[
    str, typer.Option(help="Comma-separated thread counts [default: all cores].", metavar="N,M")
]
Baseline = Annotated[
    str, typer.Option(help="The backend that ratios compare with.", metavar="BACKEND")
]
Batch = Annotated[int | None, typer.Option(help="Batch size, for cases that give none.", min=0)]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64, for every case.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the rows to this file or pipe."),
]
Save = Annotated[bool, typer.Option("--save", help="Also save the rows under results/.")]
Machine = Annotated[
    str | None, typer.Option(help="Folder name under results/ [default: the processor].")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Measure a few rounds only, too few for verdicts.")
]


def case_sets(text: str, batch: int | None, dtype: str | None) -> list[CaseSet]:
    """Return the sets for --cases, --batch and --dtype."""
    from cnnbench import cases
    from cnnkernels.contract import dtype_name

    if dtype is not None:
        try:
            dtype = dtype_name(dtype)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from None
    return cases.load(text, batch, dtype)


def subject(sets: list[CaseSet]) -> str:
    """Return a name for a run: the names of its sets, 'layers' for a set without one."""
    return "-".join(dict.fromkeys(group.name or "layers" for group in sets))


def backend_names(text: str) -> list[str]:
    """Return the backends that a text lists, all if it is empty."""
    from cnnkernels import registry

    return _named(text, registry)


def trainer_names(text: str) -> list[str]:
    """Return the backends and programs that a text lists, all if it is empty."""
    from cnnbench.digits import trainers

    return _named(text, trainers)


def _named(text: str, known: Any) -> list[str]:
    """Return the names in a text, or all names of `registry` or `trainers`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        known.require_known(name)
    return list(dict.fromkeys(names)) or list(known.names())


def with_baseline(names: list[str], baseline: str) -> list[str]:
    """Add the baseline to the backends: ratios are measured side by side."""
    from cnnkernels import registry

    registry.require_known(baseline)
    return names if baseline in names else [*names, baseline]


def thread_counts(text: str) -> list[int]:
    """Return the thread counts that a text lists, the number of cores if it is empty."""
    from cnnkernels import host

    try:
        counts = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        counts = [0]
    if any(not 1 <= count <= 1024 for count in counts):
        raise typer.BadParameter(f"threads: expected numbers from 1, such as 1,2; got {text!r}")
    return list(dict.fromkeys(counts)) or [host.cores()]
