"""Which commits are measured, and with which configuration."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from asv_suite import digits, layers
from cnnbench.history import asv, measure
from cnnbench.history.asv import HistoryError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def repository(tmp_path):
    """Commits: without kernels, with the first backends, a document, and another kernel."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    hashes = []
    for name in ("contract.py", "registry.py", "HOW.md", "simd.py"):
        path = tmp_path / measure.KERNELS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        git("add", "-A")
        git("commit", "--quiet", "-m", name)
        hashes.append(git("rev-parse", "HEAD"))
    return tmp_path, hashes


def test_commits_that_change_kernels_are_chosen(repository):
    folder, (_, first, _, last) = repository
    assert measure.commits(folder, "") == [first, last]
    assert measure.commits(folder, "HEAD~1..HEAD") == [last]


def test_a_range_without_a_change_is_measured_at_its_end(repository):
    folder, (_, _, document, _) = repository
    assert measure.commits(folder, "HEAD~2..HEAD~1") == [document]


@pytest.mark.parametrize(
    ("range_", "message"),
    [
        ("HEAD..HEAD", "expected a range of commits"),
        ("HEAD~3", "nothing to measure"),
        ("no-such-branch", "no-such-branch"),
    ],
)
def test_a_useless_range_is_one_sentence(repository, range_, message):
    with pytest.raises(HistoryError, match=message):
        measure.commits(repository[0], range_)


def test_a_derived_configuration_stands_anywhere(tmp_path):
    path = asv.derived(ROOT, tmp_path, results_dir="elsewhere")
    told = json.loads(path.read_text())
    assert told["results_dir"] == "elsewhere"
    assert told["repo"] == str(ROOT)
    assert told["benchmark_dir"] == str(ROOT / "bench" / "asv_suite")
    assert not any("{conf_dir}" in line for line in told["install_command"])
    assert any(f"{ROOT}/constraints.txt" in line for line in told["install_command"])


def test_outside_a_checkout_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HistoryError, match=r"expected asv.conf.json in .*run this in a checkout"):
        asv.root()


def test_each_benchmark_is_in_one_group():
    names = [
        f"{module.__name__.split('.')[-1]}.{group.__name__}.{name}{parameters}"
        for module in (layers, digits)
        for group in vars(module).values()
        if isinstance(group, type)
        for name in dir(group)
        if re.match("(time|track)_", name)
        for parameters in ("('digits.conv1', 'numba')", "('digits.conv1', 'torch-cpu')")
    ]
    assert names
    for name in names:
        groups = [*measure.GROUPS.values(), measure.SCALE]
        assert sum(measure._has({name}, group) for group in groups) == 1, name


class Interrupted:
    """A process that Ctrl-C comes to some times while it is waited for."""

    pid = 0

    def __init__(self, times):
        self.times, self.ended = times, False

    def wait(self):
        if self.times:
            self.times -= 1
            raise KeyboardInterrupt
        self.ended = True
        return 0


@pytest.mark.parametrize("times", [0, 1])
def test_what_is_being_measured_is_kept_at_the_first_interrupt(times, monkeypatch, tmp_path):
    process = Interrupted(times)
    monkeypatch.setattr(asv, "start", lambda *_, **__: process)
    assert measure._finish(tmp_path, log=tmp_path) == (0, bool(times))
    assert process.ended


def test_the_second_interrupt_ends_it(monkeypatch, tmp_path):
    process, killed = Interrupted(2), []
    monkeypatch.setattr(asv, "start", lambda *_, **__: process)
    monkeypatch.setattr(measure.os, "killpg", lambda *arguments: killed.append(arguments))
    with pytest.raises(KeyboardInterrupt):
        measure._finish(tmp_path, log=tmp_path)
    assert killed == [(process.pid, signal.SIGINT)]
    assert process.ended
