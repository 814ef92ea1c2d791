"""Rows of measurements, and the files that hold them.

A run is one JSON object: ``schema``, ``environment`` and ``rows``, one row a line. Its file is
rewritten after every case, atomically, so an interrupted run loses nothing. A stream, such as a
pipe or /dev/stdout, receives the run once, when it finishes or is interrupted.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cnnbench.timing import Ratio, Samples
from cnnkernels import files
from cnnkernels.conformance import Outcome

SCHEMA = "cnnbench/1"

_LONGEST = 60
"""The most letters of a subject in a file name."""


UNFINISHED = "unfinished"
"""Key of the environment: by thread count, the cases that an unfinished run has yet to measure."""

TOO_SLOW = "too slow"
"""Begins the reason of a row whose call was skipped: 'too slow (about 13 min)'."""

_SLOW = re.compile(rf"{TOO_SLOW} \(about ([\d.e+]+) (s|min|h)\)")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class ResultsError(OSError):
    """Results that cannot be written or read; the message names the file and a remedy."""


_SAMPLES = ("samples", "nchw_samples", "cold_samples")
"""Fields of a row that are long lists of seconds."""


@dataclass
class Row:
    """The result of one case on one backend in one direction: its outcome and its speed.

    Attributes
    ----------
    case, problem : str
        Short name, and full descriptor with name and layers; the sum of a set has no problem.
    op : str
        'conv2d', 'max_pool2d', 'train', or 'step' (a training step).
    direction : str
        'forward', 'backward_data', 'backward_weights', 'backward', 'train' or 'step'; 'check' for a
        check that ended before any direction.
    backend : str
        Its name; for trainings maybe a program, for steps the way of training.
    threads : int
    outcome, reason : str
        'ok', 'wrong', 'failed' or 'unsupported', and why. Only an 'ok' row has a time.
    error_over_bound : float or None
        Largest error on real data, relative to the largest rounding error possible in direct sums,
        in any order.
    seconds : float or None
        Of one call: the geometric mean of the blocks' medians.
    samples : list of float
        Seconds of a call, in the order of the rounds.
    sides, processes : int
        How many samples, one after another, form a block (the two of a round, or all of a process),
        and the number of processes they are from.
    gflops : float or None
        10^9 floating-point operations of a direct convolution a second, without taps on padding.
        They are called effective if an algorithm computes fewer.
    ceiling_fraction : float or None
        Of the measured FMA peak (convolution; by the products that the algorithm computes), or
        memory bandwidth at this working set (pooling).
    extra_bytes : int or None
        Peak memory during a call, beyond inputs and outputs.
    first_call_seconds, cached_first_call_seconds : float or None
        For the smallest case of an operation: seconds of the first call in a new process, compiled
        only by earlier directions, and with all compiled code cached.
    baseline : str or None
    ratio, ratio_low, ratio_high : float or None
        Speed relative to the baseline, with its interval; above 1 is faster.
    verdict : str or None
        'FASTER', 'SLOWER', 'SAME' or 'UNCLEAR'.
    layers : int
        How many layers of the network have this problem.
    check : str
        Digest of the results in the passed check.
    repeatable : bool or None
        Whether a second run gave the same bits.
    nchw_seconds : float or None
        For backends with another layout, `seconds` with conversion from and to NCHW.
    details : dict
        Fields of some rows only, such as the loss of a training. For an algorithm that declares its
        accuracy: ``algorithm`` and the other fields of `cnnkernels.conformance.checks.Algorithm`.
        For a kernel that belongs to another backend: its ``owner``. With cold caches:
        ``cold_seconds`` and ``cold_samples``. ``repeated_sides`` were disturbed by other programs,
        ``disturbed_sides`` of these once more.
    """

    case: str
    problem: str
    op: str
    direction: str
    backend: str
    threads: int
    outcome: Outcome
    reason: str = ""
    error_over_bound: float | None = None
    seconds: float | None = None
    samples: list[float] = field(default_factory=list)
    sides: int = 2
    processes: int = 1
    gflops: float | None = None
    ceiling_fraction: float | None = None
    extra_bytes: int | None = None
    first_call_seconds: float | None = None
    cached_first_call_seconds: float | None = None
    baseline: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: str | None = None
    layers: int = 1
    check: str = ""
    repeatable: bool | None = None
    nchw_seconds: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def withdraw(self, outcome: Outcome, reason: str) -> None:
        """Set an outcome other than ok, and remove all times."""
        self.outcome, self.reason, self.samples = outcome, reason, []
        self.seconds = self.gflops = self.ceiling_fraction = self.nchw_seconds = None
        self.first_call_seconds = self.cached_first_call_seconds = None
        self.ratio = self.ratio_low = self.ratio_high = self.verdict = self.extra_bytes = None

    @property
    def measured(self) -> Samples:
        """The samples with their blocks."""
        return Samples(self.samples, self.sides, self.processes)

    @property
    def apart(self) -> Ratio:
        """The ratio to the baseline; nan where there is none."""
        value, low, high = (
            math.nan if number is None else number
            for number in (self.ratio, self.ratio_low, self.ratio_high)
        )
        return Ratio(value, low, high, len(self.samples) // self.sides, self.processes)

    @property
    def owner(self) -> str:
        """The backend whose kernel computed this: the row's own, or its fallback."""
        return str(self.details.get("owner", self.backend))

    @property
    def skipped(self) -> bool:
        """Whether its calls were too slow to be timed; its check may have passed."""
        return self.reason.startswith(TOO_SLOW)

    @property
    def why(self) -> str:
        """The outcome of a row that is not ok, with the reason: 'wrong: y[0] is 1, not 2'."""
        word = "skipped" if self.skipped else self.outcome
        return f"{word}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """Return the row as written to a file, with details among the other fields.

        Samples are rounded far below their scatter, so that files stay small.
        """
        own = {name: value for name, value in vars(self).items() if name != "details"}
        plain = {**self.details, **own}
        return plain | {key: list(map(_short, plain[key])) for key in _SAMPLES if key in plain}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Row:
        """Return the row that `as_json` wrote."""
        known = {f.name for f in fields(cls)} - {"details"}
        return cls(
            **{key: value for key, value in plain.items() if key in known},
            details={key: value for key, value in plain.items() if key not in known},
        )


def reasons(rows: Iterable[Row]) -> list[str]:
    """Return why rows are not ok, one line for each backend and reason.

    Calls that were too slow share one line a backend, with the longest time.
    """
    known = [row for row in rows if row.problem]
    lines = []
    for backend in dict.fromkeys(row.backend for row in known):
        cases = dict.fromkeys((row.case, row.threads) for row in known if row.backend == backend)
        by_why: dict[str, dict[tuple[str, int], str]] = {}
        for row in known:
            if row.backend == backend and row.outcome != "ok":
                why = f"skipped: {TOO_SLOW}" if row.skipped else row.why
                by_why.setdefault(why, {})[row.case, row.threads] = row.reason
        for why, found in by_why.items():
            if why == f"skipped: {TOO_SLOW}":
                line = f"{backend}: skipped: {longest(found.values())}"
                part = f", {len(found)} of {len(cases)} cases"
            else:
                line = f"{backend}: {why}"
                part = f" (on {some([case for case, _ in found])})"
            lines.append(line if len(found) == len(cases) else line + part)
    return lines


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without those whose kernel is there under its own backend's name as well."""
    rows = list(rows)
    present = {(row.case, row.problem, row.direction, row.threads, row.backend) for row in rows}
    return [
        row
        for row in rows
        if row.owner == row.backend
        or (row.case, row.problem, row.direction, row.threads, row.owner) not in present
    ]


