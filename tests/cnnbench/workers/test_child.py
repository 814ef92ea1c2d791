"""A child answers on its own channel, imports nothing from the folder, and ends with its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cnnbench.judging.limits import measure_ceilings
from cnnbench.workers.child import Child, ChildError
from cnnbench.workers.worker import Worker, WorkerError

MODULE = """
import ctypes, os, subprocess, sys, time
print("imported")

def main(channel):
    while True:
        what = channel.receive()
        if what == "print":
            print('{"answer": "printed"}', flush=True)
            os.write(1, b"not even text: \\xff\\n")
        elif what == "read":
            what = sys.stdin.read()
        elif what == "start":
            what = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
        elif what == "sleep":
            time.sleep(600)
        elif what == "hold the lock":
            ctypes.PyDLL(None).sleep(600)
        elif what == "exit":
            print("on standard error", file=sys.stderr)
            os._exit(3)
        channel.send([what, os.getpid()])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Install the module `answering` for every process that is started from here on."""
    (tmp_path / "answering.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "answering"


@pytest.fixture
def child(module):
    with Child(module, os.environ) as child:
        yield child


# --------------------------------------------------------------------------------------------
# the channel


@pytest.mark.parametrize("what", ["print", "ok", {"a": [1, None]}, "é" * 100_000])
def test_a_child_answers_and_what_it_prints_is_no_answer(child, what):
    assert child.ask(what)[0] == what


def test_standard_input_is_empty(child):
    assert child.ask("read")[0] == ""


def test_a_child_that_ends_says_how(child):
    for _ in range(2):
        with pytest.raises(ChildError, match=r"^the worker ended with exit code 3: on standard"):
            child.ask("exit")
    assert not child.alive


def test_a_child_whose_answer_does_not_come_in_time_is_stopped(child):
    child.ask("ok")
    with pytest.raises(ChildError, match=r"^no answer within 0 s; stopped$"):
        child.ask("sleep", timeout=0.2)
    assert not child.alive
    with pytest.raises(ChildError, match="stopped before"):
        child.ask("ok")


def test_a_child_that_was_interrupted_is_stopped(child, monkeypatch):
    def interrupting(*_):
        raise KeyboardInterrupt

    child.ask("ok")
    monkeypatch.setattr(child._channel, "receive", interrupting)
    with pytest.raises(KeyboardInterrupt):
        child.ask("ok")
    assert not child.alive
    with pytest.raises(ChildError, match="stopped before"):
        child.ask("ok")


# --------------------------------------------------------------------------------------------
# what is in the way


@pytest.fixture
def littered(tmp_path, monkeypatch):
    """Be in a folder of files that have names of modules, in a Python that prints at its start."""
    folder, site = tmp_path / "folder", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    for name in ("statistics", "queue", "torch", "numba", "json", "selectors", "cnnbench"):
        (folder / f"{name}.py").write_text("open('read', 'w')\nraise SystemExit('read')\n")
    (site / "sitecustomize.py").write_text("print('{\"customized\": true}', flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.setenv("NUMBA_PARALLEL_DIAGNOSTICS", "1")
    monkeypatch.chdir(folder)
    yield
    assert not (folder / "read").exists()


@pytest.mark.usefixtures("littered")
def test_a_worker_reads_no_file_of_the_folder_and_hears_nothing_but_answers():
    descriptor = "mb2ic3ih6oc4oh6kh3ph1"
    for backend in ("numpy", "numba"):
        with Worker(backend, 1) as worker:
            found = worker.ask("check", descriptor=descriptor, folder=None, budget=None)
            assert found["outcome"] == "ok"


MODEL = """
from torch import nn

def network():
    from beside import CHANNELS

    return nn.Conv2d(3, CHANNELS, 3)

def asking():
    return nn.Conv2d(3, int(input("how many? ")), 3)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("littered")
def test_a_model_in_the_folder_is_found_and_gets_no_input():
    pytest.importorskip("torch")
    Path("my_model.py").write_text(MODEL)
    Path("beside.py").write_text("CHANNELS = 4\n")
    with Worker("torch-cpu", 1) as worker:
        found = worker.ask("capture", model="my_model:network", shape=[2, 3, 8, 8])
        assert [call["name"] for call in found["calls"]] == ["the model"]
        with pytest.raises(
            WorkerError, match=r"asking\(\) raised EOFError: .* empty standard input"
        ):
            worker.ask("capture", model="my_model:asking", shape=[2, 3, 8, 8])


@pytest.mark.slow
@pytest.mark.usefixtures("littered")
def test_ceilings_are_measured_whatever_lies_in_the_folder():
    assert measure_ceilings(1)["flops"]["float32"] > 0


# --------------------------------------------------------------------------------------------
# the end

PARENT = """
import os, time
from cnnbench.workers.child import Child
child = Child("answering", os.environ)
print(child.ask("ok")[1], child.ask("start")[0], flush=True)
{then}
"""


def orphans_of(then, number):
    """Start a parent, end it by a signal, and return the pids of its child and grandchild."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        time.sleep(0.2)  # until the child is in the middle of it
        parent.send_signal(number)
    return pids


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    "then", ["child.ask('sleep')", "child.ask('hold the lock')", "time.sleep(600)"]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent_nor_do_the_childs_own(then, number, ends):
    if "lock" in then and sys.platform != "linux":
        pytest.skip("no signal for the end of a pipe here: code that holds the lock goes on")
    pids = orphans_of(then, number)
    assert len(pids) == 2
    assert [ends(pid) for pid in pids] == [True, True]


@pytest.mark.usefixtures("module")
def test_a_child_ends_with_its_parent_where_no_signal_is_sent(tmp_path, ends):
    (tmp_path / "sitecustomize.py").write_text("import fcntl\ndel fcntl.F_SETSIG\n")
    pids = orphans_of("child.ask('sleep')", signal.SIGKILL)
    assert [ends(pid) for pid in pids] == [True, True]


def test_a_child_goes_on_when_the_thread_that_started_it_ends(module):
    started = []
    thread = threading.Thread(target=lambda: started.append(Child(module, os.environ)))
    thread.start()
    thread.join()
    with started[0] as child:
        assert child.ask("ok")[0] == "ok"
