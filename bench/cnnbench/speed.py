"""Timing every case on every backend that passed its check, side by side: rows out.

A case is checked on every backend before any of them is timed on it, with the same arrays in the
same process, and only who passed is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench import timing
from cnnbench.cases import CaseSet
from cnnbench.checking import check_case, clear, fills_folder, operation, rows_of
from cnnbench.child import Child, ChildError
from cnnbench.effort import Effort, Progress
from cnnbench.results import Row, Run
from cnnbench.team import Team, baseline_for, cache_of, failing, note, note_threading
from cnnbench.timing import Contestant, Ratio
from cnnbench.worker import (
    PARTS,
    REST_SECONDS,
    SIDE_SECONDS,
    WARM_SECONDS,
    Worker,
    WorkerError,
    rest,
)
from cnnkernels.contract import BACKWARD, FORWARD, Conv2D, Direction, Problem, directions
from cnnkernels.descriptor import Case

IMPOSSIBLE = 1.05
"""Times the measured FMA peak: beyond it a time cannot be true. The margin is for noise."""

ONE_THREAD_ROUNDS = 2
"""For a median; times of other thread counts are not compared in turns, and have no interval."""

_NCHW = " from nchw"


@dataclass(frozen=True)
class _Conditions:
    """What holds for everything that is timed at one thread count."""

    baseline: str
    floor: float
    ceilings: dict[str, Any]
    effort: Effort
    random: np.random.Generator
    done: Sequence[Row]
    """The rows of the run so far."""


def time(
    run: Run,
    sets: Sequence[CaseSet],
    backends: Sequence[str],
    threads: Sequence[int],
    baseline: str,
    effort: Effort,
    progress: Progress,
    caches: Path,
    only: Mapping[Problem, Sequence[Direction]] | None = None,
) -> None:
    """Check, then time side by side, every case on every backend; rows go to the run.

    Compiled code goes to `caches`, an empty folder: the first calls fill it, the others use it.
    What is in `only` is timed in those directions alone, and first calls of it are not.
    """
    total = sum(len(group.cases) for group in sets)
    progress.begin(len(threads) * (total * (len(backends) + 1) + 2) + len(backends))
    first_calls: dict[tuple[str, str, str], tuple[float, float]] = {}
    for count in threads:
        progress.step(f"measuring this machine's ceilings, {count} threads")
        ceilings = measure_ceilings(count)
        with Team(backends, count, caches) as team, fills_folder() as folder:
            base = baseline_for(team, baseline)
            if count == threads[0]:
                for backend in backends:
                    progress.step(f"first calls of {backend}")
                    if backend in team.present and only is None:
                        first_calls |= _first_calls(backend, count, sets, caches)
            progress.step(f"A/A floor of {base}, {count} threads")
            floor = (
                measure_floor(base, count, probes(sets), effort, caches)
                if team.present
                else math.nan
            )
            note(run, "baseline", count, base)
            note(run, "aa_floor", count, floor)
            note(run, "ceilings", count, ceilings)
            random = np.random.default_rng()
            conditions = _Conditions(base, floor, ceilings, effort, random, run.rows)
            for group in sets:
                of_group: list[Row] = []
                for case in group.cases:
                    checks = {}
                    for backend in backends:
                        progress.step(f"checking {backend} on {case.label}")
                        checks[backend] = check_case(
                            team, backend, case, folder, effort.call_seconds
                        )
                    rows = [
                        row
                        for backend, found in checks.items()
                        for row in rows_of(case, backend, count, found)
                        if only is None or row.direction in only[case.problem]
                    ]
                    for row in rows:
                        if row.outcome == "ok" and count == threads[0]:
                            row.first_call_seconds, row.cached_first_call_seconds = first_calls.get(
                                (row.backend, row.problem, row.direction), (None, None)
                            )
                    progress.step(f"timing {case.label}, {count} threads")
                    try:
                        _time_case(team, case, rows, conditions, folder)
                    finally:
                        run.add(rows)
                    of_group.extend(rows)
                    clear(folder)
                run.add(_sums(group, of_group, base, floor, count))
            note_threading(run, team)
            run.write()


def time_on_one_thread(
    run: Run,
    sets: Sequence[CaseSet],
    baseline: str,
    effort: Effort,
    progress: Progress,
    caches: Path,
) -> None:
    """Time cases on one thread that the run has times of on more: what those more gain.

    Forward and the whole backward alone, in a few rounds, and without those too slow for all
    rounds before.
    """
    quick = [
        backend
        for backend in dict.fromkeys(row.backend for row in run.rows)
        if (timed := [row for row in run.rows if row.backend == backend and row.samples])
        and all(len(row.samples) >= 2 * effort.rounds for row in timed)
    ]
    only = {case.problem: (FORWARD, BACKWARD) for group in sets for case in group.cases}
    few = dataclasses.replace(effort, rounds=min(effort.rounds, ONE_THREAD_ROUNDS))
    if quick:
        time(run, sets, quick, [1], baseline, few, progress, caches, only)


def measure_ceilings(threads: int) -> dict[str, Any]:
    """Return this machine's ceilings for a number of threads; {'reason': ...} where they fail."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    with Child("cnnbench.ceilings", environment) as child:
        try:
            measured: dict[str, Any] = child.ask(threads)
        except ChildError as error:
            return {"reason": str(error)}
    return measured


