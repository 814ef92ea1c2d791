"""asv's results as series over commits, with steps."""

import math

import pytest

from cnnbench.history import again, series, summary, then_and_now
from cnnbench.history.asv import HistoryError

SPEED = "layers.Speed.time_forward"
MACHINE = "a-machine"


@pytest.fixture
def measured(checkout):
    """Seconds that double with the last commit, for one of two backends."""
    checkout.benchmark(
        SPEED, params=[["conv"], ["numpy", "numba"]], param_names=["case", "backend"]
    )
    checkout.benchmark("digits.Training.track_mistakes", unit="of the test images")
    for commit, fast, slow in zip(
        checkout.commits, (1.0, 1.01, 1.0), (1e-3, 1.02e-3, 2.1e-3), strict=True
    ):
        checkout.add(commit, {SPEED: [fast, slow], "digits.Training.track_mistakes": [0.05]})
    return checkout


def test_values_stand_in_the_order_of_history(measured):
    history = series.read(measured.folder)
    assert [commit.hash for commit in history.commits] == measured.commits
    assert history.commits[0].subject == "a dot product"
    assert history.commits[0].date == "2026-01-01"
    speed = [one for one in history.series if one.benchmark == SPEED]
    assert [(one.case, one.backend, one.unit) for one in speed] == [
        ("conv", "numba", "seconds"),
        ("conv", "numpy", "seconds"),
    ]
    assert [point[:2] for point in speed[0].points] == [(0, 1e-3), (1, 1.02e-3), (2, 2.1e-3)]
    assert speed[0].what == "Speed: forward"


def test_a_step_is_told_with_its_commits(measured):
    history = series.read(measured.folder)
    ((one, step),) = history.steps
    assert (one.backend, step.since, step.at) == ("numba", 1, 2)
    assert step.factor == pytest.approx(2.1 / 1.01, rel=0.05)


def measured_again(measured, before, after):
    """Add a second measurement of the step; return the history."""
    _, since, at = measured.commits
    name = f"{SPEED}('conv', 'numba')"
    again.keep(measured.results / MACHINE, [again.Again(name, since, at, before, after)])
    return series.read(measured.folder)


def test_a_rise_is_a_regression_once_it_is_confirmed(measured):
    history = series.read(measured.folder)
    assert history.regressions == []
    assert history.suspects == history.steps
    history = measured_again(measured, 1.0e-3, 1.8e-3)
    assert history.regressions == history.steps
    assert len(history.steps) == 1
    assert history.suspects == []


def test_a_rise_that_a_second_measurement_does_not_find_is_no_step(measured):
    history = measured_again(measured, 1.0e-3, 1.2e-3)
    assert history.steps == history.suspects == history.regressions == []


def test_a_library_of_others_has_no_steps(checkout):
    checkout.benchmark(SPEED, params=[["torch-cpu", "numpy"]], param_names=["backend"])
    for commit, value in zip(checkout.commits, (1.0, 1.0, 2.0), strict=True):
        checkout.add(commit, {SPEED: [value, value]})
    assert [one.backend for one, _ in series.read(checkout.folder).steps] == ["numpy"]


def test_then_and_now_are_means_of_the_cases_at_both_ends(checkout):
    ratio, backends = "layers.Ratio.track_forward", ["numba", "torch-cpu"]
    checkout.benchmark(ratio, "of torch-cpu's time", [["a", "b"], backends], ["case", "backend"])
    checkout.benchmark(SPEED, params=[["numba"]], param_names=["backend"])
    first, second, last = checkout.commits
    checkout.add(first, {ratio: [4.0, 1.0, math.nan, 1.0], SPEED: [5.0]})
    checkout.add(second, {ratio: [3.0, 1.0, 2.0, 1.0], SPEED: [5.0]})
    checkout.add(last, {ratio: [1.0, 1.0, 4.0, 1.0], SPEED: [5.0]})
    (change,) = then_and_now.changes(series.read(checkout.folder))
    assert (change.series.backend, change.cases, change.first, change.last) == ("numba", 2, 0, 2)
    assert change.then == pytest.approx(math.sqrt(4.0 * 2.0))
    assert change.now == pytest.approx(math.sqrt(1.0 * 4.0))


