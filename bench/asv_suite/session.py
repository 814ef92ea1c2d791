"""A case on a backend: its arrays in place, checked, called, timed against another, weighed."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asv_suite import cases, reference

Arrays = dict[str, np.ndarray]

ROUNDS = 6
SIDE_SECONDS = 0.008
SLOW_SECONDS = 0.1
"""A call that takes longer is timed in one round only."""

_SEED = 20


def inputs(case: str) -> Arrays:
    """Return x and dy of a case, for a convolution w and b too, float32, the same every time."""
    problem = cases.problem(case)
    random = np.random.default_rng(_SEED)
    shapes = {"x": problem.shapes.x, "dy": problem.shapes.y}
    if "out_channels" in cases.CASES[case]:
        shapes |= {"w": problem.shapes.w, "b": (problem.out_channels,)}
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def keep_expected(folder: Path) -> None:
    """Work out what is right for every case, each in a file of its own."""
    for case in cases.CASES:
        np.savez(folder / f"{case}.npz", allow_pickle=False, **expected_of(case))


def expected_of(case: str) -> Arrays:
    """Return what is right for a case, and its bounds, by name."""
    return reference.expected(cases.CASES[case], inputs(case))


def expected(folder: Path, case: str) -> Arrays:
    """Return what is right for a case: what `keep_expected` kept."""
    with np.load(folder / f"{case}.npz") as stored:
        return dict(stored)


class Prepared:
    """A case on a backend, its arrays where the backend computes.

    Parameters
    ----------
    case, backend : str

    Raises
    ------
    NotImplementedError
        If there is no such backend at this commit, or it cannot run here, or not this case.
    """

    def __init__(self, case: str, backend: str) -> None:
        self.name = backend
        self.problem = cases.problem(case)
        loaded = cases.load(backend, self.problem)
        self._arrays = loaded.arrays
        given = {name: loaded.arrays.put(array) for name, array in inputs(case).items()}
        self._given = given
        if "w" in given:
            self._kernel = loaded.convolution
            self._forward = [self.problem, given["x"], given["w"], given["b"]]
            self._backward = [self.problem, given["dy"], given["x"], given["w"]]
        else:
            self._kernel = loaded.pooling
            self._forward = [self.problem, given["x"]]
            self._backward = [self.problem, given["dy"]]
        _, self._cache = self._kernel.forward(*self._forward)  # compiles, too
        self.backward()

    def forward(self) -> Any:
        """Return y and the cache."""
        result = self._kernel.forward(*self._forward)
        self._arrays.synchronize()
        return result

    def backward(self) -> Any:
        """Return all gradients."""
        result = self._kernel.backward(*self._backward, self._cache)
        self._arrays.synchronize()
        return result

    def named(self, direction: str, result: Any) -> Arrays:
        """Return, on the host and by name, what `forward` or `backward` returned; not the cache."""
        if direction == "forward":
            return {"y": self._arrays.get(result[0])}
        named = zip(("dx", "dw", "db"), _gradients(result), strict=False)
        return {name: self._arrays.get(array) for name, array in named}

    def require_right(self, right: Arrays) -> float:
        """Return the largest error of all results, in units of what rounding can make.

        Raises
        ------
        AssertionError
            If it is more than that: what is wrong is not timed.
        """
        got = self.named("forward", self.forward()) | self.named("backward", self.backward())
        error = reference.error_over_bound(right, got)
        if not error <= 1.0:
            raise AssertionError(f"wrong: an error is {error:.3g} of what rounding can make")
        return error

    def extra_bytes(self) -> int:
        """Return how much memory a forward and a backward take beyond their arguments and results.

        Raises
        ------
        NotImplementedError
            Where the system does not tell: it is read from Linux's /proc.
        """
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, AttributeError) as error:
            raise NotImplementedError(f"peak memory is not told here ({error})") from None
        before = _resident("VmRSS")
        y, _ = self.forward()
        results = (y, *_gradients(self.backward()))
        grown = _resident("VmHWM") - before
        return max(0, grown - sum(int(array.nbytes) for array in results))


def _gradients(result: Any) -> tuple[Any, ...]:
    """Return what a backward returned, one gradient or several, as several."""
    return result if isinstance(result, tuple) else (result,)


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise NotImplementedError(f"this system does not tell {key}")


def relative_seconds(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Return what part of another call's time one call takes, timed in turns.

    A round times A, B, B, A, so that a steady drift of the machine cancels; the ratio is the median
    of the rounds.
    """
    once = [max(_seconds(call, 1), 1e-7) for call in (ours, theirs)]
    calls, their_calls = (max(1, math.ceil(SIDE_SECONDS / seconds)) for seconds in once)
    logs = []
    for _ in range(1 if max(once) > SLOW_SECONDS else ROUNDS):
        a = _seconds(ours, calls)
        b = _seconds(theirs, their_calls) + _seconds(theirs, their_calls)
        a += _seconds(ours, calls)
        logs.append(math.log(a / b))
    return math.exp(statistics.median(logs))


def _seconds(call: Callable[[], object], calls: int) -> float:
    """Return the seconds a call, the mean of some in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
