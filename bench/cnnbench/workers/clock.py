"""The seconds of calls, in the process that makes them."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator

from cnnkernels.conformance import ChangingCall

WARM_SECONDS = 0.05
"""Calls shorter than this are called once, outside the clock, before a side."""


def seconds_of(function: Callable[[], object], calls: int) -> float:
    """Return the seconds of a call, of several in a row."""
    with _no_collecting():
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls


def seconds_of_changing(
    timed: ChangingCall, function: Callable[[], object], calls: int
) -> tuple[float, object]:
    """Return the seconds of a call, outside of which inputs change, and the last one's result."""
    seconds, clock = 0.0, time.perf_counter
    with _no_collecting():
        for _ in range(calls - 1):
            timed.change()
            start = clock()
            function()  # its result is freed within the clock, as in any loop
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
