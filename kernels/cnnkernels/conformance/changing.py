"""Timed calls on changing inputs, so that a backend cannot return cached results.

Timing repeats the same call, and a backend could answer it with a copy of its last result. So
inputs change in place: one element before every call, and all elements by powers of two before each
series of calls. The last result of a series is checked. A power of two scales every product and sum
exactly, so the expected results are known for any algorithm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cnnkernels.accuracy import Accuracy
from cnnkernels.conformance.calls import Call
from cnnkernels.conformance.fills import Filled, errors_over_bounds, filled, key, store
from cnnkernels.contract import FORWARD, Cache, Direction, Problem

_SPOTS = 4096
"""Number of elements checked in a result; small results are checked completely."""


class WrongResult(Exception):
    """A timed call returned a wrong result; the message shows an element of it."""


@dataclass(frozen=True)
class Spots:
    """Expected values and rounding bounds of some elements of a result.

    Attributes
    ----------
    places : np.ndarray, (spots,)
        Indices into the flat result.
    expected, bounds : np.ndarray, (spots,)
    """

    places: np.ndarray
    expected: np.ndarray
    bounds: np.ndarray


def spots(
    problem: Problem, folder: Path | None = None, accuracy: Accuracy | None = None
) -> dict[str, Spots]:
    """Return spots of each result of a problem's 'real' fill, as `filled` takes arguments.

    In a folder they are drawn once, and need little space where a fill needs much.
    """
    if folder is None:
        return _spots_of(filled(problem, "real", None, accuracy))
    path = folder / key("spots", problem, "real", accuracy)
    if not path.exists():
        drawn = _spots_of(filled(problem, "real", folder, accuracy))
        store(
            path,
            {
                f"{name} {part}": value
                for name, of_result in drawn.items()
                for part, value in vars(of_result).items()
            },
        )
    with np.load(path) as stored:
        names = dict.fromkeys(name.split()[0] for name in stored)
        return {
            name: Spots(*(stored[f"{name} {field.name}"] for field in fields(Spots)))
            for name in names
        }


def _spots_of(right: Filled) -> dict[str, Spots]:
    """Return random spots of each result, different on every call."""
    random = np.random.default_rng()
    drawn = {}
    for name in ("y", "dx", "dw", "db"):
        expected, bounds = getattr(right, name), getattr(right, f"{name}_bound")
        if expected.size:
            places = random.choice(expected.size, min(_SPOTS, expected.size), replace=False)
            drawn[name] = Spots(places, expected.flat[places], bounds.flat[places])
    return drawn


class ChangingCall:
    """One direction of a call, timed on changing inputs.

    Parameters
    ----------
    call : Call
    direction : str
    cache : tuple of arrays
        The cache of forward; it stays valid, because backward directions only change dy.
    spots : dict of str to Spots
        Expected values for the call's unchanged inputs.
    from_nchw : bool
        Whether each call converts its arrays from C-contiguous NCHW and back.
    """

    def __init__(
        self,
        call: Call,
        direction: Direction,
        cache: Cache,
        spots: dict[str, Spots],
        from_nchw: bool,
    ) -> None:
        self._call, self._direction, self._cache = call, direction, cache
        self._spots, self._from_nchw = spots, from_nchw
        self._input = "x" if direction == FORWARD else "dy"
        self._first = call.first_element(self._input)
        self._scale = 1.0
        self._factors = call.NO_FACTORS
        self._changes = 0

    def function(self) -> Callable[[], Any]:
        """Return the function to time; it uses the current inputs."""
        if self._from_nchw:
            return self._call.timed_from_nchw(self._direction, self._cache)
        return self._call.timed(self._direction, self._cache)

    @contextlib.contextmanager
    def scaled(self) -> Iterator[None]:
        """Scale inputs inside the block by powers of two, drawn anew for each block."""
        one, other = (float(2**exponent) for exponent in np.random.default_rng().integers(1, 5, 2))
        how = {"x": one, "w": other} if self._direction == FORWARD else {"dy": one}
        with self._call.scaled(on_host=self._from_nchw, **how) as factors:
            self._scale, self._factors = one, factors
            try:
                yield
            finally:
                self._scale, self._factors = 1.0, self._call.NO_FACTORS

    def change(self) -> None:
        """Set the first element of the images, or of dy, to a new value."""
        self._changes += 1
        self._call.set_first_element(self._input, self._changes, self._from_nchw)

    def restore(self) -> None:
        """Restore the first element."""
        if self._first is not None:
            self._call.set_first_element(self._input, self._first * self._scale, self._from_nchw)

    def require_right(self, result: Any) -> None:
        """Check some elements of the last call's result.

        Raises
        ------
        WrongResult
            If an element differs by more than rounding can explain.
        """
        arrays = self._call.results(self._direction, result, self._from_nchw)
        for name, array in arrays.items():
            if name not in self._spots:  # empty
                continue
            spots, factor = self._spots[name], self._factors[name]
            got = array.flat[spots.places]
            ratios = errors_over_bounds(got, spots.expected * factor, spots.bounds * factor)
            worst = int(np.argmax(ratios))
            if not ratios[worst] <= 1:
                raise WrongResult(
                    f"a timed call gave {got[worst]:.9g} as an element of {name}, not "
                    f"{spots.expected[worst] * factor:.9g}: its inputs had changed, but its result "
                    "did not follow"
                )
