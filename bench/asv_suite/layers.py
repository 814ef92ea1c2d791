"""Layers: seconds of every backend; beside PyTorch, ratios; errors; memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from asv_runner.benchmarks.mark import SkipNotImplemented

from asv_suite import cases, session

T = TypeVar("T")

Figures = dict[tuple[str, str, str], float | Exception]
"""By what, case and backend: a figure, or why there is none, a skip or a failure."""


def keep_expected() -> None:
    """Keep what is right for each case in the current folder, which a class's benchmarks share."""
    session.keep_expected(Path.cwd())


@functools.lru_cache(maxsize=1)
def _prepared(case: str, backend: str) -> session.Prepared:
    """Return what is called, checked: once a process, for setup runs before each timed call."""
    made = session.Prepared(case, backend)
    made.require_right(session.expected(Path.cwd(), case))
    return made


class Speed:
    """Seconds of one call: what it takes in training, allocation and packing included."""

    params = (list(cases.CASES), list(cases.BACKENDS))
    param_names = ("case", "backend")
    skip_params = cases.TOO_SLOW
    version = "1"
    number = 1
    repeat = (3, 40, 0.15)
    rounds = 2
    warmup_time = 0

    setup_cache = staticmethod(keep_expected)

    def setup(self, case: str, backend: str) -> None:
        """Compile, check and warm up, on the first call."""
        _prepared(case, backend)

    def time_forward(self, case: str, backend: str) -> None:
        """Time a forward call."""
        _prepared(case, backend).forward()

    def time_backward(self, case: str, backend: str) -> None:
        """Time a backward call: all gradients."""
        _prepared(case, backend).backward()


def measure() -> Figures:
    """Return errors and memory, and what part of PyTorch's time each call takes.

    One process measures all, on one thread, so that what is compared is timed in turns; asv then
    asks for each figure by a process of its own, which is quick.
    """
    figures: Figures = {}
    for case in cases.CASES:
        right = session.expected_of(case)
        theirs, _ = _checked(case, cases.BASELINE, right)
        for backend in cases.OURS:
            ours, error = _checked(case, backend, right)
            figures["error", case, backend] = error
            figures["memory", case, backend] = _attempt(session.Prepared.extra_bytes, ours)
            for direction in ("forward", "backward"):
                figures[direction, case, backend] = _attempt(_ratio, direction, ours, theirs)
    return figures


def _checked(
    case: str, backend: str, right: session.Arrays
) -> tuple[session.Prepared | Exception, float | Exception]:
    """Return what is called and its error, or why there is none: what is wrong is not timed."""
    made = _attempt(session.Prepared, case, backend)
    error = _attempt(session.Prepared.require_right, made, right)
    return (error if isinstance(error, Exception) else made), error


def _ratio(direction: str, ours: session.Prepared, theirs: session.Prepared) -> float:
    return session.relative_seconds(getattr(ours, direction), getattr(theirs, direction))


def _attempt(call: Callable[..., T], *arguments: Any) -> T | Exception:
    """Return what a call returns or raises, or what came of an argument: it fails its own alone."""
    for argument in arguments:
        if isinstance(argument, Exception):
            return argument
    try:
        return call(*arguments)
    except NotImplementedError as reason:
        return reason
    except Exception as error:  # of any kind, and each must survive asv's pickle
        return RuntimeError(f"{type(error).__name__}: {error}")


class _Tracked:
    """What `measure` found."""

    param_names = ("case", "backend")
    version = "1"
    setup_cache = staticmethod(measure)
    params: ClassVar = (list(cases.CASES), list(cases.OURS))

    @staticmethod
    def _figure(figures: Figures, what: str, case: str, backend: str) -> float:
        found = figures[what, case, backend]
        if isinstance(found, NotImplementedError):
            raise SkipNotImplemented(str(found))
        if isinstance(found, Exception):
            raise found
        return found


class Ratio(_Tracked):
    """What part of torch-cpu's time a call takes, timed in turns in one process: less is better."""

    unit = "of torch-cpu's time"

    def track_forward(self, figures: Figures, case: str, backend: str) -> float:
        """Return the median ratio of forward calls."""
        return self._figure(figures, "forward", case, backend)

    def track_backward(self, figures: Figures, case: str, backend: str) -> float:
        """Return the median ratio of backward calls."""
        return self._figure(figures, "backward", case, backend)


class Error(_Tracked):
    """The largest error of all results, in units of what rounding can make."""

    unit = "of the bound"

    def track_error(self, figures: Figures, case: str, backend: str) -> float:
        """Return the largest error over its bound; above 1 is wrong."""
        return self._figure(figures, "error", case, backend)


class Memory(_Tracked):
    """Memory that a forward and a backward take beyond their arguments and results, at the peak."""

    unit = "bytes"

    def track_extra(self, figures: Figures, case: str, backend: str) -> float:
        """Return the growth of resident memory."""
        return self._figure(figures, "memory", case, backend)


keep_expected.timeout = measure.timeout = 600  # type: ignore[attr-defined]
