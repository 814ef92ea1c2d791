"""Saved runs as tidy tables: one row a measurement, one column a quantity, units in the names.

pandas, Polars and spreadsheets read these as they are.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cnnbench.report import tables
from cnnbench.results import Row, Run

Value = str | int | float | bool | None

_OF_ROW: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "case": ("the layer's name, or the set's with (sum)", lambda row: row.case),
    "problem": ("its descriptor; empty for sums", lambda row: row.problem),
    "layers": ("how many layers of the network have it", lambda row: row.layers),
    "operation": ("conv2d, max_pool2d, train or step", lambda row: row.op),
    "direction": ("forward, a gradient, train or step", lambda row: row.direction),
    "backend": ("or the program", lambda row: row.backend),
    "threads": ("their number", lambda row: row.threads),
    "outcome": ("ok, wrong, failed or unsupported", lambda row: row.outcome),
    "reason": ("why it is not ok", lambda row: row.reason),
    "error_over_bound": (
        "largest error, as a fraction of the rounding bound of direct sums",
        lambda row: row.error_over_bound,
    ),
    "algorithm": (
        "if its errors have another bound",
        lambda row: row.details.get("algorithm"),
    ),
    "time_s": ("seconds of a call, a training or a step", lambda row: row.seconds),
    "cold_time_s": ("the same with empty caches", lambda row: row.details.get("cold_seconds")),
    "nchw_time_s": ("the same with conversion from and to NCHW", lambda row: row.nchw_seconds),
    "first_call_s": ("seconds of the first call", lambda row: row.first_call_seconds),
    "cached_first_call_s": (
        "the same with compiled code cached",
        lambda row: row.cached_first_call_seconds,
    ),
    "gflops": ("10^9 operations of a direct convolution a second", lambda row: row.gflops),
    "ceiling_fraction": (
        "of the measured FMA peak, or of the bandwidth",
        lambda row: row.ceiling_fraction,
    ),
    "extra_bytes": ("memory of a call beyond inputs and outputs", lambda row: row.extra_bytes),
    "baseline": ("what the ratio compares with", lambda row: row.baseline),
    "ratio": ("speed relative to the baseline", lambda row: row.ratio),
    "ratio_low": ("lower end of its interval of 99 %", lambda row: row.ratio_low),
    "ratio_high": ("upper end", lambda row: row.ratio_high),
    "verdict": ("FASTER, SLOWER, SAME or UNCLEAR", lambda row: row.verdict),
    "blocks": ("observations behind the time", lambda row: len(row.samples) // row.sides),
    "processes": ("that were timed", lambda row: row.processes if row.samples else None),
    "loss": ("of the last epoch of a training", lambda row: row.details.get("loss")),
    "train_accuracy": ("fraction", lambda row: row.details.get("train_accuracy")),
    "test_accuracy": ("fraction", lambda row: row.details.get("test_accuracy")),
    "step_time_s": (
        "seconds of a training step",
        lambda row: row.details.get("seconds_per_step"),
    ),
}

_OF_RUN: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    "machine": ("its name", lambda about: about.get("machine")),
    "processor": ("its name", lambda about: about.get("cpu")),
    "microarchitecture": ("LLVM's name", lambda about: about.get("microarchitecture")),
    "cores": ("that the run could use", lambda about: about.get("cores")),
    "commit": ("of the suite; with + if it was changed", lambda about: about.get("commit")),
    "started": ("when, in UTC", lambda about: about.get("started")),
}

FLOOR = "aa_floor"

COLUMNS: dict[str, str] = {
    **{name: text for name, (text, _) in _OF_RUN.items()},
    FLOOR: "fraction by which two identical processes differed",
    **{name: text for name, (text, _) in _OF_ROW.items()},
}
"""What each column has, by name, in order."""

SHORT = (
    "case", "direction", "backend", "threads", "outcome", "time_s", "error_over_bound", "ratio",
    "ratio_low", "ratio_high", "verdict",
)  # fmt: skip
"""Columns that fit a page."""


class ColumnError(ValueError):
    """A column that does not exist; the message names those that do."""


def columns(text: str) -> tuple[str, ...]:
    """Return the names of columns in a comma-separated list.

    Raises
    ------
    ColumnError
        If one does not exist.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names or ("",):
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ColumnError(
                f"--select: {name!r} is no column{hint}; the columns are {', '.join(COLUMNS)}"
            )
    return names


def records(runs: Iterable[Run], names: Sequence[str] = tuple(COLUMNS)) -> list[dict[str, Value]]:
    """Return one dictionary a measurement, with a value or None for each column."""
    return [{name: _value(run, row, name) for name in names} for run in runs for row in run.rows]


def _value(run: Run, row: Row, name: str) -> Any:
    if name == FLOOR:
        return run.environment.get("aa_floor", {}).get(str(row.threads))
    if name in _OF_RUN:
        return _OF_RUN[name][1](run.environment)
    return _OF_ROW[name][1](row)


def as_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """Return records as comma-separated values with a heading; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[Mapping[str, Value]]) -> str:
    """Return records as a JSON list, one object a line."""
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return f"[\n{lines}\n]\n"


def sheet(rows: Sequence[Mapping[str, Value]], title: str) -> tables.Sheet:
    """Return records as a table, with numbers to three digits."""
    names = list(rows[0]) if rows else []
    return tables.Sheet(
        title,
        tuple(names),
        tuple(tuple(_text(row[name]) for name in names) for row in rows),
        texts=next(
            (
                at
                for at, name in enumerate(names)
                if any(isinstance(row[name], int | float) for row in rows)
            ),
            len(names),
        ),
    )


def _text(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
