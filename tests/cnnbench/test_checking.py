"""Every case on every backend ends in rows: right, or with the reason why not; never in a gap."""

import dataclasses
import re

import pytest

from cnnbench import checking, results
from cnnbench.cases import CaseSet
from cnnbench.workers.pool import WorkerPool
from cnnkernels.contract import directions
from cnnkernels.descriptor import parse_case

CONV = parse_case('mb2ic3ih6oc4oh6kh3ph1n"tiny.conv*2"')
POOL = parse_case('mb2ic3ih6oh3kh2sh2ph0n"tiny.pool*1"')
TINY = CaseSet("tiny", (CONV, POOL))

EXPECTED = {
    # backend: outcome and reason on the convolution, then on the max-pool
    "numpy": (("ok", ""), ("ok", "")),
    "naive": (("ok", ""), ("ok", "")),
    "prints": (("ok", ""), ("ok", "")),
    "wrong": (("wrong", "y[0, 0, 0, 0] is "), ("ok", "")),
    "raises": (("failed", "MemoryError: no room for the columns"), ("ok", "")),
    "killed": (("failed", "the worker was killed by SIGKILL"), ("ok", "")),
    "exits": (("failed", "the worker ended with exit code 3: no licence"), ("ok", "")),
    "killed-once": (
        ("failed", "the worker was killed by SIGKILL"),
        ("failed", "the device is lost"),
    ),
    "refuses": (("unsupported", "pools only"), ("ok", "")),
    "declines": (("unsupported", "no such chip here"),) * 2,
    "unloadable": (("failed", "KeyError: 'secret'"),) * 2,
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strangers")]


@pytest.fixture(scope="module")
def everyone(fresh_run, steps, tmp_path_factory):
    """A run of everyone, as it was written."""
    run = fresh_run(tmp_path_factory.mktemp("run") / "run.json")
    progress = steps()
    checking.check(run, [TINY], list(EXPECTED), [1], progress)
    assert progress.done == progress.total
    return results.read(run.paths[0])


def rows_of(run, backend, case):
    return [row for row in run.rows if (row.backend, row.case) == (backend, case.label)]


@pytest.mark.parametrize("backend", EXPECTED)
def test_every_backend_has_its_outcome_and_reason_in_every_direction(everyone, backend):
    for case, (outcome, reason) in zip((CONV, POOL), EXPECTED[backend], strict=True):
        rows = rows_of(everyone, backend, case)
        assert [row.direction for row in rows] == list(directions(case.problem))
        for row in rows:
            assert row.outcome == outcome
            assert reason in row.reason
            assert bool(row.reason) == (outcome != "ok")
            assert (row.problem, row.layers, row.threads) == (str(case), case.layers, 1)


def test_there_are_no_other_rows_and_no_times(everyone):
    assert len(everyone.rows) == len(EXPECTED) * 6
    for row in everyone.rows:
        assert (row.seconds, row.samples, row.ratio, row.verdict) == (None, [], None, None)


def test_who_passed_has_errors_within_the_bound_and_the_digest_of_what_was_checked(everyone):
    for row in everyone.rows:
        if row.outcome == "ok":
            assert 0 <= row.error_over_bound <= 1
            assert row.check
            assert row.repeatable is not None
        else:
            assert row.error_over_bound is None


def test_a_call_that_is_too_slow_is_skipped_and_the_reason_has_its_time(fresh_run, steps):
    run = fresh_run()
    large = CaseSet("", (parse_case("mb8ic64ih56oc64oh56kh3ph1"),))
    checking.check(run, [large], ["naive"], [1], steps(), call_seconds=0.1)
    assert {row.outcome for row in run.rows} == {"unsupported"}
    assert re.fullmatch(r"skipped: too slow \(about [\d.]+ (s|min|h)\)", run.rows[0].why)
    assert len(run.rows) == 4


def test_rows_of_earlier_cases_are_in_the_file_when_a_later_one_begins(tmp_path, fresh_run, steps):
    path = tmp_path / "run.json"
    seen = []

    class Watching(steps):
        def step(self, text, count=1):
            super().step(text, count)
            seen.append(len(results.read(path).rows) if path.exists() else 0)

    checking.check(fresh_run(path), [TINY], ["numpy"], [1], Watching())
    assert seen == [0, 4]


# --------------------------------------------------------------------------------------------
# several thread counts

SUMS = CaseSet("", (parse_case("mb2ic33ih6oc4oh6kh3ph1"),))


def outcomes(fresh_run, steps, backend, threads):
    run = fresh_run()
    checking.check(run, [SUMS], [backend], threads, steps())
    assert [row.threads for row in run.rows] == [count for count in threads for _ in range(4)]
    return [(row.outcome, row.reason) for row in run.rows[::4]]


def test_who_promises_the_same_bits_and_gives_others_at_two_threads_is_wrong(fresh_run, steps):
    one, two = outcomes(fresh_run, steps, "unsteady", [1, 2])
    assert one == ("ok", "")
    assert two == ("wrong", "gave different bits with 2 threads than with 1")


@pytest.mark.parametrize(("backend", "fine"), [("one-thread", 1), ("two-threads", 2)])
def test_who_fails_at_one_thread_count_is_not_held_to_its_bits_there(
    fresh_run, steps, backend, fine
):
    found = dict(zip((1, 2), outcomes(fresh_run, steps, backend, [1, 2]), strict=True))
    assert found.pop(fine) == ("ok", "")
    assert set(found.values()) == {("failed", f"OSError: runs with {fine} threads only")}


def test_every_set_is_checked_and_a_case_without_a_name_is_called_by_its_descriptor(
    fresh_run, steps
):
    run = fresh_run()
    nameless = dataclasses.replace(POOL, name="")
    sets = [CaseSet("", (nameless,)), CaseSet("one", (POOL,))]
    checking.check(run, sets, ["numpy"], [1], steps())
    assert [row.case for row in run.rows[::2]] == [str(POOL.problem), "tiny.pool"]
    assert {row.op for row in run.rows} == {"max_pool2d"}


def test_an_error_in_one_of_several_checks_ends_all_of_them(steps, tmp_path):
    class Failing(steps):
        def step(self, text, count=1):
            super().step(text, count)
            if text.startswith("checking numpy"):
                raise RuntimeError("no")

    progress = Failing()
    progress.begin(99)
    with WorkerPool(["naive", "numpy"], 1) as pool:
        checks = checking.check_at_once(
            pool, TINY.cases, pool.backends, tmp_path, progress, None, at_once=2
        )
        with pytest.raises(RuntimeError, match="no"):
            next(checks)
    assert pool.present == []


@pytest.mark.slow
def test_several_checks_at_once_find_the_same_and_keep_spots_for_timed_calls(steps, tmp_path):
    progress = steps()
    progress.begin(2 * len(TINY.cases))
    names = ["naive", "numpy"]
    with WorkerPool(names, 1) as pool:
        found = dict(
            checking.check_at_once(
                pool, TINY.cases, names, tmp_path, progress, None, at_once=2, timed_later=True
            )
        )
    assert progress.done == progress.total
    assert list(found) == list(TINY.cases)
    for case, of_case in found.items():
        assert {name: one["outcome"] for name, one in of_case.items()} == dict.fromkeys(names, "ok")
        (kept,) = checking.folder_of(tmp_path, case).iterdir()
        assert kept.name.startswith("spots-")
