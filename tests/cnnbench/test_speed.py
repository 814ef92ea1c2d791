"""Only who passed a check is timed; a row that is not ok has no time; sums weigh layers."""

import dataclasses
import itertools
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cnnbench import comparison, results, sides, speed, timing
from cnnbench.budget import Budget
from cnnbench.cases import CaseSet
from cnnbench.judging import limits
from cnnbench.workers.pool import Copy
from cnnkernels.contract import directions
from cnnkernels.descriptor import parse_case

A = parse_case('mb2ic3ih6oc4oh6kh3ph1n"tiny.a*3"')
B = parse_case('mb2ic4ih5oc2oh5kh1ph0n"tiny.b*2"')
POOL = parse_case('mb2ic3ih6oh3kh2sh2ph0n"tiny.pool*1"')
TINY = CaseSet("tiny", (A, POOL, B))
LONE = CaseSet("", (A,))

EFFORT = Budget(rounds=1, processes=3, seconds=1.0, training_seconds=1.0, call_seconds=5.0)

TIMES = (
    "seconds",
    "gflops",
    "ceiling_fraction",
    "first_call_seconds",
    "cached_first_call_seconds",
    "ratio",
    "ratio_low",
    "ratio_high",
    "verdict",
    "nchw_seconds",
)

pytestmark = pytest.mark.usefixtures("strangers", "short_sides")

VERDICTS = {"FASTER", "SLOWER", "SAME", "UNCLEAR"}


def ceilings(flops=1e15, bandwidth=1e13, reason=None):
    """Return what ceilings look like: those of a machine that nothing here exceeds, or none."""
    if reason is not None:
        return {"reason": reason}
    return {
        "flops": {"float32": flops, "float64": flops / 2},
        "bandwidth": {"16384": bandwidth, "1048576": bandwidth / 4},
    }


def measured(
    backends, sets, steps, run, baseline="numpy", threads=(1,), whole=False, asked=None, **machine
):
    """Time backends on a machine of known ceilings, or those `asked` one by one; return the rows.

    Unless it is a whole run, first calls are left out.
    """
    asked = (ceilings(**machine) for _ in itertools.count()) if asked is None else asked
    with pytest.MonkeyPatch.context() as patch:
        for module in (comparison, limits):
            patch.setattr(module, "measure_ceilings", lambda _: next(asked))
        if not whole:
            patch.setattr(speed, "_first_calls", lambda *_: {})
        progress = steps()
        with tempfile.TemporaryDirectory() as caches:
            speed.time(run, sets, backends, threads, baseline, EFFORT, progress, Path(caches))
    assert progress.done == progress.total
    return run.rows


def size(case):
    return case.problem.bytes_moved("forward")


def find(rows, backend, case, direction):
    (row,) = [
        row for row in rows if (row.backend, row.case, row.direction) == (backend, case, direction)
    ]
    return row


# --------------------------------------------------------------------------------------------
# a whole run of good and bad backends

GOOD = ("numpy", "naive")
BAD = {
    # backend: outcome and reason on convolutions
    "wrong": ("wrong", "y[0, 0, 0, 0] is "),
    "killed": ("failed", "the worker was killed by SIGKILL"),
    "declines": ("unsupported", "no such chip here"),
}


@pytest.fixture(scope="module")
def everyone(fresh_run, steps, tmp_path_factory):
    """A run of everyone, as it was written."""
    run = fresh_run(tmp_path_factory.mktemp("run") / "run.json")
    measured([*GOOD, *BAD], [TINY], steps, run, whole=True)
    return results.read(run.paths[0])


@pytest.mark.slow
def test_every_case_backend_and_direction_has_one_row_and_every_set_its_sums(everyone):
    expected = [
        (case.label, backend, direction)
        for case in TINY.cases
        for backend in (*GOOD, *BAD)
        for direction in directions(case.problem)
    ] + [
        ("tiny (sum)", backend, direction)
        for backend in (*GOOD, *BAD)
        for direction in directions(A.problem)
    ]
    found = [(row.case, row.backend, row.direction) for row in everyone.rows]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BAD)
def test_a_bad_backend_has_its_outcome_and_reason_in_cases_and_sums(everyone, backend):
    outcome, reason = BAD[backend]
    for row in everyone.rows:
        if row.backend == backend and row.op == "conv2d":
            assert row.outcome == outcome
            assert reason in row.reason


