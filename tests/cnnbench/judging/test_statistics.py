"""Copies whose verdicts are known."""

from cnnbench.judging import statistics


def test_copies_are_identical_or_slower_by_known_fractions():
    copies = statistics.copies_of("numpy")
    assert {copy.backend for copy in copies.values()} == {"numpy"}
    assert [copy.slower for copy in copies.values()] == [0.0, 0.0, 0.03, 0.05, 0.1]
    assert "numpy, 5 % slower" in copies
