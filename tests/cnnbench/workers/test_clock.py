"""Clocks inside a worker, and what notices other programs."""

import time
from pathlib import Path

import pytest

from cnnbench.workers import clock


def test_a_slowed_function_takes_longer_by_the_fraction_and_gives_the_same():
    def work():
        time.sleep(0.01)
        return "done"

    start = time.perf_counter()
    assert clock.slowed(work, 1.0)() == "done"
    assert time.perf_counter() - start >= 0.02
    assert clock.slowed(work, 0.0) is work


@pytest.mark.parametrize(
    ("waited", "stolen", "lost"),
    [((0.0, 0.0), (0.0, 0.0), 0.0), ((1.0, 1.5), (0.0, 0.0), 0.5), ((0.0, 0.0), (3.0, 3.01), 0.0),
     ((0.0, 0.1), (3.0, 3.4), 0.5)],
)  # fmt: skip
def test_a_watch_adds_up_what_others_took_but_for_a_single_tick(monkeypatch, waited, stolen, lost):
    places = ((clock.cpu_time, "seconds_waited", waited), (clock, "_seconds_stolen", stolen))
    for module, name, values in places:
        left = iter(values)
        monkeypatch.setattr(module, name, lambda left=left: next(left))
    times = iter([10.0, 11.0])
    monkeypatch.setattr(clock, "_canary", lambda: 1e-4)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    with clock.Watch() as watch:
        pass
    assert watch.lost == pytest.approx(lost)


def test_a_watch_has_the_slower_canary(monkeypatch):
    canaries = iter([1.0, 3.0, 5.0, 2.0])
    monkeypatch.setattr(clock, "_canary", lambda: next(canaries))
    for expected in (3.0, 5.0):
        with clock.Watch() as watch:
            pass
        assert watch.canary == expected


def test_a_system_that_tells_nothing_takes_nothing(monkeypatch):
    monkeypatch.setattr(clock.cpu_time, "PROCESSES", Path("/nowhere"))
    assert clock.cpu_time.seconds_waited() == clock._seconds_stolen() == 0.0
    assert clock._canary() > 0
