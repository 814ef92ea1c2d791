"""Runs of several machines side by side."""

import re
from pathlib import Path

import pytest

from cnnbench import results
from cnnbench.report import machines, page
from cnnbench.results import Run

ROOT = Path(__file__).parents[3]


def run_of(machine, *rows, started="2026-11-28T01:00:00+00:00"):
    return Run({"machine": machine, "started": started, "cpu": machine, "cores": 2}, list(rows))


@pytest.fixture
def pair(row_of):
    """Two machines: fast is faster on the first one, and slower on the other."""

    def rows(fast, verdict):
        shared = {"samples": [1.0] * 4, "baseline": "torch"}
        for case in ("a", "b"):
            yield row_of("fast", 1 / fast, case=case, ratio=fast, verdict=verdict, **shared)
            yield row_of("torch", 1.0, case=case, ratio=1.0, verdict="SAME", **shared)

    return [run_of("one", *rows(2.0, "FASTER")), run_of("two", *rows(0.5, "SLOWER"))]


def test_the_sentence_names_the_fastest_on_each_machine_and_counts_contradictions(pair):
    assert machines.sentence(machines.sides(pair)) == (
        "Fastest: fast in 2 of 2 on A; torch in 2 of 2 on B. Verdicts contradict in 2 comparisons."
    )


def test_tables_have_the_fastest_the_contradictions_and_the_ratios(pair):
    fastest, against, ratios = machines.sheets(machines.sides(pair))
    assert fastest.rows[0] == ("a, forward", "fast 2.00x", "torch 1.00x")
    assert against.rows[0] == ("a, forward", "fast", "2.00x FASTER", "0.50x SLOWER")
    assert ratios.title == "fast, relative to torch"
    assert ratios.rows[1] == ("b, forward", "2.00x FASTER", "0.50x SLOWER")


def test_machines_that_agree_have_no_table_of_contradictions(pair):
    sides = machines.sides([pair[0], run_of("three", *pair[0].rows)])
    assert [sheet.title for sheet in machines.sheets(sides)] == [
        "The fastest backend",
        "fast, relative to torch",
    ]
    assert machines.sentence(sides) == (
        "Fastest: fast in 2 of 2 on A and B. No verdict contradicts another."
    )


def test_totals_count_where_there_are_any(pair, row_of):
    for run, fast in zip(pair, (2.0, 0.5), strict=True):
        for name, ratio in (("fast", fast), ("torch", 1.0)):
            run.rows.append(
                row_of(name, 1 / ratio, case="s (sum)", problem="", ratio=ratio, baseline="torch",
                       samples=[1.0] * 4)
            )  # fmt: skip
    assert "fast in 1 of 1 on A" in machines.sentence(machines.sides(pair))
    fastest, *_ = machines.sheets(machines.sides(pair), every=False)
    assert fastest.rows == (("s, forward", "fast 2.00x", "torch 1.00x"),)
    (chart,) = machines.charts(machines.sides(pair))
    assert [trace["name"] for trace in chart.traces] == ["A: one, 1 thread", "B: two, 1 thread"]
    assert [trace["x"] for trace in chart.traces] == [[2.0], [0.5]]
    assert chart.traces[0]["y"] == ["s, forward"]


def test_runs_of_one_machine_are_told_apart_by_their_time(pair):
    later = run_of("one", *pair[1].rows, started="2026-11-28T05:00:00+00:00")
    assert [side.name for side in machines.sides([pair[0], later])] == [
        "one, 1 thread, 2026-11-28T01:00",
        "one, 1 thread, 2026-11-28T05:00",
    ]


def test_runs_without_a_common_case_say_so(pair, row_of):
    other = run_of("two", row_of("fast", 1.0, case="c"))
    assert machines.sentence(machines.sides([pair[0], other])) == (
        "These runs have no timed case in common."
    )


def test_the_page_opens_with_the_sentence_and_has_every_machine(tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed")
    found = [results.read(path) for path in sorted(ROOT.glob("results/*/time-digits-*.json"))]
    assert len({run.environment["machine"] for run in found}) > 1
    path = tmp_path / "page.html"
    page.write_machines(found, path, "cnnbench report")
    text = re.sub(r"<script.*?</script>", "", path.read_text("utf-8"), flags=re.DOTALL)
    sides = machines.sides(found)
    assert machines.sentence(sides) in text
    for side in sides:
        assert side.name in text
