"""Charts of two runs: rows are compared case by case."""

from cnnbench.report import charts, page
from cnnbench.results import Run


def test_two_runs_are_compared_case_by_case(row_of):
    here, there = [row_of("fast", 1.0)], [row_of("fast", 3.0), row_of("other", 9.0)]
    (chart,) = charts.against(here, there, charts.colours(["fast"]))
    assert chart.traces[0]["x"] == [3.0]
    assert list(charts.against(here, [row_of("other")], charts.colours(["fast"]))) == []


def test_a_row_of_either_run_is_in_the_table_of_both_with_what_came_of_it_in_each(row_of):
    here, there = [row_of("fast", 1.0), row_of("mine")], [row_of("fast", 3.0), row_of("other")]
    here[1].withdraw("wrong", "y[0] is 1, not 2")
    (chart,) = charts.against(here, there, charts.colours(["fast"]))
    case = ("digits.conv1", "forward")
    rows = (
        (*case, "fast", "ok", "ok", "1.00 s", "3.00 s", "3.00x"),
        (*case, "mine", "wrong", "not in it", "-", "-", "-"),
        (*case, "other", "not in it", "ok", "-", "1.00 s", "-"),
    )
    assert chart.sheet.rows == rows
    untimed = [row_of("fast", None, samples=[])]
    section = page.sections(Run({}, rows=untimed), Run({}, rows=there))[-2]
    ((_, table),) = section.tables
    assert [cell.text for cell in table.rows[0]] == [*case, "fast", "ok", "ok", "-", "3.00 s", "-"]
