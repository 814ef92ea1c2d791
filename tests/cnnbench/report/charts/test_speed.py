"""Charts of times: intervals, ceilings, and what threads gain."""

import pytest

from cnnbench.report import charts


def test_ratios_have_their_intervals(row_of):
    rows = [row_of("fast"), row_of("slow", 2.0, ratio=1.0, ratio_low=1.0, ratio_high=1.0)]
    (chart,) = charts.ratios(rows, charts.colours(["fast", "slow"]))
    (trace,) = chart.traces
    assert (trace["x"], trace["y"]) == ([2.0], ["digits.conv1"])
    assert trace["error_x"]["array"] == [0.25]
    assert trace["error_x"]["arrayminus"] == [0.5]


def test_the_roofline_is_the_lower_of_memory_and_peak(row_of):
    ceilings = {"1": {"flops": {"float32": 1e11}, "bandwidth": {"1000": 4e11, "9000": 1e10}}}
    rows = [row_of("fast", gflops=50.0, ceiling_fraction=0.5)]
    (chart,) = charts.rooflines(rows, ceilings, charts.colours(["fast"]))
    memory = chart.traces[0]
    for intensity, rate in zip(memory["x"], memory["y"], strict=True):
        assert rate == pytest.approx(min(100.0, 10.0 * intensity))
    assert chart.traces[-1]["y"] == [50.0]


def test_rates_of_fewer_products_are_called_effective(row_of):
    ceilings = {"1": {"flops": {"float32": 1e11}, "bandwidth": {"1000": 4e11}}}
    rows = [row_of("fast", gflops=200.0, ceiling_fraction=0.5, details={"products": 1})]
    (chart,) = charts.rooflines(rows, ceilings, charts.colours(["fast"]))
    assert "Marks above the lines are effective" in chart.alt
    assert "effective GFLOP/s" in str(chart.layout["yaxis"])


def test_threads_are_compared_with_one(row_of):
    rows = [row_of("fast", 1.0), row_of("fast", 0.6, threads=2)]
    (chart,) = charts.threads(rows, charts.colours(["fast"]))
    assert chart.traces[0]["x"] == [pytest.approx(1.0 / 0.6)]


def test_first_calls_stand_beside_steady_ones(row_of):
    rows = [row_of("fast", 1e-3, first_call_seconds=2.0, cached_first_call_seconds=0.5)]
    (chart,) = charts.first_calls(rows)
    assert [(trace["name"], trace["x"]) for trace in chart.traces] == [
        ("steady", [1e-3]), ("first, cached", [0.5]), ("first", [2.0])
    ]  # fmt: skip
    assert "takes 2.00 s" in chart.alt
    assert list(charts.first_calls([row_of("fast")])) == []
