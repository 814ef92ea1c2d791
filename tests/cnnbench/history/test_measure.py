"""Which commits are measured, and with which configuration."""

import itertools
import json
import math
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from asv_suite import digits, layers
from cnnbench.history import again, asv, measure, series
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
        assert sum(bool(re.search(group, name)) for group in groups) == 1, name


SPEED, RATIO = "layers.Speed.time_forward", "layers.Ratio.track_forward"
CASES = ["a", "b"]
BACKENDS = ["numba", "torch-cpu", "torch-cuda"]


class Machine:
    """asv on a checkout: keeps results as it does, of backends that are there, fail or are not.

    Parameters
    ----------
    checkout : Checkout
    """

    def __init__(self, checkout):
        self.checkout = checkout
        self.failing, self.runs, self.now, self.taking = [], [], 0.0, 60.0
        self.kept = {commit: {} for commit in checkout.commits}
        self.suite(CASES, BACKENDS)

    def suite(self, cases, backends):
        self.params = {SPEED: (cases, backends), RATIO: (cases, ["numba"])}
        for name, params in self.params.items():
            self.checkout.benchmark(name, params=params, param_names=["case", "backend"])

    def run(self, _, *arguments, log):
        del log
        self.now += self.taking
        pattern, commit = arguments[arguments.index("--bench") + 1], arguments[-1].rstrip("^!")
        self.runs.append(commit)
        kept, failed = self.kept[commit], False
        for name, params in self.params.items():
            every = [(name, *chosen) for chosen in itertools.product(*params)]
            asked = {key for key in every if re.search(pattern, f"{name}{key[1:]!r}")}
            if not asked:
                continue
            new = not any(key in kept for key in every)
            for key in every:
                if key in asked:
                    kept[key] = self.value(commit, *key[1:])
                    failed = failed or kept[key] is None
                elif new:
                    kept[key] = math.nan
        self.keep(commit)
        return (2 if failed else 0), False

    def value(self, commit, case, backend):
        if (case, backend) in self.failing:
            return None
        absent = backend == "torch-cuda" or commit == self.checkout.commits[0]
        return math.nan if absent else 1.0

    def keep(self, commit):
        kept = self.kept[commit]
        values = {
            name: [kept.get((name, *chosen)) for chosen in itertools.product(*params)]
            for name, params in self.params.items()
            if any(key[0] == name for key in kept)
        }
        self.checkout.add(commit, values)


@pytest.fixture
def machine(checkout, monkeypatch):
    made = Machine(checkout)
    monkeypatch.chdir(checkout.folder)
    monkeypatch.setattr(asv, "call", lambda *_, **__: 0)
    monkeypatch.setattr(asv, "write_machine", lambda _: "a-machine")
    monkeypatch.setattr(measure, "commits", lambda *_: checkout.commits)
    monkeypatch.setattr(asv, "finish", made.run)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def measured(machine, **options):
    """Measure; return the exit code and which commits asv ran on."""
    machine.runs.clear()
    with pytest.raises(typer.Exit) as exit_:
        measure.main(**options)
    return exit_.value.exit_code, machine.runs


def values(machine, backend):
    """Return what the commits have of a backend's seconds, by case, from the oldest on."""
    return {
        case: [kept.get((SPEED, case, backend)) for kept in machine.kept.values()]
        for case, other in itertools.product(*machine.params[SPEED])
        if other == backend
    }


def test_a_second_run_measures_nothing_though_a_commit_has_skips_alone(machine):
    first, second, last = machine.checkout.commits
    code, runs = measured(machine)
    assert code == 0
    assert runs == [first, first, second, second, last, last, last]  # the last for PyTorch itself
    assert all(math.isnan(value) for value in machine.kept[first].values())
    assert measured(machine) == (0, [])


def test_a_new_case_is_measured_on_every_commit_and_nothing_else_is(machine):
    measured(machine)
    machine.suite([*CASES, "c"], BACKENDS)
    for kept in machine.kept.values():
        kept.update(dict.fromkeys(kept, 7.0))
    _, runs = measured(machine)
    assert len(runs) == 7
    new = values(machine, "numba")["c"]
    assert math.isnan(new[0])
    assert new[1:] == [1.0, 1.0]
    assert values(machine, "numba")["a"] == [7.0] * 3
    assert values(machine, "torch-cpu")["c"][-1] == 1.0
    assert measured(machine) == (0, [])


def test_a_new_backend_is_measured_on_every_commit(machine):
    measured(machine)
    machine.suite(CASES, [*BACKENDS, "new", "torch-new"])
    measured(machine)
    assert values(machine, "new")["a"][1:] == [1.0, 1.0]
    assert values(machine, "torch-new")["a"][-1] == 1.0
    assert measured(machine) == (0, [])