def measure_floor(
    backend: str,
    threads: int,
    probes: Sequence[Case],
    effort: Effort,
    caches: Path | None = None,
) -> float:
    """Return the A/A floor: by which fraction two processes of one backend differ.

    Where that is more than programs worth comparing do, it is the middle of three: once in a while
    the threads of one process get in each other's way for as long as it lives.

    Parameters
    ----------
    backend : str
        The baseline, as a rule.
    threads : int
    probes : sequence of Case
        On which it is measured, forward and backward.
    effort : Effort
    caches : path, optional
        As `Team` takes it.

    Returns
    -------
    float
        nan if the backend could do none of the probes.
    """
    found = [_floor(backend, threads, probes, effort, caches)]
    if found[0] > timing.UNSTEADY:
        found += [_floor(backend, threads, probes, effort, caches) for _ in range(2)]
    return statistics.median(found)


def _floor(
    backend: str, threads: int, probes: Sequence[Case], effort: Effort, caches: Path | None
) -> float:
    """Measure the A/A floor once, in two new processes."""
    random = np.random.default_rng()
    ratios: list[Ratio] = []
    with (
        Worker(backend, threads, cache_of(backend, caches)) as one,
        Worker(backend, threads, cache_of(backend, caches)) as other,
        fills_folder() as folder,
    ):
        for case in probes:
            try:
                for worker in (one, other):
                    worker.ask("prepare", descriptor=str(case.problem), folder=str(folder))
                for direction in directions(case.problem)[:: len(directions(case.problem)) - 1]:
                    pair = [
                        _contestant(name, worker, direction, False, effort)[0]
                        for name, worker in (("one", one), ("other", other))
                    ]
                    timing.run_rounds(pair, random, 0, max(c.rounds for c in pair))
                    ratios.append(timing.ratio(pair[0].samples, pair[1].samples))
                for worker in (one, other):
                    worker.ask("release")
            except WorkerError:
                continue
            clear(folder)
    return timing.floor_of(ratios)


def _time_case(
    team: Team, case: Case, rows: Sequence[Row], conditions: _Conditions, folder: Path
) -> None:
    """Set the times of a case's rows that passed its check, direction by direction."""
    timed = list(dict.fromkeys(row.backend for row in rows if row.outcome == "ok"))
    for backend in timed:
        with failing([row for row in rows if row.backend == backend]):
            team.ask(backend, "prepare", descriptor=str(case.problem), folder=str(folder))
    for direction in directions(case.problem):
        of_direction = [row for row in rows if row.direction == direction]
        contestants: dict[str, Contestant] = {}
        for row in of_direction:
            if row.outcome != "ok":
                continue
            asked = _Asked(team, row)
            with failing([row]):
                nchw = {row.backend: False}
                if team.about(row.backend)["layout"] != "NCHW":
                    nchw[row.backend + _NCHW] = True
                for name, converted in nchw.items():
                    contestants[name], extra_bytes = _contestant(
                        name, asked, direction, converted, conditions.effort
                    )
                    if not converted:
                        row.extra_bytes = extra_bytes
        try:
            timing.compete(
                list(contestants.values()),
                conditions.baseline,
                conditions.floor,
                conditions.random,
            )
        finally:
            for row in of_direction:
                if row.outcome == "ok" and row.backend in contestants:
                    row.samples = contestants[row.backend].samples
                    row.seconds = _number(contestants[row.backend].seconds)
                if row.seconds is not None and row.backend + _NCHW in contestants:
                    from_nchw = contestants[row.backend + _NCHW]
                    row.nchw_seconds = _number(from_nchw.seconds)
                    row.details["nchw_samples"] = from_nchw.samples
                _judge(row, case, conditions, team, rows)
            compare(of_direction, conditions.baseline, conditions.floor)
        for lost in [row for row in of_direction if row.outcome in ("failed", "wrong")]:
            for row in [r for r in rows if r.backend == lost.backend and r.outcome == "ok"]:
                if lost.outcome == "wrong":
                    row.withdraw("wrong", f"{direction}: {lost.reason}")
                elif row.seconds is None:
                    row.withdraw("failed", f"not timed: {direction} {lost.reason}")
    for backend in timed:
        with contextlib.suppress(WorkerError):
            team.ask(backend, "release")


