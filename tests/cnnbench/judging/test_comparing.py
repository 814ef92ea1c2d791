"""Ratios and verdicts of rows against the baseline's."""

import pytest

from cnnbench.judging.comparing import compare
from cnnbench.results import Row


def timed(backend, seconds, rounds=12, outcome="ok"):
    samples = [seconds] * (2 * rounds)
    return Row("a", "a", "conv2d", "forward", backend, 1, outcome, "", None, seconds, samples)


def test_ratios_are_against_the_baseline_and_above_one_is_faster():
    rows = [timed("base", 2.0), timed("twice", 1.0), timed("half", 4.0), timed("few", 1.0, 2)]
    compare(rows, "base", 0.05)
    assert [row.baseline for row in rows] == ["base"] * 4
    assert [row.ratio for row in rows] == pytest.approx([1.0, 2.0, 0.5, 2.0])
    assert [row.verdict for row in rows] == ["SAME", "FASTER", "SLOWER", "UNCLEAR"]
    assert (rows[3].ratio_low, rows[3].ratio_high) == (None, None)


def test_without_the_baselines_time_nobody_has_a_ratio():
    lost = timed("base", 2.0, outcome="failed")
    lost.seconds, lost.samples = None, []
    rows = [lost, timed("other", 1.0)]
    compare(rows, "base", 0.05)
    assert [(row.ratio, row.verdict) for row in rows] == [(None, None), (None, "UNCLEAR")]
    assert rows[1].baseline == "base"