def algorithms(rows: Iterable[Row]) -> list[str]:
    """Return notes on backends with algorithms other than direct sums, or other backends' kernels.

    The first kind says how the largest error compares with the bound that the algorithm declares.
    """
    rows = [row for row in rows if row.problem and row.outcome == "ok"]
    notes = []
    for backend in dict.fromkeys(row.backend for row in rows):
        mine = [row for row in rows if row.backend == backend]
        for name in dict.fromkeys(row.details.get("algorithm") for row in mine):
            if name is not None:
                of_name = [row for row in mine if row.details.get("algorithm") == name]
                worst = max(row.details["error_over_own_bound"] or 0.0 for row in of_name)
                note = f"{backend}: {name}, errors at most {worst:.2g} of the bound it declares"
                if any(row.gflops for row in of_name):
                    note += "; GFLOP/s are effective: those of direct sums"
                notes.append(note)
        for owner in dict.fromkeys(row.owner for row in mine):
            if owner != backend:
                cases = dict.fromkeys(row.case for row in mine if row.owner == owner)
                every = len(cases) == len({row.case for row in mine})
                where = "every case" if every else some(cases)
                notes.append(f"{backend}: {owner}'s kernel on {where}")
    return notes


def too_slow(seconds: float) -> str:
    """Return the reason to skip a call of this length: 'too slow (about 13 min)'."""
    if seconds < 120:
        words = f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    else:
        words = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{TOO_SLOW} (about {words})"


def longest(slow: Iterable[str]) -> str:
    """Return one reason for several calls that were too slow: 'too slow (up to about 13 min)'."""
    different = list(dict.fromkeys(slow))

    def seconds(reason: str) -> float:
        matched = _SLOW.fullmatch(reason)
        return float(matched[1]) * _UNITS[matched[2]] if matched else 0.0

    last = max(different, key=seconds)
    return last if len(different) == 1 else last.replace("(about", "(up to about")


