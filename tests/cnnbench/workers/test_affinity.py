"""Processes that are compared run on the same cores, each core with arithmetic units of its own."""

import os
import subprocess
import sys

import pytest

from cnnbench.workers import affinity
from cnnbench.workers.pool import WorkerPool

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system has no affinity"
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that makes a machine: its hyperthreads, by core."""

    def machine(*groups):
        allowed = {core for group in groups for core in group}
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
        monkeypatch.setattr(affinity, "SYSTEM", tmp_path)
        for group in groups:
            for core in group:
                folder = tmp_path / f"cpu{core}" / "topology"
                folder.mkdir(parents=True)
                (folder / "thread_siblings_list").write_text(",".join(map(str, group)) + "\n")

    return machine


@pytest.mark.parametrize(
    ("groups", "threads", "cores"),
    [
        ([(0,), (1,)], 1, {1}),
        ([(0,), (1,)], 2, None),
        ([(0,), (1,)], 3, None),
        ([(0, 1), (2, 3)], 1, {2}),
        ([(0, 1), (2, 3)], 2, {0, 2}),
        ([(0, 2), (1, 3)], 2, {0, 1}),
        ([(0, 2), (1, 3)], 3, {0, 1, 2}),
        ([(4,), (6,), (7,)], 2, {6, 7}),
        ([(5,)], 1, None),
    ],
)
def test_cores_are_whole_ones_and_not_the_first_if_others_are_free(machine, groups, threads, cores):
    machine(*groups)
    assert affinity.cores_for(threads) == cores


def test_where_nothing_is_known_of_hyperthreads_every_core_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(affinity, "SYSTEM", tmp_path)
    assert affinity.cores_for(1) == {1}


def test_a_system_without_affinity_leaves_every_core(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity")
    assert affinity.cores_for(1) is None


def test_all_threads_of_a_process_are_kept_on_the_cores():
    core = max(os.sched_getaffinity(0))
    sleeping = "threading.Thread(target=time.sleep, args=(60,)).start()"
    code = f"import threading, time; {sleeping}; print()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        before = {os.sched_getaffinity(thread) == {core} for thread in threads(process.pid)}
        affinity.pin(process.pid, None)
        assert before == {os.sched_getaffinity(t) == {core} for t in threads(process.pid)}
        affinity.pin(process.pid, {core})
        assert len(list(threads(process.pid))) == 2
        assert all(os.sched_getaffinity(thread) == {core} for thread in threads(process.pid))
        process.kill()


def test_a_process_that_has_ended_is_no_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    affinity.pin(process.pid, {max(os.sched_getaffinity(0))})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the machine has one core")
@pytest.mark.slow
def test_workers_of_one_thread_share_a_core():
    with WorkerPool(["numpy", "naive"], 1) as pool:
        processes = [worker._child._process.pid for worker in pool._workers.values()]
        found = [os.sched_getaffinity(process) for process in processes]
    assert found[0] == found[1] == affinity.cores_for(1)


def threads(process):
    return map(int, os.listdir(f"/proc/{process}/task"))
