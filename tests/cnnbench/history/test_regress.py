"""A commit twice as slow is flagged, a neutral one is not: by asv, on samples once measured."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from cnnbench.history import asv, regress, selftest
from cnnbench.history.asv import HistoryError

SAMPLES = Path(__file__).parent / "samples"
"""asv's results of the small repository, as `make regress-selftest` measured them."""


@pytest.fixture
def sample(tmp_path):
    commits = selftest.build(tmp_path)
    shutil.copytree(SAMPLES, tmp_path / "results")
    return tmp_path, commits


def worsened(folder, before, after, capsys):
    """Return what asv makes of two commits' samples, and what it says."""
    from asv.commands.compare import Compare

    configuration = asv.configuration(folder)
    configuration.results_dir = str(folder / "results")
    worse, _ = Compare.print_table(
        configuration,
        before,
        after,
        factor=regress.FACTOR,
        split=False,
        machine="sample-machine",
        only_changed=True,
    )
    return worse, capsys.readouterr().out


def test_hashes_are_the_same_everywhere(sample):
    folder, commits = sample
    kept = {
        json.loads(path.read_text())["commit_hash"]
        for path in folder.glob("results/*/*.json")
        if path.name != "machine.json"
    }
    assert kept == set(commits)


def test_twice_the_work_is_flagged(sample, capsys):
    folder, (_, neutral, slow) = sample
    worse, said = worsened(folder, neutral, slow, capsys)
    assert worse
    assert "time_dot" in said


def test_a_neutral_commit_is_not(sample, capsys):
    folder, (base, neutral, _) = sample
    worse, said = worsened(folder, base, neutral, capsys)
    assert not worse
    assert "time_dot" not in said


@pytest.mark.parametrize(("again", "code"), [(0, 0), (1, 1), (2, 2)])
def test_what_looks_slower_is_measured_again(sample, monkeypatch, again, code):
    folder, (_, neutral, slow) = sample
    calls = []

    def call(_, *arguments):
        calls.append(" ".join(arguments))
        return 1 if len(calls) == 1 else again

    monkeypatch.setattr(asv, "call", call)
    path = folder / asv.CONFIGURATION
    assert regress.compare(path, "sample-machine", neutral, slow, "", 1.25, 2) == code
    first, second = calls
    assert "rounds=2 --bench  " in first
    assert f"rounds=6 --bench ^({re.escape('kernels.time_dot')})$ {neutral} {slow}" in second


def test_what_asv_cannot_measure_is_no_regression(sample, monkeypatch):
    folder, (base, neutral, _) = sample
    monkeypatch.setattr(asv, "call", lambda *_: 1)  # what asv also says where it ran nothing
    path = folder / asv.CONFIGURATION
    with pytest.raises(HistoryError, match=r"measured nothing that matches ''"):
        regress.compare(path, "sample-machine", base, neutral, "", 1.25, 2)


@pytest.fixture
def told(sample, monkeypatch, capsys):
    """Return a function that calls the command; it returns its exit code and what it says."""
    monkeypatch.chdir(sample[0])
    monkeypatch.setattr(asv, "write_machine", lambda: "sample-machine")

    def told(asv_says, **options):
        monkeypatch.setattr(asv, "call", lambda *_: asv_says)
        with pytest.raises(typer.Exit) as exit_:
            regress.main(**options)
        return exit_.value.exit_code, capsys.readouterr().err

    return told


def test_nothing_measured_is_one_sentence_and_not_the_code_for_slower(told):
    code, said = told(1, base="HEAD~1")
    assert code == 2
    assert re.fullmatch(
        r"regress: asv measured nothing that matches .*see its output above\n", said
    )


def test_what_was_measured_before_is_no_answer(told, sample):
    folder, (_, neutral, slow) = sample
    shutil.copytree(SAMPLES, folder / ".asv" / "regress" / "results")
    code, _ = told(1, base=neutral, head=slow, bench="")
    assert code == 2


@pytest.mark.parametrize("code", [0, 2])
def test_the_exit_code_is_that_of_asv(told, code):
    assert told(code, base="HEAD~1") == (code, "")


@pytest.mark.parametrize(
    ("options", "name", "option"),
    [
        ({"base": "no-such"}, "no-such", "BASE=<commit>"),
        ({"head": "no-such", "base": "HEAD"}, "no-such", "ARGS='--head <commit>'"),
        ({}, "main~1", "BASE=<commit>"),
    ],
)
def test_an_unknown_commit_is_one_sentence(told, sample, options, name, option):
    subprocess.run(["git", "-C", sample[0], "branch", "-m", "main", "other"], check=True)
    code, said = told(0, **options)
    assert code == 2
    assert re.fullmatch(rf"regress: expected a commit, .* by the name '{name}': .*{option}\n", said)


def test_the_new_work_is_twice_the_old():
    kernels = list(selftest.COMMITS.values())
    one, other, twice = (kernel.count("+=") for kernel in kernels)
    assert (one, other, twice) == (1, 1, 2)  # += a loop
    answers = set()
    for kernel in kernels:
        names = {}
        exec(kernel, names)
        answers.add(names["dot"]([1.0, 2.0], [3.0, 4.0]))
    assert answers == {11.0}


def test_the_result_is_a_table_for_a_pull_request(sample, monkeypatch):
    folder, (base, neutral, slow) = sample
    monkeypatch.chdir(folder)
    path = folder / asv.CONFIGURATION
    text = regress.report(path, "sample-machine", neutral, slow, 1.25, 1)
    heading, _, where, *_ = text.splitlines()
    assert heading == "### 1 benchmark slower, measured twice"
    assert f"{slow} ({slow[:7]}) against {neutral} ({neutral[:7]}), on sample-machine" in where
    (line,) = [line for line in text.splitlines() if line.startswith("| `kernels.time_dot`")]
    times, low, high = map(float, re.search(r"([\d.]+)x \[([\d.]+), ([\d.]+)\]", line).groups())
    assert low < times < high
    assert times == pytest.approx(2.0, rel=0.3)
    text = regress.report(path, "sample-machine", base, neutral, 1.25, 0)
    assert text.startswith("### No benchmark is slower\n")
    assert "| `" not in text


def test_the_table_is_added_to_a_file_and_the_exit_code_stays(told, sample, monkeypatch):
    folder, (_, neutral, slow) = sample
    summary = folder / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setattr(regress, "compare", lambda *_: 1)
    monkeypatch.setattr(regress, "report", lambda *_: "### 1 benchmark slower\n")
    assert told(1, base=neutral, head=slow, markdown=summary)[0] == 1
    assert summary.read_text() == "before\n### 1 benchmark slower\n"
    code, said = told(1, base=neutral, head=slow, markdown=folder / "no" / "summary.md")
    assert code == 2
    assert re.fullmatch(r"regress: .*summary\.md cannot be written: No such file .*\n", said)
