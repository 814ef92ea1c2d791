"""asv's results as series over commits, with asv's own reader and step detection."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.history import again, asv
from cnnbench.history.again import Again
from cnnbench.history.asv import HistoryError

LEAST_STEP = 0.05
"""Smallest relative difference between two levels."""

RESOLUTION = {"bytes": 2**20}
"""Resolution by unit: heap sizes differ from run to run."""


@dataclass(frozen=True)
class Commit:
    """A commit: hash, date and subject."""

    hash: str
    date: str
    subject: str


_CONFIRMED = 0.5
"""The part of a rise that a second measurement must find."""


@dataclass(frozen=True)
class Step:
    """A change of level between two measured commits.

    Attributes
    ----------
    since, at : int
        The last measured commit on the old level, and the first on the new one.
    before, after : float
        Both levels.
    lasting : bool
        Whether the level rose above the best one before and did not return.
    again : Again or None
        A second measurement of both commits.
    """

    since: int
    at: int
    before: float
    after: float
    lasting: bool
    again: Again | None = None

    @property
    def regression(self) -> bool:
        """Whether it is a lasting rise that a second measurement confirms."""
        return self.lasting and self.again is not None and not self.refuted

    @property
    def refuted(self) -> bool:
        """Whether a second measurement finds less than half of it."""
        if self.again is None:
            return False
        found = self.again.after - self.again.before
        return found / (self.after - self.before) < _CONFIRMED

    @property
    def factor(self) -> float:
        """The new value divided by the old one; lower is better."""
        return self.after / self.before if self.before else math.inf

    @property
    def size(self) -> float:
        """The factor between the levels in either direction: 2 for double and for half."""
        return max(self.factor, 1 / self.factor if self.factor else math.inf)


@dataclass
class Series:
    """The values of one benchmark with one set of parameters, on one machine.

    Attributes
    ----------
    asv_name : str
        The benchmark with its parameters, as in asv's patterns.
    benchmark, unit : str
    case, backend : str
        Parameters of these names, or ''; any others are part of `case`.
    machine : str
    environment : tuple of str
        Versions of Python and the libraries: 'numpy 2.4.6'.
    points : list of (int, float, float or None, float or None)
        Commit number, value, and its interval if asv has one.
    levels : list of (int, int, float)
        Piecewise constant: first and last commit of each piece, and its value.
    steps : list of Step
    apart : str
        The part of its environment that other series of the machine lack, or ''.
    """

    asv_name: str
    benchmark: str
    unit: str
    case: str
    backend: str
    machine: str
    environment: tuple[str, ...]
    points: list[tuple[int, float, float | None, float | None]]
    levels: list[tuple[int, int, float]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    apart: str = ""

    @property
    def name(self) -> str:
        """Its label in a chart: 'numba', or 'numba, numpy 2.4.6'."""
        return ", ".join(filter(None, (self.backend, self.apart)))

    @property
    def others(self) -> bool:
        """Whether the backend is another library, whose steps no commit here has caused."""
        return self.backend.startswith("torch")

    @property
    def what(self) -> str:
        """The measured quantity: 'Speed: forward'."""
        *_, group, function = self.benchmark.split(".")
        return f"{group}: {function.split('_', 1)[-1].replace('_', ' ')}"


@dataclass(frozen=True)
class History:
    """Series over commits, oldest first."""

    commits: list[Commit]
    series: list[Series]

    @property
    def steps(self) -> list[tuple[Series, Step]]:
        """All steps with their series."""
        return [(series, step) for series in self.series for step in series.steps]

    @property
    def regressions(self) -> list[tuple[Series, Step]]:
        """Lasting rises that a second measurement confirms, largest first."""
        found = [pair for pair in self.steps if pair[1].regression]
        return sorted(found, key=lambda pair: -pair[1].factor)

    @property
    def suspects(self) -> list[tuple[Series, Step]]:
        """Lasting rises that were measured once."""
        return [pair for pair in self.steps if pair[1].lasting and pair[1].again is None]


def read(folder: Path, results: Path | None = None) -> History:
    """Read the history of a checkout.

    Parameters
    ----------
    folder : path
        The checkout with the commits.
    results : path, optional
        Folder of asv's results; default: the configured one.

    Raises
    ------
    HistoryError
        If there are no results.
    """
    configuration = asv.configuration(folder)
    from asv.machine import iter_machine_files
    from asv.results import iter_results_for_machine

    if results is None:
        results = folder / configuration.results_dir
    configuration.results_dir = str(results)
    benchmarks = asv.benchmarks(configuration)
    if not benchmarks:
        raise HistoryError(f"no history in {results}: measure one with make history")
    found = [
        (Path(path).parent.name, result)
        for path in iter_machine_files(str(results))
        for result in iter_results_for_machine(str(results), Path(path).parent.name)
    ]
    order = asv.commits(folder, list({result.commit_hash for _, result in found}))
    if not order:
        raise HistoryError(f"no result in {results} belongs to a commit of {folder}")
    numbers = {commit: number for number, commit in enumerate(order)}
    series: dict[tuple[Any, ...], Series] = {}
    for machine, result in found:
        if result.commit_hash in numbers:
            _add(series, numbers[result.commit_hash], machine, result, benchmarks)
    _tell_apart(list(series.values()))
    measured_again = {
        machine: again.read(results / machine)
        for machine in {one.machine for one in series.values()}
    }
    for one in series.values():
        one.points.sort()
        if not one.others:
            _detect(one, order, measured_again[one.machine], configuration)
    return History(
        [_commit(folder, commit) for commit in order],
        sorted(series.values(), key=lambda one: (one.what, one.case, one.machine, one.name)),
    )


def _commit(folder: Path, commit: str) -> Commit:
    date, subject = (
        asv.git(folder, "log", "-1", "--format=%cs%x00%s", commit).strip().split("\0", 1)
    )
    return Commit(commit, date, subject)


def _add(
    series: dict[tuple[Any, ...], Series],
    commit: int,
    machine: str,
    result: Any,
    benchmarks: Any,
) -> None:
    """Add the results of one commit to the series."""
    from asv.machine import Machine

    environment = tuple(
        f"{name} {value}"
        for name, value in sorted({**result.params, **result.env_vars}.items())
        if name not in dict(Machine.fields)
    )
    for point in asv.points(result, benchmarks):
        if math.isnan(point.value):
            continue
        benchmark = benchmarks[point.benchmark]
        names = [*benchmark["param_names"], *map(str, range(len(point.params)))]
        named = dict(zip(names, (text.strip("'") for text in point.params), strict=False))
        backend = named.pop("backend", "")
        case = ", ".join(named.values())
        key = (point.benchmark, case, backend, machine, environment)
        one = series.setdefault(
            key,
            Series(
                point.name,
                point.benchmark,
                benchmark["unit"],
                case,
                backend,
                machine,
                environment,
                [],
            ),
        )
        low, high = ((point.about or {}).get(end) for end in ("ci_99_a", "ci_99_b"))
        one.points.append((commit, point.value, _finite(low), _finite(high)))


def _tell_apart(series: list[Series]) -> None:
    """Set `apart` to the environment entries that a machine's series do not share."""
    environments: dict[str, list[set[str]]] = {}
    for one in series:
        environments.setdefault(one.machine, []).append(set(one.environment))
    for one in series:
        shared = set.intersection(*environments[one.machine])
        one.apart = ", ".join(text for text in one.environment if text not in shared)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _detect(
    series: Series,
    commits: Sequence[str],
    measured_again: Mapping[tuple[str, str, str], Again],
    configuration: Any,
) -> None:
    """Set levels and steps by asv's own detection, as on its web page, without refuted steps."""
    from asv.graph import Graph
    from asv.step_detect import detect_regressions

    graph = Graph(series.benchmark, {})
    for commit, value, _, _ in series.points:
        graph.add_data_point(commit, value)
    steps = graph.get_steps()
    series.levels = [(left, right - 1, value) for left, right, value, _, _ in steps]
    threshold = max(
        (
            value
            for pattern, value in configuration.regressions_thresholds.items()
            if re.match(pattern, series.benchmark)
        ),
        default=LEAST_STEP,
    )
    _, _, jumps = detect_regressions(steps, threshold)
    lasting = {after for _, after, _, _ in jumps or ()}
    for (_, _, before), (first, _, after) in itertools.pairwise(series.levels):
        least = max(LEAST_STEP * min(abs(before), abs(after)), RESOLUTION.get(series.unit, 0.0))
        if abs(after - before) <= least:
            continue
        since = max(point[0] for point in series.points if point[0] < first)
        twice = measured_again.get((series.asv_name, commits[since], commits[first]))
        step = Step(since, first, before, after, first in lasting, twice)
        if not step.refuted:
            series.steps.append(step)
