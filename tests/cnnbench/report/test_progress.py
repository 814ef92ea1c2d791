"""A command's progress: an estimate, and a clock in a terminal or percents in a log."""

import os
import pty
import select
import sys
import time

import pytest

from cnnbench.report.progress import ProgressBar


def test_outside_a_terminal_it_is_the_estimate_and_a_line_at_every_tenth(capsys):
    with ProgressBar(301.0) as progress:
        progress.begin(20)
        for number in range(4):
            progress.step(f"step {number}")
    assert capsys.readouterr().err.splitlines() == [
        "This takes about 5 minutes.", "  0 %  step 0", " 10 %  step 1", " 20 %  step 3",
    ]  # fmt: skip


def test_an_unknown_duration_is_not_mentioned(capsys):
    with ProgressBar() as progress:
        progress.begin(1)
        progress.step("one")
    assert capsys.readouterr().err == "100 %  one\n"


@pytest.mark.slow
def test_in_a_terminal_the_clock_ticks_during_a_step(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with ProgressBar() as progress:
            progress.begin(2)
            progress.step("a long one")
            shown = ""
            until = time.monotonic() + 30
            while "0:00:02" not in shown and time.monotonic() < until:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 4096).decode()
    os.close(ours)
    assert "0:00:02" in shown