def some(names: Iterable[str], most: int = 4) -> str:
    """Return the first of these names, each once, and how many more there are."""
    different = list(dict.fromkeys(names))
    rest = len(different) - most
    return ", ".join(different[:most]) + (f" and {rest} more" if rest > 0 else "")


@dataclass
class Run:
    """The rows of one run, the environment they were measured in, and their files."""

    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    @property
    def floors(self) -> dict[int, float]:
        """The A/A floors by thread count: those of trainings if there are any, else of layers."""
        about = self.environment
        known = about.get("training_floor") or about.get("aa_floor", {})
        return {int(k): math.nan if value is None else value for k, value in known.items()}

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, and write the files."""
        self.rows.extend(rows)
        self.write()

    def write(self, finished: bool = False) -> None:
        """Write every file atomically, and streams too if the run is finished.

        Raises
        ------
        ResultsError
            If one cannot be written; the others are still written.
        """
        text = self.as_text()
        streams = [path for path in self.paths if files.is_stream(path)]
        whole = [path for path in self.paths if path not in streams]
        failed = []
        for path in [*whole, *(streams if finished else [])]:
            try:
                files.write(path, text)
            except files.WriteError as error:
                failed.append(str(error))
        if failed:
            raise ResultsError("; ".join(failed))

    def as_text(self) -> str:
        """Return the run as JSON with one row a line: small, and readable in a git diff."""
        environment = ",\n".join(
            f"{json.dumps(str(key))}: {_compact(value)}" for key, value in self.environment.items()
        )
        rows = ",\n".join(_compact(row.as_json()) for row in self.rows)
        return (
            f'{{"schema": {json.dumps(SCHEMA)},\n'
            f'"environment": {{\n{environment}\n}},\n'
            f'"rows": [\n{rows}\n]}}\n'
        )


def read(path: Path) -> Run:
    """Return a run from its file.

    Raises
    ------
    ResultsError
        If the file cannot be read, or is not a saved run.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ResultsError(f"{path}: expected JSON written by cnnbench: {error}") from None
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise ResultsError(f"{path}: expected an object with schema {SCHEMA!r}")
    where, rows = plain.get("environment"), plain.get("rows")
    if not isinstance(where, dict) or not isinstance(rows, list):
        raise ResultsError(f"{path}: expected an object 'environment' and a list 'rows'")
    try:
        return Run(where, [Row.from_json(row) for row in rows], [path])
    except (TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: expected rows written by cnnbench: {error}") from None


def newest(folder: Path) -> Path:
    """Return the newest run in a folder that has any row; others were interrupted early.

    Raises
    ------
    ResultsError
        If it has no run, or the newest one cannot be read.
    """
    found = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    newest = next((path for path in reversed(found) if read(path).rows), None)
    if newest is None:
        raise ResultsError(
            f"no run in {folder}: measure one with cnnbench compare, or give one with --from"
        )
    return newest


def claim(path: Path) -> Path:
    """Make sure that a file can be written, before anything is measured.

    Raises
    ------
    ResultsError
        If it cannot.
    """
    with _writing(path):
        files.require_writable(path)
    return path


def fresh_path(folder: Path, command: str, subject: str = "") -> Path:
    """Create a new empty file, named by command, subject and date.

    Raises
    ------
    ResultsError
        If it cannot be created.
    """
    stem = _stem(command, subject)
    with _writing(folder / f"{stem}.json"):
        folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        with _writing(path), contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise AssertionError("one number is free")


def fresh_folder(parent: Path, command: str, subject: str) -> Path:
    """Create a new folder, named by command, subject and date.

    Raises
    ------
    ResultsError
        If it cannot be created.
    """
    stem = _stem(command, subject)
    for number in itertools.count(1):
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        with _writing(path), contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("one number is free")


def set_aside(path: Path) -> Path | None:
    """Rename an existing file, and return the new name, None if there is no such file.

    A link stays, and its target is renamed. Streams stay.

    Raises
    ------
    ResultsError
        If it cannot be renamed.
    """
    if files.is_stream(path) or not path.exists():
        return None
    path = path.resolve() if path.is_symlink() else path
    for number in itertools.count(1):
        older = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not older.exists():
            with _writing(older):
                path.rename(older)
            return older
    raise AssertionError("one number is free")


def _stem(command: str, subject: str) -> str:
    words = [command, *([slug(subject)[:_LONGEST].rstrip("-")] if subject else [])]
    return "-".join([*words, datetime.date.today().isoformat()])


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with files.writing(path, files.NAME_ANOTHER):
            yield
    except files.WriteError as error:
        raise ResultsError(str(error)) from None


def slug(text: str) -> str:
    """Return a text as a folder name: lower case, with words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "machine"


def _short(seconds: float) -> float:
    """Return a sample with six significant digits."""
    return float(f"{seconds:.6g}")


def _compact(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(_strict(value), separators=(",", ":"), allow_nan=False)


def _strict(value: Any) -> Any:
    """Return the value with None in place of numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value
