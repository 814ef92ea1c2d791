"""Benchmarks of layers: seconds, ratios to PyTorch, errors and memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from asv_runner.benchmarks.mark import SkipNotImplemented

from asv_suite import cases, session

T = TypeVar("T")

Figures = dict[tuple[str, str, str], float | Exception]
"""Figures by kind, case and backend; an exception says why one is missing."""


def keep_expected() -> None:
    """Save the expected results of each case in the current folder, shared by a class."""
    session.keep_expected(Path.cwd())


@functools.lru_cache(maxsize=1)
def _prepared(case: str, backend: str) -> session.Prepared:
    """Return a checked case, cached, as setup runs before each timed call."""
    made = session.Prepared(case, backend)
    made.require_right(session.expected(Path.cwd(), case))
    return made


class Speed:
    """Seconds of one call as in training, with allocation and packing."""

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
        """Compile, check and warm up in the first call."""
        _prepared(case, backend)

    def time_forward(self, case: str, backend: str) -> None:
        """Time a forward call."""
        _prepared(case, backend).forward()

    def time_backward(self, case: str, backend: str) -> None:
        """Time a backward call: all gradients."""
        _prepared(case, backend).backward()


def measure() -> Figures:
    """Return errors, memory, and each call's time relative to PyTorch.

    One process measures everything on one thread, so that calls are timed in turns. asv then reads
    each figure in a separate process.
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
    """Return a checked case and its error, or exceptions; a wrong case is not timed."""
    made = _attempt(session.Prepared, case, backend)
    error = _attempt(session.Prepared.require_right, made, right)
    return (error if isinstance(error, Exception) else made), error


def _ratio(direction: str, ours: session.Prepared, theirs: session.Prepared) -> float:
    return session.relative_seconds(getattr(ours, direction), getattr(theirs, direction))


def _attempt(call: Callable[..., T], *arguments: Any) -> T | Exception:
    """Return a call's result or exception, or the exception among its arguments."""
    for argument in arguments:
        if isinstance(argument, Exception):
            return argument
    try:
        return call(*arguments)
    except NotImplementedError as reason:
        return reason
    except Exception as error:  # any kind, made picklable for asv
        return RuntimeError(f"{type(error).__name__}: {error}")


class _Tracked:
    """Figures from `measure`."""

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
    """A call's time relative to torch-cpu, timed in turns in one process; less is better."""

    unit = "of torch-cpu's time"

    def track_forward(self, figures: Figures, case: str, backend: str) -> float:
        """Return the median ratio of forward calls."""
        return self._figure(figures, "forward", case, backend)

    def track_backward(self, figures: Figures, case: str, backend: str) -> float:
        """Return the median ratio of backward calls."""
        return self._figure(figures, "backward", case, backend)


class Error(_Tracked):
    """The largest error of all results, relative to the largest rounding error possible."""

    unit = "of the bound"

    def track_error(self, figures: Figures, case: str, backend: str) -> float:
        """Return the largest error over its bound; above 1 is wrong."""
        return self._figure(figures, "error", case, backend)


class Memory(_Tracked):
    """Peak memory of a forward and a backward beyond their arguments and results."""

    unit = "bytes"
    version = "2"

    def track_extra(self, figures: Figures, case: str, backend: str) -> float:
        """Return the growth of resident memory."""
        return self._figure(figures, "memory", case, backend)


keep_expected.timeout = measure.timeout = 600  # type: ignore[attr-defined]
