"""The workers of several backends: those that cannot work say why, and never take others along."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from cnnbench.results import Row, Run
from cnnbench.team import Team, baseline_for, failing, note, note_threading
from cnnbench.worker import Worker, WorkerError, WorkerUnsupportedError

CONV = "mb2ic3ih6oc4oh6kh3ph1"

pytestmark = pytest.mark.usefixtures("strangers")


def finds(team, backend):
    return team.ask(backend, "check", descriptor=CONV, folder=None, budget=None)["outcome"]


def timed_row():
    return Row("a", CONV, "conv2d", "forward", "x", 1, "ok", seconds=1.0, samples=[1.0, 1.0])


def test_everyone_is_present_or_absent_with_the_reason():
    with Team(["numpy", "declines", "unloadable"], 1) as team:
        assert team.present == ["numpy"]
        assert team.absent["declines"] == ("unsupported", "no such chip here")
        outcome, reason = team.absent["unloadable"]
        assert outcome == "failed"
        assert "failed to load: KeyError: 'secret'" in reason
        assert team.about("numpy")["backend"] == "numpy"
        for absent in ("declines", "unloadable"):
            with pytest.raises(WorkerError, match=r"no such chip here|KeyError: 'secret'"):
                team.ask(absent, "threading")


def test_a_worker_that_dies_is_replaced_and_the_others_stay():
    with Team(["killed", "numpy"], 1) as team:
        for _ in range(2):
            with pytest.raises(WorkerError, match="SIGKILL"):
                finds(team, "killed")
            assert team.present == ["killed", "numpy"]
            assert finds(team, "numpy") == "ok"


def test_a_worker_that_dies_and_cannot_be_replaced_is_absent_with_the_reason():
    with Team(["killed-once", "numpy"], 1) as team:
        with pytest.raises(WorkerError, match="SIGKILL"):
            finds(team, "killed-once")
        assert team.present == ["numpy"]
        for _ in range(2):
            with pytest.raises(WorkerError, match="the device is lost"):
                finds(team, "killed-once")
        assert team.absent["killed-once"][0] == "failed"
        assert team.about("killed-once")["layout"] == "NCHW"
        assert finds(team, "numpy") == "ok"


def test_a_backend_that_is_named_twice_has_one_worker(monkeypatch):
    opened = []

    class Counted(Worker):
        def __init__(self, *arguments, **options):
            opened.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("cnnbench.team.Worker", Counted)
    with Team(["numpy", "numpy"], 1) as team:
        assert team.present == ["numpy"]
    assert [worker.alive for worker in opened] == [False]


def test_a_closed_team_has_no_workers():
    team = Team(["numpy"], 1)
    team.close()
    assert team.present == []


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["naive", "numpy", "wanted"], "wanted"),
        (["naive", "numpy", "numba"], "numpy"),
        (["naive"], "naive"),
        ([], "wanted"),
    ],
)
def test_the_baseline_is_the_wanted_one_or_a_quick_one_that_is_there(present, expected):
    assert baseline_for(SimpleNamespace(present=present), "wanted") == expected


@pytest.mark.parametrize(
    ("error", "outcome"), [(WorkerError, "failed"), (WorkerUnsupportedError, "unsupported")]
)
def test_a_workers_failure_is_the_outcome_of_its_rows_which_lose_their_times(error, outcome):
    rows, other = [timed_row(), timed_row()], timed_row()
    with failing(rows):
        raise error("for a reason")
    for row in rows:
        assert (row.outcome, row.reason) == (outcome, "for a reason")
        assert (row.seconds, row.samples) == (None, [])
    assert other.outcome == "ok"


def test_what_is_no_workers_failure_is_raised():
    row = timed_row()
    with pytest.raises(ZeroDivisionError), failing([row]):
        raise ZeroDivisionError
    with failing([row]):
        pass
    assert row == timed_row()


def test_what_was_measured_and_how_is_noted_by_thread_count():
    run = Run({})
    note(run, "aa_floor", 1, 0.01)
    note(run, "aa_floor", 2, 0.02)
    assert run.environment == {"aa_floor": {"1": 0.01, "2": 0.02}}
    with Team(["numpy", "declines"], 1) as team:
        note_threading(run, team)
    assert list(run.environment["threading"]["1"]) == ["numpy"]
    assert "pools" in run.environment["threading"]["1"]["numpy"]


def stopped_in_time(worker):
    """Wait until somebody has stopped a worker; whether that came within 20 s."""
    last = time.monotonic() + 20
    while worker.alive:
        if time.monotonic() > last:
            worker.close()
            return False
        time.sleep(0.01)
    return True


def test_an_interrupt_stops_workers_that_load(monkeypatch):
    loading, stopped = threading.Event(), []

    def load(worker):
        if worker.backend == "numpy":
            loading.wait(20)
            raise KeyboardInterrupt
        loading.set()
        stopped.append(stopped_in_time(worker))
        raise WorkerError("stopped")

    monkeypatch.setattr(Worker, "load", load)
    with pytest.raises(KeyboardInterrupt):
        Team(["numpy", "naive"], 1)
    assert stopped == [True]


def test_a_team_that_is_closed_while_a_worker_is_asked_starts_none_anew():
    team = Team(["numpy"], 1)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(team.ask, "numpy", "train", epochs=100_000)
        time.sleep(0.2)  # until it trains
        team.close()
        with pytest.raises(WorkerError):
            asked.result(20)
    assert team.present == []
