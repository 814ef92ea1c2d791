"""The index of results: every run with what it says, written by a command."""

import sys
from pathlib import Path

import pytest

from cnnbench import results
from cnnbench.report import index
from cnnbench.results import Row, Run

ROOT = Path(__file__).parents[3]


def timed(backend, verdict, threads=1, problem="mb1", ratio=1.234):
    return Row(
        "a", problem, "conv2d", "backward_data", backend, threads, "ok",
        seconds=1.0, baseline="slow", verdict=verdict, ratio=ratio,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a run on one machine."""
    path = tmp_path / "a-2-cores" / "time-a-2026-01-31.json"
    path.parent.mkdir()
    where = {"cpu": "A", "cores": 2, "system": "Linux x86_64", "command": ["cnnbench", "--quick"]}
    rows = [
        timed("slow", "SAME"), timed("other", "FASTER"), timed("numba-simd", "UNCLEAR"),
        timed("numba-simd", "FASTER"), timed("numba-simd", "UNCLEAR", problem=""),
        timed("numba-simd", "UNCLEAR", threads=2),
    ]  # fmt: skip
    Run(where, rows, [path]).write()
    path.with_name("curves-net-2026-01-31.csv").touch()
    (tmp_path / "asv").mkdir()
    return tmp_path


def test_a_run_is_listed_with_its_effort_and_its_verdicts(folder):
    text = index.index(folder)
    assert "## a-2-cores\n\nA, 2 cores, Linux x86_64.\n" in text
    assert (
        "| [time-a-2026-01-31](a-2-cores/time-a-2026-01-31.json) | quick | "
        "numba-simd against slow on 1 thread: backward-data 1.23x (quick, no verdicts) |"
    ) in text
    assert "| [curves-net-2026-01-31](a-2-cores/curves-net-2026-01-31.csv) | full | Loss" in text
    assert "asv\n" not in text


def test_a_full_run_states_its_verdicts(folder):
    run = results.read(folder / "a-2-cores" / "time-a-2026-01-31.json")
    run.environment["command"] = ["cnnbench", "time"]
    assert index.sentence(run) == (
        "numba-simd against slow on 1 thread: backward-data 1.23x (1 FASTER, 1 UNCLEAR)"
    )
    run.rows = [row for row in run.rows if row.backend != "numba-simd"]
    assert index.sentence(run) == "other against slow on 1 thread: 1 FASTER"
    run.rows = []
    assert index.sentence(run) == "No ratios."


def test_the_command_writes_it_or_says_why_not(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["index", str(folder)])
    index.main()
    assert (folder / "README.md").read_text() == index.index(folder)
    (folder / "a-2-cores" / "z.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"^index: .*z\.json: expected an object with schema"):
        index.main()


def test_the_committed_index_is_that_of_the_committed_runs():
    assert (ROOT / "results" / "README.md").read_text() == index.index(ROOT / "results")


def test_committed_runs_are_named_by_command_subject_and_date():
    for path in (ROOT / "results").glob("*/*.json"):
        if path.parent.name != "asv":
            run = results.read(path)
            command, day = run.environment["command"][1], run.environment["started"][:10]
            assert path.stem.startswith(f"{command}-")
            assert path.stem.endswith(f"-{day}")
            assert run.environment["machine"] == path.parent.name
