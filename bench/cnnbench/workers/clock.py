"""Time calls inside the process that makes them."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator

from cnnbench import cpu_time
from cnnkernels.conformance import ChangingCall

WARM_SECONDS = 0.05
"""Calls shorter than this run once untimed before each side."""


def seconds_of(function: Callable[[], object], calls: int) -> float:
    """Return the mean seconds of several calls in a row."""
    with _no_collecting():
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls


def seconds_of_changing(
    timed: ChangingCall,
    function: Callable[[], object],
    calls: int,
    before: Callable[[], object] | None = None,
) -> tuple[float, object]:
    """Return the mean seconds of calls with changing inputs, and the last result.

    The changes themselves are not timed, nor is `before`, which is called before each call.
    """
    seconds, clock = 0.0, time.perf_counter
    with _no_collecting():
        for _ in range(calls - 1):
            timed.change()
            if before is not None:
                before()
            start = clock()
            function()  # freeing the result is timed, as in any loop
            seconds += clock() - start
        timed.restore()
        if before is not None:
            before()
        start = clock()
        result = function()
        seconds += clock() - start
    return seconds / calls, result


def slowed(function: Callable[[], object], slower: float) -> Callable[[], object]:
    """Return the function, or one that takes longer by a fraction, to test the measuring."""
    if not slower:
        return function
    clock = time.perf_counter

    def longer() -> object:
        start = clock()
        result = function()
        end = start + (clock() - start) * (1 + slower)
        while clock() < end:
            pass
        return result

    return longer


class Watch:
    """Notices, during a block of code, that other programs take this one's time.

    Attributes
    ----------
    canary : float
        Seconds of a fixed piece of work, the slower of before and after the block. It is long when
        another hardware thread of the same core is busy, or the core's clock is slow.
    lost : float
        The fraction of the block for which this thread waited for a core, or another virtual
        machine had it. 0 where the system doesn't tell.
    """

    canary = math.nan
    lost = 0.0

    def __enter__(self) -> Watch:
        self._canary, self._start = _canary(), time.perf_counter()
        self._waited, self._stolen = cpu_time.seconds_waited(), _seconds_stolen()
        return self

    def __exit__(self, *_: object) -> None:
        lost = cpu_time.seconds_waited() - self._waited
        stolen = _seconds_stolen() - self._stolen
        if stolen >= 2 * cpu_time.TICK:  # a single tick may have begun long before
            lost += stolen
        self.lost = lost / (time.perf_counter() - self._start)
        self.canary = max(self._canary, _canary())


def _canary() -> float:
    """Return the seconds of a fixed loop, the shorter of two."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(10_000):
            pass
        taken.append(time.perf_counter() - start)
    return min(taken)


def _seconds_stolen() -> float:
    """Return the seconds that other virtual machines have had of this one's cores."""
    return (cpu_time.seconds() or {}).get("stolen", 0.0)


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