def test_a_step_down_is_no_regression(checkout):
    checkout.benchmark("a.Speed.time_a")
    for commit, value in zip(checkout.commits, (2.0, 2.0, 1.0), strict=True):
        checkout.add(commit, {"a.Speed.time_a": [value]})
    history = series.read(checkout.folder)
    assert [step.factor for step in history.series[0].steps] == [0.5]
    assert history.suspects == history.regressions == []


@pytest.mark.parametrize(("unit", "steps"), [("bytes", 0), ("seconds", 1)])
def test_what_a_heap_keeps_for_itself_is_no_step(checkout, unit, steps):
    checkout.benchmark("a.Memory.track_a", unit=unit)
    for commit, value in zip(checkout.commits, (2e5, 2e5, 9e5), strict=True):
        checkout.add(commit, {"a.Memory.track_a": [value]})
    assert len(series.read(checkout.folder).series[0].steps) == steps


def test_machines_are_never_one_series(checkout):
    checkout.benchmark("a.Speed.time_a")
    for machine, value in (("one", 1.0), ("two", 5.0)):
        for commit in checkout.commits:
            checkout.add(commit, {"a.Speed.time_a": [value]}, machine=machine)
    history = series.read(checkout.folder)
    assert {(one.machine, one.points[0][1]) for one in history.series} == {
        ("one", 1.0),
        ("two", 5.0),
    }
    assert not any(one.steps for one in history.series)


def test_what_differs_of_environments_is_part_of_the_name(checkout):
    checkout.benchmark("a.Speed.time_a", params=[["numba"]], param_names=["backend"])
    for commit in checkout.commits:
        for numpy, value in (("2.3.0", 2.0), ("2.4.6", 1.0)):
            libraries = {"numpy": numpy, "torch": "2.13.0"}
            checkout.add(commit, {"a.Speed.time_a": [value]}, libraries=libraries)
        checkout.add(commit, {"a.Speed.time_a": [5.0]}, machine="other")
    history = series.read(checkout.folder)
    assert [(one.machine, one.name, one.points[0][1]) for one in history.series] == [
        ("a-machine", "numba, numpy 2.3.0", 2.0),
        ("a-machine", "numba, numpy 2.4.6", 1.0),
        ("other", "numba", 5.0),
    ]
    assert not any(one.steps for one in history.series)


def test_one_environment_is_no_part_of_a_name(measured):
    names = {one.name for one in series.read(measured.folder).series}
    assert names == {"numba", "numpy", ""}


def test_skips_failures_and_other_versions_are_left_out(checkout):
    checkout.benchmark("a.Speed.time_a", version="2")
    first, second, third = checkout.commits
    checkout.add(first, {"a.Speed.time_a": [1.0]}, version="1")
    checkout.add(second, {"a.Speed.time_a": [math.nan]}, version="2")
    checkout.add(third, {"a.Speed.time_a": [3.0]}, version="2")
    ((one,), commits) = (lambda h: (h.series, h.commits))(series.read(checkout.folder))
    assert [(commits[at].hash, value) for at, value, _, _ in one.points] == [(third, 3.0)]


def test_results_of_unknown_commits_are_left_out(checkout):
    checkout.benchmark("a.Speed.time_a")
    checkout.add(checkout.commits[0], {"a.Speed.time_a": [1.0]})
    checkout.add("f" * 40, {"a.Speed.time_a": [9.0]})
    history = series.read(checkout.folder)
    assert len(history.commits) == 1
    assert [point[1] for one in history.series for point in one.points] == [1.0]


def test_no_history_is_one_sentence(checkout):
    with pytest.raises(HistoryError, match=r"no history in .*make history"):
        series.read(checkout.folder)


def test_the_summary_names_steps_and_their_commits(measured):
    progress, overview, steps, commits = summary.sheets(series.read(measured.folder))
    ends = f"{measured.commits[0][:8]} to {measured.commits[2][:8]}"
    assert (MACHINE, "Speed: forward", "numba", "1", "1.00 ms", "2.10 ms", ends) in progress.rows
    assert ("Speed: forward", "seconds", "2", "1", "0") in overview.rows
    assert steps.rows == (
        (measured.commits[2][:8], "Speed: forward", "conv", "numba", "1.02 ms to 2.10 ms"),
    )
    assert commits.rows == ((measured.commits[2][:8], "2026-01-03", "twice the work"),)
