"""The command itself, on workers of this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cnnbench import results

pytest.importorskip("distributed", reason="Dask is not installed")
pytestmark = pytest.mark.slow

CASES = "mb2ic3ih8oc4kh3ph1,mb2ic4ih6oc4kh3,mb4ic4ih8kh2sh2"
TIME = ["time", "--quick", "--cases", CASES, "--backends", "numpy", "--baseline", "numpy"]


def command(*arguments):
    return [sys.executable, "-m", "cnnbench.cli", "sweep", "--on", "local:2", *arguments]


def swept(folder, *arguments):
    """Run a sweep; return what it prints, and the runs of its folder."""
    done = subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, runs(folder)


def runs(folder):
    return [
        results.read(path)
        for path in sorted(folder.glob(".cnnbench/sweep-*/*.json"))
        if path.name != "sweep.json" and not path.name.endswith("-plan.json")
    ]


def test_rows_are_those_of_time(tmp_path):
    done, (swept_run,) = swept(tmp_path, *TIME)
    arguments = [sys.executable, "-m", "cnnbench.cli", *TIME, "--json", "alone.json"]
    subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    alone = results.read(tmp_path / "alone.json")
    shape = [(row.case, row.problem, row.direction, row.backend, row.outcome, row.check)
             for row in alone.rows]  # fmt: skip
    assert shape == [(row.case, row.problem, row.direction, row.backend, row.outcome, row.check)
                     for row in swept_run.rows]  # fmt: skip
    assert set(alone.environment) - {"unfinished"} <= set(swept_run.environment)
    assert "3 of 3 cases" in done.stdout


def test_a_worker_that_is_killed_loses_no_row(tmp_path):
    process = subprocess.Popen(
        command(*TIME), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not (home := list(tmp_path.glob(".cnnbench/*/rows.jsonl"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for pid in workers_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    (run,) = runs(tmp_path)
    assert {row.outcome for row in run.rows} == {"ok"}
    assert len({row.problem for row in run.rows if row.problem}) == 3
    entries = map(json.loads, home[0].read_text().splitlines())
    assert {entry["share"] for entry in entries} == {run.environment["machine"]}


def workers_of(pid):
    """Return the processes of Dask's workers below a process."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^ *(\d+) +(\d+) (.*)$", listed, re.MULTILINE)
    return [
        int(own) for own, parent, words in found if int(parent) == pid and "spawn_main" in words
    ]


def test_ctrl_c_twice_keeps_the_rows(tmp_path):
    process = subprocess.Popen(
        command(*TIME),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A background job of a shell ignores the signal, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob(".cnnbench/*/rows.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said
    (run,) = runs(tmp_path)
    assert run.rows or run.environment
    folder = next(tmp_path.glob(".cnnbench/sweep-*"))
    _, (run,) = swept(tmp_path, "--resume", str(folder))
    assert len({row.problem for row in run.rows if row.problem}) == 3


def test_a_check_is_split(tmp_path):
    _, (run,) = swept(tmp_path, "--split", "check", "--cases", "digits", "--backends", "numpy")
    assert [row.case for row in run.rows if row.direction == "forward"] == [
        "digits.conv1", "digits.pool1", "digits.conv2", "digits.pool2",
    ]  # fmt: skip


@pytest.fixture
def started(tmp_path):
    """Return a function that starts a program of Dask and waits until it prints an address."""
    begun = []

    def started(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
            cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        for line in process.stderr:
            if found := re.search(r"tcp://127\.0\.0\.1:\d+", line):
                return process, found[0]
        raise AssertionError(f"{arguments} did not start")

    yield started
    for process in begun:
        process.kill()
        process.communicate()


def test_rows_are_kept_when_the_scheduler_is_killed(tmp_path, started):
    local = ("--host", "127.0.0.1", "--no-dashboard")
    scheduler, address = started("scheduler", *local, "--port", "0")
    started("worker", address, *local, "--nthreads", "1")
    words = command(*TIME)
    words[words.index("local:2")] = address
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob(".cnnbench/*/rows.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    scheduler.kill()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "cnnbench: the scheduler has ended" in said
    assert "--resume" in said
    assert "Traceback" not in said
    (run,) = runs(tmp_path)
    assert run.environment["machine"]
