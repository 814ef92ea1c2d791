"""Charts of checks name the backends that are wrong."""

from cnnbench.report import charts


def test_errors_name_who_is_wrong(row_of):
    wrong = row_of("mine", error_over_bound=None)
    wrong.withdraw("wrong", "y[0] is 1, not 2")
    (chart,) = charts.errors([row_of("good"), wrong], charts.colours(["good", "mine"]))
    assert chart.title.startswith("Wrong: mine; all other errors lie left")
    (chart,) = charts.errors([row_of("good")], charts.colours(["good"]))
    assert chart.title.startswith("Every error is left")
