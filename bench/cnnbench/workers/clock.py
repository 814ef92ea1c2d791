"""Time calls inside the process that makes them."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator

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
    timed: ChangingCall, function: Callable[[], object], calls: int
) -> tuple[float, object]:
    """Return the mean seconds of calls with changing inputs, and the last result.

    The changes themselves are not timed.
    """
    seconds, clock = 0.0, time.perf_counter
    with _no_collecting():
        for _ in range(calls - 1):
            timed.change()
            start = clock()
            function()  # freeing the result is timed, as in any loop
            seconds += clock() - start
        timed.restore()
        start = clock()
        result = function()
        seconds += clock() - start
    return seconds / calls, result


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