class _Asked:
    """Asks a team's worker on behalf of a row: if it dies, the row has failed, the others go on."""

    def __init__(self, team: Team, row: Row) -> None:
        self._team, self._row = team, row

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the answer; None if the row fails over it, or has failed before."""
        answer: Any = None
        if self._row.outcome == "ok":
            with failing([self._row]):
                answer = self._team.ask(self._row.backend, command, **arguments)
        return answer


def _contestant(
    name: str, worker: Worker | _Asked, direction: Direction, nchw: bool, effort: Effort
) -> tuple[Contestant, int | None]:
    """Return who is timed, and the bytes that it takes beyond inputs and outputs."""
    probed = worker.ask("probe", direction=direction, nchw=nchw)
    if probed is None:
        return Contestant(name, lambda: math.nan, 0), None
    call_seconds = probed["seconds"]
    parts = max(1, min(PARTS, math.ceil(SIDE_SECONDS / call_seconds)))
    calls = max(1, math.ceil(SIDE_SECONDS / parts / call_seconds))
    how = {"nchw": nchw, "calls": calls, "parts": parts, "warm": call_seconds < WARM_SECONDS}

    def side() -> float:
        rest()
        seconds = worker.ask("side", direction=direction, **how)
        return math.nan if seconds is None else float(seconds)

    rounds = effort.rounds_for(parts * calls * call_seconds + REST_SECONDS, effort.seconds)
    return Contestant(name, side, rounds), probed["extra_bytes"]


def compare(rows: Sequence[Row], baseline: str, floor: float) -> None:
    """Set ratio and verdict of each timed row against the baseline's."""
    base = next((row for row in rows if row.backend == baseline and row.seconds), None)
    for row in rows:
        if row.outcome != "ok" or row.seconds is None:
            continue
        row.baseline = baseline
        if base is None or not base.samples or not row.samples:
            row.verdict = "UNCLEAR"
            continue
        found = timing.ratio(row.samples, base.samples)
        row.ratio = found.value
        row.ratio_low, row.ratio_high = _number(found.low), _number(found.high)
        row.verdict = "SAME" if row is base else timing.verdict(found, floor)


def _judge(
    row: Row, case: Case, conditions: _Conditions, team: Team, of_case: Sequence[Row]
) -> None:
    """Hold a time against the machine's ceilings: what is above the FMA peak cannot be true.

    The peak is measured again before it is believed, once a thread count; shares of it change then
    of all rows so far, those of this case among them.
    """
    ceilings = conditions.ceilings
    if row.outcome != "ok" or row.seconds is None:
        return
    problem = case.problem
    direction: Direction = row.direction  # type: ignore[assignment]
    on_cpu = team.about(row.backend)["device"] == "cpu" and "reason" not in ceilings
    if isinstance(problem, Conv2D):
        rate = problem.flops(direction) / row.seconds
        row.gflops = rate / 1e9
        if not on_cpu:
            return
        if rate > IMPOSSIBLE * ceilings["flops"][problem.dtype] and "flops_again" not in ceilings:
            judged = [*conditions.done, *of_case]
            _measure_peak_again(ceilings, row.threads, problem.dtype, judged)
        peak = ceilings["flops"][problem.dtype]
        row.ceiling_fraction = rate / peak
        if rate > IMPOSSIBLE * peak:
            row.withdraw(
                "failed",
                f"{rate / 1e9:.0f} GFLOP/s cannot be true: the FMA peak of {row.threads} threads "
                f"here is {peak / 1e9:.0f}",
            )
    elif on_cpu:
        moved = problem.bytes_moved(direction)
        row.ceiling_fraction = moved / row.seconds / _bandwidth(ceilings, moved)


