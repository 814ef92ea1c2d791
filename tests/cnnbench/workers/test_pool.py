"""The workers of several backends: those that cannot work say why, and never take others along."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from cnnbench.results import Row, Run
from cnnbench.workers.pool import Copy, WorkerPool, baseline_for, failing, note, note_threading
from cnnbench.workers.worker import Worker, WorkerError, WorkerUnsupportedError

CONV = "mb2ic3ih6oc4oh6kh3ph1"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strangers")]


def finds(pool, backend):
    return pool.ask(backend, "check", descriptor=CONV, folder=None, budget=None)["outcome"]


def timed_row():
    return Row("a", CONV, "conv2d", "forward", "x", 1, "ok", seconds=1.0, samples=[1.0, 1.0])


def test_everyone_is_present_or_absent_with_the_reason():
    with WorkerPool(["numpy", "declines", "unloadable"], 1) as pool:
        assert pool.present == ["numpy"]
        assert pool.absent["declines"] == ("unsupported", "no such chip here")
        outcome, reason = pool.absent["unloadable"]
        assert outcome == "failed"
        assert "failed to load: KeyError: 'secret'" in reason
        assert pool.about("numpy")["backend"] == "numpy"
        for absent in ("declines", "unloadable"):
            with pytest.raises(WorkerError, match=r"no such chip here|KeyError: 'secret'"):
                pool.ask(absent, "threading")


def test_a_worker_that_dies_is_replaced_and_the_others_stay():
    with WorkerPool(["killed", "numpy"], 1) as pool:
        for _ in range(2):
            with pytest.raises(WorkerError, match="SIGKILL"):
                finds(pool, "killed")
            assert pool.present == ["killed", "numpy"]
            assert finds(pool, "numpy") == "ok"


def test_a_worker_that_dies_and_cannot_be_replaced_is_absent_with_the_reason():
    with WorkerPool(["killed-once", "numpy"], 1) as pool:
        with pytest.raises(WorkerError, match="SIGKILL"):
            finds(pool, "killed-once")
        assert pool.present == ["numpy"]
        for _ in range(2):
            with pytest.raises(WorkerError, match="the device is lost"):
                finds(pool, "killed-once")
        assert pool.absent["killed-once"][0] == "failed"
        assert pool.about("killed-once")["layout"] == "NCHW"
        assert finds(pool, "numpy") == "ok"


def test_a_backend_that_is_named_twice_has_one_worker(monkeypatch):
    opened = []

    class Counted(Worker):
        def __init__(self, *arguments, **options):
            opened.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("cnnbench.workers.pool.Worker", Counted)
    with WorkerPool(["numpy", "numpy"], 1) as pool:
        assert pool.present == ["numpy"]
    assert [worker.alive for worker in opened] == [False]


def test_a_closed_team_has_no_workers():
    pool = WorkerPool(["numpy"], 1)
    pool.close()
    assert pool.present == []


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
    assert baseline_for(SimpleNamespace(present=[*present, "other"]), present, "wanted") == expected


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
    with WorkerPool(["numpy", "declines"], 1) as pool:
        note_threading(run, pool)
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
        WorkerPool(["numpy", "naive"], 1)
    assert stopped == [True]


def test_a_pool_that_is_closed_while_a_worker_is_asked_starts_none_anew():
    pool = WorkerPool(["numpy"], 1)
    with ThreadPoolExecutor() as executor:
        asked = executor.submit(pool.ask, "numpy", "train", epochs=100_000)
        time.sleep(0.2)  # until it trains
        pool.close()
        with pytest.raises(WorkerError):
            asked.result(20)
    assert pool.present == []


def test_a_copy_is_a_worker_of_its_own_under_another_name():
    with WorkerPool(["numpy"], 1) as pool:
        pool.add("twin", Copy("numpy"))
        worker = pool._workers["twin"]
        pool.add("twin", Copy("numpy"))
        assert pool._workers["twin"] is worker
        assert pool.present == ["numpy", "twin"]
        assert pool.about("twin")["backend"] == "numpy"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the machine has one core")
def test_workers_may_use_all_cores_while_nothing_is_timed():
    with WorkerPool(["numpy"], 1) as pool:
        process = pool._workers["numpy"]._child._process.pid
        with pool.spread():
            assert os.sched_getaffinity(process) == os.sched_getaffinity(0)
        assert len(os.sched_getaffinity(process)) == 1