def test_a_part_measured_first_leaves_the_rest_to_be_measured(machine):
    assert len(measured(machine, bench="Speed")[1]) == 4
    assert len(measured(machine)[1]) == 3
    assert measured(machine) == (0, [])


def test_no_benchmark_of_a_name_is_one_sentence(machine, capsys):
    assert measured(machine, bench="Sped") == (2, [])
    assert "got 'Sped'; known names: layers.Speed.time_forward, " in capsys.readouterr().err


def test_what_failed_is_named_at_the_end_and_measured_again(machine, capsys):
    first, second, last = machine.checkout.commits
    machine.failing = [("b", "numba")]
    code, runs = measured(machine)
    assert code == 1
    assert len(runs) == 7
    assert machine.kept[last][SPEED, "a", "numba"] == 1.0
    said = capsys.readouterr().err
    assert f"failed: {last[:7]} twice the work: {SPEED}('b', 'numba')\n" in said
    assert "'a'" not in said
    assert "6 benchmarks failed" in said
    machine.failing = []
    assert measured(machine) == (0, [first, first, second, second, last, last])
    assert machine.kept[last][SPEED, "b", "numba"] == 1.0


@pytest.mark.parametrize(
    ("taking", "told"), [(60.0, " 2.0 min  "), (200.0, " 6.7 min, more than 6  ")]
)
def test_the_minutes_of_a_commit_are_told(machine, taking, told, capsys):
    machine.taking = taking
    measured(machine)
    said = capsys.readouterr().err
    assert f"{told}{machine.checkout.commits[-1][:7]} twice the work\n" in said
    assert said.count(told) == 3


def test_at_most_so_many_commits_are_spaced_evenly_with_both_ends():
    commits = list("abcdefghij")
    assert measure.spaced(commits, 4) == ["a", "d", "g", "j"]
    assert measure.spaced(commits, 2) == ["a", "j"]
    assert measure.spaced(commits, 10) == measure.spaced(commits, None) == commits


class Again:
    """Second measurements: what they are asked for, and what they find."""

    def __init__(self, after):
        self.after, self.asked = after, []

    def __call__(self, root, machine, since, at, names, log):
        del root, log
        self.asked.append((machine, since, at, names))
        return [again.Again(name, since, at, 1.0, self.after) for name in names], False


@pytest.mark.parametrize(("after", "confirmed"), [(2.0, 1), (1.1, 0)])
def test_slowdowns_are_measured_again_once(machine, monkeypatch, after, confirmed):
    _, since, at = machine.checkout.commits
    slower = ("b", "numba")
    plain = machine.value
    machine.value = lambda commit, *params: (
        2.0 if (commit, params) == (at, slower) else plain(commit, *params)
    )
    monkeypatch.setattr(again, "measure", asked := Again(after))
    measured(machine)
    names = [f"{benchmark}('b', 'numba')" for benchmark in (RATIO, SPEED)]
    assert asked.asked == [("a-machine", since, at, names)]
    measured(machine)
    assert len(asked.asked) == 1
    history = series.read(machine.checkout.folder)
    assert len(history.regressions) == 2 * confirmed


def test_a_second_measurement_takes_both_commits_by_turns(checkout, monkeypatch, tmp_path):
    since, _, at = checkout.commits
    checkout.benchmark(SPEED, params=[CASES], param_names=["case"])
    calls = []

    def finish(path, *arguments, **_):
        calls.append(arguments)
        checkout.results = path.parent / "results"
        checkout.benchmark(SPEED, params=[CASES], param_names=["case"])
        checkout.add(since, {SPEED: [1.0, 1.0]})
        checkout.add(at, {SPEED: [None, 3.0]})
        return 1, True

    monkeypatch.setattr(asv, "finish", finish)
    names = [f"{SPEED}('a')", f"{SPEED}('b')"]
    found = again.measure(checkout.folder, "a-machine", since, at, names, tmp_path / "log")
    assert found == ([again.Again(names[1], since, at, 1.0, 3.0)], True)
    (arguments,) = calls
    assert arguments[0] == "continuous"
    assert arguments[-2:] == (since, at)
    pattern = arguments[arguments.index("--bench") + 1]
    assert [name for name in [*names, f"{SPEED}('c')"] if re.search(pattern, name)] == names


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
    assert asv.finish(tmp_path, log=tmp_path) == (0, bool(times))
    assert process.ended


def test_the_second_interrupt_ends_it(monkeypatch, tmp_path):
    process, killed = Interrupted(2), []
    monkeypatch.setattr(asv, "start", lambda *_, **__: process)
    monkeypatch.setattr(asv.os, "killpg", lambda *arguments: killed.append(arguments))
    with pytest.raises(KeyboardInterrupt):
        asv.finish(tmp_path, log=tmp_path)
    assert killed == [(process.pid, signal.SIGINT)]
    assert process.ended