@pytest.mark.slow
def test_a_row_has_a_time_exactly_if_it_is_ok(everyone):
    for row in everyone.rows:
        if row.outcome == "ok":
            assert row.seconds > 0
            assert row.samples
            assert row.baseline == "numpy"
            assert row.ratio > 0
            assert row.verdict in VERDICTS
        else:
            assert [getattr(row, name) for name in TIMES] == [None] * len(TIMES)
            assert row.samples == []


@pytest.mark.slow
def test_a_good_row_says_how_fast_it_was_and_on_which_check_it_stands(everyone):
    for row in everyone.rows:
        if row.backend not in GOOD or not row.problem:
            continue
        case = {case.label: case for case in TINY.cases}[row.case]
        assert (row.problem, row.layers) == (str(case), case.layers)
        assert row.check
        assert 0 <= row.error_over_bound <= 1
        assert 1 <= row.processes <= EFFORT.processes
        assert len(row.samples) == row.sides * row.processes == 2 * row.processes
        assert min(row.samples) <= row.seconds <= max(row.samples)
        smallest = case.problem in (POOL.problem, min((A, B), key=size).problem)
        assert (row.first_call_seconds is not None) == smallest
        assert (row.cached_first_call_seconds is not None) == smallest
        if smallest:
            assert min(row.first_call_seconds, row.cached_first_call_seconds) > 0
        flops = case.problem.flops(row.direction)
        if row.op == "conv2d":
            assert row.gflops == pytest.approx(flops / row.seconds / 1e9)
            assert row.ceiling_fraction == pytest.approx(flops / row.seconds / 1e15)
        else:
            moved = case.problem.bytes_moved(row.direction)
            assert row.gflops is None
            assert row.ceiling_fraction == pytest.approx(moved / row.seconds / 1e13)


@pytest.mark.slow
def test_sums_weigh_cases_by_their_layers(everyone):
    for backend in GOOD:
        for direction in directions(A.problem):
            total = find(everyone.rows, backend, "tiny (sum)", direction)
            a, b = (find(everyone.rows, backend, case.label, direction) for case in (A, B))
            assert (total.outcome, total.layers, total.problem) == ("ok", 5, "")
            shared = min(a.processes, b.processes)
            blocks = [np.exp(row.measured.blocks())[:shared] for row in (a, b)]
            whole = 3 * blocks[0] + 2 * blocks[1]
            assert total.samples == pytest.approx(whole, rel=1e-5)  # written with six digits
            assert (total.sides, total.processes) == (1, shared)
            assert total.seconds == pytest.approx(total.measured.typical, rel=1e-5)
            work = 3 * A.problem.flops(direction) + 2 * B.problem.flops(direction)
            whole = 3 * a.seconds + 2 * b.seconds
            assert total.gflops == pytest.approx(work / whole / 1e9, rel=1e-5)
            assert total.error_over_bound == max(a.error_over_bound, b.error_over_bound)


@pytest.mark.slow
def test_the_baseline_is_as_fast_as_itself(everyone):
    for row in everyone.rows:
        if row.backend == "numpy" and row.outcome == "ok":
            assert (row.ratio, row.verdict) == (1.0, "SAME")


@pytest.mark.slow
def test_floor_ceilings_and_baseline_are_noted_with_the_run(everyone):
    where = everyone.environment
    assert where["baseline"] == {"1": "numpy"}
    assert where["aa_floor"]["1"] >= 0
    assert where["ceilings"]["1"] == ceilings()
    assert set(where["threading"]["1"]) == {*GOOD, "wrong", "killed"}


# --------------------------------------------------------------------------------------------
# what goes wrong while a clock runs


@pytest.mark.slow
def test_a_backend_that_is_killed_while_it_is_timed_loses_what_is_not_timed_yet(fresh_run, steps):
    rows = measured(["killed-when-timed", "numpy"], [LONE], steps, fresh_run())
    for direction in ("forward", "backward_data"):
        assert find(rows, "killed-when-timed", A.label, direction).outcome == "ok"
    lost = find(rows, "killed-when-timed", A.label, "backward_weights")
    assert (lost.outcome, lost.seconds, lost.samples) == ("failed", None, [])
    assert "SIGKILL" in lost.reason
    after = find(rows, "killed-when-timed", A.label, "backward")
    assert after.outcome == "ok" or "SIGKILL" in after.reason
    assert [row.outcome for row in rows if row.backend == "numpy"] == ["ok"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["killed", "killed-when-timed", "wrong"])