def _measure_peak_again(
    ceilings: dict[str, Any], threads: int, dtype: str, judged: Sequence[Row]
) -> None:
    """Keep the higher of two FMA peaks: others may have had a core while one was measured."""
    before = ceilings["flops"]
    again = measure_ceilings(threads).get("flops", before)
    ceilings["flops"] = {kind: max(peak, again[kind]) for kind, peak in before.items()}
    ceilings["flops_again"] = again
    for row in judged:
        if row.threads == threads and row.gflops is not None and row.ceiling_fraction is not None:
            row.ceiling_fraction *= before[dtype] / ceilings["flops"][dtype]


def _bandwidth(ceilings: dict[str, Any], working_set: int) -> float:
    """Return the bandwidth at the measured working set that is nearest."""
    rates = {int(size): rate for size, rate in ceilings["bandwidth"].items()}
    nearest = min(rates, key=lambda size: abs(math.log(size / max(1, working_set))))
    return float(rates[nearest])


def _sums(
    group: CaseSet, rows: Sequence[Row], baseline: str, floor: float, threads: int
) -> list[Row]:
    """Sum a set's cases, weighted by layers: one row for each op, direction and backend."""
    sums: list[Row] = []
    for op in dict.fromkeys(row.op for row in rows):
        cases = [row.case for row in rows if row.op == op]
        if not group.name or len(set(cases)) < 2:
            continue
        for direction in dict.fromkeys(row.direction for row in rows if row.op == op):
            of_direction = []
            for backend in dict.fromkeys(row.backend for row in rows):
                parts = [
                    row
                    for row in rows
                    if (row.op, row.direction, row.backend) == (op, direction, backend)
                ]
                of_direction.append(_sum(group.name, parts, threads))
            compare(of_direction, baseline, floor)
            sums.extend(of_direction)
    return sums


def _sum(name: str, parts: Sequence[Row], threads: int) -> Row:
    first = parts[0]
    total = Row(f"{name} (sum)", "", first.op, first.direction, first.backend, threads, "ok")
    total.layers = sum(row.layers for row in parts)
    bad = next((row for row in parts if row.outcome != "ok"), None)
    if bad is not None:
        total.outcome, total.reason = bad.outcome, f"{bad.case}: {bad.reason}"
        return total
    sides = min(len(row.samples) for row in parts)
    total.samples = [sum(row.layers * row.samples[side] for row in parts) for side in range(sides)]
    total.seconds = sum(row.layers * (row.seconds or 0.0) for row in parts)
    errors = [row.error_over_bound for row in parts if row.error_over_bound is not None]
    total.error_over_bound = max(errors, default=None)
    for rate in ("gflops", "ceiling_fraction"):
        of_parts = [(getattr(row, rate), row.layers * (row.seconds or 0.0)) for row in parts]
        if all(value is not None for value, _ in of_parts):
            setattr(total, rate, sum(v * seconds for v, seconds in of_parts) / total.seconds)
    return total


def _first_calls(
    backend: str, threads: int, sets: Sequence[CaseSet], caches: Path
) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return by (backend, case, direction) the seconds of first calls, cold and with a warm cache.

    The smallest case of each operation is called once in each direction, in a new process with an
    empty cache: each compiles what those before it left, and their sum is what compiling costs.
    Where that leaves compiled code in the cache, the same is done once more, with it.
    """
    by_size = sorted((c for group in sets for c in group.cases), key=lambda c: _size(c.problem))
    smallest = {operation(case.problem): case for case in reversed(by_size)}
    times: dict[tuple[str, str, str], list[float]] = {}
    for _ in ("cold", "cached"):
        with (
            contextlib.suppress(WorkerError),
            Worker(backend, threads, cache_of(backend, caches)) as worker,
        ):
            for case in smallest.values():
                for direction in directions(case.problem):
                    seconds = worker.ask(
                        "first_call", descriptor=str(case.problem), direction=direction
                    )
                    times.setdefault((backend, str(case), direction), []).append(seconds)
        if not (caches / backend).exists():
            break
    return {key: (seconds[0], seconds[-1]) for key, seconds in times.items()}


def _size(problem: Problem) -> int:
    return problem.bytes_moved(FORWARD)


def probes(sets: Sequence[CaseSet]) -> list[Case]:
    """Return the smallest and the median case: what the floor is measured on."""
    cases = sorted(
        (case for group in sets for case in group.cases if case.problem.batch),
        key=lambda case: _size(case.problem),
    )
    return list(dict.fromkeys([cases[0], cases[len(cases) // 2]])) if cases else []


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
