"""Charts of checks name the backends that are wrong."""

from cnnbench.report import charts


def test_errors_name_who_is_wrong(row_of):
    wrong = row_of("mine", error_over_bound=None)
    wrong.withdraw("wrong", "y[0] is 1, not 2")
    (chart,) = charts.errors([row_of("good"), wrong], charts.colours(["good", "mine"]))
    assert chart.title.startswith("Wrong: mine; all other errors lie left")
    (chart,) = charts.errors([row_of("good")], charts.colours(["good"]))
    assert chart.title.startswith("Every error is left")


def test_larger_errors_are_within_a_declared_bound(row_of):
    rows = [row_of("good"), row_of("mine", error_over_bound=30.0)]
    (chart,) = charts.errors(rows, charts.colours(["good", "mine"]))
    assert chart.title == "Right of the line at 1, within the bounds they declare: mine"
    assert "the largest is 30" in chart.alt