def test_a_baseline_that_goes_wrong_leaves_rows_of_everyone(fresh_run, steps, bad):
    run = fresh_run()
    rows = measured([bad, "numpy"], [LONE], steps, run, baseline=bad, whole=True)
    assert len(rows) == 8
    assert [row.outcome for row in rows if row.backend == "numpy"] == ["ok"] * 4
    assert any(row.outcome != "ok" for row in rows if row.backend == bad)
    for row in rows:
        assert (row.outcome == "ok") == (row.seconds is not None)


@pytest.mark.slow
def test_a_kernel_that_two_backends_share_is_timed_once(fresh_run, steps):
    rows = measured(["borrows", "numpy"], [TINY], steps, fresh_run(), baseline="borrows")
    assert all(row.outcome == "ok" and row.verdict in VERDICTS for row in rows)
    for case in TINY.cases:
        for direction in directions(case.problem):
            mine, theirs = (find(rows, b, case.label, direction) for b in ("borrows", "numpy"))
            assert (mine.owner == "numpy") == (case is not A)
            assert (mine.samples == theirs.samples) == (case is not A)
            if case is not A:
                assert (mine.seconds, mine.gflops) == (theirs.seconds, theirs.gflops)
    assert results.distinct(rows) == [r for r in rows if r.backend == "numpy" or r.owner != "numpy"]


@pytest.mark.slow
def test_without_its_owner_a_borrowed_kernel_is_timed(fresh_run, steps):
    rows = measured(["borrows"], [TINY], steps, fresh_run(), baseline="borrows")
    assert all(row.outcome == "ok" and row.seconds for row in rows)
    assert results.distinct(rows) == rows


@pytest.mark.slow
def test_what_beats_the_peak_is_failed_without_a_time(fresh_run, steps):
    rows = measured(["numpy"], [CaseSet("two", (A, B))], steps, fresh_run(), flops=1.0)
    assert len(rows) == 12
    for row in rows:
        assert row.outcome == "failed"
        assert "GFLOP/s cannot be true: the FMA peak of 1 thread here is" in row.reason
        assert [getattr(row, name) for name in TIMES] == [None] * len(TIMES)
        assert row.samples == []


@pytest.mark.slow
def test_a_peak_that_is_beaten_is_measured_again_before_it_is_believed(fresh_run, steps):
    asked = iter([ceilings(flops=1.0), ceilings(flops=1e15)])
    run = fresh_run()
    measured(["numpy"], [CaseSet("two", (A, B))], steps, run, asked=asked)
    assert next(asked, None) is None
    assert len(run.rows) == 12
    for row in run.rows:
        assert row.outcome == "ok"
        assert row.ceiling_fraction == pytest.approx(row.gflops * 1e9 / 1e15)
    assert run.environment["ceilings"]["1"]["flops"] == ceilings(flops=1e15)["flops"]


@pytest.mark.slow
def test_a_backend_that_gives_its_last_result_once_more_is_wrong_and_has_no_time(
    fresh_run, steps, monkeypatch
):
    monkeypatch.setattr(sides, "SIDE_SECONDS", 0.02)  # sides of more than twenty calls
    rows = measured(["numpy", "replays"], [LONE], steps, fresh_run())
    caught = [row for row in rows if row.backend == "replays"]
    assert [row.outcome for row in caught] == ["wrong"] * 4
    assert all(getattr(row, name) is None for row in caught for name in TIMES)
    reason = r"a timed call gave .* as an element of y, not .*: its inputs had changed"
    assert re.match(reason, caught[0].reason)
    assert caught[1].reason == f"forward: {caught[0].reason}"
    assert all(row.outcome == "ok" and row.seconds for row in rows if row.backend == "numpy")


def test_ceilings_that_cannot_be_measured_leave_times_without_a_fraction(fresh_run, steps):
    rows = measured(["numpy"], [CaseSet("", (A, POOL))], steps, fresh_run(), reason="no compiler")
    assert {row.outcome for row in rows} == {"ok"}
    assert {row.ceiling_fraction for row in rows} == {None}
    assert rows[0].gflops > 0


@pytest.mark.slow
def test_nobody_to_time_leaves_rows_with_reasons(fresh_run, steps):
    rows = measured(["declines"], [TINY], steps, fresh_run(), baseline="declines")
    assert {row.outcome for row in rows} == {"unsupported"}
    assert {"no such chip here" in row.reason for row in rows} == {True}
    assert len(rows) == 14


