"""Prepare, check, call and time a case on a backend, and measure its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asv_suite import cases, reference

Arrays = dict[str, np.ndarray]

ROUNDS = 6
SIDE_SECONDS = 0.008
SLOW_SECONDS = 0.1
"""Longer calls are timed in one round only."""

_SEED = 20

_MMAP_THRESHOLD, _MMAP_MAX = -3, -4
"""glibc's numbers: from which size, and how often, memory is taken from the system itself."""


def inputs(case: str) -> Arrays:
    """Return x and dy of a case, and w and b for a convolution: float32, always the same."""
    problem = cases.problem(case)
    random = np.random.default_rng(_SEED)
    shapes = {"x": problem.shapes.x, "dy": problem.shapes.y}
    if "out_channels" in cases.CASES[case]:
        shapes |= {"w": problem.shapes.w, "b": (problem.out_channels,)}
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def keep_expected(folder: Path) -> None:
    """Compute the expected results of every case, and save each case to a file."""
    for case in cases.CASES:
        np.savez(folder / f"{case}.npz", allow_pickle=False, **expected_of(case))


def expected_of(case: str) -> Arrays:
    """Compute the expected results of a case and their bounds, by name."""
    return reference.expected(cases.CASES[case], inputs(case))


def expected(folder: Path, case: str) -> Arrays:
    """Read the expected results of a case, saved by `keep_expected`."""
    with np.load(folder / f"{case}.npz") as stored:
        return dict(stored)


class Prepared:
    """A case on a backend, with its arrays on the backend's device.

    Parameters
    ----------
    case, backend : str

    Raises
    ------
    NotImplementedError
        If this commit has no such backend, or it cannot run here or cannot run this case.
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
        _, self._cache = self._kernel.forward(*self._forward)  # also compiles
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
        """Return the result of `forward` or `backward` by name, on the host, without the cache."""
        if direction == "forward":
            return {"y": self._arrays.get(result[0])}
        named = zip(("dx", "dw", "db"), _gradients(result), strict=False)
        return {name: self._arrays.get(array) for name, array in named}

    def require_right(self, right: Arrays) -> float:
        """Return the largest error of all results, relative to the largest rounding error possible.

        Raises
        ------
        AssertionError
            If it is above 1; wrong kernels are not timed.
        """
        got = self.named("forward", self.forward()) | self.named("backward", self.backward())
        error = reference.error_over_bound(right, got)
        if not error <= 1.0:
            raise AssertionError(f"wrong: an error is {error:.3g} times the largest rounding error")
        return error

    def extra_bytes(self) -> int:
        """Return the peak memory of a forward and a backward beyond arguments and results.

        Raises
        ------
        NotImplementedError
            On systems without Linux's /proc.
        """
        try:
            with _fresh_memory():
                self.forward(), self.backward()  # what a kernel keeps is there before
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")
                before = _resident("VmRSS")
                y, _ = self.forward()
                results = (y, *_gradients(self.backward()))
                grown = _resident("VmHWM") - before
        except (OSError, AttributeError) as error:
            raise NotImplementedError(f"peak memory is unknown on this system ({error})") from None
        return max(0, grown - sum(int(array.nbytes) for array in results))


@contextlib.contextmanager
def _fresh_memory() -> Iterator[None]:
    """Take arrays from the system and give them back at once, so that none reuses another's."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 2**16)
    libc.mallopt(_MMAP_MAX, 2**16)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 0)  # as while times are measured: freed memory is kept


def _gradients(result: Any) -> tuple[Any, ...]:
    """Return the result of a backward as a tuple of gradients."""
    return result if isinstance(result, tuple) else (result,)


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise NotImplementedError(f"{key} is unknown on this system")


def relative_seconds(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Return the time of one call relative to another, timed in turns.

    A round times A, B, B, A, which cancels a steady drift of the machine. The ratio is the median
    over rounds.
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
    """Return the mean seconds of several calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
