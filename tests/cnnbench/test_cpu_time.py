"""The processor time that other programs took."""

import os

import pytest

from cnnbench import cpu_time

STAT = "cpu  {user} 0 100 {idle} 0 0 0 {stolen} 0 0\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("user", "idle", "stolen", "own", "taken"),
    [
        (0, 1000, 0, 0.0, 0.0),  # nobody did anything
        (500, 500, 0, 5.0, 0.0),  # all of it was ours
        (500, 500, 0, 2.0, 0.3),
        (500, 400, 100, 5.0, 0.1),
        (500, 500, 0, 6.0, 0.0),  # clocks differ a little
    ],
)
def test_what_others_took_is_all_use_but_our_own(
    monkeypatch, tmp_path, user, idle, stolen, own, taken
):
    monkeypatch.setattr(cpu_time, "PROCESSES", tmp_path)
    found = []
    for part in (0, 1):
        numbers = {"user": 300 + part * user, "idle": 50 + part * idle, "stolen": 7 + part * stolen}
        (tmp_path / "stat").write_text(STAT.format(**numbers))
        times = os.times_result((part * own, 0.0, 0.0, 0.0, 0.0))
        monkeypatch.setattr(os, "times", lambda times=times: times)
        found.append(cpu_time.seconds())
    assert cpu_time.taken_by_others(*found) == pytest.approx(taken)


def test_a_system_that_does_not_tell_takes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_time, "PROCESSES", tmp_path)
    assert cpu_time.seconds() is None
    assert cpu_time.taken_by_others(None, None) is None