@pytest.mark.slow
def test_a_batch_of_no_images_is_timed_as_well(fresh_run, steps):
    empty = CaseSet("", (parse_case("mb0ic3ih6oc4oh6kh3ph1"), parse_case("mb0ic3ih6oh3kh2sh2ph0")))
    run = fresh_run()
    rows = measured(["numpy"], [empty], steps, run)
    assert {row.outcome for row in rows} == {"ok"}
    run.write()


@pytest.mark.slow
def test_every_thread_count_has_rows_of_its_own(fresh_run, steps):
    run = fresh_run()
    rows = measured(["numpy"], [LONE], steps, run, threads=(1, 2))
    assert [row.threads for row in rows] == [1] * 4 + [2] * 4
    assert set(run.environment["aa_floor"]) == set(run.environment["ceilings"]) == {"1", "2"}


@pytest.mark.slow
def test_a_backend_of_another_layout_shows_its_time_with_conversion_too(fresh_run, steps):
    pytest.importorskip("torch")
    rows = measured(["torch-cpu-nhwc", "numpy"], [CaseSet("", (A, POOL))], steps, fresh_run())
    for row in rows:
        assert row.outcome == "ok"
        assert (row.nchw_seconds is not None) == (row.backend == "torch-cpu-nhwc")
        if row.nchw_seconds is not None:
            assert row.nchw_seconds > 0


@pytest.mark.slow
def test_an_interrupted_case_leaves_the_rows_it_has_come_to(fresh_run, steps, tmp_path):
    class Interrupting(steps):
        def step(self, text, count=1):
            super().step(text, count)
            if text.startswith("timing tiny.pool"):
                raise KeyboardInterrupt

    run = fresh_run(tmp_path / "run.json")
    with pytest.raises(KeyboardInterrupt):
        measured(["numpy"], [TINY], Interrupting, run)
    kept = results.read(tmp_path / "run.json").rows
    assert [row.case for row in kept[:4]] == [A.label] * 4
    assert all(row.seconds for row in kept[:4])


@pytest.mark.slow
def test_an_interrupt_in_a_later_process_keeps_what_the_earlier_ones_gave(
    fresh_run, steps, tmp_path
):
    class Interrupting(steps):
        def step(self, text, count=1):
            super().step(text, count)
            if text == f"timing {A.label}, process 2":
                raise KeyboardInterrupt

    run = fresh_run(tmp_path / "run.json")
    with pytest.raises(KeyboardInterrupt):
        measured(["numpy", "prints"], [TINY], Interrupting, run)
    kept = results.read(tmp_path / "run.json").rows
    assert all(row.seconds and row.ratio for row in kept if row.outcome == "ok")
    assert {row.processes for row in kept} == {1}
    assert "tiny (sum)" in {row.case for row in kept}


@pytest.mark.slow
def test_rounds_end_where_the_verdict_stands(fresh_run, steps, monkeypatch):
    monkeypatch.setattr(timing, "DECISIVE", 1.0)
    rows = measured(["numpy", "naive"], [LONE], steps, fresh_run())
    assert {row.verdict for row in rows if row.backend == "naive"} <= {"FASTER", "SLOWER"}
    assert {row.processes for row in rows} == {1}


@pytest.mark.slow
def test_copies_are_timed_like_backends_of_their_own(fresh_run, steps):
    run, progress = fresh_run(), steps()
    copies = {"twin": Copy("numpy"), "slow twin": Copy("numpy", 3.0)}
    names = ["numpy", *copies]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as caches:
        patch.setattr(comparison, "measure_ceilings", lambda _: ceilings())
        patch.setattr(speed, "_calls", lambda *_: {})
        budget = dataclasses.replace(EFFORT, first_steps=False)
        speed.time(run, [LONE], names, [1], "numpy", budget, progress, Path(caches), copies=copies)
    assert {row.outcome for row in run.rows} == {"ok"}
    assert {row.backend for row in run.rows} == set(names)
    for row in run.rows:
        assert row.owner == row.backend
        if row.backend == "slow twin":
            assert row.ratio < 0.7


def test_a_case_of_two_sets_is_timed_once(fresh_run, steps):
    rows = measured(["numpy"], [LONE, CaseSet("other", (A, POOL))], steps, fresh_run())
    assert [row.case for row in rows if row.problem] == [A.label] * 4 + [POOL.label] * 2
    assert all(row.seconds for row in rows)
